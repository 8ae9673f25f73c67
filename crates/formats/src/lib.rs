//! Model files in and out: Hugging Face folders, safetensors, GGUF, tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch { GptNeox, Gpt2, Llama }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm { Layer, Rms }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act { Gelu, GeluTanh, SwiGlu }
#[derive(Debug, Clone)]
pub struct ModelConfig {
    pub arch: Arch, pub vocab: usize, pub hidden: usize, pub layers: usize, pub heads: usize, pub kv_heads: usize,
    pub head_dim: usize, pub intermediate: usize, pub max_positions: usize, pub norm: Norm, pub norm_eps: f32,
    pub act: Act, pub parallel_residual: bool, pub rotary_dim: usize, pub rope_theta: f32, pub tie_embeddings: bool,
    pub attention_bias: bool, pub mlp_bias: bool,
}
