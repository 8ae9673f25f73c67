//! Progress: a bar with tokens/s and time left on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// The progress of one stage.
pub struct Progress {
    stage: &'static str,
    total: usize,
    bar: Option<ProgressBar>,
    start: Instant,
    first_step: usize,
    tokens: u64,
    last_line: Option<Instant>,
    quiet: bool,
}

/// Plain lines come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Progress of `stage` from step `first` of `total`.
    pub fn new(stage: &'static str, first: usize, total: usize, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = "{prefix:>9} [{bar:30}] {pos}/{len} {elapsed}<{eta} {msg}";
            let bar = ProgressBar::new(total as u64).with_position(first as u64).with_prefix(stage);
            bar.set_style(ProgressStyle::with_template(style).expect("valid template").progress_chars("=> "));
            bar.reset_eta();
            bar
        });
        let start = Instant::now();
        Progress { stage, total, bar, start, first_step: first, tokens: 0, last_line: None, quiet }
    }

    /// Reports that `step` (from 1) is done, with the tokens it took and a short message.
    pub fn step(&mut self, step: usize, tokens: usize, message: &str) {
        self.tokens += tokens as u64;
        let message = format!("{message}  {:.1}k tok/s", self.tokens_per_second() / 1e3);
        if let Some(bar) = &self.bar {
            bar.set_position(step as u64);
            bar.set_message(message);
        } else if !self.quiet {
            let due = self.last_line.is_none_or(|t| t.elapsed() >= LINE_EVERY);
            if due || step == self.total {
                self.last_line = Some(Instant::now());
                let done = (step - self.first_step).max(1) as f64;
                let left = self.start.elapsed().as_secs_f64() / done * (self.total - step) as f64;
                eprintln!("{:>9} {step}/{}  {message}  {left:.0} s left", self.stage, self.total);
            }
        }
    }

    /// Tokens per second so far.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }

    /// Clears the bar; a plain log keeps its lines.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish();
        }
    }
}
