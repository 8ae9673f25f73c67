//! Int8 weights as bitsandbytes stores them (arXiv 2208.07339): `X.weight` I8 `[out, in]`, `X.SCB` F32 `[out]`,
//! `X.weight_format` U8 0 (row-major).

use half::f16;

/// A canonical weight as its file holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// Row-major f32 elements.
    Dense(Vec<f32>),
    /// `w = q * scb / 127`, row by row.
    Int8 {
        /// `[out, in]`.
        q: Vec<i8>,
        /// `[out]`: the row's greatest absolute value.
        scb: Vec<f32>,
    },
}

impl Weight {
    /// The elements in f32.
    pub fn into_dense(self) -> Vec<f32> {
        match self {
            Weight::Dense(data) => data,
            Weight::Int8 { q, scb } => dequantize(&q, &scb),
        }
    }
}

/// `q * scb / 127`, row by row.
pub fn dequantize(q: &[i8], scb: &[f32]) -> Vec<f32> {
    let cols = q.len() / scb.len().max(1);
    let rows = q.chunks_exact(cols.max(1)).zip(scb.iter().map(|s| s / 127.0));
    rows.flat_map(|(row, s)| row.iter().map(move |v| f32::from(*v) * s)).collect()
}

/// bitsandbytes' rule: the weights in fp16, `scb` the row's absolute maximum, `q = round(w * 127 / scb)` with ties
/// to even; a row of zeros has scb 0.
pub fn quantize(w: &[f32], cols: usize) -> (Vec<i8>, Vec<f32>) {
    let half: Vec<f32> = w.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
    let rows = half.chunks_exact(cols.max(1));
    let scb: Vec<f32> = rows.clone().map(|row| row.iter().fold(0.0f32, |m, v| m.max(v.abs()))).collect();
    let quantized = |(row, s): (&[f32], &f32)| {
        let inverse = if *s > 0.0 { 127.0 / s } else { 0.0 };
        row.iter().map(|v| (v * inverse).round_ties_even() as i8).collect::<Vec<_>>()
    };
    (rows.zip(&scb).flat_map(quantized).collect(), scb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_ties_and_zero_rows() {
        // Absmax 127: q is the value itself, so that ties show.
        let (q, scb) = quantize(&[127.0, 2.5, 3.5, -0.5, 0.0, 0.0, 0.0, 0.0], 4);
        assert_eq!((q.as_slice(), scb.as_slice()), (&[127, 2, 4, 0, 0, 0, 0, 0][..], &[127.0, 0.0][..]));
        assert_eq!(dequantize(&q, &scb)[..4], [127.0, 2.0, 4.0, 0.0]);
    }

    #[test]
    fn quantising_twice_changes_nothing() {
        let w: Vec<f32> = (0..1000).map(|i| (i as f32 * 12.9898).sin() * 0.3).collect();
        let (q, scb) = quantize(&w, 50);
        assert_eq!(quantize(&dequantize(&q, &scb), 50), (q, scb));
    }
}
