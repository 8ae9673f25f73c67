//! Tokenizers: loading, training a byte-level BPE, encoding and decoding.

use crate::{Error, ModelConfig, atomic_write, config::SpecialTokens};
use std::path::Path;
use tokenizers::{
    AddedToken, TokenizerBuilder,
    decoders::DecoderWrapper,
    models::{ModelWrapper, bpe::BPE, bpe::BpeTrainerBuilder},
    normalizers::NormalizerWrapper,
    pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel},
    processors::PostProcessorWrapper,
};

/// The end-of-text token of tokenizers trained here.
const EOS: &str = "<|endoftext|>";

/// Text to token ids and back.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    tokens: SpecialTokens,
}

impl Tokenizer {
    /// Loads a tokenizer.json.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::bad(path, format!("is not a tokenizer.json: {e}")))?;
        Ok(Self::wrap(inner))
    }

    /// A tokenizer from the contents of a tokenizer.json.
    pub(crate) fn from_json(json: &serde_json::Value) -> Result<Self, String> {
        let bytes = serde_json::to_vec(json).map_err(|e| e.to_string())?;
        Ok(Self::wrap(tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?))
    }

    fn wrap(inner: tokenizers::Tokenizer) -> Self {
        let names = [EOS, "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>"];
        let eos = names.iter().find_map(|n| inner.token_to_id(n));
        Tokenizer { inner, tokens: SpecialTokens { eos, pad: None } }
    }

    /// With the special tokens that a model's configuration names, where it names them.
    pub(crate) fn with_tokens(mut self, tokens: SpecialTokens) -> Self {
        self.tokens = tokens.or(self.tokens);
        self
    }

    /// Trains a byte-level BPE of at most `vocab` tokens, the end-of-text token among them.
    ///
    /// # Errors
    /// When training fails (no text at all).
    pub fn train(texts: &[String], vocab: usize) -> Result<Self, String> {
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(vocab)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(EOS, true)])
            .build();
        let level = ByteLevel::new(true, true, true);
        let mut inner = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(level))
            .with_post_processor(Some(level))
            .with_decoder(Some(level))
            .build()
            .map_err(|e| e.to_string())?;
        inner.train(&mut trainer, texts.iter()).map_err(|e| e.to_string())?;
        let mut out = tokenizers::Tokenizer::new(ModelWrapper::BPE(inner.get_model().clone()));
        out.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(level)));
        out.with_post_processor(Some(PostProcessorWrapper::ByteLevel(level)));
        out.with_decoder(Some(DecoderWrapper::ByteLevel(level)));
        out.add_special_tokens(&[AddedToken::from(EOS, true)]);
        Ok(Self::wrap(out))
    }

    /// Token ids of `text`, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode(text, false).map_err(|e| e.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.tokens.eos
    }

    /// The special tokens.
    pub fn tokens(&self) -> SpecialTokens {
        self.tokens
    }

    /// Number of tokens, added ones included.
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Checks that every token has a row in the model's embedding.
    pub(crate) fn fits(&self, config: &ModelConfig) -> Result<(), String> {
        let (have, want) = (self.vocab(), config.vocab);
        if have <= want {
            return Ok(());
        }
        Err(format!(
            "the tokenizer has {have} tokens, the model's embedding {want}; they belong to different models"
        ))
    }

    /// Writes a tokenizer.json.
    ///
    /// # Errors
    /// With the file's name.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let json = self.inner.to_string(true).map_err(|e| Error::bad(path, e.to_string()))?;
        atomic_write(path, &[json.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_is_repeatable_and_text_survives() {
        let texts: Vec<String> = (0..50).map(|i| format!("the film number {i} was a quiet joy .")).collect();
        let a = Tokenizer::train(&texts, 300).unwrap();
        let b = Tokenizer::train(&texts, 300).unwrap();
        let text = "the quiet film \u{e9}\u{1f600} number 7";
        assert_eq!(a.encode(text).unwrap(), b.encode(text).unwrap());
        assert_eq!(a.decode(&a.encode(text).unwrap()), format!(" {text}"));
        assert!(a.vocab() <= 300 && a.eos().is_some());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        a.save(&path).unwrap();
        assert_eq!(Tokenizer::load(&path).unwrap().encode(text).unwrap(), a.encode(text).unwrap());
    }
}
