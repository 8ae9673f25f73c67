//! `ld` and `st`: addresses to places, checks, and the moves themselves.
//!
//! The usual access of a warp is a row: 32 lanes side by side. Rows are recognised first and are checked, counted
//! and moved as one range; everything else goes lane by lane.
use super::block::Common;
use super::context::{Context, Run, Trouble};
use super::moves::{each_value, extend, fetch, fetch_by_lane, get};
use super::regs::{LANES, Regs, Slot};
use super::shared::{Stored, Touch};
use super::tally::{self, Tally, lanes_of};
use super::warp::Warp;
use crate::counters::{GlobalTraffic, SharedTraffic};
use crate::decode::program::{Access, Address, Order, Where};
use crate::launch::Checks;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::strict::global_race::Access as RaceAccess;
use crate::strict::{FaultKind, MemorySpace};

/// The address of every lane.
#[inline]
pub(super) fn addresses(regs: &Regs, a: &Address) -> [u64; LANES] {
    let mut out = [0; LANES];
    if a.base.wide {
        let base = regs.get::<u64>(a.base.at);
        for l in 0..LANES {
            out[l] = base[l].wrapping_add_signed(a.offset);
        }
    } else {
        let base = regs.get::<u32>(a.base.at);
        for l in 0..LANES {
            out[l] = u64::from(base[l].wrapping_add(a.offset as u32));
        }
    }
    out
}

/// Whether all lanes lie side by side.
#[inline]
fn is_row(addrs: &[u64; LANES], mask: u32, bytes: u32) -> bool {
    let mut off = 0;
    for l in 0..LANES {
        off |= addrs[l].wrapping_sub(addrs[0]) ^ (l as u64 * u64::from(bytes));
    }
    mask == !0 && off == 0
}

/// Splits generic addresses by the window they fall into; addresses become offsets in it.
pub(super) fn split_generic(addrs: &mut [u64; LANES], mask: u32) -> [(Where, u32); 4] {
    let mut parts = [(Where::Global, 0), (Where::Shared, 0), (Where::Local, 0), (Where::Param, 0)];
    for l in lanes_of(mask) {
        let window = addrs[l] & !(WINDOW_BYTES - 1);
        let part = match window {
            SHARED_WINDOW => 1,
            LOCAL_WINDOW => 2,
            PARAM_WINDOW => 3,
            _ => 0,
        };
        parts[part].1 |= 1 << l;
        if part > 0 {
            addrs[l] -= window;
        }
    }
    parts
}

/// Which of a traffic's counters an access belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Load,
    Store,
    Atomic,
}

pub(super) fn global_traffic(tally: &mut Tally, d: Direction) -> &mut GlobalTraffic {
    match d {
        Direction::Load => &mut tally.counters.global_loads,
        Direction::Store => &mut tally.counters.global_stores,
        Direction::Atomic => &mut tally.counters.global_atomics,
    }
}

pub(super) fn shared_traffic(tally: &mut Tally, d: Direction) -> &mut SharedTraffic {
    match d {
        Direction::Load => &mut tally.counters.shared_loads,
        _ => &mut tally.counters.shared_stores,
    }
}

