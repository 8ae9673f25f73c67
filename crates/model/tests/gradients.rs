//! Whole models against a plain f64 implementation: forward, loss, and every gradient by central differences.

use autograd::{Grads, Tape};
use device::Device;
use formats::{Act, Arch, ModelConfig, Norm};
use model::{Batch, LoraConfig, Model, Pass, Rng, Target};
use std::{collections::BTreeMap, rc::Rc};

/// Parameters by name, in f64.
type Weights = BTreeMap<String, Vec<f64>>;

fn config(arch: Arch) -> ModelConfig {
    let neox = ModelConfig {
        arch,
        vocab: 13,
        hidden: 8,
        layers: 2,
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        intermediate: 10,
        max_positions: 16,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        act: Act::Gelu,
        parallel_residual: true,
        rotary_dim: 2,
        rope_theta: 100.0,
        tie_embeddings: false,
        attention_bias: true,
        mlp_bias: true,
    };
    match arch {
        Arch::GptNeox => neox,
        Arch::Gpt2 => ModelConfig {
            act: Act::GeluTanh,
            parallel_residual: false,
            rotary_dim: 0,
            tie_embeddings: true,
            ..neox
        },
        Arch::Llama => ModelConfig {
            norm: Norm::Rms,
            act: Act::SwiGlu,
            parallel_residual: false,
            kv_heads: 1,
            rotary_dim: 4,
            attention_bias: false,
            mlp_bias: false,
            ..neox
        },
    }
}

fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// The model written out longhand.
struct Reference<'a> {
    c: &'a ModelConfig,
    w: &'a Weights,
    lora_scale: f64,
}

