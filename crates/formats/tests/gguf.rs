//! GGUF files made here, whole and damaged.

use formats::Gguf;
use std::path::PathBuf;

/// Writes the parts of a GGUF header.
#[derive(Default, Clone)]
struct Writer(Vec<u8>);

impl Writer {
    fn text(&mut self, s: &str) {
        self.0.extend((s.len() as u64).to_le_bytes());
        self.0.extend(s.as_bytes());
    }
    fn int(&mut self, key: &str, v: u32) {
        self.text(key);
        self.0.extend(4u32.to_le_bytes());
        self.0.extend(v.to_le_bytes());
    }
    fn string(&mut self, key: &str, v: &str) {
        self.text(key);
        self.0.extend(8u32.to_le_bytes());
        self.text(v);
    }
    fn strings(&mut self, key: &str, v: &[&str]) {
        self.text(key);
        self.0.extend(9u32.to_le_bytes());
        self.0.extend(8u32.to_le_bytes());
        self.0.extend((v.len() as u64).to_le_bytes());
        v.iter().for_each(|s| self.text(s));
    }
}

const SHAPES: [(&str, &[u64]); 10] = [
    ("token_embd.weight", &[8, 5]),
    ("output_norm.weight", &[8]),
    ("blk.0.attn_norm.weight", &[8]),
    ("blk.0.ffn_norm.weight", &[8]),
    ("blk.0.attn_q.weight", &[8, 8]),
    ("blk.0.attn_k.weight", &[8, 4]),
    ("blk.0.attn_v.weight", &[8, 4]),
    ("blk.0.attn_output.weight", &[8, 8]),
    ("blk.0.ffn_gate.weight", &[8, 6]),
    ("blk.0.ffn_up.weight", &[8, 6]),
];

/// A tiny file; `kind` is every tensor's type number and `arch` its architecture.
fn file(kind: u32, arch: &str) -> Vec<u8> {
    file_with(kind, arch, &["<|endoftext|>", "a", "b", "ab", "1"], 4)
}

fn file_with(kind: u32, arch: &str, tokens: &[&str], rotary: u32) -> Vec<u8> {
    let mut w = Writer::default();
    w.0.extend(b"GGUF");
    w.0.extend(3u32.to_le_bytes());
    w.0.extend((SHAPES.len() as u64).to_le_bytes());
    w.0.extend(13u64.to_le_bytes());
    w.string("general.architecture", arch);
    for (key, v) in [
        ("llama.block_count", 1),
        ("llama.context_length", 32),
        ("llama.embedding_length", 8),
        ("llama.feed_forward_length", 6),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.rope.dimension_count", rotary),
    ] {
        w.int(key, v);
    }
    w.string("tokenizer.ggml.model", "gpt2");
    w.string("tokenizer.ggml.pre", "smollm");
    w.strings("tokenizer.ggml.tokens", tokens);
    w.strings("tokenizer.ggml.merges", &["a b"]);
    w.text("tokenizer.ggml.token_type");
    w.0.extend(9u32.to_le_bytes());
    w.0.extend(4u32.to_le_bytes());
    w.0.extend(5u64.to_le_bytes());
    [3u32, 1, 1, 1, 1].iter().for_each(|t| w.0.extend(t.to_le_bytes()));
    let mut offset = 0u64;
    for (name, dims) in SHAPES {
        w.text(name);
        w.0.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| w.0.extend(d.to_le_bytes()));
        w.0.extend(kind.to_le_bytes());
        w.0.extend(offset.to_le_bytes());
        offset += 4 * dims.iter().product::<u64>();
    }
    w.0.resize(w.0.len().next_multiple_of(32), 0);
    (0..offset / 4).for_each(|i| w.0.extend((i as f32).to_le_bytes()));
    w.0
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn tensors_configuration_and_tokenizer() {
    let (_dir, path) = open(&file(0, "llama"));
    let g = Gguf::open(&path).unwrap();
    let c = &g.config;
    assert_eq!((c.vocab, c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim), (5, 8, 1, 2, 1, 4));
    assert!(c.tie_embeddings && c.rotary_dim == 4);
    assert_eq!(g.tensor("embed", 5, 8).unwrap(), (0..40).map(|i| i as f32).collect::<Vec<_>>());
    // Query rows: the file has each head's halves interleaved (0 2 1 3 of the engine's order).
    let qkv = g.tensor("layers.0.qkv.weight", 16, 8).unwrap();
    let first: Vec<f32> = qkv.chunks(8).map(|r| r[0]).collect();
    let q0 = (40 + 8 + 16) as f32;
    let q = |r: usize| q0 + 8.0 * r as f32;
    assert_eq!(first[..8], [q(0), q(2), q(1), q(3), q(4), q(6), q(5), q(7)]);
    assert_eq!(first[8..12], [q(8), q(10), q(9), q(11)]);
    assert_eq!(first[12..], [q(12), q(13), q(14), q(15)]);
    let up = g.tensor("layers.0.mlp_up.weight", 12, 8).unwrap();
    assert_eq!(up.len(), 96);
    let t = g.tokenizer().unwrap();
    assert_eq!(t.encode("ab1a").unwrap(), [3, 4, 1]);
    assert_eq!((t.decode(&[3, 4, 1]).as_str(), t.eos()), ("ab1a", Some(0)));
    let missing = g.tensor("layers.0.mlp_down.weight", 8, 6).unwrap_err().to_string();
    assert!(missing.contains("blk.0.ffn_down.weight") && missing.contains("missing"), "{missing}");
}

