//! Attention against f64, its gradients against central differences, and the cache against the full pass.

use attention::*;
use kernel_abi::Kernel;
use proptest::prelude::*;

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    kv: usize,
    d: usize,
}

impl Shape {
    fn width(self) -> usize {
        (self.heads + 2 * self.kv) * self.d
    }
}

fn reference(s: Shape, qkv: &[f64], starts: &[u32]) -> Vec<f64> {
    let w = s.width();
    let mut out = vec![0.0; qkv.len() / w * s.heads * s.d];
    for seq in starts.windows(2) {
        for i in seq[0] as usize..seq[1] as usize {
            for h in 0..s.heads {
                let kv = h / (s.heads / s.kv);
                let q = &qkv[i * w + h * s.d..][..s.d];
                let k = |j: usize| &qkv[j * w + (s.heads + kv) * s.d..][..s.d];
                let v = |j: usize| &qkv[j * w + (s.heads + s.kv + kv) * s.d..][..s.d];
                let keys = seq[0] as usize..i + 1;
                let dot =
                    |j: usize| q.iter().zip(k(j)).map(|(a, b)| a * b).sum::<f64>() / (s.d as f64).sqrt();
                let p: Vec<f64> = keys.clone().map(|j| dot(j).exp()).collect();
                let total: f64 = p.iter().sum();
                for (j, p) in keys.zip(p) {
                    for t in 0..s.d {
                        out[(i * s.heads + h) * s.d + t] += p / total * v(j)[t];
                    }
                }
            }
        }
    }
    out
}

fn forward(s: Shape, qkv: &[f32], starts: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let rows = qkv.len() / s.width();
    let (mut out, mut lse) = (vec![f32::NAN; rows * s.heads * s.d], vec![f32::NAN; rows * s.heads]);
    let kernel = AttentionForward { rows, heads: s.heads, kv_heads: s.kv, head_dim: s.d };
    let args = AttentionForwardArgs {
        qkv: qkv.into(),
        starts: starts.into(),
        out: (&mut out).into(),
        lse: (&mut lse).into(),
    };
    kernel.check(&args).unwrap();
    kernel.cpu(args);
    (out, lse)
}

fn shape() -> impl Strategy<Value = Shape> {
    (1usize..4, 1usize..3, 1usize..20).prop_map(|(kv, group, d)| Shape { heads: kv * group, kv, d })
}

fn starts_of(lengths: &[usize]) -> Vec<u32> {
    let mut starts = vec![0u32];
    lengths.iter().for_each(|l| starts.push(starts.last().unwrap() + *l as u32));
    starts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn forward_and_gradients(s in shape(), lengths in prop::collection::vec(0usize..7, 0..3)) {
        let starts = starts_of(&lengths);
        let rows = *starts.last().unwrap() as usize;
        let qkv = values(rows * s.width(), 1);
        let (out, lse) = forward(s, &qkv, &starts);
        let wide: Vec<f64> = qkv.iter().map(|v| f64::from(*v)).collect();
        for (g, w) in out.iter().zip(reference(s, &wide, &starts)) {
            prop_assert!((f64::from(*g) - w).abs() < 1e-5);
        }
        let dout = values(out.len(), 2);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        AttentionBackward { rows, heads: s.heads, kv_heads: s.kv, head_dim: s.d }.cpu(AttentionBackwardArgs {
            qkv: (&qkv).into(), starts: (&starts).into(), out: (&out).into(), lse: (&lse).into(),
            dout: (&dout).into(), dqkv: (&mut dqkv).into(),
        });
        let objective = |x: &[f64]| -> f64 {
            reference(s, x, &starts).iter().zip(&dout).map(|(o, d)| o * f64::from(*d)).sum()
        };
        let mut x = wide;
        for i in 0..x.len() {
            let at = x[i];
            x[i] = at + 1e-5;
            let up = objective(&x);
            x[i] = at - 1e-5;
            let down = objective(&x);
            x[i] = at;
            let want = (up - down) / 2e-5;
            prop_assert!((f64::from(dqkv[i]) - want).abs() < 1e-4 * (0.1 + want.abs()), "{} {}", dqkv[i], want);
        }
    }

    #[test]
    fn rotating_back_undoes_it_and_keeps_products_relative(d in 1usize..6, rows in 0usize..6) {
        let (head_dim, rotary_dim) = (2 * d + 3, 2 * d);
        let kernel = |inverse| Rotary { rows, heads: 2, kv_heads: 1, head_dim, rotary_dim, theta: 1e4, inverse };
        let before = values(rows * 4 * head_dim, 3);
        let positions: Vec<u32> = (0..rows as u32).map(|p| p * 37).collect();
        let mut x = before.clone();
        kernel(false).cpu(RotaryArgs { qkv: (&mut x).into(), positions: (&positions).into() });
        for (i, row) in x.chunks(4 * head_dim).enumerate() {
            // Element 0 turns by the position itself.
            let (a, b) = (f64::from(before[i * 4 * head_dim]), f64::from(before[i * 4 * head_dim + d]));
            let (sin, cos) = f64::from(positions[i]).sin_cos();
            prop_assert!((f64::from(row[0]) - (a * cos - b * sin)).abs() < 1e-5);
        }
        kernel(true).cpu(RotaryArgs { qkv: (&mut x).into(), positions: (&positions).into() });
        for (a, b) in x.iter().zip(&before) {
            prop_assert!((a - b).abs() < 1e-5);
        }
    }
}

