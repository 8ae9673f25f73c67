//! What folders hold besides f32 weights: int8, 16 bits, classifiers, special tokens, both generations of config.json.

use formats::{
    Act, Arch, Contents, Folder, ModelConfig, Norm, Score, Storage, Tokenizer, Weight, canonical, int8,
    load_tensors, write_folder,
};
use serde_json::{Value, json};
use std::{fs, path::Path};

fn config(arch: Arch) -> ModelConfig {
    let llama = arch == Arch::Llama;
    ModelConfig {
        arch,
        vocab: 280,
        hidden: 8,
        layers: 2,
        heads: 2,
        kv_heads: if llama { 1 } else { 2 },
        head_dim: 4,
        intermediate: 6,
        max_positions: 16,
        norm: if llama { Norm::Rms } else { Norm::Layer },
        norm_eps: 1e-5,
        act: if llama { Act::SwiGlu } else { Act::Gelu },
        parallel_residual: arch == Arch::GptNeox,
        rotary_dim: match arch {
            Arch::GptNeox => 2,
            Arch::Gpt2 => 0,
            Arch::Llama => 4,
        },
        rope_theta: if arch == Arch::Gpt2 { 10_000.0 } else { 5000.0 },
        tie_embeddings: false,
        attention_bias: !llama,
        mlp_bias: !llama,
    }
}

const ARCHS: [Arch; 3] = [Arch::GptNeox, Arch::Gpt2, Arch::Llama];

fn wave(name: &str, n: usize) -> Vec<f32> {
    let seed: u32 = name.bytes().map(u32::from).sum();
    (0..n).map(|i| (12.9898 * (i + 1) as f32 + seed as f32).sin()).collect()
}

