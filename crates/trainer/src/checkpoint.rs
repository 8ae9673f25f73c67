//! Checkpoints of a stage in progress: trainable weights, optimiser moments and the stage's own state.

use crate::{
    error::{Error, Result},
    optimizer::Optimizer,
};
use autograd::Params;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// A checkpoint read back.
pub struct Checkpoint {
    /// Stage that wrote it.
    pub stage: String,
    /// Last finished step.
    pub step: usize,
    /// The stage's own state.
    pub state: Value,
    path: PathBuf,
    adam_steps: u32,
    tensors: HashMap<String, Vec<f32>>,
}

/// Writes the trainable weights, the optimiser's moments and `state`, atomically.
pub fn save(
    path: &Path,
    stage: &str,
    step: usize,
    params: &Params,
    optimizer: Option<&Optimizer>,
    state: &Value,
) -> Result<()> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (id, p) in params.trainable() {
        tensors.push((p.name.clone(), vec![p.rows, p.cols], params.data(id).to_vec()));
    }
    for (name, m, v) in optimizer.iter().flat_map(|o| o.state(params)) {
        tensors.push((format!("m:{name}"), vec![m.len()], m.to_vec()));
        tensors.push((format!("v:{name}"), vec![v.len()], v.to_vec()));
    }
    let metadata = BTreeMap::from([
        ("stage".to_string(), stage.to_string()),
        ("step".to_string(), step.to_string()),
        ("adam_steps".to_string(), optimizer.map_or(0, |o| o.steps).to_string()),
        ("state".to_string(), state.to_string()),
    ]);
    let views: Vec<(&str, &[usize], &[f32])> =
        tensors.iter().map(|(n, s, d)| (n.as_str(), s.as_slice(), d.as_slice())).collect();
    Ok(formats::save_tensors(path, &views, &metadata)?)
}

impl Checkpoint {
    /// Reads a checkpoint; none when there is no file.
    pub fn load(path: &Path) -> Result<Option<Checkpoint>> {
        if !path.exists() {
            return Ok(None);
        }
        let file = formats::load_tensors(path)?;
        let damaged = |problem: &str| Error::Io {
            path: path.to_path_buf(),
            source: std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("not a checkpoint: {problem}"),
            ),
        };
        let field = |name: &str| file.metadata.get(name).ok_or_else(|| damaged(&format!("no `{name}`")));
        let number = |name: &str| field(name)?.parse::<u32>().map_err(|_| damaged(&format!("`{name}`")));
        Ok(Some(Checkpoint {
            stage: field("stage")?.clone(),
            step: number("step")? as usize,
            adam_steps: number("adam_steps")?,
            state: serde_json::from_str(field("state")?).map_err(|_| damaged("`state`"))?,
            path: path.to_path_buf(),
            tensors: file.tensors.into_iter().map(|t| (t.name, t.data)).collect(),
        }))
    }

    /// Puts weights and moments back.
    pub fn restore(mut self, params: &mut Params, optimizer: Option<&mut Optimizer>) -> Result<()> {
        let ids: Vec<_> = params.trainable().map(|(id, p)| (id, p.name.clone(), p.len())).collect();
        for (id, name, len) in ids {
            let data = self.tensor(&name, len)?;
            params.data_mut(id).write(&data);
        }
        params.pack();
        match optimizer {
            Some(o) => o.restore(params, self.adam_steps, |name, len| self.tensor(name, len)),
            None => Ok(()),
        }
    }

    fn tensor(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let problem = match self.tensors.remove(name) {
            Some(data) if data.len() == len => return Ok(data),
            Some(data) => format!("tensor `{name}` has {} elements, the model needs {len}", data.len()),
            None => format!("tensor `{name}` is missing"),
        };
        let hint = "was the configuration changed since?";
        Err(Error::Io {
            path: self.path.clone(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{problem}; {hint}")),
        })
    }
}
