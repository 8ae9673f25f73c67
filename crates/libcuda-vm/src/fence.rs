//! A fence: a point in a stream that is reached once.
use crate::handle::lock;
use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

/// Reached once, at a time that it remembers.
#[derive(Debug, Default)]
pub struct Fence {
    reached: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Fence {
    /// Marks the point as reached, now.
    pub fn reach(&self) {
        lock(&self.reached).get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// When the point was reached.
    pub fn when(&self) -> Option<Instant> {
        *lock(&self.reached)
    }

    /// Whether the point was reached.
    pub fn is_reached(&self) -> bool {
        self.when().is_some()
    }

    /// Blocks until the point is reached.
    pub fn wait(&self) {
        let mut reached = lock(&self.reached);
        while reached.is_none() {
            reached = self.changed.wait(reached).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
