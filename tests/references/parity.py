"""The reference libraries' side of `cargo xtask parity`.

Loads what this project wrote (ROOT/CASE/ours) with transformers, peft and, where it is installed, bitsandbytes, and
compares logits and scores; then writes models, adapters and reward models of their making (ROOT/CASE/theirs) with
the logits and scores that they give, for this project to load. Results go to ROOT/results.json:
`[{"what": ..., "error": greatest difference over the root mean square, "limit": ...}]`.

    python tests/references/parity.py ROOT            (torch, transformers, peft)
"""

import json
import logging
import math
import pathlib
import shutil
import sys
import warnings

warnings.simplefilter("ignore", FutureWarning)

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

LIMIT = 1e-4
RESULTS = []


def sequences(vocab):
    return [[(31 * i + 17 * n) % vocab for i in range(n)] for n in (12, 7, 1)]


def run(model):
    """Logits of every position, or scores of every sequence, one after another."""
    with torch.no_grad():
        return torch.cat([model(torch.tensor([s])).logits[0].float().reshape(-1)
                          for s in sequences(model.config.vocab_size)])


def compare(what, got, want, limit=LIMIT):
    size = want.double().square().mean().sqrt().item() or 1.0
    error = (got.double() - want.double()).abs().max().item() / size if got.shape == want.shape else math.inf
    RESULTS.append({"what": what, "error": error if error == error else math.inf, "limit": limit})


