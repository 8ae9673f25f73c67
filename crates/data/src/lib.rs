//! Data sets: the embedded review generator, readers for the usual file formats, downloads.
//!
//! Everything random here is seeded and deterministic: the same seed gives the same reviews, shuffles and
//! splits on every machine.

mod error;
mod record;
pub mod reviews;
mod rng;

pub use error::DataError;
pub use record::{Dataset, Demonstration, Label, Labelled, Ranked, Split};
pub use rng::Rng;
