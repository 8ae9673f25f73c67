//! Models between stages: Hugging Face folders in the run directory.

use crate::{error::Result, run::Run, text::Text};
use device::Device;
use formats::{Contents, Folder, Gguf, ModelConfig, Score, Storage, Tokenizer, Weight};
use model::{Head, Model, Precision, Weights};
use std::path::Path;

/// Loads a model folder or .gguf file, tensor by tensor.
///
/// # Errors
/// Names the file and tensor.
pub fn load(device: &Device, dir: &Path, precision: Precision) -> Result<(Model, Text)> {
    if dir.extension().is_some_and(|e| e == "gguf") {
        let file = Gguf::open(dir)?;
        let tokenizer = file.tokenizer()?;
        return from_file(device, file.config.clone(), tokenizer, precision, &mut |n, r, c| {
            file.tensor(n, r, c).map(Weight::Dense)
        });
    }
    from_folder(device, &Folder::open(dir)?, precision)
}

fn from_folder(device: &Device, folder: &Folder, precision: Precision) -> Result<(Model, Text)> {
    let tokenizer = folder.tokenizer()?;
    from_file(device, folder.config.clone(), tokenizer, precision, &mut |n, r, c| folder.weight(n, r, c))
}

/// Loads a reward model or classifier: a `*ForSequenceClassification` folder, trunk and `score` head.
///
/// # Errors
/// Names the file and tensor; also when the folder holds another kind of model.
pub fn load_reward(device: &Device, dir: &Path, precision: Precision) -> Result<(Model, Head, Text)> {
    let folder = Folder::open(dir)?;
    let score = folder.score()?;
    let (mut model, text) = from_folder(device, &folder, precision)?;
    let head = model.add_head("score", score.len() / model.config.hidden, 0.0, 0);
    let id = model.params.find("heads.score.weight").expect("just added");
    model.params.data_mut(id).write(&score);
    model.params.pack();
    Ok((model, head, text))
}

fn from_file(
    device: &Device,
    config: ModelConfig,
    tokenizer: Tokenizer,
    precision: Precision,
    source: Weights<'_, formats::Error>,
) -> Result<(Model, Text)> {
    let context = config.max_positions;
    let model = Model::from_weights(device, config, precision, source)?;
    Ok((model, Text::new(tokenizer, context)))
}

/// The base model of a run: the one given, or the one pre-trained.
///
/// # Errors
/// Names the file and tensor.
pub fn base(run: &Run, precision: Precision) -> Result<(Model, Text)> {
    let dir = run.config.model.path.clone().unwrap_or_else(|| run.dir.path("base"));
    let (mut model, text) = load(&run.device, &dir, precision)?;
    model.checkpointing = run.config.memory.gradient_checkpointing;
    Ok((model, text))
}

/// The precision of the policy's frozen base.
pub fn policy_precision(run: &Run) -> Precision {
    match run.config.model.precision.as_str() {
        "f32" => Precision::F32,
        _ => Precision::Int8 { threshold_milli: (run.config.model.int8_threshold * 1000.0).round() as u32 },
    }
}

/// Writes a model, adapters merged in, as a Hugging Face folder.
///
/// # Errors
/// With the file's name.
pub fn save(dir: &Path, model: &Model, tokenizer: &Tokenizer) -> Result<()> {
    let mut get = |name: &str| model.merged(name).unwrap_or_default();
    Ok(formats::save_folder(dir, &model.config, tokenizer, &mut get)?)
}

/// Writes a reward model, adapters merged in, as a `*ForSequenceClassification` folder. Its head has no bias there.
///
/// # Errors
/// With the file's name.
pub fn save_reward(dir: &Path, model: &Model, tokenizer: &Tokenizer) -> Result<()> {
    let id = model.params.find("heads.score.weight").expect("a reward model has a score head");
    let (head, weight) = (model.params.get(id), model.params.data(id).to_vec());
    let score = Some(Score { labels: head.rows, weight: &weight });
    let contents = Contents { config: &model.config, tokenizer, storage: Storage::F32, score };
    let mut get = |name: &str, _, _| Ok(model.merged(name).unwrap_or_default());
    Ok(formats::write_folder(dir, contents, &mut get)?)
}