fn write(dir: &Path, config: &ModelConfig, storage: Storage, score: Option<Score<'_>>) {
    let tokenizer = Tokenizer::train(&["a b c".into()], 270).unwrap();
    let contents = Contents { config, tokenizer: &tokenizer, storage, score };
    write_folder(dir, contents, &mut |name, rows, cols| Ok(wave(name, rows * cols))).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn int8_comes_back_as_quantised_and_everything_else_in_half_precision() {
    for arch in ARCHS {
        let (c, dir) = (config(arch), tempfile::tempdir().unwrap());
        write(dir.path(), &c, Storage::Int8, None);
        let folder = Folder::open(dir.path()).unwrap();
        let mut linears = 0;
        for (name, rows, cols) in canonical(&c) {
            let w = wave(&name, rows * cols);
            match folder.weight(&name, rows, cols).unwrap() {
                Weight::Int8 { q, scb } => {
                    assert_eq!((q, scb), int8::quantize(&w, cols), "{arch:?} {name}");
                    linears += 1;
                }
                Weight::Dense(data) => assert_eq!(data, Storage::F16.rounded(w), "{arch:?} {name}"),
            }
        }
        assert_eq!(linears, 4 * c.layers);
        let stored = read(&dir.path().join("config.json"));
        assert_eq!(stored["quantization_config"]["quant_method"], "bitsandbytes");
        assert_eq!(stored["dtype"], "float16");
    }
}

#[test]
fn half_precision_is_rounded_once() {
    for (storage, name) in [(Storage::F16, "float16"), (Storage::BF16, "bfloat16")] {
        let (c, dir) = (config(Arch::GptNeox), tempfile::tempdir().unwrap());
        write(dir.path(), &c, storage, None);
        let folder = Folder::open(dir.path()).unwrap();
        for (name, rows, cols) in canonical(&c) {
            let want = storage.rounded(wave(&name, rows * cols));
            assert_eq!(folder.tensor(&name, rows, cols).unwrap(), want, "{name}");
        }
        assert_eq!(read(&dir.path().join("config.json"))["torch_dtype"], name);
    }
}

#[test]
fn int8_of_an_old_layout_is_refused() {
    let (c, dir) = (config(Arch::GptNeox), tempfile::tempdir().unwrap());
    write(dir.path(), &c, Storage::Int8, None);
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight_format";
    let at = json[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut damaged = bytes.clone();
    damaged[8 + header + at] = 2;
    fs::write(&path, damaged).unwrap();
    let e = Folder::open(dir.path()).unwrap().weight("layers.1.mlp_up.weight", 6, 8).unwrap_err().to_string();
    assert!(e.contains("model.safetensors") && e.contains(name) && e.contains("row-major"), "{e}");
    let e = Folder::open(dir.path()).unwrap().weight("layers.0.mlp_up.weight", 7, 8).unwrap_err().to_string();
    assert!(e.contains("dense_h_to_4h.weight` has shape [6, 8]"), "{e}");
}

#[test]
fn a_classifier_has_a_score_and_no_output_layer() {
    let names = [
        "GPTNeoXForSequenceClassification",
        "GPT2ForSequenceClassification",
        "LlamaForSequenceClassification",
    ];
    for (arch, name) in ARCHS.into_iter().zip(names) {
        let (c, dir) = (config(arch), tempfile::tempdir().unwrap());
        let weight = wave("score", 16);
        write(dir.path(), &c, Storage::F32, Some(Score { labels: 2, weight: &weight }));
        let json = read(&dir.path().join("config.json"));
        assert_eq!((&json["architectures"][0], &json["num_labels"]), (&name.into(), &2.into()));
        assert_eq!(json["id2label"]["1"], "positive");
        let stored = load_tensors(&dir.path().join("model.safetensors")).unwrap().tensors;
        assert!(stored.iter().any(|t| t.name == "score.weight" && t.shape == [2, 8]));
        assert!(!stored.iter().any(|t| t.name.contains("embed_out") || t.name.contains("lm_head")));
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!((folder.labels, folder.score().unwrap()), (Some(2), weight));
        assert!(folder.config.tie_embeddings, "the missing output layer is not looked for");
        assert!(canonical(&folder.config).iter().all(|(n, r, k)| folder.tensor(n, *r, *k).is_ok()));
    }
}

#[test]
fn the_label_count_is_read_as_transformers_writes_it() {
    let (c, dir) = (config(Arch::Gpt2), tempfile::tempdir().unwrap());
    write(dir.path(), &c, Storage::F32, Some(Score { labels: 1, weight: &wave("score", 8) }));
    let path = dir.path().join("config.json");
    let mut json = read(&path);
    json.as_object_mut().unwrap().remove("num_labels");
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(Folder::open(dir.path()).unwrap().labels, Some(1), "from id2label");
    json.as_object_mut().unwrap().remove("id2label");
    fs::write(&path, json.to_string()).unwrap();
    let e = Folder::open(dir.path()).unwrap().score().unwrap_err().to_string();
    assert!(e.contains("`score.weight` has shape [1, 8], config.json asks for [2, 8]"), "{e}");
}

#[test]
fn special_tokens_are_those_of_generation_config_then_config_then_the_tokenizer() {
    let (c, dir) = (config(Arch::Gpt2), tempfile::tempdir().unwrap());
    write(dir.path(), &c, Storage::F32, None);
    let tokens = || Folder::open(dir.path()).unwrap().tokenizer().unwrap().tokens();
    let own = tokens().eos;
    assert!(own.is_some());
    let put = |file: &str, eos: Value, pad: Value| {
        let path = dir.path().join(file);
        let mut json = read(&path);
        json["eos_token_id"] = eos;
        json["pad_token_id"] = pad;
        fs::write(&path, json.to_string()).unwrap();
    };
    put("generation_config.json", json!([7, 9]), json!(3));
    assert_eq!((tokens().eos, tokens().pad), (Some(7), Some(3)), "the first of a list");
    put("generation_config.json", json!(null), json!(null));
    put("config.json", json!(11), json!(999));
    assert_eq!((tokens().eos, tokens().pad), (Some(11), None), "no row of the embedding has number 999");
    put("config.json", json!(null), json!(null));
    assert_eq!(tokens().eos, own);
}

/// A configuration in the form of transformers 5, and the same in that of transformers 4.
fn generations(arch: Arch) -> (Value, Value) {
    let rope = json!({ "rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5 });
    match arch {
        Arch::GptNeox => {
            let both = json!({ "model_type": "gpt_neox", "vocab_size": 280, "hidden_size": 8, "num_hidden_layers": 2,
                "num_attention_heads": 2, "intermediate_size": 6, "max_position_embeddings": 16,
                "use_parallel_residual": true, "layer_norm_eps": 1e-5 });
            let (mut new, mut old) = (both.clone(), both);
            (new["rope_parameters"], new["dtype"]) = (rope, json!("float16"));
            (old["rotary_pct"], old["rotary_emb_base"], old["torch_dtype"]) =
                (json!(0.5), json!(5000), json!("float16"));
            (new, old)
        }
        Arch::Gpt2 => {
            let both = json!({ "model_type": "gpt2", "vocab_size": 280, "n_embd": 8, "n_layer": 2, "n_head": 2,
                "n_inner": 6, "n_positions": 16, "tie_word_embeddings": false, "activation_function": "gelu" });
            let mut old = both.clone();
            old["torch_dtype"] = json!("float32");
            (both, old)
        }
        Arch::Llama => {
            let both = json!({ "model_type": "llama", "vocab_size": 280, "hidden_size": 8, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6,
                "max_position_embeddings": 16, "rms_norm_eps": 1e-5 });
            let (mut new, mut old) = (both.clone(), both);
            new["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 5000.0 });
            (old["rope_theta"], old["rope_scaling"]) = (json!(5000.0), json!(null));
            (new, old)
        }
    }
}

#[test]
fn both_generations_of_config_json_say_the_same_and_what_is_written_is_read() {
    for arch in ARCHS {
        let (new, old) = generations(arch);
        let want = config(arch);
        assert_eq!(ModelConfig::from_hf(&new).unwrap(), want, "{arch:?}, transformers 5");
        assert_eq!(ModelConfig::from_hf(&old).unwrap(), want, "{arch:?}, transformers 4");
        let written = want.to_hf("float32", formats::SpecialTokens::default());
        assert_eq!(ModelConfig::from_hf(&written).unwrap(), want, "{arch:?}, written");
    }
    let mut scaled = generations(Arch::Llama).1;
    scaled["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 8.0 });
    assert!(ModelConfig::from_hf(&scaled).unwrap_err().contains("`rope_scaling`"));
    scaled["rope_scaling"] = json!({ "rope_type": "default" });
    assert!(ModelConfig::from_hf(&scaled).is_ok());
}
