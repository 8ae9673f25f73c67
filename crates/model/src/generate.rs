//! Generation: continuous batching over a key-value cache, on the same forward pass as training.
//!
//! Ideas that make it fast:
//! - each step runs one ragged batch: the newest token of every running sequence and the whole prompt of
//!   every sequence just admitted, so weights are read once a step for all of them;
//! - a finished sequence's slot is refilled at once; nobody waits for the longest answer;
//! - logits are computed for the last row of each sequence only;
//! - where the device has graphs, a step like the one before is one submission;
//! - a model that fits the cores' caches runs one group of sequences per thread, with no barrier in a step.
//!
//! None of this changes a bit of the result: every kernel's row depends on that row's sequence alone.

use crate::{
    Head, Model, Pass,
    decode::{Decode, Drawn, Inputs},
};
use autograd::{Cached, Linear, Tape};
use device::{Buffer, Device};
use embedding::{Sample, SampleArgs};
use std::{rc::Rc, sync::Mutex};

/// How tokens are drawn.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Most new tokens per sequence.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 = always the most likely token.
    pub temperature: f32,
    /// Keep only the k most likely tokens; 0 = all.
    pub top_k: usize,
    /// Keep the smallest set of tokens with at least this probability; 1 = all.
    pub top_p: f32,
    /// Token that ends an answer; it is part of the answer.
    pub eos: Option<u32>,
    /// Most sequences that run at once in one group: each has a place in the key-value cache.
    pub slots: usize,
    /// Seed; together with a sequence's stream number and a token's position it fixes every draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { max_new_tokens: 32, temperature: 1.0, top_k: 0, top_p: 1.0, eos: None, slots: 64, seed: 0 }
    }
}

/// One generated answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Completion {
    /// The new tokens, the end token included when it was drawn.
    pub tokens: Vec<u32>,
    /// Log-probability of each new token under the temperature-scaled full distribution.
    pub logprobs: Vec<f32>,
    /// Value head's output before each new token; empty without a value head.
    pub values: Vec<f32>,
    /// Whether the end token was drawn (else the length limit ended it).
    pub finished: bool,
}

/// Keys and values of all layers for a number of slots.
pub(crate) struct KvCache {
    layers: Vec<(Buffer, Buffer)>,
    slot: Rc<Buffer<u32>>,
    none: Rc<Buffer<u32>>,
    slots: usize,
    capacity: usize,
}

impl KvCache {
    fn new(model: &Model, slots: usize, capacity: usize) -> Self {
        let (c, device) = (&model.config, model.device());
        let _label = device::label("KV cache", "");
        let len = attention::cache_len(slots, capacity, c.kv_heads, c.head_dim);
        let layers = (0..c.layers).map(|_| (device.alloc(len), device.alloc(len))).collect();
        let none = Rc::new(device.upload(&[]));
        KvCache { layers, slot: none.clone(), none, slots, capacity }
    }

    /// Lets go of the last step's slots.
    pub(crate) fn release_slots(&mut self) {
        self.slot = self.none.clone();
    }

    pub(crate) fn layer(&mut self, i: usize) -> Cached<'_> {
        let (keys, values) = &mut self.layers[i];
        Cached { slot: &self.slot, keys, values, slots: self.slots, capacity: self.capacity }
    }
}

/// A sequence being generated.
struct Running<'a> {
    index: usize,
    stream: u32,
    prompt: &'a [u32],
    /// Tokens already in the cache.
    cached: usize,
    done: Completion,
}

/// What all sequences of a request share.
pub(crate) struct Job<'a> {
    pub sampling: &'a Sampling,
    pub pass: Pass,
    pub value_head: Option<&'a Head>,
}

/// One sequence's part of a request.
struct Request<'a> {
    index: usize,
    stream: u32,
    prompt: &'a [u32],
}

/// A model whose weights are below this many bytes runs one group of sequences per thread.
const CACHE_RESIDENT_BYTES: usize = 12 << 20;

