//! From text to model input: tokenizer, context length, ends.

use crate::{
    error::{Error, Result},
    lm::Example,
};
use formats::Tokenizer;

/// A tokenizer and the context it must fit.
pub struct Text {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Longest sequence.
    pub context: usize,
    /// Whether the tokenizer itself puts a space before the first word.
    spaced: bool,
}

impl Text {
    /// Wraps a tokenizer.
    pub fn new(tokenizer: Tokenizer, context: usize) -> Self {
        let spaced = tokenizer.encode("a").ok() == tokenizer.encode(" a").ok();
        Text { tokenizer, context, spaced }
    }

    /// Token ids of `text`.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer
            .encode(text)
            .map_err(|e| Error::config("data", format!("cannot tokenize {text:?}: {e}")))
    }

    /// A prompt's ids; an empty prompt is the end-of-text token alone, so that there is something to
    /// predict from.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let ids = self.encode(prompt)?;
        if !ids.is_empty() {
            return Ok(ids);
        }
        match self.tokenizer.eos() {
            Some(eos) => Ok(vec![eos]),
            None => {
                Err(Error::config("data", "a prompt is empty and the tokenizer has no end-of-text token"))
            }
        }
    }

    /// A completion's ids, continuing a prompt, with the end-of-text token.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn completion(&self, completion: &str) -> Result<Vec<u32>> {
        let text = completion.trim_start();
        let mut ids = if self.spaced { self.encode(text)? } else { self.encode(&format!(" {text}"))? };
        ids.extend(self.tokenizer.eos());
        Ok(ids)
    }

    /// Held-out texts as whole examples within the context.
    ///
    /// # Errors
    /// When one cannot be encoded.
    pub fn held_out(&self, texts: &[String]) -> Result<Vec<Example>> {
        let mut out = Vec::new();
        for t in texts {
            let mut ids = self.encode(t)?;
            ids.extend(self.tokenizer.eos());
            ids.truncate(self.context);
            if ids.len() > 1 {
                out.push(Example::whole(ids));
            }
        }
        Ok(out)
    }

    /// Prompts that leave room for `answer` new tokens.
    ///
    /// # Errors
    /// Names the first prompt that does not fit.
    pub fn prompts(&self, prompts: &[String], answer: usize) -> Result<Vec<Vec<u32>>> {
        let mut out = Vec::new();
        for p in prompts {
            let ids = self.prompt(p)?;
            if ids.len() + answer > self.context {
                let problem = format!(
                    "prompt of {} tokens and an answer of {answer} do not fit the context of {}: {:?}...; \
                     lower ppo.response_length or shorten the prompt",
                    ids.len(),
                    self.context,
                    p.chars().take(40).collect::<String>()
                );
                return Err(Error::config("data", problem));
            }
            out.push(ids);
        }
        Ok(out)
    }
}
