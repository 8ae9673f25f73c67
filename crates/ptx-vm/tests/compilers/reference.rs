//! What the kernels compute, in f64 and in the plainest way.

/// Rows of mean 0 and variance 1, times gain, plus bias; the means and the reciprocal deviations.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], eps: f32) -> [Vec<f64>; 3] {
    let cols = gain.len();
    let [mut y, mut means, mut rstds] = [const { Vec::new() }; 3];
    for row in x.chunks(cols) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
        let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
        let line = row.iter().zip(gain).zip(bias);
        y.extend(line.map(|((&v, &g), &b)| (f64::from(v) - mean) * rstd * f64::from(g) + f64::from(b)));
        means.push(mean);
        rstds.push(rstd);
    }
    [y, means, rstds]
}

/// Rows of weights that sum to 1.
pub fn softmax(x: &[f32], cols: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(cols) {
        let top = row.iter().fold(f64::NEG_INFINITY, |t, &v| t.max(v.into()));
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - top).exp()).sum();
        y.extend(row.iter().map(|&v| (f64::from(v) - top).exp() / sum));
    }
    y
}

/// `[m, k] [k, n]`: the products and, beside each, the sum of magnitudes that its error is measured by.
pub fn matmul(a: &[f32], b: &[f32], n: usize, k: usize) -> Vec<(f64, f64)> {
    let mut c = Vec::new();
    for row in a.chunks(k) {
        for col in 0..n {
            let terms = row.iter().enumerate().map(|(i, &x)| f64::from(x) * f64::from(b[i * n + col]));
            c.push(terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs())));
        }
    }
    c
}

/// Causal attention of one head of width `d`: outputs, and logarithms of the sums of exponentials.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], d: usize, scale: f32) -> [Vec<f64>; 2] {
    let [mut out, mut lse] = [const { Vec::new() }; 2];
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    for (i, query) in q.chunks(d).enumerate() {
        let scores: Vec<f64> =
            k.chunks(d).take(i + 1).map(|key| dot(query, key) * f64::from(scale)).collect();
        let top = scores.iter().fold(f64::NEG_INFINITY, |t, &s| t.max(s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        for at in 0..d {
            let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * f64::from(v[j * d + at])).sum();
            out.push(sum / total);
        }
        lse.push(top + total.ln());
    }
    [out, lse]
}

/// Philox 4x32 with ten rounds (Salmon et al. 2011), counter `(offset, 0, 0, 0)`: the first word as a number in [0, 1).
pub fn philox(seed: u64, offset: u32) -> f32 {
    let (mut c, mut key) = ([offset, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    for _ in 0..10 {
        let wide = [u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57];
        let [(h0, l0), (h1, l1)] = wide.map(|w| ((w >> 32) as u32, w as u32));
        c = [h1 ^ c[1] ^ key[0], l1, h0 ^ c[3] ^ key[1], l0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    let x = c[0] as i32;
    (if x < 0 { -x - 1 } else { x }) as f32 * 4.656_612_7e-10
}
