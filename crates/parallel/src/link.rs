//! Bytes between ranks, and the collectives that follow from sending and receiving them.

use crate::error::{CommError, Result};
use std::sync::Arc;

/// Connects the ranks of a group through host memory. All ranks call the same operations in the same order, each from one
/// thread at a time.
///
/// An engine gives `send`, `recv` and `split`; the rest has defaults, which an engine with collectives of its own replaces.
pub trait Link: Send + Sync {
    /// This process's number in the group, from 0.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// The engine, in a word.
    fn name(&self) -> &'static str;

    /// Sends bytes to rank `to`. Returns without waiting for the receiver.
    ///
    /// # Errors
    /// When the receiver has ended.
    fn send(&self, to: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for the next bytes from rank `from`, which must be as many as `bytes` holds.
    ///
    /// # Errors
    /// When the sender has ended, or sent another number of bytes.
    fn recv(&self, from: usize, bytes: &mut [u8]) -> Result<()>;

    /// The group of some ranks, `members` ascending, this rank among them. Every rank calls it at the same time, with the group
    /// that it belongs to; the groups are disjoint.
    ///
    /// # Errors
    /// What the engine says.
    fn split(&self, members: &[usize]) -> Result<Arc<dyn Link>>;

    /// Every rank's `own`, all of one length, in the order of ranks.
    ///
    /// # Errors
    /// As [`Link::send`] and [`Link::recv`].
    fn all_gather(&self, own: &[u8], all: &mut [u8]) -> Result<()> {
        assert_eq!(all.len(), own.len() * self.size(), "all_gather: length");
        for to in self.others() {
            self.send(to, own)?;
        }
        let me = self.rank() * own.len();
        all[me..me + own.len()].copy_from_slice(own);
        for from in self.others() {
            self.recv(from, &mut all[from * own.len()..(from + 1) * own.len()])?;
        }
        Ok(())
    }

    /// Sends the r-th of `size` equal parts of `from` to rank r; the part from rank r becomes the r-th of `to`.
    ///
    /// # Errors
    /// As [`Link::send`] and [`Link::recv`].
    fn all_to_all(&self, from: &[u8], to: &mut [u8]) -> Result<()> {
        assert_eq!((from.len(), from.len() % self.size()), (to.len(), 0), "all_to_all: length");
        let part = |r: usize| r * (from.len() / self.size())..(r + 1) * (from.len() / self.size());
        for r in self.others() {
            self.send(r, &from[part(r)])?;
        }
        to[part(self.rank())].copy_from_slice(&from[part(self.rank())]);
        for r in self.others() {
            self.recv(r, &mut to[part(r)])?;
        }
        Ok(())
    }

    /// Rank `root`'s bytes, on every rank.
    ///
    /// # Errors
    /// As [`Link::send`] and [`Link::recv`].
    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()> {
        if self.rank() == root {
            self.others().into_iter().try_for_each(|to| self.send(to, bytes))
        } else {
            self.recv(root, bytes)
        }
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// As [`Link::recv`].
    fn barrier(&self) -> Result<()> {
        self.all_gather(&[0], &mut vec![0; self.size()])
    }

    /// The other ranks, the next one first, so that not all ranks turn to the same one at once.
    fn others(&self) -> Vec<usize> {
        (1..self.size()).map(|d| (self.rank() + d) % self.size()).collect()
    }
}

/// A group of one: nothing to do.
pub(crate) struct Alone;

impl Link for Alone {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn name(&self) -> &'static str {
        "none"
    }
    fn send(&self, to: usize, _: &[u8]) -> Result<()> {
        Err(CommError::new("send", format!("there is no rank {to}: this process runs alone")))
    }
    fn recv(&self, from: usize, _: &mut [u8]) -> Result<()> {
        Err(CommError::new("recv", format!("there is no rank {from}: this process runs alone")))
    }
    fn split(&self, _: &[usize]) -> Result<Arc<dyn Link>> {
        Ok(Arc::new(Alone))
    }
}

/// Every rank's bytes, of any length, in the order of ranks.
///
/// # Errors
/// As [`Link::recv`].
pub fn gather_bytes(link: &dyn Link, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut lens = vec![0u8; 8 * link.size()];
    link.all_gather(&(own.len() as u64).to_le_bytes(), &mut lens)?;
    let lens: Vec<usize> = lens
        .chunks_exact(8)
        .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")) as usize)
        .collect();
    let longest = lens.iter().copied().max().unwrap_or(0);
    if longest == 0 {
        return Ok(vec![Vec::new(); lens.len()]);
    }
    let mut padded = own.to_vec();
    padded.resize(longest, 0);
    let mut all = vec![0; longest * lens.len()];
    link.all_gather(&padded, &mut all)?;
    Ok(all.chunks_exact(longest).zip(lens).map(|(bytes, len)| bytes[..len].to_vec()).collect())
}

/// Up to so many elements are gathered whole: one exchange instead of two.
const SHORT: usize = 2 << 10;
/// Most elements of a pass: what bounds the memory beside the data.
const PASS: usize = 1 << 20;

/// x = the sum over the ranks of their x.
///
/// Every element is added in the order of ranks, `((x_0 + x_1) + x_2) + ...`, whatever the engine, the length and the place of the
/// element: all ranks end with the same bits, and so does every repetition.
///
/// Long sums are formed in two steps, each of which sends `(n - 1) / n` of the data (Thakur, Rabenseifner and Gropp 2005, section
/// 4.5): every rank sums one part, then all ranks gather the parts.
///
/// # Errors
/// As [`Link::recv`].
pub(crate) fn all_reduce(link: &dyn Link, x: &mut [f32]) -> Result<()> {
    let n = link.size();
    if n == 1 {
        return Ok(());
    }
    if x.len() <= SHORT {
        let mut all = vec![0.0; n * x.len()];
        link.all_gather(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(&mut all))?;
        sum(&all, x);
        return Ok(());
    }
    for x in x.chunks_mut(PASS) {
        let part = x.len().div_ceil(n);
        let mut from = x.to_vec();
        from.resize(n * part, 0.0);
        let mut own = vec![0.0; part];
        reduce_scatter(link, &from, &mut own)?;
        link.all_gather(bytemuck::cast_slice(&own), bytemuck::cast_slice_mut(&mut from))?;
        x.copy_from_slice(&from[..x.len()]);
    }
    Ok(())
}

/// Rank r's `part` = the sum over the ranks, in their order, of the r-th part of their `x`.
///
/// # Errors
/// As [`Link::recv`].
pub(crate) fn reduce_scatter(link: &dyn Link, x: &[f32], part: &mut [f32]) -> Result<()> {
    let mut parts = vec![0.0; x.len()];
    link.all_to_all(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(&mut parts))?;
    sum(&parts, part);
    Ok(())
}

/// y = the sum of the parts of `x`, each as long as y, in order.
fn sum(x: &[f32], y: &mut [f32]) {
    for (i, part) in x.chunks_exact(y.len().max(1)).enumerate() {
        match i {
            0 => y.copy_from_slice(part),
            _ => y.iter_mut().zip(part).for_each(|(a, b)| *a += b),
        }
    }
}

/// The sum over the ranks, in their order, of every rank's numbers.
///
/// # Errors
/// As [`Link::recv`].
pub fn sum_f64(link: &dyn Link, x: &mut [f64]) -> Result<()> {
    let len = x.len();
    let mut all = vec![0.0f64; link.size() * len];
    link.all_gather(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(&mut all))?;
    for (i, a) in x.iter_mut().enumerate() {
        *a = all.iter().skip(i).step_by(len).sum();
    }
    Ok(())
}
