//! The report page and TensorBoard events.
//!
//! **Architecture Invariant:** this crate knows no trainer: series of numbers and texts in, bytes out.
mod chart;
mod events;
mod report;

pub use chart::Series;
pub use events::EventFile;
pub use report::{Bar, Card, Report, Sample, render};