impl Reference<'_> {
    fn get(&self, name: &str) -> Option<&Vec<f64>> {
        self.w.get(name)
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = if self.c.norm == Norm::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let rstd = 1.0 / (var + f64::from(self.c.norm_eps)).sqrt();
        let (w, b) = (self.get(&format!("{name}.weight")).unwrap(), self.get(&format!("{name}.bias")));
        (0..x.len()).map(|i| (x[i] - mean) * rstd * w[i] + b.map_or(0.0, |b| b[i])).collect()
    }

    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (w, b) = (self.get(&format!("{name}.weight")).unwrap(), self.get(&format!("{name}.bias")));
        let dot = |a: &[f64], x: &[f64]| a.iter().zip(x).map(|(a, x)| a * x).sum::<f64>();
        let mut y: Vec<f64> =
            w.chunks(x.len()).enumerate().map(|(j, r)| dot(r, x) + b.map_or(0.0, |b| b[j])).collect();
        let (q, kv) = (self.c.heads * self.c.head_dim, self.c.kv_heads * self.c.head_dim);
        for (part, offset) in [("query", 0), ("key", q), ("value", q + kv), ("all", 0)] {
            let at = |m: &str| self.get(&format!("{name}.lora.{part}.{m}"));
            if let (Some(a), Some(b)) = (at("a"), at("b")) {
                let u: Vec<f64> = a.chunks(x.len()).map(|r| dot(r, x)).collect();
                for (j, r) in b.chunks(u.len()).enumerate() {
                    y[offset + j] += self.lora_scale * dot(r, &u);
                }
            }
        }
        y
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let half = self.c.rotary_dim / 2;
        for i in 0..half {
            let f = f64::from(self.c.rope_theta).powf(-2.0 * i as f64 / self.c.rotary_dim as f64);
            let (sin, cos) = (position as f64 * f).sin_cos();
            let (a, b) = (head[i], head[i + half]);
            (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }

    fn attention(&self, qkv: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (h, kv, d) = (self.c.heads, self.c.kv_heads, self.c.head_dim);
        let rotated: Vec<Vec<f64>> = qkv
            .iter()
            .enumerate()
            .map(|(p, row)| {
                let mut row = row.clone();
                row[..(h + kv) * d].chunks_mut(d).for_each(|head| self.rotate(head, p));
                row
            })
            .collect();
        let one = |i: usize| {
            let mut out = vec![0.0; h * d];
            for head in 0..h {
                let k0 = (h + head / (h / kv)) * d;
                let v0 = k0 + kv * d;
                let dot =
                    |j: usize| (0..d).map(|t| rotated[i][head * d + t] * rotated[j][k0 + t]).sum::<f64>();
                let p: Vec<f64> = (0..=i).map(|j| (dot(j) / (d as f64).sqrt()).exp()).collect();
                let total: f64 = p.iter().sum();
                for (j, p) in p.iter().enumerate() {
                    (0..d).for_each(|t| out[head * d + t] += p / total * rotated[j][v0 + t]);
                }
            }
            out
        };
        (0..qkv.len()).map(one).collect()
    }

    fn act(&self, x: &[f64]) -> Vec<f64> {
        let gelu_tanh = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        match self.c.act {
            Act::Gelu => x.iter().map(|x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))).collect(),
            Act::GeluTanh => x.iter().map(|x| gelu_tanh(*x)).collect(),
            Act::SwiGlu => {
                let n = x.len() / 2;
                (0..n).map(|i| x[i] / (1.0 + (-x[i]).exp()) * x[n + i]).collect()
            }
        }
    }

    /// Log-probabilities of tokens 1.. and entropies.
    fn sequence(&self, ids: &[u32]) -> Vec<(f64, f64)> {
        let n = self.c.hidden;
        let row = |name: &str, i: usize| self.w[name][i * n..(i + 1) * n].to_vec();
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f64>>();
        let mut xs: Vec<Vec<f64>> = ids.iter().map(|id| row("embed", *id as usize)).collect();
        if self.c.rotary_dim == 0 {
            xs.iter_mut().enumerate().for_each(|(p, x)| *x = add(x, &row("positions", p)));
        }
        for l in 0..self.c.layers {
            let at = |name: &str| format!("layers.{l}.{name}");
            let qkv: Vec<Vec<f64>> =
                xs.iter().map(|x| self.linear(&self.norm(x, &at("norm1")), &at("qkv"))).collect();
            let attended = self.attention(&qkv);
            for (x, a) in xs.iter_mut().zip(&attended) {
                let h = add(x, &self.linear(a, &at("attn_out")));
                let input = if self.c.parallel_residual { &*x } else { &h };
                let up = self.linear(&self.norm(input, &at("norm2")), &at("mlp_up"));
                *x = add(&h, &self.linear(&self.act(&up), &at("mlp_down")));
            }
        }
        let head = if self.c.tie_embeddings { "embed" } else { "head" };
        let one = |i: usize| {
            let h = self.norm(&xs[i - 1], "final_norm");
            let z: Vec<f64> =
                self.w[head].chunks(n).map(|w| w.iter().zip(&h).map(|(a, b)| a * b).sum()).collect();
            let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            let entropy = lse - z.iter().map(|z| (z - lse).exp() * z).sum::<f64>();
            (z[ids[i] as usize] - lse, entropy)
        };
        (1..ids.len()).map(one).collect()
    }
}

const SEQUENCES: [&[u32]; 2] = [&[1, 5, 2, 7, 7, 12], &[3, 0, 9]];
const ENTROPY_WEIGHT: f64 = 0.3;

/// Mean over predicted tokens of -logprob - 0.3 entropy.
fn objective(r: &Reference<'_>) -> f64 {
    let all: Vec<(f64, f64)> = SEQUENCES.iter().flat_map(|s| r.sequence(s)).collect();
    all.iter().map(|(lp, e)| -lp - ENTROPY_WEIGHT * e).sum::<f64>() / all.len() as f64
}

/// A model whose every weight is random and alive.
fn model(c: &ModelConfig, lora: bool) -> Model {
    let mut source = |name: &str, rows: usize, cols: usize| {
        let base = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let values = Rng::new(3, name).uniforms(rows * cols, 0.5);
        Ok::<_, std::convert::Infallible>(values.iter().map(|v| base + v).collect())
    };
    let Ok(mut m) = Model::from_source(&Device::cpu(), c.clone(), model::Precision::F32, &mut source);
    if lora {
        let targets = vec![Target::Query, Target::Value, Target::AttnOut, Target::MlpUp, Target::MlpDown];
        m.attach_lora(&LoraConfig { rank: 3, alpha: 6.0, dropout: 0.0, targets, first_layer: 0 }, 1);
        let ids: Vec<_> =
            m.params.iter().filter(|(_, p)| p.name.ends_with(".b")).map(|(id, p)| (id, p.len())).collect();
        for (id, n) in ids {
            m.params.data_mut(id).write(&Rng::new(9, "b").uniforms(n, 0.3));
        }
    }
    m.train_all();
    m
}

