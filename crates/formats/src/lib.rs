//! Model files in and out: Hugging Face folders, safetensors, GGUF, tokenizers.