impl Model {
    /// Continues each prompt. `streams` number the sequences for the random generator (a prompt keeps its
    /// draws whatever else is in the batch). `progress` is told the number of new tokens as they come.
    ///
    /// # Panics
    /// When a prompt is empty or a sequence would exceed `config.max_positions`: check at the boundary.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        streams: &[u32],
        sampling: &Sampling,
        pass: Pass,
        value_head: Option<&Head>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Vec<Completion> {
        assert_eq!(prompts.len(), streams.len(), "one stream number per prompt");
        let requests: Vec<Request<'_>> = prompts
            .iter()
            .zip(streams)
            .enumerate()
            .map(|(index, (prompt, stream))| {
                assert!(!prompt.is_empty(), "prompt {index} is empty");
                let longest = prompt.len() + sampling.max_new_tokens;
                assert!(longest <= self.config.max_positions, "prompt {index} does not fit the context");
                Request { index, stream: *stream, prompt }
            })
            .collect();
        let resident = self.device().runs_on_host() && self.weight_bytes() <= CACHE_RESIDENT_BYTES;
        let groups = if resident { cpu::threads() } else { 1 };
        let size = requests.len().div_ceil(groups).max(1);
        let job = Job { sampling, pass, value_head };
        let run = |group: &[Request<'_>]| self.generate_group(group, &job, progress);
        let groups: Vec<_> = requests.chunks(size).collect();
        let done = Mutex::new(Vec::new());
        cpu::par_for(groups.len(), usize::MAX, |g| {
            let answers = run(groups[g]);
            done.lock().unwrap_or_else(|e| e.into_inner()).extend(answers);
        });
        let done = done.into_inner().unwrap_or_else(|e| e.into_inner());
        let mut out = vec![Completion::default(); prompts.len()];
        for (index, completion) in done {
            out[index] = completion;
        }
        out
    }

    fn weight_bytes(&self) -> usize {
        self.params.iter().map(|(_, p)| p.bytes()).sum()
    }

    fn generate_group(
        &self,
        requests: &[Request<'_>],
        job: &Job<'_>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Vec<(usize, Completion)> {
        let sampling = job.sampling;
        let slots = requests.len().min(sampling.slots.max(1));
        let capacity = requests.iter().map(|r| r.prompt.len()).max().unwrap_or(0) + sampling.max_new_tokens;
        let (mut cache, mut decode) = (KvCache::new(self, slots, capacity), Decode::default());
        let mut waiting = requests.iter();
        let mut running: Vec<Option<Running<'_>>> = (0..slots).map(|_| None).collect();
        let mut out = Vec::with_capacity(requests.len());
        loop {
            for seat in running.iter_mut().filter(|s| s.is_none()) {
                *seat = waiting.next().map(|r| Running {
                    index: r.index,
                    stream: r.stream,
                    prompt: r.prompt,
                    cached: 0,
                    done: Completion::default(),
                });
            }
            if sampling.max_new_tokens == 0 || running.iter().all(Option::is_none) {
                break;
            }
            let fresh = self.step(&mut running, &mut cache, &mut decode, job);
            progress(fresh);
            for seat in &mut running {
                let over =
                    |r: &Running<'_>| r.done.finished || r.done.tokens.len() == sampling.max_new_tokens;
                if let Some(r) = seat.take_if(|r| over(r)) {
                    out.push((r.index, r.done));
                }
            }
        }
        out
    }

    /// One forward pass and one new token for every running sequence.
    fn step(
        &self,
        running: &mut [Option<Running<'_>>],
        cache: &mut KvCache,
        decode: &mut Decode,
        job: &Job<'_>,
    ) -> usize {
        let mut rows = StepRows::default();
        for (slot, seat) in running.iter_mut().enumerate() {
            if let Some(r) = seat {
                rows.push(slot as u32, r);
            }
        }
        let (tokens, logprobs, values) = decode.step(self, &rows, cache, job).to_vecs();
        for (i, r) in running.iter_mut().flatten().enumerate() {
            r.done.tokens.push(tokens[i]);
            r.done.logprobs.push(logprobs[i]);
            if let Some(values) = &values {
                r.done.values.push(values[i]);
            }
            r.done.finished = job.sampling.eos == Some(tokens[i]);
        }
        tokens.len()
    }

    /// A step's work on the device: nothing is uploaded or read, so that it can be captured as a graph.
    pub(crate) fn decode(&self, inputs: &Inputs, cache: &mut KvCache, job: &Job<'_>) -> Drawn {
        let mut tape = Tape::inference(&self.params);
        cache.slot = inputs.slots.clone();
        let x = self.hidden_cached(&mut tape, &inputs.batch, job.pass, cache);
        let last = tape.gather(x, &inputs.last);
        tape.release(x);
        let h = self.final_norm(&mut tape, last);
        let values = job.value_head.map(|head| head.apply(&mut tape, h));
        let linear = Linear { weight: self.head, bias: None, lora: Vec::new(), threshold: 0.0 };
        let logits = tape.linear("logits", h, &linear, None);
        let (token, logprob) = sample(self.device(), tape.value(logits), inputs, job.sampling);
        Drawn { token, logprob, values: values.map(|v| tape.take(v)) }
    }
}

/// The rows of one step.
pub(crate) struct StepRows {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub slots: Vec<u32>,
    pub starts: Vec<u32>,
    pub streams: Vec<u32>,
    /// Position of the token about to be drawn.
    pub next: Vec<u32>,
}

impl Default for StepRows {
    fn default() -> Self {
        let (ids, positions, slots, streams, next) = Default::default();
        StepRows { ids, positions, slots, starts: vec![0], streams, next }
    }
}

impl StepRows {
    fn push(&mut self, slot: u32, r: &mut Running<'_>) {
        let fresh = match r.done.tokens.last() {
            Some(token) => std::slice::from_ref(token),
            None => r.prompt,
        };
        self.ids.extend_from_slice(fresh);
        self.positions.extend((r.cached..r.cached + fresh.len()).map(|p| p as u32));
        self.slots.extend(std::iter::repeat_n(slot, fresh.len()));
        r.cached += fresh.len();
        self.starts.push(self.ids.len() as u32);
        self.streams.push(r.stream);
        self.next.push(r.cached as u32);
    }
}

fn sample(device: &Device, logits: &Buffer, inputs: &Inputs, s: &Sampling) -> (Buffer<u32>, Buffer) {
    let rows = inputs.streams.len();
    let kernel = Sample {
        rows,
        vocab: logits.len() / rows.max(1),
        temperature: s.temperature,
        top_k: s.top_k,
        top_p: s.top_p,
        seed: s.seed,
    };
    let (mut token, mut logprob) = (device.alloc::<u32>(rows), device.alloc::<f32>(rows));
    let args = SampleArgs {
        logits: logits.arg(),
        stream: inputs.streams.arg(),
        position: inputs.next.arg(),
        token: token.arg_mut(),
        logprob: logprob.arg_mut(),
    };
    device.run(&kernel, args);
    (token, logprob)
}
