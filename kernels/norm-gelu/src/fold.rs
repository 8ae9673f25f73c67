//! The second stage of a sum over rows.

use crate::ptx;
use kernel_abi::{DevicePtr, Launch};

/// Adds the column sums of `partial` (`[count, cols]` f32) to `out[0]` (columns below `split`) and `out[1]` (the others);
/// either may be null.
pub fn launch(partial: DevicePtr, out: [DevicePtr; 2], count: usize, cols: usize, split: usize) -> Launch {
    let launch = Launch::new(&ptx::FOLD, format_args!("fold")).grid(cols.div_ceil(32), 1, 1).block(512);
    launch.arg(partial).arg(out[0]).arg(out[1]).dim(count).dim(cols).dim(split)
}
