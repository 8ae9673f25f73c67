//! A block's shared memory, and what is known about each of its bytes.
use super::context::{Run, Trouble};
use super::regs::LANES;
use super::tally::lanes_of;
use crate::launch::Checks;
use crate::strict::race::SharedRaces;
use crate::strict::written::Written;
use crate::strict::{FaultKind, MemorySpace};

/// Shared memory of one block.
#[derive(Default)]
pub(crate) struct Shared {
    pub bytes: Vec<u8>,
    /// What was written since the block began.
    written: Written,
    /// Asynchronous copies under way to each byte. Empty without checks.
    pending: Vec<u8>,
    pending_total: usize,
    /// Who touched which byte last. `None` below [`Checks::All`].
    pub races: Option<SharedRaces>,
}

/// What an access does, for the race detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// Atomic, volatile, ...: orders other accesses instead of racing with them.
    Strong,
}

/// The bytes that a store writes: lane, and byte of its access.
pub(crate) type Stored<'a> = &'a dyn Fn(usize, usize) -> u8;

impl Shared {
    /// Makes it ready for a new block of `warps` warps.
    pub fn reset(&mut self, bytes: usize, warps: usize, checks: Checks, poison: Option<u64>) {
        self.bytes.clear();
        match poison {
            None => self.bytes.resize(bytes, 0),
            Some(seed) => {
                let mut rng = super::context::Rng::new(seed);
                self.bytes.resize_with(bytes, || rng.next() as u8);
            }
        }
        self.pending_total = 0;
        if checks != Checks::Off {
            self.written.clear();
            self.written.grow(bytes.max(1));
            self.pending.clear();
            self.pending.resize(bytes, 0);
        }
        if checks == Checks::All {
            self.races.get_or_insert_with(SharedRaces::default).begin(bytes, warps);
        }
    }

    fn range(&self, lane: usize, addr: u64, bytes: u64) -> Run<usize> {
        let (kind, detail) = if addr.checked_add(bytes).is_none_or(|end| end > self.bytes.len() as u64) {
            let detail =
                format!("{bytes} bytes outside the block's {} bytes of shared memory", self.bytes.len());
            (FaultKind::OutOfBounds, detail)
        } else if !addr.is_multiple_of(bytes.next_power_of_two().min(16)) {
            (
                FaultKind::Misaligned,
                format!("an access of {bytes} bytes needs an address that is a multiple of it"),
            )
        } else {
            return Ok(addr as usize);
        };
        Err(Trouble::at(kind, lane, MemorySpace::Shared, addr, detail))
    }

    /// Checks `bytes` bytes at each lane's address for an access by `warp`; `new` is what a store writes there.
    pub fn check(
        &mut self,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u32,
        warp: u32,
        touch: Touch,
        new: Option<Stored>,
        checks: Checks,
    ) -> Run<()> {
        let mut last = None;
        for l in lanes_of(mask) {
            // What holds of a neighbour's address holds of the same one; but each lane stores a value of its own.
            if last.replace(addrs[l]) == Some(addrs[l]) && touch != Touch::Write {
                continue;
            }
            self.check_range(l, addrs[l], bytes.into(), warp, touch, new, checks)?;
        }
        Ok(())
    }

    /// The same for 32 lanes side by side: one look at the whole row. False when something may be wrong there.
    pub fn row_is_fine(&mut self, base: u64, bytes: u32, warp: u32, touch: Touch, checks: Checks) -> bool {
        let total = u64::from(bytes) * LANES as u64;
        let inside = base.checked_add(total).is_some_and(|end| end <= self.bytes.len() as u64);
        if !inside || !base.is_multiple_of(u64::from(bytes.min(16))) {
            return false;
        }
        if checks == Checks::Off {
            return true;
        }
        let at = base as usize;
        let clean = self.pending_total == 0
            && (touch == Touch::Write || self.written.first_missing(at, total as usize).is_none())
            && match &mut self.races {
                Some(r) if checks == Checks::All => {
                    r.touch(at, total as usize, warp, touch, |_| false).is_none()
                }
                _ => true,
            };
        if clean && touch == Touch::Write {
            self.written.mark(at, total as usize);
        }
        clean
    }

    /// Checks one lane's access.
    pub fn check_range(
        &mut self,
        lane: usize,
        addr: u64,
        bytes: u64,
        warp: u32,
        touch: Touch,
        new: Option<Stored>,
        checks: Checks,
    ) -> Run<()> {
        let at = self.range(lane, addr, bytes)?;
        if checks == Checks::Off {
            return Ok(());
        }
        let n = bytes as usize;
        let trouble =
            |kind, at: usize, detail| Err(Trouble::at(kind, lane, MemorySpace::Shared, at as u64, detail));
        if self.pending_total > 0
            && let Some(i) = self.pending[at..at + n].iter().position(|&p| p > 0)
        {
            let detail = "an asynchronous copy to this address was not waited for (cp.async.wait_group, \
                          cp.async.wait_all or an mbarrier)";
            return trouble(FaultKind::AsyncRead, at + i, detail.to_string());
        }
        if touch == Touch::Write {
            self.written.mark(at, n);
        } else if let Some(b) = self.written.first_missing(at, n) {
            return trouble(
                FaultKind::Uninitialised,
                b,
                "shared memory that no thread of the block wrote".into(),
            );
        }
        if checks == Checks::All
            && let Some(races) = &mut self.races
            && let Some(race) =
                races.touch(at, n, warp, touch, |b| new.is_some_and(|new| new(lane, b - at) == self.bytes[b]))
        {
            return trouble(FaultKind::SharedRace, race.at, race.detail);
        }
        Ok(())
    }

    /// An asynchronous copy to a range begins.
    pub fn begin_copy(&mut self, lane: usize, addr: u64, bytes: u64, warp: u32, checks: Checks) -> Run<()> {
        let at = self.range(lane, addr, bytes)?;
        if checks == Checks::All
            && let Some(races) = &mut self.races
            && let Some(race) = races.touch(at, bytes as usize, warp, Touch::Write, |_| false)
        {
            return Err(Trouble::at(
                FaultKind::SharedRace,
                lane,
                MemorySpace::Shared,
                race.at as u64,
                race.detail,
            ));
        }
        if checks != Checks::Off {
            self.pending[at..at + bytes as usize].iter_mut().for_each(|p| *p = p.saturating_add(1));
            self.pending_total += bytes as usize;
        }
        Ok(())
    }

    /// An asynchronous copy by `warp` lands: from now on it counts as a write of that warp.
    pub fn land_copy(&mut self, addr: u64, data: &[u8], warp: u32, checks: Checks) {
        let at = addr as usize;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        if checks == Checks::Off {
            return;
        }
        self.pending[at..at + data.len()].iter_mut().for_each(|p| *p = p.saturating_sub(1));
        self.pending_total -= data.len();
        self.written.mark(at, data.len());
        if let Some(races) = &mut self.races {
            races.overwrite(at, data.len(), warp);
        }
    }

    /// Loads 1, 2, 4 or 8 checked bytes.
    #[inline(always)]
    pub fn load(&self, addr: u64, bytes: u32) -> u64 {
        let b = &self.bytes[addr as usize..][..bytes as usize];
        match *b {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            _ => u64::from_le_bytes(b.try_into().expect("eight bytes")),
        }
    }

    /// Stores 1, 2, 4 or 8 checked bytes.
    #[inline(always)]
    pub fn store(&mut self, addr: u64, bytes: u32, value: u64) {
        self.bytes[addr as usize..][..bytes as usize].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
    }
}
