//! The Bradley-Terry loss of a reward model on preference pairs, with its gradient.

use crate::ptx;
use kernel_abi::{ArgError, Cost, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, optional};

/// loss_i = -ln sigmoid(chosen_i - rejected_i - margin_i); gradients are of the mean over the pairs.
#[derive(Debug, Clone, Copy)]
pub struct BradleyTerry {
    /// Pairs.
    pub pairs: usize,
}

/// Arguments of [`BradleyTerry`], each `[pairs]`.
pub struct BradleyTerryArgs<'a> {
    /// Rewards of the preferred answers.
    pub chosen: In<'a>,
    /// Rewards of the others.
    pub rejected: In<'a>,
    /// By how much the preferred answer ought to lead (Llama 2, arXiv 2307.09288, eq. 2).
    pub margin: Option<In<'a>>,
    /// Loss per pair.
    pub loss: Out<'a>,
    /// Gradient of the mean loss.
    pub dchosen: Out<'a>,
    /// Gradient of the mean loss.
    pub drejected: Out<'a>,
}

impl Kernel for BradleyTerry {
    type Args<'a> = BradleyTerryArgs<'a>;
    const NAME: &'static str = "bradley_terry";

    fn check(&self, args: &BradleyTerryArgs<'_>) -> Result<(), ArgError> {
        let n = self.pairs;
        expect_len(Self::NAME, "chosen", args.chosen.len(), n)?;
        expect_len(Self::NAME, "rejected", args.rejected.len(), n)?;
        expect_len(Self::NAME, "margin", args.margin.map_or(n, |m| m.len()), n)?;
        expect_len(Self::NAME, "loss", args.loss.len(), n)?;
        expect_len(Self::NAME, "dchosen", args.dchosen.len(), n)?;
        expect_len(Self::NAME, "drejected", args.drejected.len(), n)
    }

    fn cost(&self) -> Cost {
        let n = self.pairs as u64;
        Cost { bytes_read: 8 * n, bytes_written: 12 * n, flops: 8 * n, ..Cost::default() }
    }

    fn cpu(&self, args: BradleyTerryArgs<'_>) {
        let (chosen, rejected) = (args.chosen.host(), args.rejected.host());
        let margin = args.margin.map(In::host);
        let (loss, dc, dr) = (args.loss.host(), args.dchosen.host(), args.drejected.host());
        for i in 0..self.pairs {
            let lead =
                f64::from(chosen[i]) - f64::from(rejected[i]) - margin.map_or(0.0, |m| f64::from(m[i]));
            // With t = exp(-|lead|) <= 1 nothing overflows: softplus(-lead) and sigmoid(-lead).
            let t = (-lead.abs()).exp();
            let behind = if lead > 0.0 { 0.0 } else { -lead };
            loss[i] = (behind + t.ln_1p()) as f32;
            let slope = if lead > 0.0 { t } else { 1.0 } / (1.0 + t) / self.pairs as f64;
            (dc[i], dr[i]) = (-slope as f32, slope as f32);
        }
    }

    fn ptx(&self, args: BradleyTerryArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.pairs == 0 {
            return Ok(());
        }
        let launch = Launch::new(&ptx::PAIRS, format_args!("bradley_terry"))
            .grid(self.pairs.div_ceil(256), 1, 1)
            .block(256);
        let launch = launch.arg(args.chosen.device()).arg(args.rejected.device()).arg(optional(args.margin));
        let launch = launch.arg(args.loss.device()).arg(args.dchosen.device()).arg(args.drejected.device());
        on.launch(launch.dim(self.pairs))
    }
}
