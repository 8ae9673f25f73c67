//! AdamW over a model's trainable weights, with clipping by global norm.

use crate::error::{Error, Result};
use autograd::{Grads, Param, ParamId, Params};
use device::Buffer;
use optim::{AdamWArgs, AdamWMulti, AdamWMultiArgs, SquaredNormMulti, SquaredNormMultiArgs, Weights};
use serde::{Deserialize, Serialize};

/// AdamW's constants (arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the gradient's running mean.
    pub beta1: f32,
    /// Decay of the squared gradient's running mean.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, on matrices of the base model only.
    pub weight_decay: f32,
    /// Gradients are scaled down to this global norm; 0 = never.
    pub max_grad_norm: f32,
}

impl Default for AdamConfig {
    fn default() -> Self {
        AdamConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 }
    }
}

/// First and second moments of every trainable weight.
pub struct Optimizer {
    config: AdamConfig,
    moments: Vec<(ParamId, Buffer, Buffer)>,
    /// Steps taken.
    pub steps: u32,
}

impl Optimizer {
    /// Fresh moments for the weights that are trainable now.
    pub fn new(params: &Params, config: AdamConfig) -> Self {
        let device = params.device();
        let moments = params.trainable().map(|(id, p)| {
            let _label = device::label("optimiser", p.name.clone());
            (id, device.zeros(p.len()), device.zeros(p.len()))
        });
        let moments = moments.collect();
        Optimizer { config, moments, steps: 0 }
    }

    /// One step with the gradients multiplied by `scale`; clears them and returns their global norm.
    ///
    /// # Errors
    /// When the norm is not finite; the weights are then unchanged.
    pub fn step(&mut self, params: &mut Params, grads: &mut Grads, lr: f32, scale: f32) -> Result<f32> {
        let device = params.device().clone();
        let have = |id: &ParamId| grads.get(*id).is_some();
        let ids: Vec<ParamId> = self.moments.iter().map(|(id, ..)| *id).filter(have).collect();
        let lens: Vec<usize> = ids.iter().map(|id| params.get(*id).len()).collect();
        let gradient = |id: &ParamId| grads.get(*id).expect("those that have one").arg();
        let mut partials = device.zeros::<f64>(SquaredNormMulti::PARTIALS);
        let args =
            SquaredNormMultiArgs { x: ids.iter().map(gradient).collect(), partials: partials.arg_mut() };
        device.run(&SquaredNormMulti { lens: &lens }, args);
        let norm = (partials.to_vec().iter().sum::<f64>().sqrt() * f64::from(scale)) as f32;
        if !norm.is_finite() {
            return Err(Error::NotFinite {
                what: "the gradient norm".into(),
                whence: self.culprit(params, grads),
            });
        }
        let max = self.config.max_grad_norm;
        let clip = if max > 0.0 { optim::clip_scale(norm, max) } else { 1.0 };
        self.steps += 1;
        let weights: Vec<Weights> = ids.iter().map(|id| self.weights(params.get(*id))).collect();
        let kernel = AdamWMulti {
            tensors: &weights,
            lr,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            step: self.steps,
            grad_scale: scale * clip,
            max_norm: 0.0,
        };
        let moments = self.moments.iter_mut().filter(|(id, ..)| have(id));
        let tensors = params.data_of_mut(&ids).into_iter().zip(moments).map(|(param, (id, m, v))| {
            AdamWArgs { param: param.arg_mut(), grad: gradient(id), m: m.arg_mut(), v: v.arg_mut() }
        });
        device.run(&kernel, AdamWMultiArgs { tensors: tensors.collect(), norm: None });
        grads.clear();
        params.pack();
        Ok(norm)
    }

    fn weights(&self, p: &Param) -> Weights {
        let decays = p.rows > 1 && model::is_base(&p.name);
        Weights { len: p.len(), decay: if decays { self.config.weight_decay } else { 0.0 } }
    }

    /// The first weight whose gradient is not finite.
    fn culprit(&self, params: &Params, grads: &Grads) -> String {
        let bad = |id: &ParamId| {
            let finite = |g: &Buffer| g.read(|v| v.iter().all(|x| x.is_finite())).unwrap_or(true);
            grads.get(*id).is_some_and(|g| !finite(g))
        };
        match self.moments.iter().map(|(id, ..)| id).find(|id| bad(id)) {
            Some(id) => format!("the gradient of `{}`", params.get(*id).name),
            None => "the sum of squares overflowed".into(),
        }
    }

    /// The trainable weights that no step has ever moved: their second moment is zero throughout. After a few
    /// steps there should be none.
    pub fn never_moved<'a>(&'a self, params: &'a Params) -> impl Iterator<Item = &'a str> {
        let still = |v: &Buffer| v.to_vec().iter().all(|x| *x == 0.0);
        self.state(params).filter(move |(_, _, v)| still(v)).map(|(name, ..)| name)
    }

    /// The moments by weight name, for a checkpoint.
    pub fn state<'a>(
        &'a self,
        params: &'a Params,
    ) -> impl Iterator<Item = (&'a str, &'a Buffer, &'a Buffer)> {
        self.moments.iter().map(|(id, m, v)| (params.get(*id).name.as_str(), m, v))
    }

    /// Puts moments back from a checkpoint: `get("m:NAME")` and `get("v:NAME")`.
    ///
    /// # Errors
    /// When a moment is missing or has the wrong length.
    pub fn restore(
        &mut self,
        params: &Params,
        steps: u32,
        mut get: impl FnMut(&str, usize) -> Result<Vec<f32>>,
    ) -> Result<()> {
        for (id, m, v) in &mut self.moments {
            let p = params.get(*id);
            m.write(&get(&format!("m:{}", p.name), p.len())?);
            v.write(&get(&format!("v:{}", p.name), p.len())?);
        }
        self.steps = steps;
        Ok(())
    }
}
