//! Adapters merged into their base, and what each way of holding the result costs.

use crate::{
    error::{Error, Result},
    lm::{self, Example},
    text::Text,
};
use autograd::{Linear, Tape};
use device::Device;
use formats::{Contents, Folder, Storage, int8, peft};
use model::{Batch, Model, Pass, Precision};
use std::path::Path;

/// Weights of a base folder with adapters added, tensor by tensor.
pub struct Merged {
    folder: Folder,
    adapters: Vec<peft::Adapter>,
}

/// How a merged weight is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Single precision: what the others are compared with.
    Single,
    /// Every weight rounded to 16 bits after merging.
    Rounded(Storage),
    /// The adapters added to the base as int8 holds it.
    OnInt8,
    /// Merged first, then quantised to int8, and run as LLM.int8 runs it.
    Requantised,
}

/// One line of a [`report`].
#[derive(Debug, Clone)]
pub struct Row {
    /// What was compared.
    pub name: &'static str,
    /// Greatest absolute difference of a logit from f32.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
    /// Perplexity of the text.
    pub perplexity: f64,
}

impl Merged {
    /// Opens a base folder and a PEFT adapter for it.
    ///
    /// # Errors
    /// Names the file and tensor.
    pub fn open(base: &Path, adapter: Option<&Path>) -> Result<Merged> {
        let folder = Folder::open(base)?;
        let adapters = match adapter {
            Some(dir) => peft::load(dir, &folder.config)?,
            None => Vec::new(),
        };
        Ok(Merged { folder, adapters })
    }

    /// Number of adapters.
    pub fn adapters(&self) -> usize {
        self.adapters.len()
    }

