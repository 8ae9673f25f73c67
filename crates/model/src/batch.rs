//! Ragged batches: sequences laid end to end, no padding.

use autograd::Rows;
use device::{Buffer, Device};
use std::rc::Rc;

/// Token sequences laid end to end.
pub struct Batch {
    /// `[rows]` token ids.
    pub ids: Rc<Buffer<u32>>,
    /// Offsets and positions.
    pub rows: Rows,
    starts: Vec<u32>,
}

impl Batch {
    /// Lays `sequences` end to end, each from position 0.
    pub fn new<S: AsRef<[u32]>>(device: &Device, sequences: &[S]) -> Self {
        let mut starts = vec![0u32];
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for s in sequences {
            let s = s.as_ref();
            ids.extend_from_slice(s);
            positions.extend(0..s.len() as u32);
            starts.push(ids.len() as u32);
        }
        Batch::from_parts(device, &ids, &positions, starts)
    }

    pub(crate) fn from_parts(device: &Device, ids: &[u32], positions: &[u32], starts: Vec<u32>) -> Self {
        let rows =
            Rows { starts: Rc::new(device.upload(&starts)), positions: Rc::new(device.upload(positions)) };
        Batch { ids: Rc::new(device.upload(ids)), rows, starts }
    }

    /// Total number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// First row of sequence `i`; `starts(sequences())` is the number of rows.
    pub fn start(&self, i: usize) -> usize {
        self.starts[i] as usize
    }

    /// The last row of each sequence.
    pub fn last_rows(&self) -> Vec<u32> {
        self.starts[1..].iter().map(|e| e - 1).collect()
    }
}
