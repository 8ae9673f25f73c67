//! Settings under which a job fits.

use crate::{
    error::Result,
    plan::{Job, StagePlan},
};

/// Settings that are as they are: [`Job::fit`] leaves them alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fixed {
    /// [`Job::checkpointing`].
    pub checkpointing: bool,
    /// [`Job::sequences`].
    pub sequences: bool,
    /// [`Job::micro_tokens`] and [`Job::pairs`].
    pub micro_tokens: bool,
}

impl Job {
    /// The job with the first settings under which its stages, those of `names`, take at most `room` bytes as `size`
    /// measures them: as it is, then with recomputation, then with ever fewer answers, tokens and pairs at a time. Where
    /// nothing helps, the last that was tried.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn fit(
        mut self,
        names: &[&str],
        room: usize,
        fixed: Fixed,
        size: impl Fn(&StagePlan) -> usize,
    ) -> Result<(Job, Vec<StagePlan>)> {
        loop {
            let stages = self.stages_of(names)?;
            let over = |name: &str| stages.iter().any(|s| s.stage == name && size(s) > room);
            let smaller = self.smaller(fixed, over);
            match smaller {
                Some(job) => self = job,
                None => return Ok((self, stages)),
            }
        }
    }

    fn stages_of(&self, names: &[&str]) -> Result<Vec<StagePlan>> {
        names.iter().filter_map(|s| self.stage(s).transpose()).collect()
    }

    /// The next settings to try where the stages that `over` tells take too much; none = nothing is left, or needed.
    fn smaller(&self, fixed: Fixed, over: impl Fn(&str) -> bool) -> Option<Job> {
        let [sft, reward, ppo] = ["sft", "reward", "ppo"].map(over);
        let mut job = self.clone();
        if !(sft || reward || ppo) {
            return None;
        }
        if !self.checkpointing && !fixed.checkpointing {
            job.checkpointing = true;
            return Some(job);
        }
        let mut changed = false;
        let mut halve = |wanted: bool, value: &mut usize, least: usize| {
            if wanted && *value / 2 >= least {
                *value /= 2;
                changed = true;
            }
        };
        halve(ppo && !fixed.sequences, &mut job.sequences, 1);
        halve(sft && !fixed.micro_tokens, &mut job.micro_tokens, job.prompt + job.response);
        halve(reward && !fixed.micro_tokens, &mut job.pairs, 1);
        changed.then_some(job)
    }

    /// The options of `cargo xtask train` that these settings are; with `since`, those that differ from that job's.
    pub fn settings(&self, since: Option<&Job>) -> String {
        let of = |job: &Job| {
            [
                ("memory.gradient_checkpointing", job.checkpointing.to_string()),
                ("memory.sequences", job.sequences.to_string()),
                ("memory.micro_tokens", job.micro_tokens.to_string()),
                ("reward.train.batch_size", job.pairs.to_string()),
            ]
        };
        let before = since.map(of);
        let options =
            of(self).into_iter().enumerate().filter(|(i, now)| before.as_ref().is_none_or(|b| b[*i] != *now));
        options.map(|(_, (field, value))| format!("--set {field}={value}")).collect::<Vec<_>>().join(" ")
    }
}
