"""The optimiser: AdamW over two groups, and the learning rate at each moment."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from statewise.model.language_model import LanguageModel
from statewise.train.config import Phase, TrainConfig

NOT_DECAYED = ("A_log", "D", "dt_bias")


def build_optimizer(model: LanguageModel[Any], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is trained, with weight decay on matrices only.

    A_log, D, dt_bias, biases and norms are never decayed.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or name.rpartition(".")[2] in NOT_DECAYED
        (kept if plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.eps, fused=True)


def learning_rate(phase: Phase, step: int, tokens: int) -> float:
    """The learning rate of a phase's step.

    Args:
        phase: peak, warm-up and decay.
        step: steps already done in the phase.
        tokens: tokens already read in the phase.
    """
    if step < phase.warmup_steps:
        return phase.lr * (step + 1) / phase.warmup_steps
    left = max(1.0 - tokens / phase.tokens, 0.0)  # of the phase
    share = {
        "constant": 1.0,
        "linear": left,
        "cosine": (1.0 - math.cos(math.pi * left)) / 2,
        "wsd": min(left / phase.decay_share, 1.0),
    }[phase.decay]
    return phase.lr * (phase.floor + (1.0 - phase.floor) * share)
