//! Models between stages: Hugging Face folders in the run directory.

use crate::{error::Result, run::Run, text::Text};
use device::Device;
use formats::{Folder, Gguf, ModelConfig, Tokenizer};
use model::{Model, Precision, Source};
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
            file.tensor(n, r, c)
        });
    }
    let folder = Folder::open(dir)?;
    let tokenizer = folder.tokenizer()?;
    from_file(device, folder.config.clone(), tokenizer, precision, &mut |n, r, c| folder.tensor(n, r, c))
}

fn from_file(
    device: &Device,
    config: ModelConfig,
    tokenizer: Tokenizer,
    precision: Precision,
    source: Source<'_, formats::Error>,
) -> Result<(Model, Text)> {
    let context = config.max_positions;
    let model = Model::from_source(device, config, precision, source)?;
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
