//! Model files in and out: Hugging Face folders, safetensors, GGUF, tokenizers.
//!
//! One canonical naming and layout for all architectures; the folders' own names and layouts are mapped here
//! and nowhere else.
mod atomic;
mod config;
mod dequantize;
mod error;
mod gguf;
mod hf;
mod hf_save;
pub mod int8;
mod layout;
pub mod peft;
mod stream;
mod tensors;
mod tokenizer;

pub use atomic::atomic_write;
pub use config::{Act, Arch, ModelConfig, Norm, SpecialTokens};
pub use error::Error;
pub use gguf::Gguf;
pub use hf::Folder;
pub use hf_save::{Contents, Score, Storage, Tensors, save_folder, write_folder};
pub use int8::Weight;
pub use layout::{Module, canonical};
pub use tensors::{Tensor, TensorFile, load_tensors, save_tensors};
pub use tokenizer::Tokenizer;
