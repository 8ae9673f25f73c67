//! Special registers.
use super::block::Common;
use super::context::{Context, unflatten};
use super::regs::{LANES, Regs, Slot};
use super::warp::Warp;
use crate::decode::program::Where;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::syntax::ast::SpecialRegister;
use crate::syntax::special::Axis;

/// Warps that a multiprocessor can hold.
const WARPS_PER_SM: u64 = 48;
/// Cycles that reading a clock takes.
const CLOCK_READ: u64 = 32;

fn axis(v: [u32; 3], a: Axis) -> u64 {
    match a {
        Axis::X => v[0].into(),
        Axis::Y => v[1].into(),
        Axis::Z => v[2].into(),
        Axis::W => 0,
    }
}

/// `isspacep`: which lanes' generic addresses lie in a space.
pub(super) fn is_space(regs: &Regs, src: Slot, space: Where) -> u32 {
    let inside = |address: u64| {
        let window = address & !(WINDOW_BYTES - 1);
        match space {
            Where::Shared => window == SHARED_WINDOW,
            Where::Local => window == LOCAL_WINDOW,
            Where::Param => window == PARAM_WINDOW,
            _ => ![SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW].contains(&window),
        }
    };
    (0..LANES).fold(0, |bits, l| bits | u32::from(inside(regs.lane(src, l))) << l)
}

impl Warp {
    pub(super) fn special(
        &mut self,
        regs: &mut Regs,
        slot: Slot,
        which: SpecialRegister,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
    ) {
        use SpecialRegister::*;
        if matches!(which, Clock | ClockHi | Clock64 | GlobalTimer | GlobalTimerLo | GlobalTimerHi) {
            common.time += CLOCK_READ;
        }
        let (time, l) = (common.time, ctx.launch);
        let nanoseconds = u128::from(time) * 1_000_000 / u128::from(ctx.device.clock_khz.max(1));
        let nanoseconds = nanoseconds as u64;
        let lane_value = |lane: u32| -> u64 {
            let bit = 1u64 << lane;
            match which {
                Tid(a) => axis(unflatten(u64::from(self.id * 32 + lane), l.block), a),
                LaneId => lane.into(),
                LanemaskEq => bit,
                LanemaskLt => bit - 1,
                LanemaskLe => bit | (bit - 1),
                LanemaskGt => !(bit | (bit - 1)) & 0xffff_ffff,
                LanemaskGe => !(bit - 1) & 0xffff_ffff,
                _ => 0,
            }
        };
        let value = match which {
            Ntid(a) => axis(l.block, a),
            Ctaid(a) => axis(ctx.block_index(common.block), a),
            Nctaid(a) => axis(l.grid, a),
            WarpId => self.id.into(),
            NWarpId => WARPS_PER_SM,
            SmId => common.block % u64::from(ctx.device.sm_count.max(1)),
            NSmId => ctx.device.sm_count.into(),
            Clock => time & 0xffff_ffff,
            ClockHi => time >> 32,
            Clock64 => time,
            GlobalTimer => nanoseconds,
            GlobalTimerLo => nanoseconds & 0xffff_ffff,
            GlobalTimerHi => nanoseconds >> 32,
            TotalSmemSize => ctx.shared_bytes as u64,
            DynamicSmemSize => l.shared_bytes.into(),
            _ => 0,
        };
        let per_lane =
            matches!(which, Tid(_) | LaneId | LanemaskEq | LanemaskLt | LanemaskLe | LanemaskGt | LanemaskGe);
        let values: [u64; LANES] =
            std::array::from_fn(|lane| if per_lane { lane_value(lane as u32) } else { value });
        if slot.wide {
            regs.put(slot.at, mask, &values);
        } else {
            regs.put(slot.at, mask, &values.map(|v| v as u32));
        }
    }
}
