//! `ldmatrix`, `movmatrix`, `wmma.load`, `wmma.store`: 8x8 tiles between memory and registers.
use super::access::{Direction, addresses, global_traffic, shared_traffic, split_generic};
use super::block::Common;
use super::context::{Context, Run, Trouble};
use super::regs::{LANES, Regs};
use super::shared::Touch;
use super::tally::{self, Tally};
use super::warp::Warp;
use crate::decode::program::{FragmentAccess, MatrixAccess, Order, Where};
use crate::strict::{FaultKind, MemorySpace};

/// `movmatrix.trans`: lane `l` holds elements `2 (l % 4)` and the next of row `l / 4`.
pub(super) fn transpose(regs: &mut Regs, dst: u32, src: u32) {
    let from = *regs.get::<u32>(src);
    let at = |row: usize, col: usize| from[row * 4 + col / 2] >> (16 * (col % 2)) & 0xffff;
    let out: [u32; LANES] = std::array::from_fn(|l| at(l % 4 * 2, l / 4) | at(l % 4 * 2 + 1, l / 4) << 16);
    regs.put(dst, !0, &out);
}

impl Warp {
    /// `ldmatrix`: lane `8 i + r` names row `r` of matrix `i`; each row is 16 bytes of shared memory.
    pub(super) fn load_matrix(
        &mut self,
        regs: &mut Regs,
        a: &MatrixAccess,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let mut addrs = addresses(regs, &a.address);
        let used = if a.count == 4 { !0 } else { (1u32 << (8 * a.count)) - 1 };
        if a.space == Where::Generic {
            let inside = split_generic(&mut addrs, used)[1].1;
            if inside != used {
                let l = (used & !inside).trailing_zeros() as usize;
                let detail = "ldmatrix reads shared memory".to_string();
                return Err(Trouble::at(FaultKind::OutOfBounds, l, MemorySpace::Global, addrs[l], detail));
            }
        }
        tally::shared(&mut tally.counters.shared_loads, &addrs, used, 16);
        common.shared.check(&addrs, used, 16, self.id, Touch::Read, None, ctx.checks)?;
        for (i, &row) in a.regs.iter().enumerate() {
            let mut tile = [[0u8; 16]; 8];
            for r in 0..8 {
                tile[r].copy_from_slice(&common.shared.bytes[addrs[8 * i + r] as usize..][..16]);
            }
            let element =
                |r: usize, c: usize| u32::from(u16::from_le_bytes([tile[r][2 * c], tile[r][2 * c + 1]]));
            let out: [u32; LANES] = std::array::from_fn(|l| {
                let (g, t) = (l / 4, 2 * (l % 4));
                if a.trans {
                    element(t, g) | element(t + 1, g) << 16
                } else {
                    element(g, t) | element(g, t + 1) << 16
                }
            });
            regs.put(row, !0, &out);
        }
        Ok(())
    }

    /// `wmma.load` and `wmma.store`, one element of each lane at a time.
    pub(super) fn fragment(
        &mut self,
        regs: &mut Regs,
        a: &FragmentAccess,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let mut base = addresses(regs, &a.address);
        let mut space = a.space;
        if space == Where::Generic {
            let parts = split_generic(&mut base, !0);
            let Some(whole) = parts.iter().find(|p| p.1 == !0) else {
                let detail = "the lanes of a wmma access disagree about the memory".to_string();
                return Err(Trouble::at(FaultKind::OutOfBounds, 0, MemorySpace::Global, base[0], detail));
            };
            space = whole.0;
        }
        let stride = a.stride.map(|s| regs.lane(s, 0) as u32);
        let bytes = a.layout.bytes;
        let direction = if a.store { Direction::Store } else { Direction::Load };
        for (r, slot) in a.regs.iter().enumerate() {
            let mut values = [0u64; LANES];
            for part in 0..a.layout.parts {
                let access = r * a.layout.parts as usize + part as usize;
                let addrs: [u64; LANES] =
                    std::array::from_fn(|l| base[l].wrapping_add(a.layout.offset(access, l, stride)));
                let shift = part * 8 * bytes;
                match space {
                    Where::Shared => {
                        tally::shared(shared_traffic(tally, direction), &addrs, !0, bytes);
                        let touch = if a.store { Touch::Write } else { Touch::Read };
                        common.shared.check(&addrs, !0, bytes, self.id, touch, None, ctx.checks)?;
                    }
                    _ => {
                        tally::global(global_traffic(tally, direction), &addrs, !0, bytes);
                        self.check_global(&addrs, !0, bytes, direction, Order::default(), common, ctx)?;
                    }
                }
                for l in 0..LANES {
                    let value = regs.lane(*slot, l) >> shift;
                    match (space == Where::Shared, a.store) {
                        (true, true) => common.shared.store(addrs[l], bytes, value),
                        (true, false) => values[l] |= common.shared.load(addrs[l], bytes) << shift,
                        (false, true) => ctx.view.store(addrs[l], bytes, value),
                        (false, false) => values[l] |= ctx.view.load(addrs[l], bytes) << shift,
                    }
                }
            }
            if !a.store {
                (0..LANES).for_each(|l| regs.set_lane(*slot, l, values[l]));
            }
        }
        Ok(())
    }
}
