//! RLHF fine-tuning of language models: the facade over the workspace.