#[test]
fn damage_is_named() {
    let whole = file(0, "llama");
    let check = |what: &str, bytes: &[u8], needle: &str| {
        let (_dir, path) = open(bytes);
        let e = match Gguf::open(&path) {
            Err(e) => e.to_string(),
            Ok(g) => match (g.tensor("layers.0.mlp_up.weight", 12, 8), g.tensor("embed", 5, 8)) {
                (Err(e), _) | (_, Err(e)) => e.to_string(),
                _ => panic!("{what}: nothing was noticed"),
            },
        };
        assert!(e.contains("m.gguf") && e.contains(needle), "{what}: {e}");
    };
    check("empty", &[], "not a GGUF");
    check("another format", b"PK\x03\x04 something else", "not a GGUF");
    check("cut in the header", &whole[..100], "more than the file");
    check("cut in the data", &whole[..whole.len() - 4], "past the end");
    check("version", &[b"GGUF", &9u32.to_le_bytes()[..], &whole[8..]].concat(), "version 9");
    check(
        "tensor count",
        &[&whole[..8], &u64::MAX.to_le_bytes()[..], &whole[16..]].concat(),
        "more than the file",
    );
    check("architecture", &file(0, "mamba"), "mamba");
    check("type", &file(99, "llama"), "type 99");
    check("odd block", &file(2, "llama"), "whole blocks");
    // A huge declared dimension.
    let name = b"token_embd.weight";
    let at = whole.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4;
    let huge = [&whole[..at], &(1u64 << 60).to_le_bytes()[..], &whole[at + 8..]].concat();
    check("huge dimension", &huge, "dimensions");
    check("half of each head rotates", &file_with(0, "llama", &["a"], 2), "rope.dimension_count` is 2");
}

#[test]
fn a_foreign_vocabulary_is_refused() {
    let (_dir, path) = open(&file_with(0, "llama", &["<|endoftext|>", "a", "b", "ab", "1", "2"], 4));
    let e = Gguf::open(&path).unwrap().tokenizer().map(drop).unwrap_err().to_string();
    assert!(e.contains("m.gguf") && e.contains("6 tokens, the model's embedding 5"), "{e}");
}

#[test]
fn cut_and_flipped_headers_are_survived() {
    let whole = file(0, "llama");
    let data =
        whole.len() - 4 * SHAPES.iter().map(|(_, d)| d.iter().product::<u64>() as usize).sum::<usize>();
    let read = |bytes: &[u8]| {
        let (_dir, path) = open(bytes);
        // Whatever the damage, the answer is a value or an error, never a panic or an endless allocation.
        if let Ok(g) = Gguf::open(&path) {
            let _ = g.tokenizer();
            let _ = g.tensor("embed", 5, 8);
            let _ = g.tensor("layers.0.qkv.weight", 16, 8);
        }
    };
    (0..data).step_by(11).for_each(|n| read(&whole[..n]));
    for i in (0..data).step_by(3) {
        let mut bytes = whole.clone();
        bytes[i] ^= 0xff;
        read(&bytes);
    }
}
