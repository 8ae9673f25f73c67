"""Writes models.json: what tiny GPT-NeoX, GPT-2 and Llama models of the crate `model` must reproduce.

Logits, loss and the gradient of every parameter as transformers computes them, and the same with adapters as
peft places them. Weights are no part of the file: element i of the k-th tensor (names sorted) is
`centre + spread * sin(12.9898 (i + 1) + 78.233 (k + 1))`, rounded to float32, which the Rust test repeats.

    python tests/references/models.py            (torch, transformers, peft)
"""

import json
import pathlib

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig,
                          LlamaForCausalLM)

SEQUENCES = [[1, 5, 2, 7, 7, 10], [3, 0, 9]]
RANK, ALPHA = 2, 6.0

MODELS = {
    "gpt_neox": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=12, max_position_embeddings=16, rotary_pct=0.5, hidden_act="gelu",
                      use_parallel_residual=True, tie_word_embeddings=False),
        ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    ),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=16,
                   activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0),
        ["c_attn", "c_proj", "c_fc"],
    ),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=4, intermediate_size=12, max_position_embeddings=16,
                    rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=True),
        ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
    ),
}


def wave(shape, k, centre, spread):
    n = torch.Size(shape).numel()
    i = torch.arange(1, n + 1, dtype=torch.float64)
    values = centre + spread * torch.sin(12.9898 * i + 78.233 * (k + 1))
    return values.reshape(shape).float().double()


def fill(named):
    """Sets parameters by the formula, in the order of their names."""
    for k, (name, p) in enumerate(sorted(named.items())):
        norm = any(part in name for part in ("norm", "ln_")) and name.endswith("weight")
        p.data = wave(p.shape, k, 1.0 if norm else 0.0, 0.3)


def run(model):
    """Logits of every position, and the mean loss over all predicted tokens with its gradients."""
    logits = [model(torch.tensor([s])).logits[0] for s in SEQUENCES]
    loss = sum(torch.nn.functional.cross_entropy(z[:-1], torch.tensor(s[1:]), reduction="sum")
               for z, s in zip(logits, SEQUENCES)) / sum(len(s) - 1 for s in SEQUENCES)
    model.zero_grad()
    loss.backward()
    return {"loss": number(loss.detach()), "logits": numbers(torch.cat(logits))}


def number(x):
    return float(f"{float(x):.8g}")


def numbers(x):
    return [number(v) for v in x.detach().reshape(-1)]


def reference(name):
    build, config, targets = MODELS[name]
    config._attn_implementation = "eager"
    model = build(config).double().eval()
    fill(dict(model.named_parameters()))
    out = {"config": json.loads(config.to_json_string()), **run(model)}
    out["config"]["model_type"] = name
    out["gradients"] = {n: numbers(p.grad) for n, p in model.named_parameters()}
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, fan_in_fan_out=name == "gpt2")
    adapted = get_peft_model(model, lora)
    factors = {n.removeprefix("base_model.model.").replace(".default.weight", ""): p
               for n, p in adapted.named_parameters() if "lora_" in n}
    fill(factors)
    out["lora"] = {**run(adapted), "gradients": {n: numbers(p.grad) for n, p in factors.items()}}
    return out


versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
fixture = {"versions": versions, "sequences": SEQUENCES, "rank": RANK, "alpha": ALPHA,
           "models": {name: reference(name) for name in MODELS}}
text = json.dumps(fixture, separators=(",", ":")).replace('},"', '},\n"').replace('],"', '],\n"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
