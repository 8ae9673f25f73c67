//! Collectives of a dry run: nobody is there, everything is counted.

use crate::{
    comm::{Comm, expect},
    error::Result,
    link::Link,
};
use device::Buffer;
use std::sync::{Arc, Mutex};

/// What a rank's collectives send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Collectives and exchanges.
    pub calls: u64,
    /// Bytes that this rank sends: of a sum, 2 (n - 1) / n of the data (a ring, or a scattered sum and a gathering).
    pub bytes: u64,
}

/// Counts on behalf of one group.
pub(crate) type Counter = Arc<Mutex<Traffic>>;

/// One rank of a group whose other ranks are made up: they send what this rank has.
pub(crate) struct Dry {
    pub rank: usize,
    pub size: usize,
    pub counter: Counter,
}

impl Dry {
    fn count(&self, bytes: usize) -> Result<()> {
        let mut traffic = self.counter.lock().unwrap_or_else(|e| e.into_inner());
        traffic.calls += 1;
        traffic.bytes += bytes as u64;
        Ok(())
    }
}

impl Link for Dry {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &'static str {
        "dry run"
    }

    fn send(&self, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn recv(&self, _: usize, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn split(&self, members: &[usize]) -> Result<Arc<dyn Link>> {
        let rank = members.iter().position(|m| *m == self.rank).unwrap_or(0);
        Ok(Arc::new(Dry { rank, size: members.len(), counter: Counter::default() }))
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8]) -> Result<()> {
        all.chunks_exact_mut(own.len().max(1)).for_each(|part| part.copy_from_slice(own));
        Ok(())
    }

    fn all_to_all(&self, from: &[u8], to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(from);
        Ok(())
    }

    fn broadcast(&self, _: &mut [u8], _: usize) -> Result<()> {
        Ok(())
    }
}

impl Comm for Dry {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &'static str {
        "dry run"
    }

    fn all_reduce(&self, parts: &mut [&mut Buffer]) -> Result<()> {
        let bytes: usize = parts.iter().map(|b| 4 * b.len()).sum();
        self.count(2 * bytes * (self.size - 1) / self.size)
    }

    fn all_gather(&self, x: &Buffer, all: &mut Buffer) -> Result<()> {
        expect("all_gather", all.len(), self.size * x.len())?;
        self.count(4 * x.len() * (self.size - 1))
    }

    fn reduce_scatter(&self, x: &Buffer, part: &mut Buffer) -> Result<()> {
        expect("reduce_scatter", x.len(), self.size * part.len())?;
        self.count(4 * part.len() * (self.size - 1))
    }

    fn broadcast(&self, x: &mut Buffer, root: usize) -> Result<()> {
        self.count(if self.rank == root { 4 * x.len() } else { 0 })
    }

    fn exchange(&self, send: Option<(&Buffer, usize)>, _: Option<(&mut Buffer, usize)>) -> Result<()> {
        self.count(send.map_or(0, |(x, _)| 4 * x.len()))
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}
