//! Normalisers of rows of logits on the GPU: statistics of tiles of [`TILE`] columns, and their merge.
//!
//! Scoring and sampling both go through these two launches, so a sampled token's log-probability has the same
//! bits when it is scored later. The order of every sum depends on the number of columns alone.

use crate::ptx;
use kernel_abi::{DevicePtr, Launch, LaunchError, Launcher};

/// Columns of a tile.
pub const TILE: usize = 128;
/// Columns of a block's 8 warps with 4 tiles each.
const BLOCK: usize = 32 * TILE;

/// Workspace for the statistics of `rows` rows of `vocab` logits, and what is to be made of them.
#[derive(Debug, Clone, Copy)]
pub struct RowTiles {
    /// Rows.
    pub rows: usize,
    /// Logits per row.
    pub vocab: usize,
    /// Factor on the logits.
    pub inv_temperature: f32,
    /// `[tiles, rows]` of (maximum, sum).
    pub(crate) part: DevicePtr,
    /// `[tiles, rows]` of first moments; null: no entropy.
    pub(crate) moment: DevicePtr,
    /// `[rows]`: scaled logits of the targets.
    pub(crate) hit: DevicePtr,
}

/// Where the merge writes, each `[rows]` or null.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowResults {
    /// log sum exp of the scaled logits.
    pub lse: DevicePtr,
    /// The greatest scaled logit.
    pub top: DevicePtr,
    /// Log-probability of the target.
    pub logprob: DevicePtr,
    /// Entropy in nats; null unless the workspace was made for it.
    pub entropy: DevicePtr,
}

impl RowTiles {
    /// Takes workspace for `rows` rows.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(
        (rows, vocab): (usize, usize),
        inv_temperature: f32,
        entropy: bool,
        on: &mut dyn Launcher,
    ) -> Result<RowTiles, LaunchError> {
        let cells = rows * vocab.div_ceil(TILE);
        let part = on.workspace(8 * cells)?;
        let moment = if entropy { on.workspace(4 * cells)? } else { DevicePtr::NULL };
        let hit = on.workspace(4 * rows)?;
        Ok(RowTiles { rows, vocab, inv_temperature, part, moment, hit })
    }

    /// Where the tiles' (maximum, sum) of z lie, `[tiles, rows]`.
    pub fn part(&self) -> DevicePtr {
        self.part
    }

    /// The same workspace for at most as many rows.
    pub fn of_rows(self, rows: usize) -> RowTiles {
        RowTiles { rows, ..self }
    }

    /// Statistics of `[rows, vocab]` logits; `targets` may be null.
    ///
    /// # Errors
    /// What the launcher says.
    pub fn read(
        &self,
        logits: DevicePtr,
        targets: DevicePtr,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let RowTiles { rows, vocab, inv_temperature, part, moment, hit } = *self;
        if rows == 0 || vocab == 0 {
            return Ok(());
        }
        let wide = if logits.0.is_multiple_of(16) && vocab.is_multiple_of(4) { 4 } else { 1 };
        let entropy = if moment == DevicePtr::NULL { "" } else { "entropy_" };
        let launch = Launch::new(&ptx::TILES, format_args!("tiles_{entropy}v{wide}"))
            .grid(rows, vocab.div_ceil(BLOCK), 1)
            .block(256);
        let launch = launch.arg(logits).arg(targets).arg(part).arg(moment).arg(hit);
        on.launch(launch.dim(rows).dim(vocab).dim(vocab.div_ceil(TILE)).arg(inv_temperature))
    }

    /// Merges the statistics; `targets` may be null when no log-probability is asked for.
    ///
    /// # Errors
    /// What the launcher says.
    pub fn merge(
        &self,
        targets: DevicePtr,
        to: RowResults,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let RowTiles { rows, vocab, part, moment, hit, .. } = *self;
        if rows == 0 {
            return Ok(());
        }
        let launch = Launch::new(&ptx::MERGE, format_args!("merge")).grid(rows.div_ceil(4), 1, 1).block(256);
        let launch = launch.arg(part).arg(moment).arg(hit).arg(targets);
        let launch = launch.arg(to.lse).arg(to.top).arg(to.logprob).arg(to.entropy);
        on.launch(launch.dim(rows).dim(vocab).dim(vocab.div_ceil(TILE)))
    }
}
