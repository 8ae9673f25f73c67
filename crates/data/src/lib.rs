//! Data sets: the embedded review generator, readers for the usual file formats, downloads.
//!
//! Everything random here is seeded and deterministic: the same seed gives the same reviews, shuffles and
//! splits on every machine.

pub mod baseline;
mod diversity;
pub mod download;
mod error;
mod pairs;
pub mod readers;
mod record;
pub mod reviews;
mod rng;

pub use baseline::{Baseline, BaselineOptions};
pub use diversity::distinct_n;
pub use error::DataError;
pub use pairs::pairs_from_ratings;
pub use readers::{Columns, Format, Kind, LoadOptions, Loaded, Part, load};
pub use record::{Dataset, Demonstration, Label, Labelled, Ranked, Split};
pub use rng::Rng;
