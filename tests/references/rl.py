"""Writes rl.json: numbers that the crate `rl` must reproduce, computed on padded torch tensors.

Whitening and the running moments are TRL's own functions; the rest is written out here from the formulas,
in float64, over padding and masks, which is a different route from the crate's ragged loops.

    python tests/references/rl.py            (torch, trl 1.12)
"""

import json
import pathlib
import types

import torch
import torch.nn.functional as F
import trl
from trl.experimental.bco.bco_trainer import RunningMoments
from trl.experimental.ppo.ppo_trainer import masked_mean, masked_var, masked_whiten

torch.manual_seed(20231)
LENGTHS = [5, 1, 7, 3, 2, 6, 1, 4]
GROUP, GAMMA, LAM, COEF, PENALTY = 4, 0.97, 0.9, 0.13, 0.7
ROWS, WIDTH = len(LENGTHS), max(LENGTHS)
lengths = torch.tensor(LENGTHS)
mask = torch.arange(WIDTH)[None] < lengths[:, None]
last = (torch.arange(ROWS), lengths - 1)


def numbers(scale=1.0, shift=0.0, shape=(ROWS, WIDTH)):
    """Random numbers that are exact in float32, held in float64."""
    return (torch.randn(shape) * scale + shift).float().double()


def flat(padded):
    return padded[mask].tolist()


def gae(rewards, values, gamma, lam):
    rewards, values = rewards * mask, values * mask
    columns, running = [], torch.zeros(ROWS, dtype=torch.float64)
    for t in range(WIDTH - 1, -1, -1):
        after = values[:, t + 1] if t + 1 < WIDTH else torch.zeros(ROWS, dtype=torch.float64)
        running = rewards[:, t] + gamma * after - values[:, t] + gamma * lam * running
        columns.insert(0, running)
    advantages = torch.stack(columns, dim=1)
    return advantages, advantages + values


logprob, reference = numbers(0.5, -2.0), numbers(0.5, -2.1)
values, scores = numbers(1.0, 0.3), numbers(1.5, 0.5, (ROWS,))
ended = torch.tensor([True, True, False, True, False, True, True, True])
d = (logprob.float() - reference.float()).double() * mask
kls = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d, "abs": d.abs()}

non_score = -COEF * d
rewards = non_score.clone()
rewards[last] += scores
white_rewards = masked_whiten(rewards, mask, shift_mean=False)
advantages, returns = gae(rewards, values, GAMMA, LAM)
white_advantages = masked_whiten(advantages, mask)
after_whitening, _ = gae(white_rewards, values, GAMMA, LAM)

totals = (rewards * mask).sum(1).view(-1, GROUP)
rloo = totals - (totals.sum(1, keepdim=True) - totals) / (GROUP - 1)
grpo = (totals - totals.mean(1, keepdim=True)) / (totals.std(1, keepdim=True) + 1e-4)

moments = RunningMoments(types.SimpleNamespace(use_distributed=False, is_main_process=True))
batches = []
for n in (6, 1, 9):
    raw, eos = numbers(2.0, 1.0, (n,)), torch.rand(n) < 0.7
    shaped = raw - PENALTY * (~eos)
    moments.update(shaped)
    factor = moments.std + torch.finfo(torch.float32).eps
    batches.append({
        "raw": raw.tolist(), "eos": eos.tolist(), "mean": moments.mean, "std": moments.std,
        "scaled": (shaped / factor).tolist(), "normed": ((shaped - moments.mean) / factor).tolist(),
        "clipped": torch.clamp(shaped / factor, -0.8, 0.8).tolist(),
    })

coef, steps = 0.2, []
for kl in (0.0, 3.0, 6.5, 9.0, -1.0, 6.0):
    coef *= 1 + float(torch.clamp(torch.tensor(kl / 6.0 - 1, dtype=torch.float64), -0.2, 0.2)) * 32 / 1000
    steps.append([kl, coef])

chosen, rejected = numbers(1.0, 0.6, (40,)), numbers(1.0, 0.0, (40,))
margin = chosen - rejected
bins, ece = torch.linspace(0.5, 1.0, 11, dtype=torch.float64), 0.0
confidence = torch.sigmoid(margin.abs())
for low, high in zip(bins[:-1], bins[1:]):
    hit = (confidence >= low) & (confidence < high)
    if hit.any():
        gap = (margin[hit] > 0).double().mean() - confidence[hit].mean()
        ece += float(hit.double().mean() * gap.abs())

stats = {
    "objective/kl": (d * mask).sum(1).mean(),
    "objective/kl_per_token": masked_mean(d, mask),
    "objective/entropy": (-logprob * mask).sum(1).mean(),
    "objective/scores": scores.mean(),
    "objective/non_score_reward": (non_score * mask).sum(1).mean(),
    "objective/rlhf_reward": (non_score * mask).sum(1).mean() + scores.mean(),
    "ppo/mean_scores": scores.mean(),
    "ppo/std_scores": scores.std(),
    "ppo/mean_non_score_reward": masked_mean(non_score, mask),
    "ppo/returns/var": masked_var(returns, mask),
    "ppo/val/old_error": masked_mean((values - returns) ** 2, mask),
    "val/num_eos_tokens": ended.sum(),
    "env/reward_mean": scores.mean(),
    "env/reward_std": scores.std(),
}

out = {
    "versions": {"torch": torch.__version__, "trl": getattr(trl, "__version__", "unknown")},
    "lengths": LENGTHS, "group": GROUP, "gamma": GAMMA, "lam": LAM, "kl_coef": COEF,
    "missing_eos_penalty": PENALTY,
    "logprob": flat(logprob), "reference": flat(reference), "values": flat(values),
    "scores": scores.tolist(), "ended": ended.tolist(),
    "kl": {name: flat(kl) for name, kl in kls.items()},
    "rewards": flat(rewards), "white_rewards": flat(white_rewards),
    "advantages": flat(advantages), "returns": flat(returns),
    "white_advantages": flat(white_advantages), "advantages_of_white_rewards": flat(after_whitening),
    "rloo": rloo.flatten().tolist(), "grpo": grpo.flatten().tolist(),
    "score_batches": batches, "adaptive_kl": steps,
    "chosen": chosen.tolist(), "rejected": rejected.tolist(),
    "verdict": {
        "accuracy": float((margin > 0).double().mean()), "loss": float(-F.logsigmoid(margin).mean()),
        "margin_mean": float(margin.mean()), "margin_std": float(margin.std()), "ece": ece,
    },
    "stats": {name: float(value) for name, value in stats.items()},
}
path = pathlib.Path(__file__).with_name("rl.json")
path.write_text(json.dumps(out, indent=1) + "\n")
print(path, out["versions"])
