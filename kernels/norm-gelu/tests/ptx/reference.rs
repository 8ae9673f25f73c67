//! The mathematics in f64.

use norm_gelu::{Act, Norm};

pub const EPS: f32 = 1e-5;

/// mean and rstd of a row.
fn statistics(x: &[f64], kind: Norm) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = if kind == Norm::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
    (mean, 1.0 / (x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n + f64::from(EPS)).sqrt())
}

/// The norm of each row.
pub fn norm(x: &[f64], weight: &[f64], bias: Option<&[f64]>, kind: Norm) -> Vec<f64> {
    let row = |x: &[f64]| {
        let (mean, rstd) = statistics(x, kind);
        let y = x.iter().zip(weight).map(|(x, w)| (x - mean) * rstd * w);
        match bias {
            Some(bias) => y.zip(bias).map(|(y, b)| y + b).collect::<Vec<_>>(),
            None => y.collect(),
        }
    };
    x.chunks(weight.len()).flat_map(row).collect()
}

/// dx, dweight and dbias.
pub fn norm_backward(x: &[f64], weight: &[f64], dy: &[f64], kind: Norm) -> [Vec<f64>; 3] {
    let cols = weight.len();
    let (mut dx, mut dweight, mut dbias) = (Vec::new(), vec![0.0; cols], vec![0.0; cols]);
    for (x, dy) in x.chunks(cols).zip(dy.chunks(cols)) {
        let (mean, rstd) = statistics(x, kind);
        let z: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = dy.iter().zip(weight).map(|(d, w)| d * w).collect();
        let n = cols as f64;
        let mean_g = if kind == Norm::Layer { g.iter().sum::<f64>() / n } else { 0.0 };
        let mean_gz = g.iter().zip(&z).map(|(g, z)| g * z).sum::<f64>() / n;
        dx.extend(g.iter().zip(&z).map(|(g, z)| rstd * (g - mean_g - z * mean_gz)));
        for j in 0..cols {
            dweight[j] += dy[j] * z[j];
            dbias[j] += dy[j];
        }
    }
    [dx, dweight, dbias]
}

fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// The activation of one element, and its slope.
fn scalar(kind: Act, x: f64) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        Act::Gelu => {
            let cdf = 0.5 * (1.0 + erf(x / 2f64.sqrt()));
            (x * cdf, cdf + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt())
        }
        Act::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044715 * x.powi(3))).tanh();
            let inner = c * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
        }
        Act::Silu | Act::SwiGlu => {
            let s = sigmoid(x);
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
    }
}

/// Rows of x (`fan_in` times `cols` wide) become rows of y.
pub fn act(x: &[f64], cols: usize, kind: Act) -> Vec<f64> {
    let row =
        |x: &[f64]| -> Vec<f64> {
            (0..cols)
                .map(|j| {
                    if kind == Act::SwiGlu {
                        scalar(kind, x[j]).0 * x[cols + j]
                    } else {
                        scalar(kind, x[j]).0
                    }
                })
                .collect()
        };
    x.chunks(cols * kind.fan_in()).flat_map(row).collect()
}

/// dx of [`act`].
pub fn act_backward(x: &[f64], dy: &[f64], cols: usize, kind: Act) -> Vec<f64> {
    let row = |(x, dy): (&[f64], &[f64])| -> Vec<f64> {
        let slopes = (0..cols).map(|j| dy[j] * scalar(kind, x[j]).1);
        if kind != Act::SwiGlu {
            return slopes.collect();
        }
        let up = slopes.zip(&x[cols..]).map(|(d, u)| d * u);
        up.chain((0..cols).map(|j| dy[j] * scalar(kind, x[j]).0)).collect()
    };
    x.chunks(cols * kind.fan_in()).zip(dy.chunks(cols)).flat_map(row).collect()
}