fn check(arch: Arch, lora: bool, checkpoint: bool) {
    let c = config(arch);
    let m = model(&c, lora);
    let device = m.device().clone();
    let mut tape = Tape::new(&m.params);
    let batch = Batch::new(&device, &SEQUENCES);
    let hidden = m.hidden(&mut tape, &batch, Pass { checkpoint, ..Pass::default() });
    let (rows, targets): (Vec<u32>, Vec<u32>) = (0..2)
        .flat_map(|s| (1..SEQUENCES[s].len()).map(move |t| (s, t)))
        .map(|(s, t)| ((batch.start(s) + t - 1) as u32, SEQUENCES[s][t]))
        .unzip();
    let n = rows.len();
    let picked = tape.gather(hidden, &Rc::new(device.upload(&rows)));
    let (lp, entropy) = tape.log_prob(picked, m.head(), &Rc::new(device.upload(&targets)), 1.0, true, 0);
    let entropy = entropy.unwrap();

    let mut w: Weights = m
        .params
        .iter()
        .map(|(_, p)| (p.name.clone(), p.to_f32().iter().map(|v| f64::from(*v)).collect()))
        .collect();
    let lora_scale = 2.0;
    let want: Vec<(f64, f64)> =
        SEQUENCES.iter().flat_map(|s| Reference { c: &c, w: &w, lora_scale }.sequence(s)).collect();
    for ((got, e), want) in tape.value(lp).to_vec().iter().zip(tape.value(entropy).to_vec()).zip(&want) {
        assert!((f64::from(*got) - want.0).abs() < 1e-5, "{arch:?}: log-probability {got}, want {}", want.0);
        assert!((f64::from(e) - want.1).abs() < 1e-5, "{arch:?}: entropy {e}, want {}", want.1);
    }

    let mut grads = Grads::new();
    let dlp = device.upload(&vec![-1.0 / n as f32; n]);
    let de = device.upload(&vec![-(ENTROPY_WEIGHT as f32) / n as f32; n]);
    tape.backward(vec![(lp, dlp), (entropy, de)], &mut grads);
    for (id, p) in m.params.iter() {
        let got = grads.get(id).unwrap_or_else(|| panic!("{}: no gradient", p.name)).to_vec();
        let mut want = Vec::new();
        for i in 0..p.len() {
            let mut at = |h: f64| {
                w.get_mut(&p.name).unwrap()[i] += h;
                objective(&Reference { c: &c, w: &w, lora_scale })
            };
            let (up, down) = (at(1e-5), at(-2e-5));
            at(1e-5);
            want.push((up - down) / 2e-5);
        }
        let norm = want.iter().map(|v| v * v).sum::<f64>().sqrt();
        let diff = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum::<f64>().sqrt();
        assert!(diff < 1e-4 * norm.max(1e-3), "{arch:?} {}: off by {diff:e} of {norm:e}", p.name);
    }
}

#[test]
fn gpt_neox() {
    check(Arch::GptNeox, false, false);
}

#[test]
fn gpt_neox_with_adapters_and_checkpointing() {
    check(Arch::GptNeox, true, false);
    check(Arch::GptNeox, true, true);
}

#[test]
fn gpt2() {
    check(Arch::Gpt2, false, false);
}

#[test]
fn llama() {
    check(Arch::Llama, false, false);
    check(Arch::Llama, true, true);
}

#[test]
fn adapters_from_a_block_upwards_leave_the_blocks_below_alone() {
    let mut m = model(&config(Arch::Llama), false);
    let lora = LoraConfig { rank: 2, first_layer: 1, targets: vec![Target::Query], ..LoraConfig::default() };
    m.attach_lora(&lora, 1);
    m.train_adapters();
    let names: Vec<&str> = m.params.trainable().map(|(_, p)| p.name.as_str()).collect();
    assert_eq!(names, ["layers.1.qkv.lora.query.a", "layers.1.qkv.lora.query.b"]);
}