impl Warp {
    /// Checks a global access lane by lane: inside a live block, aligned, written before it is read, no race.
    pub(super) fn check_global(
        &mut self,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u32,
        direction: Direction,
        order: Order,
        common: &mut Common,
        ctx: &Context,
    ) -> Run<()> {
        let hit = &mut self.hits[direction as usize];
        let n = u64::from(bytes);
        let mut last = None;
        for l in lanes_of(mask) {
            let addr = addrs[l];
            // What holds of a neighbour's address holds of the same one.
            if last.replace(addr) == Some(addr) {
                continue;
            }
            if !ctx.view.contains(hit, addr, n) {
                let (freed, near) = ctx.view.explain(addr);
                let kind = if freed { FaultKind::UseAfterFree } else { FaultKind::OutOfBounds };
                let what = if freed { "memory that was freed" } else { "outside every allocation" };
                return Err(Trouble::at(
                    kind,
                    l,
                    MemorySpace::Global,
                    addr,
                    format!("{n} bytes {what}{near}"),
                ));
            }
            if !addr.is_multiple_of(n.min(16)) {
                let detail = format!("an access of {n} bytes needs an address that is a multiple of it");
                return Err(Trouble::at(FaultKind::Misaligned, l, MemorySpace::Global, addr, detail));
            }
            if ctx.checks == Checks::Off {
                continue;
            }
            if direction != Direction::Store
                && let Some(at) = ctx.view.first_unwritten(hit, addr, bytes as usize)
            {
                let detail = "memory that was allocated but never written".to_string();
                return Err(Trouble::at(FaultKind::Uninitialised, l, MemorySpace::Global, at, detail));
            }
            if direction != Direction::Load {
                ctx.view.mark(hit, addr, bytes as usize);
            }
            if let Some(races) = ctx.races {
                let access =
                    RaceAccess { write: direction != Direction::Load, strong: order.strong, width: n };
                if let Some(race) = common.touch_global(races, self.id, addr, n, access) {
                    return Err(Trouble::at(
                        FaultKind::GlobalRace,
                        l,
                        MemorySpace::Global,
                        race.at,
                        race.detail,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks and counts an access to global memory; afterwards every address may be moved.
    fn global_access(
        &mut self,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u32,
        direction: Direction,
        order: Order,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let traffic = global_traffic(tally, direction);
        if order.strong {
            self.polls += 1;
        }
        if is_row(addrs, mask, bytes) {
            let (base, total) = (addrs[0], bytes * LANES as u32);
            tally::global_row(traffic, base, bytes);
            let hit = &mut self.hits[direction as usize];
            let inside =
                ctx.view.contains(hit, base, total.into()) && base.is_multiple_of(u64::from(bytes.min(16)));
            if inside && ctx.checks == Checks::Off {
                return Ok(());
            }
            let store = direction == Direction::Store;
            if inside && (store || ctx.view.first_unwritten(hit, base, total as usize).is_none()) {
                if store {
                    ctx.view.mark(hit, base, total as usize);
                }
                let Some(races) = ctx.races else { return Ok(()) };
                let access = RaceAccess { write: store, strong: order.strong, width: bytes.into() };
                let race = common.touch_global(races, self.id, base, total.into(), access);
                return race.map_or(Ok(()), |race| {
                    let lane = ((race.at - base) / u64::from(bytes)) as usize;
                    Err(Trouble::at(FaultKind::GlobalRace, lane, MemorySpace::Global, race.at, race.detail))
                });
            }
        } else {
            tally::global(traffic, addrs, mask, bytes);
        }
        self.check_global(addrs, mask, bytes, direction, order, common, ctx)
    }

    fn shared_access(
        &mut self,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u32,
        direction: Direction,
        order: Order,
        new: Option<Stored>,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let traffic = shared_traffic(tally, direction);
        let touch = match direction {
            _ if order.strong => Touch::Strong,
            Direction::Load => Touch::Read,
            _ => Touch::Write,
        };
        if order.strong {
            self.polls += 1;
        }
        if is_row(addrs, mask, bytes) {
            tally::shared_row(traffic, bytes);
            if common.shared.row_is_fine(addrs[0], bytes, self.id, touch, ctx.checks) {
                return Ok(());
            }
        } else {
            tally::shared(traffic, addrs, mask, bytes);
        }
        // A volatile store is strong and still a first write.
        if order.strong && direction == Direction::Store {
            let checks = ctx.checks.min(Checks::Memory);
            common.shared.check(addrs, mask, bytes, self.id, Touch::Write, None, checks)?;
        }
        common.shared.check(addrs, mask, bytes, self.id, touch, new, ctx.checks)
    }

    /// `ld`, or `st` if `STORE`: a generic access by the parts that fall into each window.
    pub(super) fn load_or_store<const STORE: bool>(
        &mut self,
        regs: &mut Regs,
        a: &Access,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let mut addrs = addresses(regs, &a.address);
        if a.space != Where::Generic {
            return self.transfer::<STORE>(a.space, regs, a, &addrs, mask, common, ctx, tally);
        }
        for (space, part) in split_generic(&mut addrs, mask) {
            if part != 0 {
                self.transfer::<STORE>(space, regs, a, &addrs, part, common, ctx, tally)?;
            }
        }
        Ok(())
    }

    /// Checks an access to one space and moves the values.
    fn transfer<const STORE: bool>(
        &mut self,
        space: Where,
        regs: &mut Regs,
        a: &Access,
        addrs: &[u64; LANES],
        mask: u32,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let total = a.bytes * a.regs.len() as u32;
        let direction = if STORE { Direction::Store } else { Direction::Load };
        match space {
            Where::Global | Where::Generic => {
                if STORE && (a.order.release || a.order.strong) {
                    self.release(common, ctx);
                }
                self.global_access(addrs, mask, total, direction, a.order, common, ctx, tally)?;
                if !STORE && (a.order.acquire || a.order.strong) {
                    self.acquire(common, ctx);
                }
                let view = ctx.view;
                if STORE {
                    each_value(regs, a, addrs, mask, |_, addr, bytes, v| view.store(addr, bytes, v));
                } else {
                    fetch(regs, a, addrs, mask, |addr, bytes| view.load(addr, bytes));
                }
            }
            Where::Shared => {
                let new = |lane: usize, byte: usize| stored_byte(regs, a, lane, byte);
                let new: Option<Stored> = if STORE { Some(&new) } else { None };
                self.shared_access(addrs, mask, total, direction, a.order, new, common, ctx, tally)?;
                let shared = &mut common.shared;
                if STORE {
                    each_value(regs, a, addrs, mask, |_, addr, bytes, v| shared.store(addr, bytes, v));
                } else {
                    fetch(regs, a, addrs, mask, |addr, bytes| shared.load(addr, bytes));
                }
            }
            Where::Local => {
                tally.counters.local_bytes += u64::from(total) * u64::from(mask.count_ones());
                self.check_local(addrs, mask, total, direction)?;
                let local = &mut self.local;
                if STORE {
                    each_value(regs, a, addrs, mask, |l, addr, bytes, v| {
                        local[l].store(addr as usize, bytes as usize, v);
                    });
                } else {
                    let read = |l: usize, addr: u64, bytes: u32| local[l].load(addr as usize, bytes as usize);
                    fetch_by_lane(regs, a, addrs, mask, read);
                }
            }
            Where::Param => {
                let params = &ctx.launch.params;
                check_param::<STORE>(addrs, mask, total, params.len() as u64)?;
                fetch_by_lane(regs, a, addrs, mask, |_, addr, bytes| get(params, addr, bytes));
            }
        }
        Ok(())
    }

    pub(super) fn check_local(
        &self,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u32,
        direction: Direction,
    ) -> Run<()> {
        for l in lanes_of(mask) {
            let (addr, n) = (addrs[l], u64::from(bytes));
            let have = self.local[l].len() as u64;
            let trouble =
                |kind, addr, detail: String| Err(Trouble::at(kind, l, MemorySpace::Local, addr, detail));
            if addr.saturating_add(n) > have {
                let detail = format!("{n} bytes outside the thread's {have} bytes of local memory");
                return trouble(FaultKind::OutOfBounds, addr, detail);
            }
            if !addr.is_multiple_of(n.min(16)) {
                let detail = format!("an access of {n} bytes needs an address that is a multiple of it");
                return trouble(FaultKind::Misaligned, addr, detail);
            }
            if direction != Direction::Store
                && let Some(at) = self.local[l].first_unwritten(addr as usize, bytes as usize)
            {
                let detail = "local memory that this call of the function has not written".to_string();
                return trouble(FaultKind::Uninitialised, at as u64, detail);
            }
        }
        Ok(())
    }
}

/// Byte `byte` of what lane `lane` stores.
fn stored_byte(regs: &Regs, a: &Access, lane: usize, byte: usize) -> u8 {
    let (element, shift) = (byte / a.bytes as usize, byte % a.bytes as usize * 8);
    a.regs[element].map_or(0, |slot| (regs.lane(slot, lane) >> shift) as u8)
}

/// A kernel's parameters through a generic address: they are read, and no further than they go.
fn check_param<const STORE: bool>(addrs: &[u64; LANES], mask: u32, bytes: u32, have: u64) -> Run<()> {
    let outside = |l: &usize| STORE || addrs[*l].saturating_add(bytes.into()) > have;
    let Some(l) = lanes_of(mask).find(outside) else { return Ok(()) };
    let detail = match STORE {
        true => "a kernel's parameters cannot be written".to_string(),
        false => format!("{bytes} bytes outside the kernel's {have} bytes of parameters"),
    };
    Err(Trouble::at(FaultKind::OutOfBounds, l, MemorySpace::Param, addrs[l], detail))
}

/// `ld.param` of a kernel's parameter by name: the same for every lane.
pub(super) fn load_param(
    regs: &mut Regs,
    offset: u32,
    bytes: u32,
    sign: u32,
    keep: u32,
    to: &[Option<Slot>],
    mask: u32,
    ctx: &Context,
) {
    for (i, slot) in to.iter().enumerate() {
        let Some(slot) = slot else { continue };
        let at = offset as usize + i * bytes as usize;
        let mut raw = [0; 8];
        if let Some(b) = ctx.launch.params.get(at..at + bytes as usize) {
            raw[..b.len()].copy_from_slice(b);
        }
        let v = extend(u64::from_le_bytes(raw), sign);
        if slot.wide {
            regs.put(slot.at, mask, &[v; LANES]);
        } else {
            regs.put(slot.at, mask, &[v as u32 & keep; LANES]);
        }
    }
}
