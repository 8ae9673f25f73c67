//! Where the first NaN or infinity came from.

use device::Buffer;

/// The first non-finite element that a traced forward pass produced.
#[derive(Debug, Clone, PartialEq)]
pub struct NonFinite {
    /// Layer number; none outside the layers (embedding, final norm, heads).
    pub layer: Option<usize>,
    /// The op that produced it.
    pub tensor: &'static str,
    /// Row: the token's index in the batch.
    pub row: usize,
    /// Column.
    pub col: usize,
    /// The value: NaN or an infinity.
    pub value: f32,
}

impl NonFinite {
    pub(crate) fn find(
        layer: Option<usize>,
        tensor: &'static str,
        values: &Buffer,
        cols: usize,
    ) -> Option<Self> {
        values.read(|v| {
            let at = v.iter().position(|x| !x.is_finite())?;
            Some(NonFinite { layer, tensor, row: at / cols.max(1), col: at % cols.max(1), value: v[at] })
        })?
    }
}

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(l) => write!(f, "layer {l}, ")?,
            None => write!(f, "outside the layers, ")?,
        }
        write!(f, "tensor `{}`, token row {}, column {}: {}", self.tensor, self.row, self.col, self.value)
    }
}
