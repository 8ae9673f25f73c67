//! Inputs that are the same everywhere, and errors against f64.

/// `n` numbers, nearly uniform in [-2, 2), the same for the same seed.
pub fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = u64::from(seed) << 1 | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = state ^ state >> 33;
        (x.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

/// Widened.
pub fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

/// Relative Frobenius error |got - want| / |want|.
pub fn frobenius(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths");
    let diff: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    (diff / want.iter().map(|w| w * w).sum::<f64>().max(1e-30)).sqrt()
}

/// Asserts that the relative Frobenius error is below `limit`; NaN fails.
///
/// # Panics
/// Otherwise, with the error and the first differing element.
pub fn assert_close(what: &str, got: &[f32], want: &[f64], limit: f64) {
    let error = frobenius(got, want);
    if error < limit {
        return;
    }
    let worst = (0..got.len()).max_by(|a, b| {
        let d = |i: usize| {
            let d = (f64::from(got[i]) - want[i]).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        d(*a).total_cmp(&d(*b))
    });
    let at = worst.map(|i| format!("; worst at {i}: {} instead of {}", got[i], want[i])).unwrap_or_default();
    panic!("{what}: relative error {error:.3e}, limit {limit:.0e}{at}");
}

/// The rule for 16-bit and int8 kernels: an error of at most twice that of a same-precision reference (plus `floor`, for
/// when the reference happens to be exact), both against f64.
///
/// # Panics
/// When the error is greater.
pub fn assert_twice(what: &str, got: &[f32], reference: &[f32], want: &[f64], floor: f64) {
    let (mine, theirs) = (frobenius(got, want), frobenius(reference, want));
    assert!(mine <= 2.0 * theirs + floor, "{what}: error {mine:.3e} against the reference's {theirs:.3e}");
}

/// Central differences of sum(f(x) dy) in f64.
pub fn slopes(x: &[f64], dy: &[f64], step: f64, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let objective = |x: &[f64]| f(x).iter().zip(dy).map(|(y, d)| y * d).sum::<f64>();
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + step;
            let up = objective(&x);
            x[i] = at - step;
            let down = objective(&x);
            x[i] = at;
            (up - down) / (2.0 * step)
        })
        .collect()
}
