//! Token embeddings and seeded sampling.