def base_of(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def complete(factory, path):
    """Loads a model; a tensor that is missing or left over is an error, not a warning."""
    model, info = factory.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise SystemExit(f"{path}: {kind}: {info[kind]}")
    return model.eval()


def check_adapter(case, ours, name, want):
    with warnings.catch_warnings():
        # peft only warns of keys that are missing or left over.
        warnings.filterwarnings("error", message="(?i).*(missing|unexpected).*")
        model = peft.PeftModel.from_pretrained(base_of(ours / "base"), ours / name).eval()
    compare(f"{case}: our {name} in peft", run(model), want)
    compare(f"{case}: our {name} merged by peft", run(model.merge_and_unload()), want)
    merged = name.replace("adapter", "merged")
    compare(f"{case}: our {merged} in transformers", run(complete(AutoModelForCausalLM, ours / merged)), want)


def linear_weights(model):
    """Weights `[out, in]` of the blocks' linear layers, by module."""
    skip = {id(model.get_output_embeddings())}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and id(module) not in skip:
            yield name, module.weight.data
        elif type(module).__name__ == "Conv1D":
            yield name, module.weight.data.T.contiguous()


def quantized(weight):
    """bitsandbytes' int8_vectorwise_quant without outliers."""
    half = weight.half().float()
    scale = half.abs().amax(dim=1)
    # A quotient of tensors: of a number and a tensor torch takes the reciprocal, which ends in another bit.
    inverse = torch.where(scale > 0, torch.full_like(scale, 127.0) / scale, 0.0)
    q = torch.round(half * inverse[:, None]).to(torch.int8)
    return q, scale


def check_int8(case, ours, want):
    stored = load_file(ours / "int8" / "model.safetensors")
    state = {name for name in stored if name.endswith((".SCB", ".weight_format"))}
    expected = set()
    worst = 0.0
    for name, weight in linear_weights(base_of(ours / "base")):
        q, scale = quantized(weight)
        expected |= {f"{name}.SCB", f"{name}.weight_format"}
        mine = stored[f"{name}.weight"], stored[f"{name}.SCB"], stored[f"{name}.weight_format"]
        same = (mine[0].dtype, mine[1].dtype, mine[2].dtype) == (torch.int8, torch.float32, torch.uint8)
        same = same and torch.equal(mine[0], q) and torch.equal(mine[1], scale)
        same = same and mine[2].shape == () and mine[2].item() == 0
        worst = max(worst, 0.0 if same else math.inf)
    compare(f"{case}: our int8 names", torch.tensor([float(state == expected)]), torch.ones(1))
    RESULTS.append({"what": f"{case}: our int8 tensors, exactly", "error": worst, "limit": 0.0})
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return
    model = AutoModelForCausalLM.from_pretrained(ours / "int8", device_map="cpu", dtype=torch.float32)
    for p in model.parameters():
        if p.dtype == torch.float16:
            p.data = p.data.float()
    # bitsandbytes rounds activations to 8 bits as well: near, not equal.
    compare(f"{case}: our int8 in bitsandbytes", run(model.eval()), want, 0.2)


def check(case, ours):
    want = load_file(ours / "expected.safetensors")
    compare(f"{case}: our base in transformers", run(complete(AutoModelForCausalLM, ours / "base")), want["base"])
    for name, values in want.items():
        if name.startswith("adapter"):
            check_adapter(case, ours, name, values)
        elif name.startswith("reward"):
            model = complete(AutoModelForSequenceClassification, ours / name)
            compare(f"{case}: our {name} in transformers", run(model), values)
    check_int8(case, ours, want["int8"])


def old_config(config):
    """config.json as transformers 4 wrote it."""
    config = {k: v for k, v in config.items() if k not in ("dtype", "rope_parameters", "transformers_version")}
    config["torch_dtype"] = "float32"
    return config


def write_base(case, ours, theirs):
    """The base as the library saves it, and once more with a configuration of the fourth generation."""
    model = base_of(ours / "base")
    model.save_pretrained(theirs / "hf")
    shutil.copy(ours / "base" / "tokenizer.json", theirs / "hf")
    shutil.copytree(theirs / "hf", theirs / "hf4", dirs_exist_ok=True)
    path = theirs / "hf4" / "config.json"
    new = json.loads(path.read_text())
    old = old_config(new)
    if rope := new.get("rope_parameters"):
        names = ("rotary_emb_base", "rotary_pct") if new["model_type"] == "gpt_neox" else ("rope_theta", None)
        old[names[0]] = rope["rope_theta"]
        if names[1]:
            old[names[1]] = rope["partial_rotary_factor"]
    path.write_text(json.dumps(old))
    return model


ADAPTERS = {
    "gpt_neox": [dict(target_modules=["query_key_value"]),
                 dict(target_modules=["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
                      rank_pattern={"dense": 5}, alpha_pattern={"attention.dense": 3, "dense_h_to_4h": 1})],
    "gpt2": [dict(target_modules=["c_attn"], fan_in_fan_out=True),
             dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True,
                  rank_pattern={"mlp.c_proj": 5}, alpha_pattern={"attn.c_proj": 3})],
    "llama": [dict(target_modules=["q_proj", "v_proj"]),
              dict(target_modules="all-linear", rank_pattern={"up_proj": 5}, alpha_pattern={"q_proj": 3})],
}


def write_adapters(case, theirs, out):
    family = next(f for f in ADAPTERS if case.startswith(f) and (f != "gpt2" or case == "gpt2"))
    sets = ADAPTERS[family] + [dict(ADAPTERS[family][0], use_rslora=True, layers_to_transform=[1])]
    for i, options in enumerate(sets):
        torch.manual_seed(100 + i)
        lora = peft.LoraConfig(r=4, lora_alpha=10, init_lora_weights=False, task_type="CAUSAL_LM", **options)
        model = peft.get_peft_model(base_of(theirs / "hf"), lora).eval()
        model.save_pretrained(theirs / f"peft-{i}")
        out[f"peft-{i}"] = run(model)


def write_rewards(theirs, config, out):
    for labels in (1, 2):
        torch.manual_seed(200 + labels)
        config.num_labels = labels
        model = AutoModelForSequenceClassification.from_config(config).float().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
        model.save_pretrained(theirs / f"reward-{labels}")
        shutil.copy(theirs / "hf" / "tokenizer.json", theirs / f"reward-{labels}")
        out[f"reward-{labels}"] = run(model)


def write_int8(theirs, out):
    """A state dict as bitsandbytes' Linear8bitLt saves it, and the logits of the dequantised weights."""
    model = base_of(theirs / "hf")
    shutil.copytree(theirs / "hf", theirs / "int8", dirs_exist_ok=True)
    state = load_file(theirs / "hf" / "model.safetensors")
    with torch.no_grad():
        for name, weight in list(linear_weights(model)):
            q, scale = quantized(weight)
            state[f"{name}.weight"], state[f"{name}.SCB"] = q, scale
            state[f"{name}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
            dense = q.float() * scale[:, None] / 127
            module = model.get_submodule(name)
            module.weight.copy_(dense.T if type(module).__name__ == "Conv1D" else dense)
    save_file(state, theirs / "int8" / "model.safetensors", metadata={"format": "pt"})
    out["int8"] = run(model)


def write(case, ours, theirs):
    shutil.rmtree(theirs, ignore_errors=True)
    theirs.mkdir(parents=True)
    out = {}
    model = write_base(case, ours, theirs)
    out["hf"] = out["hf4"] = run(model)
    out = {k: v.clone() for k, v in out.items()}
    write_adapters(case, theirs, out)
    write_rewards(theirs, model.config, out)
    write_int8(theirs, out)
    save_file({k: v.contiguous() for k, v in out.items()}, theirs / "expected.safetensors")


def main(root):
    torch.set_num_threads(1)  # tiny models: threads only wait for one another
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for folder in sorted(p for p in root.iterdir() if (p / "ours").is_dir()):
        check(folder.name, folder / "ours")
        write(folder.name, folder / "ours", folder / "theirs")
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    for r in RESULTS:
        r["error"] = min(r["error"], sys.float_info.max)  # JSON has no infinity
    (root / "results.json").write_text(json.dumps({"versions": versions, "results": RESULTS}))


main(pathlib.Path(sys.argv[1]))
