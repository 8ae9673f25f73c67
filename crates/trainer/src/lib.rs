//! Supervised fine-tuning, reward models and PPO.
//!
//! [`pipeline::train`] runs the stages over a [`config::Config`]; each is also a library call. Everything
//! random derives from the seed, the stage and the step, so that a resumed run repeats an unbroken one.
//!
//! **Architecture Invariant:** nothing here knows on which device it runs or how a file format is laid out.
pub mod bench;
pub mod checkpoint;
mod classifier;
pub mod config;
pub mod corpus;
pub mod error;
pub mod evaluate;
pub mod interrupt;
pub mod lm;
pub mod memory;
pub mod merge;
mod metrics;
pub mod models;
pub mod optimizer;
pub mod parity;
pub mod pipeline;
pub mod plan;
pub mod plan_fit;
pub mod plan_table;
pub mod policy;
pub mod ppo;
mod presets;
mod progress;
pub mod ranks;
mod report;
pub mod reward;
mod room;
pub mod run;
pub mod run_dir;
pub mod steps;
pub mod summary;
pub mod supervised;
pub mod text;
