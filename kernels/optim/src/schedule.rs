//! Learning-rate schedules with linear warmup.

/// How the learning rate moves after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls linearly to zero.
    Linear,
    /// Falls along half a cosine to a tenth.
    #[default]
    Cosine,
}

impl Schedule {
    /// The factor on the learning rate at step `i` (from 0) of `total`, with `warmup` rising steps.
    pub fn factor(self, i: usize, warmup: usize, total: usize) -> f32 {
        if i < warmup {
            return (i + 1) as f32 / warmup as f32;
        }
        let t = (i - warmup) as f32 / total.saturating_sub(warmup).max(1) as f32;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => (1.0 - t).max(0.0),
            Schedule::Cosine => 0.1 + 0.45 * (1.0 + (std::f32::consts::PI * t.min(1.0)).cos()),
        }
    }
}
