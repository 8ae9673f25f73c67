//! The launches of the activations: how elements are laid over threads (see `ptx/act_forward.ptx`).

use crate::{Act, fold, layout, ptx};
use kernel_abi::{DevicePtr, Float, Launch, LaunchError, Launcher, Module};

/// Rows, columns of y, and which activation.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub rows: usize,
    pub cols: usize,
    pub kind: Act,
}

/// A grid: columns of a row as the kernel sees it, blocks, and log2 of the threads side by side in a row.
struct Grid {
    suffix: &'static str,
    cols: usize,
    blocks: [usize; 2],
    lanes: u32,
}

const BLOCK: usize = 256;
/// The number of threads side by side that wastes the fewest in the last block, the larger of equals.
fn lanes(chunks: usize) -> usize {
    let fitting = chunks.next_power_of_two().min(BLOCK);
    let candidates = [fitting, fitting / 2, fitting / 4].into_iter().filter(|l| *l >= 32.min(fitting));
    candidates.min_by_key(|l| chunks.next_multiple_of(*l)).expect("not empty")
}

impl Grid {
    /// Elements without rows: four long ones, the last cut short.
    fn flat<T: Float>(len: usize, addresses: &[DevicePtr]) -> Grid {
        let aligned = addresses.iter().all(|a| a.0.is_multiple_of(16));
        let chunk = if aligned { 16 / size_of::<T>() } else { 1 };
        let chunks = len.div_ceil(4 * chunk);
        let suffix = if aligned { "" } else { "_odd" };
        Grid { suffix, cols: chunks * chunk, blocks: [chunks.div_ceil(BLOCK), 1], lanes: BLOCK.ilog2() }
    }

    /// Rows of `cols`.
    fn rows<T: Float>(rows: usize, cols: usize, addresses: &[DevicePtr]) -> Grid {
        let vector = 16 / size_of::<T>();
        let aligned = cols.is_multiple_of(vector) && addresses.iter().all(|a| a.0.is_multiple_of(16));
        let chunks = if aligned { cols / vector } else { cols };
        let lanes = lanes(chunks);
        let blocks = layout::columns(rows, chunks, lanes).into();
        let suffix = if aligned { "" } else { "_odd" };
        Grid { suffix, cols, blocks, lanes: lanes.ilog2() }
    }

    fn of<T: Float>(shape: Shape, bias: DevicePtr, addresses: &[DevicePtr]) -> Grid {
        if shape.kind == Act::SwiGlu || bias != DevicePtr::NULL {
            return Grid::rows::<T>(shape.rows, shape.cols, addresses);
        }
        Grid::flat::<T>(shape.rows * shape.cols, addresses)
    }

    fn launch<T: Float>(&self, module: &'static Module, kind: Act, way: &str) -> Launch {
        let name = match kind {
            Act::Gelu => "gelu",
            Act::GeluTanh => "gelu_tanh",
            Act::Silu => "silu",
            Act::SwiGlu => "swiglu",
        };
        Launch::new(module, format_args!("{name}_{way}_{}{}", T::NAME, self.suffix))
            .grid(self.blocks[0], self.blocks[1], 1)
            .block(BLOCK)
    }

    /// Rows of threads: each writes a row of partial sums.
    fn partials(&self) -> usize {
        self.blocks[1] * (BLOCK >> self.lanes)
    }
}

/// y = act(x + bias); `bias` may be null.
pub(crate) fn forward<T: Float>(
    shape: Shape,
    x: DevicePtr,
    bias: DevicePtr,
    y: DevicePtr,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let len = shape.rows * shape.cols;
    if len == 0 {
        return Ok(());
    }
    let grid = Grid::of::<T>(shape, bias, &[x, bias, y]);
    let launch = grid.launch::<T>(&ptx::ACT_FORWARD, shape.kind, "forward");
    on.launch(launch.arg(x).arg(bias).arg(y).arg(len as u64).dim(grid.cols).arg(grid.lanes))
}

/// dx = dy act'(x + bias), dbias += its sums over rows, for `[x, bias, dy, dx]`; `bias` and `dbias` may be null.
pub(crate) fn backward<T: Float>(
    shape: Shape,
    [x, bias, dy, dx]: [DevicePtr; 4],
    dbias: DevicePtr,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let len = shape.rows * shape.cols;
    if len == 0 {
        return Ok(());
    }
    let grid = Grid::of::<T>(shape, bias, &[x, bias, dy, dx]);
    let (count, wide) = (grid.partials(), shape.cols * shape.kind.fan_in());
    let partial = match dbias {
        DevicePtr::NULL => DevicePtr::NULL,
        _ => on.workspace(4 * count * wide)?,
    };
    let launch = grid.launch::<T>(&ptx::ACT_BACKWARD, shape.kind, "backward");
    let launch = launch.arg(x).arg(bias).arg(dy).arg(dx).arg(partial);
    on.launch(launch.arg(len as u64).dim(grid.cols).arg(grid.lanes))?;
    if dbias == DevicePtr::NULL {
        return Ok(());
    }
    // The rows of threads that the rows did not reach wrote zeros.
    on.launch(fold::launch(partial, [dbias, DevicePtr::NULL], count, wide, wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_waste_little() {
        for (chunks, want) in [(1, 1), (3, 4), (24, 32), (64, 64), (192, 64), (2048, 256), (250, 256)] {
            assert_eq!(lanes(chunks), want, "{chunks}");
        }
    }

    #[test]
    fn flat_rows_cover_all_elements() {
        for len in [1, 3, 4, 15, 16, 17, 1000, 4097] {
            let grid = Grid::flat::<f32>(len, &[DevicePtr(16)]);
            assert!(
                4 * grid.cols >= len
                    && grid.cols.is_multiple_of(4)
                    && grid.blocks[0] * BLOCK * 4 >= grid.cols
            );
        }
    }
}
