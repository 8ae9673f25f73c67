//! GPT-NeoX, GPT-2 and Llama: configurations, weights in and out, tokenizers, generation.
