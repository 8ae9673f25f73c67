//! Values between registers and memory, once an access is checked.
use super::regs::{LANES, Regs, Slot};
use super::tally::lanes_of;
use crate::decode::program::Access;

/// A checked read of a byte array.
pub(super) fn get(from: &[u8], addr: u64, bytes: u32) -> u64 {
    let mut raw = [0; 8];
    raw[..bytes as usize].copy_from_slice(&from[addr as usize..][..bytes as usize]);
    u64::from_le_bytes(raw)
}

#[inline(always)]
pub(super) fn extend(v: u64, sign: u32) -> u64 {
    ((v << sign) as i64 >> sign) as u64
}

/// Loads each element for each lane through `read(address, bytes)`.
#[inline(always)]
pub(super) fn fetch(
    regs: &mut Regs,
    a: &Access,
    addrs: &[u64; LANES],
    mask: u32,
    read: impl Fn(u64, u32) -> u64,
) {
    for (i, slot) in a.regs.iter().enumerate() {
        let Some(slot) = slot else { continue };
        let offset = i as u64 * u64::from(a.bytes);
        if mask == !0 && a.bytes == 4 && !slot.wide {
            let mut out = [0u32; LANES];
            for l in 0..LANES {
                out[l] = read(addrs[l] + offset, 4) as u32;
            }
            regs.put(slot.at, mask, &out);
        } else {
            fetch_element(regs, a, *slot, mask, |l| read(addrs[l] + offset, a.bytes));
        }
    }
}

#[inline(always)]
pub(super) fn fetch_by_lane(
    regs: &mut Regs,
    a: &Access,
    addrs: &[u64; LANES],
    mask: u32,
    read: impl Fn(usize, u64, u32) -> u64,
) {
    for (i, slot) in a.regs.iter().enumerate() {
        let Some(slot) = slot else { continue };
        let offset = i as u64 * u64::from(a.bytes);
        fetch_element(regs, a, *slot, mask, |l| read(l, addrs[l] + offset, a.bytes));
    }
}

#[inline(always)]
fn fetch_element(regs: &mut Regs, a: &Access, slot: Slot, mask: u32, read: impl Fn(usize) -> u64) {
    if slot.wide {
        let mut out = [0u64; LANES];
        lanes_of(mask).for_each(|l| out[l] = extend(read(l), a.sign));
        regs.put(slot.at, mask, &out);
    } else {
        let mut out = [0u32; LANES];
        lanes_of(mask).for_each(|l| out[l] = extend(read(l), a.sign) as u32 & a.keep);
        regs.put(slot.at, mask, &out);
    }
}

/// Calls `write(lane, address, bytes, value)` for each element of each lane.
#[inline(always)]
pub(super) fn each_value(
    regs: &Regs,
    a: &Access,
    addrs: &[u64; LANES],
    mask: u32,
    mut write: impl FnMut(usize, u64, u32, u64),
) {
    for (i, slot) in a.regs.iter().enumerate() {
        let Some(slot) = slot else { continue };
        let offset = i as u64 * u64::from(a.bytes);
        if slot.wide {
            let v = regs.get::<u64>(slot.at);
            lanes_of(mask).for_each(|l| write(l, addrs[l] + offset, a.bytes, v[l]));
        } else if mask == !0 && a.bytes == 4 {
            let v = regs.get::<u32>(slot.at);
            (0..LANES).for_each(|l| write(l, addrs[l] + offset, 4, u64::from(v[l])));
        } else {
            let v = regs.get::<u32>(slot.at);
            lanes_of(mask).for_each(|l| write(l, addrs[l] + offset, a.bytes, u64::from(v[l])));
        }
    }
}