    fn tensor(
        &self,
        target: Target,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> std::result::Result<Vec<f32>, formats::Error> {
        let mut w = self.folder.tensor(name, rows, cols)?;
        let linear = name.ends_with(".weight") && !name.contains("norm");
        if target == Target::OnInt8 && linear {
            let (q, scb) = int8::quantize(&w, cols);
            w = int8::dequantize(&q, &scb);
        }
        self.adapters.iter().filter(|a| a.weight() == name).for_each(|a| a.add_to(&mut w, cols));
        Ok(match target {
            Target::Rounded(storage) => storage.rounded(w),
            _ => w,
        })
    }

    fn model(&self, target: Target) -> Result<Model> {
        let precision = if target == Target::Requantised { Precision::INT8 } else { Precision::F32 };
        let mut source = |name: &str, rows, cols| self.tensor(target, name, rows, cols);
        let config = self.folder.config.clone();
        Ok(Model::from_source(&Device::cpu(), config, precision, &mut source)?)
    }

    /// Writes the merged model as a Hugging Face folder; one tensor at a time is in memory.
    ///
    /// # Errors
    /// Names the file and tensor.
    pub fn write(&self, out: &Path, storage: Storage) -> Result<()> {
        let (tokenizer, score) = (self.folder.tokenizer()?, self.folder.labels.map(|_| self.folder.score()));
        let score = score.transpose()?;
        let labels = self.folder.labels.unwrap_or_default();
        let contents = Contents {
            config: &self.folder.config,
            tokenizer: &tokenizer,
            storage,
            score: score.as_ref().map(|weight| formats::Score { labels, weight }),
        };
        let mut get = |name: &str, rows, cols| self.tensor(Target::Single, name, rows, cols);
        Ok(formats::write_folder(out, contents, &mut get)?)
    }

    /// The merged model held in each way, on `texts`: logits against f32, and perplexity.
    ///
    /// # Errors
    /// When the texts have no token to predict, or a weight cannot be read.
    pub fn report(&self, texts: &[String]) -> Result<Vec<Row>> {
        let text = Text::new(self.folder.tokenizer()?, self.folder.config.max_positions);
        let examples = within(text.held_out(texts)?, REPORT_TOKENS);
        if examples.is_empty() {
            return Err(Error::config("--text", "holds no two tokens in a line"));
        }
        let mut exact: Option<Vec<f32>> = None;
        let mut rows = Vec::new();
        for (name, target) in [
            ("f32, merged", Target::Single),
            ("bf16, merged", Target::Rounded(Storage::BF16)),
            ("f16, merged", Target::Rounded(Storage::F16)),
            ("dequantised int8 base, merged", Target::OnInt8),
            ("merged, requantised to int8", Target::Requantised),
        ] {
            let model = self.model(target)?;
            let logits = logits(&model, &examples);
            let perplexity = lm::perplexity(&model, &examples, 2048, Pass::default())?.unwrap_or(f64::NAN);
            let exact = exact.get_or_insert_with(|| logits.clone());
            let off = logits.iter().zip(exact.iter()).map(|(x, y)| f64::from(x - y).abs());
            let (max, sum) = off.fold((0.0f64, 0.0), |(max, sum), d| (max.max(d), sum + d));
            rows.push(Row { name, max, mean: sum / logits.len() as f64, perplexity });
        }
        Ok(rows)
    }
}

/// Most tokens that a report looks at: two sets of their logits are in memory.
const REPORT_TOKENS: usize = 1024;

/// The first examples, `tokens` tokens in all.
fn within(examples: Vec<Example>, tokens: usize) -> Vec<Example> {
    let mut left = tokens;
    let mut out = Vec::new();
    for mut e in examples {
        e.tokens.truncate(left);
        left -= e.tokens.len();
        if e.tokens.len() < 2 {
            break;
        }
        out.push(e);
    }
    out
}

/// Logits `[tokens, vocab]` of all examples.
pub(crate) fn logits(model: &Model, examples: &[Example]) -> Vec<f32> {
    let head = Linear { weight: model.head(), bias: None, lora: Vec::new(), threshold: 0.0 };
    let of = |e: &Example| {
        let batch = Batch::new(model.device(), std::slice::from_ref(&e.tokens));
        let mut tape = Tape::inference(&model.params);
        let hidden = model.hidden(&mut tape, &batch, Pass::default());
        let logits = tape.linear("logits", hidden, &head, None);
        tape.value(logits).to_vec()
    };
    examples.iter().flat_map(of).collect()
}

/// Merges `adapter` into `base` and writes the folder `out`.
///
/// # Errors
/// Names the file and tensor.
pub fn write(base: &Path, adapter: Option<&Path>, out: &Path, storage: Storage) -> Result<()> {
    let same = |p: &Path| p.canonicalize().ok().is_some_and(|p| out.canonicalize().ok() == Some(p));
    if same(base) || adapter.is_some_and(same) {
        let problem = "is the folder that is read; choose another --out".into();
        return Err(Error::RunDir { dir: out.to_path_buf(), problem });
    }
    Merged::open(base, adapter)?.write(out, storage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::{Arch, Tokenizer};

    fn example(n: usize) -> Example {
        Example::whole(vec![0; n])
    }

    #[test]
    fn a_report_takes_the_first_tokens() {
        let lengths = |v: Vec<Example>| v.iter().map(|e| e.tokens.len()).collect::<Vec<_>>();
        assert_eq!(lengths(within(vec![example(5), example(4), example(4)], 11)), [5, 4, 2]);
        assert_eq!(lengths(within(vec![example(5), example(4)], 6)), [5]);
    }

    #[test]
    fn every_way_of_holding_a_merged_model_is_near_f32_and_none_is_it() {
        let texts: Vec<String> = (0..20).map(|i| format!("the film number {i} was a quiet joy .")).collect();
        let tokenizer = Tokenizer::train(&texts, 300).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (base, adapter, out) =
            (dir.path().join("base"), dir.path().join("adapter"), dir.path().join("out"));
        let config = crate::parity::tiny(Arch::GptNeox, tokenizer.vocab());
        let mut model = crate::parity::random(&config, 3);
        crate::models::save(&base, &model, &tokenizer).unwrap();
        crate::parity::adapt(&mut model, &crate::parity::adapters()[0], 4);
        peft::save(&adapter, &config, "base", &model.adapters()).unwrap();
        let merged = Merged::open(&base, Some(&adapter)).unwrap();
        let rows = merged.report(&texts).unwrap();
        assert_eq!((rows[0].max, rows[0].mean), (0.0, 0.0));
        let scale = f64::from(logits(&model, &[example(4)]).iter().fold(0.0f32, |m, v| m.max(v.abs())));
        for row in &rows[1..] {
            assert!(row.max > 0.0 && row.max < 0.1 * scale && row.mean <= row.max, "{row:?} of {scale}");
            assert!((row.perplexity / rows[0].perplexity - 1.0).abs() < 0.05, "{row:?}");
        }
        // f16 has three more bits than bf16.
        assert!(rows[2].mean < 0.5 * rows[1].mean, "{rows:?}");
        merged.write(&out, Storage::Int8).unwrap();
        let e = write(&base, Some(&adapter), &base, Storage::F32).unwrap_err().to_string();
        assert!(e.contains("choose another --out"), "{e}");
        // What was written in int8 is loaded as it lies: the same logits as quantising on the way in.
        let (loaded, _) = crate::models::load(&Device::cpu(), &out, Precision::INT8).unwrap();
        let direct = merged.model(Target::Requantised).unwrap();
        let id = |m: &Model| m.params.get(m.params.find("layers.1.qkv.weight").unwrap()).to_f32();
        assert_eq!(id(&loaded), id(&direct));
    }
}
