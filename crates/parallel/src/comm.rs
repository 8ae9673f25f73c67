//! Plain collectives over device buffers.

use crate::{
    error::{CommError, Result},
    link::{self, Link},
};
use device::Buffer;
use std::sync::Arc;

/// Collectives between the ranks of a group, on buffers of f32. All ranks call the same ones in the same order with equal lengths.
pub trait Comm: Send + Sync {
    /// This process's number in the group, from 0.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// The engine, in a word.
    fn name(&self) -> &'static str;

    /// Whether collectives only submit work to the device's stream, so that they can be part of a captured graph.
    fn on_stream(&self) -> bool {
        false
    }

    /// Every element becomes its sum over all ranks, with equal bits on all of them. The parts count as one long buffer.
    ///
    /// # Errors
    /// When a rank has ended, the lengths differ, or the engine fails; so do all others here.
    fn all_reduce(&self, parts: &mut [&mut Buffer]) -> Result<()>;

    /// `all` = every rank's `x`, in the order of ranks: `[size * x.len()]`.
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn all_gather(&self, x: &Buffer, all: &mut Buffer) -> Result<()>;

    /// `part` = this rank's part, of `size` equal ones, of the sum over all ranks of `x`.
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn reduce_scatter(&self, x: &Buffer, part: &mut Buffer) -> Result<()>;

    /// `x` becomes rank `root`'s.
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn broadcast(&self, x: &mut Buffer, root: usize) -> Result<()>;

    /// Sends to one rank and receives from one (either may be none), without one waiting for the other. The sender and the
    /// receiver of a buffer must both call this for it.
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn exchange(&self, send: Option<(&Buffer, usize)>, receive: Option<(&mut Buffer, usize)>) -> Result<()>;

    /// Sends to rank `to`, which must call [`Comm::recv`].
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn send(&self, x: &Buffer, to: usize) -> Result<()> {
        self.exchange(Some((x, to)), None)
    }

    /// Receives what rank `from` sends.
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn recv(&self, x: &mut Buffer, from: usize) -> Result<()> {
        self.exchange(None, Some((x, from)))
    }

    /// Returns when every rank has called it and this device's work is done.
    ///
    /// # Errors
    /// As [`Comm::all_reduce`].
    fn barrier(&self) -> Result<()>;
}

/// Collectives through host memory, over any [`Link`]. A GPU's buffers travel to the host and back.
pub(crate) struct HostComm(pub Arc<dyn Link>);

/// Fewest elements that are not worth being laid end to end with others.
const LONG: usize = 64 << 10;

impl Comm for HostComm {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn all_reduce(&self, parts: &mut [&mut Buffer]) -> Result<()> {
        let mut rest = parts;
        while !rest.is_empty() {
            let mut elements = 0;
            let mut short = |b: &&mut Buffer| {
                elements += b.len();
                elements <= LONG
            };
            let n = rest.iter().take_while(|b| short(b)).count().max(1);
            let (now, later) = rest.split_at_mut(n);
            rest = later;
            if let [one] = now {
                one.edit(|x| link::all_reduce(&*self.0, x)).unwrap_or(Ok(()))?;
                continue;
            }
            let mut all: Vec<f32> = Vec::with_capacity(LONG);
            for b in now.iter() {
                b.read(|x| all.extend_from_slice(x));
            }
            link::all_reduce(&*self.0, &mut all)?;
            let mut at = 0;
            for b in now {
                b.write(&all[at..at + b.len()]);
                at += b.len();
            }
        }
        Ok(())
    }

    fn all_gather(&self, x: &Buffer, all: &mut Buffer) -> Result<()> {
        expect("all_gather", all.len(), self.size() * x.len())?;
        let gather = |x: &[f32]| {
            let own = bytemuck::cast_slice(x);
            all.edit(|all| self.0.all_gather(own, bytemuck::cast_slice_mut(all))).unwrap_or(Ok(()))
        };
        x.read(gather).unwrap_or(Ok(()))
    }

    fn reduce_scatter(&self, x: &Buffer, part: &mut Buffer) -> Result<()> {
        expect("reduce_scatter", x.len(), self.size() * part.len())?;
        let scatter = |x: &[f32]| part.edit(|part| link::reduce_scatter(&*self.0, x, part)).unwrap_or(Ok(()));
        x.read(scatter).unwrap_or(Ok(()))
    }

    fn broadcast(&self, x: &mut Buffer, root: usize) -> Result<()> {
        x.edit(|x| self.0.broadcast(bytemuck::cast_slice_mut(x), root)).unwrap_or(Ok(()))
    }

    fn exchange(&self, send: Option<(&Buffer, usize)>, receive: Option<(&mut Buffer, usize)>) -> Result<()> {
        // A link's sends wait for nobody.
        if let Some((x, to)) = send {
            x.read(|x| self.0.send(to, bytemuck::cast_slice(x))).unwrap_or(Ok(()))?;
        }
        match receive {
            Some((x, from)) => x.edit(|x| self.0.recv(from, bytemuck::cast_slice_mut(x))).unwrap_or(Ok(())),
            None => Ok(()),
        }
    }

    fn barrier(&self) -> Result<()> {
        self.0.barrier()
    }
}

pub(crate) fn expect(call: &str, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(CommError::new(call, format!("a buffer has {got} elements, expected were {want}")))
}
