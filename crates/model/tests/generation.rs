//! Generation: the log-probabilities of drawn tokens have the bits that scoring gives them.

use autograd::Tape;
use device::Device;
use formats::{Act, Arch, ModelConfig, Norm};
use model::{Batch, LoraConfig, Model, Pass, Precision, Rng, Sampling};
use std::rc::Rc;

fn model(precision: Precision, lora: bool) -> Model {
    let c = ModelConfig {
        arch: Arch::GptNeox,
        vocab: 50,
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_dim: 8,
        intermediate: 64,
        max_positions: 64,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        act: Act::Gelu,
        parallel_residual: true,
        rotary_dim: 2,
        rope_theta: 1e4,
        tie_embeddings: false,
        attention_bias: true,
        mlp_bias: true,
    };
    let mut m = Model::random(&Device::cpu(), c, 5);
    // Larger weights than at the start of training, so that distributions are not flat.
    let ids: Vec<_> = m.params.iter().map(|(id, p)| (id, p.to_f32())).collect();
    for (id, data) in ids {
        m.params.data_mut(id).write(&data.iter().map(|v| v * 8.0).collect::<Vec<_>>());
    }
    m.params.pack();
    m.quantize(precision);
    if lora {
        m.attach_lora(&LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() }, 1);
        let ids: Vec<_> =
            m.params.iter().filter(|(_, p)| p.name.ends_with(".b")).map(|(id, p)| (id, p.len())).collect();
        for (id, n) in ids {
            m.params.data_mut(id).write(&Rng::new(4, "b").uniforms(n, 0.5));
        }
    }
    m
}

fn prompts() -> Vec<Vec<u32>> {
    (0..23).map(|i: u32| (0..=i % 7).map(|j| (i * 5 + j * 3) % 50).collect()).collect()
}

#[test]
fn drawn_log_probabilities_are_the_scored_ones_bit_for_bit() {
    for (precision, lora) in [(Precision::F32, false), (Precision::INT8, false), (Precision::INT8, true)] {
        let m = model(precision, lora);
        let sampling =
            Sampling { max_new_tokens: 20, temperature: 0.9, eos: Some(7), seed: 3, ..Sampling::default() };
        let prompts = prompts();
        let streams: Vec<u32> = (0..prompts.len() as u32).collect();
        let done = m.generate(&prompts, &streams, &sampling, Pass::default(), None, &|_| {});
        assert!(done.iter().any(|c| c.finished) && done.iter().any(|c| !c.finished));
        let sequences: Vec<Vec<u32>> =
            prompts.iter().zip(&done).map(|(p, c)| [&p[..], &c.tokens].concat()).collect();
        let mut tape = Tape::inference(&m.params);
        let batch = Batch::new(m.device(), &sequences);
        let hidden = m.hidden(&mut tape, &batch, Pass::default());
        let (mut rows, mut targets, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (p, c)) in prompts.iter().zip(&done).enumerate() {
            for (t, token) in c.tokens.iter().enumerate() {
                rows.push((batch.start(i) + p.len() + t - 1) as u32);
                targets.push(*token);
                drawn.push(c.logprobs[t]);
            }
        }
        let upload = |v: &[u32]| Rc::new(m.device().upload(v));
        let picked = tape.gather(hidden, &upload(&rows));
        let (lp, _) = tape.log_prob(picked, m.head(), &upload(&targets), 1.0 / 0.9, false, 0);
        let scored = tape.value(lp).to_vec();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&scored), bits(&drawn), "{precision:?}, lora {lora}");
    }
}

#[test]
fn an_answer_does_not_depend_on_its_company_or_the_threads() {
    let m = model(Precision::INT8, true);
    let sampling = Sampling { max_new_tokens: 12, seed: 8, ..Sampling::default() };
    let prompts = prompts();
    let streams: Vec<u32> = (0..prompts.len() as u32).collect();
    let all = m.generate(&prompts, &streams, &sampling, Pass::default(), None, &|_| {});
    let again =
        cpu::with_threads(1, || m.generate(&prompts, &streams, &sampling, Pass::default(), None, &|_| {}));
    assert_eq!(again, all);
    for i in [0, 9, 22] {
        let alone = m.generate(&prompts[i..=i], &streams[i..=i], &sampling, Pass::default(), None, &|_| {});
        assert_eq!(alone[0], all[i]);
    }
}

#[test]
fn an_immediate_end_is_an_answer_of_one_token() {
    let m = model(Precision::F32, false);
    let greedy = Sampling { max_new_tokens: 1, temperature: 0.0, ..Sampling::default() };
    let prompt = vec![vec![3, 4, 5]];
    let first = m.generate(&prompt, &[0], &greedy, Pass::default(), None, &|_| {})[0].tokens[0];
    let ends = Sampling { max_new_tokens: 9, temperature: 0.0, eos: Some(first), ..Sampling::default() };
    let done = m.generate(&prompt, &[0], &ends, Pass::default(), None, &|_| {});
    assert!(done[0].finished && done[0].tokens == [first] && done[0].logprobs.len() == 1);
}
