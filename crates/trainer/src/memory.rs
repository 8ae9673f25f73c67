//! Settings that trade time for memory and change no result, save `sft_precision`.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What is kept in memory at a time. `cargo xtask plan` says what a setting takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySection {
    /// Compute blocks again in the backward pass instead of keeping their activations (arXiv 1604.06174).
    pub gradient_checkpointing: bool,
    /// Most tokens of a forward and backward pass in the supervised stages; a step adds up as many as it needs.
    pub micro_tokens: usize,
    /// Most answers that are generated at once: each has a place in the key-value cache.
    pub sequences: usize,
    /// The frozen base under SFT's adapters (`sft.method = "lora"`): "f32", or "int8" as the policy's.
    pub sft_precision: String,
    /// What a stage may take: "free" (what the device has free when the stage begins), a size such as "24GiB", or "off".
    /// A stage whose plan takes more is refused before a weight is read.
    pub limit: String,
}

impl Default for MemorySection {
    fn default() -> Self {
        let sft_precision = "f32".into();
        let limit = "free".into();
        MemorySection {
            gradient_checkpointing: false,
            micro_tokens: 2048,
            sequences: 64,
            sft_precision,
            limit,
        }
    }
}

impl MemorySection {
    pub(crate) fn validate(&self, sft_method: &str) -> Result<()> {
        let bad = |field: &str, problem: &str| Err(Error::config(&format!("memory.{field}"), problem));
        match self.sft_precision.as_str() {
            "f32" => {}
            "int8" if sft_method == "lora" => {}
            "int8" => {
                return bad(
                    "sft_precision",
                    "is \"int8\", whose weights are frozen: set sft.method = \"lora\"",
                );
            }
            _ => return bad("sft_precision", "is neither \"f32\" nor \"int8\""),
        }
        if self.micro_tokens == 0 || self.sequences == 0 {
            return bad("micro_tokens, memory.sequences", "must be at least 1");
        }
        if !matches!(self.limit.as_str(), "free" | "off") && bytes(&self.limit).is_none() {
            return bad("limit", "is neither \"free\", \"off\" nor a size such as \"24GiB\"");
        }
        Ok(())
    }
}

/// Bytes of `24GiB`, `24G`, `500MiB`, `8GB` or a bare number; none when it is no size.
pub fn bytes(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "g" | "gib" => 1 << 30,
        "m" | "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "mb" => 1_000_000,
        "" => 1,
        _ => return None,
    };
    digits.parse::<f64>().ok().filter(|n| *n >= 0.0 && n.is_finite()).map(|n| (n * f64::from(unit)) as usize)
}
