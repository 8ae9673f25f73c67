//! Draws restricted by top-k and top-p.
//!
//! What makes it fast: a bound that surely keeps enough tokens comes from a vector pass (the k-th largest of
//! block maxima; a probability so small that everything below it cannot fill the mass to be dropped), so
//! selection works on the few tokens above it. Selection is quickselect, by rank and then by mass.

use loss::RowSoftmax;

/// Logits per block whose maxima bound the k-th largest logit from below.
const BLOCK: usize = 16;

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct Scratch {
    maxima: Vec<f32>,
    values: Vec<f32>,
    kept: Vec<Candidate>,
    order: Vec<Candidate>,
}

/// A token that may be drawn: exp(z - max), never negative, and its index.
#[derive(Clone, Copy)]
struct Candidate {
    weight: f32,
    token: u32,
}

impl Candidate {
    /// Larger for likelier tokens, and for earlier ones among equals. No two are the same.
    fn rank(&self) -> u64 {
        // The bits of non-negative numbers ascend with the numbers.
        u64::from(self.weight.to_bits()) << 32 | u64::from(!self.token)
    }
}

/// The token at `u` of the cumulative distribution of the kept tokens, in order of their indices.
pub(crate) fn draw(
    row: &[f32],
    inv_temperature: f32,
    softmax: RowSoftmax,
    top_k: usize,
    top_p: f32,
    u: f64,
    scratch: &mut Scratch,
) -> usize {
    let least = if top_k < row.len() { kth_largest(row, top_k, scratch) } else { f32::NEG_INFINITY };
    // Tokens lighter than this together weigh less than 1 - p of the whole: none of them can be kept. With
    // top-k the whole is smaller, so the bound would be wrong; but then few tokens are left anyway.
    let floor = match top_k < row.len() {
        true => 0.0,
        false => ((1.0 - f64::from(top_p)) * softmax.sum / row.len() as f64 * 0.999) as f32,
    };
    let kept = &mut scratch.kept;
    kept.clear();
    collect(row, least, floor, inv_temperature, softmax.max, kept);
    if top_p < 1.0 {
        let cut = mass_cut(kept, f64::from(top_p), softmax.sum, top_k < row.len(), &mut scratch.order);
        kept.retain(|c| c.rank() >= cut);
    }
    let total: f64 = kept.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = u * total;
    let mut token = 0;
    for c in kept.iter().filter(|c| c.weight > 0.0) {
        token = c.token as usize;
        if left < f64::from(c.weight) {
            break;
        }
        left -= f64::from(c.weight);
    }
    token
}

/// The k-th largest logit, 1 <= k <= row.len().
fn kth_largest(row: &[f32], k: usize, scratch: &mut Scratch) -> f32 {
    let Scratch { maxima, values, .. } = scratch;
    maxima.clear();
    maxima.resize(row.len().div_ceil(BLOCK), 0.0);
    block_maxima(row, maxima);
    values.clear();
    if k <= maxima.len() {
        // At least k blocks hold a logit of this size.
        values.extend_from_slice(maxima);
        let bound = select(values, k);
        values.clear();
        for (block, _) in row.chunks(BLOCK).zip(maxima.iter()).filter(|(_, max)| **max >= bound) {
            values.extend(block.iter().filter(|x| **x >= bound));
        }
    } else {
        values.extend_from_slice(row);
    }
    select(values, k)
}

/// The k-th largest of `values`, which are reordered.
fn select(values: &mut [f32], k: usize) -> f32 {
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

cpu::simd_fn! {
    fn block_maxima(row: &[f32], maxima: &mut [f32]) {
        for (block, max) in row.chunks(BLOCK).zip(maxima) {
            *max = cpu::max(block);
        }
    }
}

cpu::simd_fn! {
    /// Appends the tokens with logit >= least and weight >= floor.
    fn collect(row: &[f32], least: f32, floor: f32, inv_temperature: f32, max: f32, kept: &mut Vec<Candidate>) {
        for (b, block) in row.chunks(BLOCK).enumerate() {
            if cpu::max(block) < least {
                continue;
            }
            let mut weights = [0.0f32; BLOCK];
            for (w, x) in weights.iter_mut().zip(block) {
                *w = cpu::exp(*x * inv_temperature - max);
            }
            if cpu::max(&weights[..block.len()]) < floor {
                continue;
            }
            for (i, x) in block.iter().enumerate() {
                if *x >= least && weights[i] >= floor {
                    kept.push(Candidate { weight: weights[i], token: (b * BLOCK + i) as u32 });
                }
            }
        }
    }
}

/// The rank of the last token of the smallest set of the likeliest that holds `top_p` of the mass: `whole`,
/// or the sum over the candidates when they are `all` that counts.
fn mass_cut(kept: &[Candidate], top_p: f64, whole: f64, all: bool, order: &mut Vec<Candidate>) -> u64 {
    let mass = |c: &[Candidate]| c.iter().map(|c| f64::from(c.weight)).sum::<f64>();
    let mut wanted = top_p * if all { mass(kept) } else { whole };
    order.clear();
    order.extend_from_slice(kept);
    // Invariant: the cut lies in `part`, and everything likelier, already subtracted, is kept.
    let mut part = &mut order[..];
    while part.len() > 1 {
        let half = part.len() / 2;
        part.select_nth_unstable_by(half, |a, b| b.rank().cmp(&a.rank()));
        let upper = mass(&part[..half]);
        if upper >= wanted {
            part = &mut part[..half];
        } else {
            wanted -= upper;
            part = &mut part[half..];
        }
    }
    part.first().map_or(0, Candidate::rank)
}
