//! What the ranks of a job share: work, numbers, gradients, and errors.
//!
//! Every rank reads the same data and draws the same random numbers, so that each knows the whole batch and takes its own part of
//! it; a batch size means the same for any number of ranks. What a rank finds of a mean is its part of the sum, divided by the
//! whole batch's count: the ranks' parts add up.

use crate::{
    error::{Error, Result},
    lm::{self, Example},
};
use autograd::{Grads, ParamId, Params};
use model::{Completion, Model, Pass};
use parallel::{Group, Mesh, Shape};
use serde::{Deserialize, Serialize};

/// Ranks, and how they share the work. Another split adds numbers in another order: a run keeps the one it was begun with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelSection {
    /// Data parallelism: ranks with all weights, each with its share of every batch.
    pub dp: usize,
}

impl Default for ParallelSection {
    fn default() -> Self {
        ParallelSection { dp: 1 }
    }
}

impl ParallelSection {
    /// The split.
    pub fn shape(&self) -> Shape {
        Shape { dp: self.dp, ..Shape::ONE }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.shape().size() == 0 {
            return Err(Error::config("parallel.dp", "is 0; use at least 1"));
        }
        Ok(())
    }
}

/// Every rank's outcome in one exchange: the numbers' sums over the data-parallel ranks when all went well; else this rank's own
/// error, or one that says which rank failed and why.
///
/// # Errors
/// As said, or when a rank has ended.
pub(crate) fn sums(mesh: &Mesh, own: Result<Vec<f64>>) -> Result<Vec<f64>> {
    if mesh.size() == 1 {
        return own;
    }
    let message: Vec<u8> = match &own {
        Ok(numbers) => std::iter::once(0).chain(numbers.iter().flat_map(|x| x.to_le_bytes())).collect(),
        Err(e) => std::iter::once(1).chain(e.to_string().into_bytes()).collect(),
    };
    let all = mesh.world.gather_bytes(&message)?;
    let own = own?;
    if let Some((rank, m)) = all.iter().enumerate().find(|(_, m)| m.first() != Some(&0)) {
        return Err(Error::Peer { rank, message: String::from_utf8_lossy(&m[1..]).into_owned() });
    }
    let mut total = vec![0.0; own.len()];
    for m in &all {
        if m.len() != 1 + 8 * own.len() {
            return Err(Error::config("parallel", "the ranks do not run the same job"));
        }
        for (t, bytes) in total.iter_mut().zip(m[1..].chunks_exact(8)) {
            *t += f64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
    }
    Ok(total)
}

/// This rank's value when all ranks' work went well; else as [`sums`].
///
/// # Errors
/// As [`sums`].
pub(crate) fn agree<T>(mesh: &Mesh, own: Result<T>) -> Result<T> {
    let mut value = None;
    let outcome = own.map(|v| {
        value = Some(v);
        Vec::new()
    });
    sums(mesh, outcome)?;
    Ok(value.expect("an error would have returned"))
}

/// Whether any rank says so, for each question.
///
/// # Errors
/// When a rank has ended.
pub(crate) fn any<const N: usize>(mesh: &Mesh, own: [bool; N]) -> Result<[bool; N]> {
    if mesh.size() == 1 {
        return Ok(own);
    }
    let all = mesh.world.gather(&own.map(u8::from))?;
    Ok(std::array::from_fn(|i| all.iter().skip(i).step_by(N).any(|b| *b != 0)))
}

/// Gradients become their sums over the data-parallel ranks, in the order of ranks.
///
/// A weight whose gradient some rank did not form (its share was empty) counts as zero there; one that no rank formed stays without.
///
/// # Errors
/// When a rank has ended.
pub(crate) fn sum_gradients(mesh: &Mesh, params: &Params, grads: &mut Grads) -> Result<()> {
    if mesh.dp.size() == 1 {
        return Ok(());
    }
    let ids: Vec<ParamId> = params.trainable().map(|(id, _)| id).collect();
    let formed: Vec<u8> = ids.iter().map(|id| u8::from(grads.get(*id).is_some())).collect();
    let all = mesh.dp.gather(&formed)?;
    let some = |i: &usize| all.iter().skip(*i).step_by(ids.len()).any(|b| *b != 0);
    let ids: Vec<ParamId> = (0..ids.len()).filter(some).map(|i| ids[i]).collect();
    Ok(mesh.dp.comm.all_reduce(&mut grads.of_mut(params, &ids))?)
}

/// All ranks' answers, in the order of ranks.
///
/// # Errors
/// When a rank has ended.
pub(crate) fn gather_completions(group: &Group, own: Vec<Completion>) -> Result<Vec<Completion>> {
    if group.size() == 1 {
        return Ok(own);
    }
    let lens: Vec<u32> = own
        .iter()
        .flat_map(|c| [c.tokens.len() as u32, c.values.len() as u32, u32::from(c.finished)])
        .collect();
    let join = |f: fn(&Completion) -> &[f32]| own.iter().flat_map(|c| f(c).to_vec()).collect::<Vec<f32>>();
    let tokens: Vec<u32> = own.iter().flat_map(|c| c.tokens.clone()).collect();
    let lens = group.gather(&lens)?;
    let (tokens, logprobs) = (group.gather(&tokens)?, group.gather(&join(|c| &c.logprobs))?);
    let values = group.gather(&join(|c| &c.values))?;
    let (mut t, mut v) = (0, 0);
    let one = |l: &[u32]| {
        let (from, values_from) = (t, v);
        (t, v) = (t + l[0] as usize, v + l[1] as usize);
        Completion {
            tokens: tokens[from..t].to_vec(),
            logprobs: logprobs[from..t].to_vec(),
            values: values[values_from..v].to_vec(),
            finished: l[2] != 0,
        }
    };
    Ok(lens.chunks_exact(3).map(one).collect())
}

/// As [`lm::perplexity`], the examples shared out among the ranks.
///
/// # Errors
/// As [`lm::perplexity`], and when a rank fails.
pub(crate) fn perplexity(
    mesh: &Mesh,
    model: &Model,
    examples: &[Example],
    batch_tokens: usize,
    pass: Pass,
) -> Result<Option<f64>> {
    let own = lm::nll(model, &examples[mesh.dp.share(examples.len())], batch_tokens, pass);
    let total = sums(mesh, own.map(|(nll, n)| vec![nll, n as f64]))?;
    Ok((total[1] > 0.0).then(|| (total[0] / total[1]).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::Device;
    use parallel::{Carrier, World, threads};

    /// Runs `f` on so many ranks, each a thread.
    fn ranks<T: Send>(size: usize, f: impl Fn(&Mesh) -> T + Sync) -> Vec<T> {
        std::thread::scope(|s| {
            let start = |link| {
                let f = &f;
                s.spawn(move || {
                    let world = World { link, local_rank: 0, local_size: size };
                    let shape = Shape { dp: size, ..Shape::ONE };
                    f(&Mesh::new(&world, shape, &Device::cpu(), Carrier::Host).unwrap())
                })
            };
            let threads: Vec<_> = threads(size).into_iter().map(start).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn an_error_of_one_rank_is_told_to_all() {
        let said = ranks(3, |mesh| {
            let own = match mesh.rank() {
                1 => Err(Error::config("x", "is wrong")),
                r => Ok(vec![r as f64]),
            };
            sums(mesh, own).unwrap_err().to_string()
        });
        assert!(said[0].starts_with("rank 1:") && said[2] == said[0], "{said:?}");
        assert!(said.iter().all(|s| s.contains("is wrong")), "{said:?}");
        let totals = ranks(3, |mesh| sums(mesh, Ok(vec![mesh.rank() as f64, 0.5])).unwrap());
        assert!(totals.iter().all(|t| *t == [3.0, 1.5]));
        let flags = ranks(3, |mesh| any(mesh, [mesh.rank() == 2, false]).unwrap());
        assert_eq!(flags, [[true, false]; 3]);
    }

    #[test]
    fn answers_come_back_in_order_with_and_without_values() {
        let answer = |i: usize, values: bool| Completion {
            tokens: vec![i as u32; i],
            logprobs: vec![-0.5; i],
            values: if values { vec![i as f32; i] } else { Vec::new() },
            finished: i.is_multiple_of(2),
        };
        for values in [false, true] {
            let all: Vec<Completion> = (0..7).map(|i| answer(i, values)).collect();
            let got = ranks(3, |mesh| gather_completions(&mesh.dp, all[mesh.dp.share(7)].to_vec()).unwrap());
            assert!(got.iter().all(|g| *g == all));
        }
    }
}
