"""The optimiser: AdamW, or Muon for projections beside it, and the learning rate at each moment."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from statewise.model.language_model import LanguageModel
from statewise.train.config import Phase, TrainConfig

NOT_DECAYED = ("A_log", "D", "dt_bias")


MOMENTS = {  # what each of them remembers of a weight, as large as the weight
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
}


def build_optimizers(model: LanguageModel[Any], config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of what is trained, each weight in one of them.

    Weight decay is on matrices only (never on A_log, D, dt_bias, biases, norms). Muon takes the
    matrices within blocks, not embedding and head, as Jordan et al. 2024 advise.
    """
    by_muon = set()
    if config.optimiser == "muon":
        by_muon = {id(p) for block in model.blocks for p in block.parameters() if p.ndim == 2}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    orthogonal: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or name.rpartition(".")[2] in NOT_DECAYED
        if id(parameter) in by_muon:
            orthogonal.append(parameter)
        else:
            (kept if plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.eps, fused=True)
    if not orthogonal:
        return [adamw]
    muon = torch.optim.Muon(
        orthogonal, lr=0.0, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def learning_rate(phase: Phase, step: int, tokens: int) -> float:
    """The learning rate of a phase's step.

    Args:
        phase: peak, warm-up and decay.
        step: steps already done in the phase.
        tokens: tokens already read in the phase.
    """
    if step < phase.warmup_steps:
        if phase.warmup == "log":
            return phase.lr * math.log(max(step, 1)) / math.log(max(phase.warmup_steps, 2))
        return phase.lr * (step + 1) / phase.warmup_steps
    left = max(1.0 - tokens / phase.tokens, 0.0)  # of the phase
    share = {
        "constant": 1.0,
        "linear": left,
        "cosine": (1.0 - math.cos(math.pi * left)) / 2,
        "wsd": min(left / phase.decay_share, 1.0),
    }[phase.decay]
    return phase.lr * (phase.floor + (1.0 - phase.floor) * share)
