//! `cp.async`: copies that land late.
//!
//! A copy is only noted when it is issued. It lands when its thread waits for it: that is the last moment the ISA
//! allows, so a kernel that reads too early never finds the data by luck.
use super::access::{Direction, addresses};
use super::block::Common;
use super::context::{Context, Run, Trouble};
use super::regs::Regs;
use super::tally::{self, Tally, lanes_of};
use super::warp::Warp;
use crate::decode::program::{CopyAsync, NONE, Order};
use crate::strict::{FaultKind, MemorySpace};

/// One thread's copy under way.
#[derive(Clone, Copy)]
struct Entry {
    lane: u8,
    bytes: u8,
    src_bytes: u8,
    group: u32,
    dst: u64,
    src: u64,
}

/// An mbarrier that is told when the copies before it have landed.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub lane: u8,
    pub addr: u64,
}

/// The copies of one warp.
#[derive(Default)]
pub(crate) struct Copies {
    entries: Vec<Entry>,
    /// Groups that each lane has closed.
    closed: [u32; 32],
    pub(super) arrivals: Vec<Arrival>,
}

impl Copies {
    /// `cp.async.commit_group`
    pub fn commit(&mut self, mask: u32) {
        lanes_of(mask).for_each(|l| self.closed[l] += 1);
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Warp {
    pub(super) fn copy_async(
        &mut self,
        regs: &mut Regs,
        c: &CopyAsync,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let (dst, src) = (addresses(regs, &c.dst), addresses(regs, &c.src));
        // Lanes that read at all, and those that read as many bytes as they write.
        let (mut reading, mut whole) = (0, 0);
        for l in lanes_of(mask) {
            let ignored = c.ignore.is_some_and(|p| (regs.preds[p.at as usize] ^ p.flip) >> l & 1 == 1);
            let wanted = c.src_bytes.map_or(c.bytes, |s| (regs.lane(s, l) as u32).min(c.bytes));
            let src_bytes = if ignored { 0 } else { wanted };
            if src_bytes > 0 {
                reading |= 1 << l;
                if src_bytes == c.bytes {
                    whole |= 1 << l;
                } else {
                    self.check_global(&src, 1 << l, 1, Direction::Load, Order::default(), common, ctx)?;
                }
            }
            common.shared.begin_copy(l, dst[l], c.bytes.into(), self.id, ctx.checks)?;
            let copies = &mut common.copies[self.id as usize];
            copies.entries.push(Entry {
                lane: l as u8,
                bytes: c.bytes as u8,
                src_bytes: src_bytes as u8,
                group: copies.closed[l],
                dst: dst[l],
                src: src[l],
            });
        }
        if reading != 0 {
            tally::global(&mut tally.counters.global_loads, &src, reading, c.bytes);
            self.check_global(&src, whole, c.bytes, Direction::Load, Order::default(), common, ctx)?;
        }
        tally::shared(&mut tally.counters.shared_stores, &dst, mask, c.bytes);
        Ok(())
    }

    /// `cp.async.wait_group`, `cp.async.wait_all` ([`NONE`])
    pub(super) fn wait_group(
        &mut self,
        pending: u32,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
    ) -> Run<()> {
        let closed = common.copies[self.id as usize].closed;
        let over = |lane: usize, group: u32| pending == NONE || group + pending < closed[lane];
        land(common, self.id, ctx, |lane, group| mask >> lane & 1 == 1 && over(lane, group))
    }
}

/// Lands the copies of a warp that `which(lane, group)` chooses.
pub(super) fn land(
    common: &mut Common,
    warp: u32,
    ctx: &Context,
    which: impl Fn(usize, u32) -> bool,
) -> Run<()> {
    if common.copies[warp as usize].is_empty() {
        return Ok(());
    }
    let entries = std::mem::take(&mut common.copies[warp as usize].entries);
    let mut left = Vec::with_capacity(entries.len());
    let mut hit = Default::default();
    for e in entries {
        if !which(e.lane as usize, e.group) {
            left.push(e);
            continue;
        }
        let mut data = [0u8; 16];
        let n = e.src_bytes as usize;
        if n > 0 {
            if !ctx.view.contains(&mut hit, e.src, n as u64) {
                let detail = "the source of an asynchronous copy".to_string();
                let (kind, lane) = (FaultKind::OutOfBounds, e.lane as usize);
                return Err(Trouble::at(kind, lane, MemorySpace::Global, e.src, detail));
            }
            let mut at = 0;
            while at < n {
                // The largest aligned piece.
                let step = [8, 4, 2, 1]
                    .into_iter()
                    .find(|s| at + s <= n && (e.src + at as u64).is_multiple_of(*s as u64));
                let step = step.unwrap_or(1);
                let word = ctx.view.load(e.src + at as u64, step as u32).to_le_bytes();
                data[at..at + step].copy_from_slice(&word[..step]);
                at += step;
            }
        }
        common.shared.land_copy(e.dst, &data[..e.bytes as usize], warp, ctx.checks);
    }
    common.copies[warp as usize].entries = left;
    Ok(())
}
