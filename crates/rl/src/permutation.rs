//! The order of the minibatches, from the seed alone.

/// A permutation of `0..n` that depends on its arguments and on nothing else, so that a resumed run visits
/// the same minibatches as an unbroken one. Fisher-Yates over a SplitMix64 stream, without modulo bias.
pub fn permutation(n: usize, seed: u64, iteration: u64, epoch: u64) -> Vec<usize> {
    // Each word is mixed in before the next is added: neighbouring seeds, iterations and epochs share nothing.
    let mut state = mix(mix(mix(seed ^ 0x243f_6a88_85a3_08d3).wrapping_add(iteration)).wrapping_add(epoch));
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(&mut state, i as u64 + 1) as usize);
    }
    order
}

fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A uniform number in `0..bound`: the high half of a 128-bit product, drawn again where the low half says
/// that the last, incomplete stripe was hit (Lemire, arXiv 1805.10941).
fn below(state: &mut u64, bound: u64) -> u64 {
    let reject = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(mix(*state)) * u128::from(bound);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        if product as u64 >= reject {
            return (product >> 64) as u64;
        }
    }
}