/// Feeds sequences of these lengths through the cache: prompts at once, then token by token, two slots mixed.
#[test]
fn the_cache_gives_the_bits_of_the_full_pass() {
    let s = Shape { heads: 4, kv: 2, d: 24 };
    let (w, lengths) = (s.width(), [37usize, 21]);
    let starts = starts_of(&lengths);
    let qkv = values(58 * w, 5);
    let (full, _) = forward(s, &qkv, &starts);
    let (slots, capacity) = (3, 40);
    let mut k = vec![f32::NAN; cache_len(slots, capacity, s.kv, s.d)];
    let mut v = k.clone();
    let slot_of = [2u32, 0];
    let mut done = [0usize, 0];
    for step in 0.. {
        let (mut rows, mut slot, mut position, mut from) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for seq in 0..2 {
            let n = if step == 0 { [9, 17][seq] } else { 1 };
            for p in done[seq]..(done[seq] + n).min(lengths[seq]) {
                let row = starts[seq] as usize + p;
                rows.extend_from_slice(&qkv[row * w..(row + 1) * w]);
                slot.push(slot_of[seq]);
                position.push(p as u32);
                from.push(row);
                done[seq] = p + 1;
            }
        }
        if from.is_empty() {
            break;
        }
        let mut out = vec![f32::NAN; from.len() * s.heads * s.d];
        let kernel = AttentionExtend {
            rows: from.len(),
            heads: s.heads,
            kv_heads: s.kv,
            head_dim: s.d,
            slots,
            capacity,
        };
        let args = AttentionExtendArgs {
            qkv: (&rows).into(),
            slot: (&slot).into(),
            position: (&position).into(),
            k_cache: (&mut k).into(),
            v_cache: (&mut v).into(),
            out: (&mut out).into(),
        };
        kernel.check(&args).unwrap();
        kernel.cpu(args);
        for (row, got) in from.iter().zip(out.chunks(s.heads * s.d)) {
            assert_eq!(got, &full[row * s.heads * s.d..(row + 1) * s.heads * s.d], "row {row}");
        }
    }
}

#[test]
fn threads_and_neighbours_do_not_change_a_sequence() {
    let s = Shape { heads: 4, kv: 4, d: 32 };
    let starts = starts_of(&[50, 64, 3, 90]);
    let qkv = values(207 * s.width(), 9);
    let all = cpu::with_threads(2, || forward(s, &qkv, &starts));
    assert_eq!(cpu::with_threads(1, || forward(s, &qkv, &starts)), all);
    let alone = forward(s, &qkv[50 * s.width()..114 * s.width()], &[0, 64]);
    assert_eq!(alone.0, all.0[50 * 128..114 * 128]);
}
