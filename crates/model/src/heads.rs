//! Small linear heads on the trunk: value, reward, classes.

use crate::{build::Model, init::Rng};
use autograd::{Linear, ParamKind, Tape, Var};

/// A linear layer `hidden -> outputs` on the final hidden state.
#[derive(Debug, Clone)]
pub struct Head {
    linear: Linear,
    /// Outputs: 1 for values and rewards, the number of classes for a classifier.
    pub outputs: usize,
}

impl Model {
    /// Adds a head named `heads.NAME.weight/.bias`: weight normal with deviation `std` (0 for a head that
    /// starts silent), bias zero.
    pub fn add_head(&mut self, name: &str, outputs: usize, std: f32, seed: u64) -> Head {
        let name = format!("heads.{name}");
        let hidden = self.config.hidden;
        let init = Rng::new(seed, &name).normals(outputs * hidden, std);
        let weight = self.params.add(&format!("{name}.weight"), outputs, hidden, ParamKind::Linear, &init);
        let bias =
            self.params.add(&format!("{name}.bias"), 1, outputs, ParamKind::Plain, &vec![0.0; outputs]);
        self.params.pack();
        let linear = Linear { weight, bias: Some(bias), lora: Vec::new(), threshold: 0.0 };
        Head { linear, outputs }
    }
}

impl Head {
    /// The head's outputs `[rows, outputs]` for hidden states `[rows, hidden]`.
    pub fn apply(&self, tape: &mut Tape<'_>, hidden: Var) -> Var {
        tape.linear("head", hidden, &self.linear, None)
    }
}
