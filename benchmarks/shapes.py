"""The models that are measured, their random weights, and the least work that each task needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.formats.configs import to_hf

SCAN_CHUNK = 32  # Q in the count of the scan's own products
TRAINING_LINEAR = 3  # forward, and the gradients of inputs and weights
TRAINING_SCAN = 3.5  # as TRAINING_LINEAR, and the chunk matrices are made again
LOGIT_SPREAD = 4.0  # makes the logits' standard deviation about 2: neither flat nor one-hot
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1 + 4 / 64, "q8_0": 34 / 32}

SHAPES = {
    "130M": Mamba2Config(
        d_model=768, n_layer=24, d_state=128, headdim=64, ngroups=1, vocab_size=4096
    ),
    "130M, 2 layers": Mamba2Config(
        d_model=768, n_layer=2, d_state=128, headdim=64, ngroups=1, vocab_size=4096
    ),
    "7B layer": Mamba2Config(
        d_model=4096,
        n_layer=1,
        d_state=128,
        headdim=64,
        ngroups=8,
        vocab_size=4096,
        tie_embeddings=False,
    ),
    "small": Mamba2Config(
        d_model=256, n_layer=2, d_state=64, headdim=32, ngroups=1, vocab_size=512
    ),
    "tiny": Mamba2Config(d_model=64, n_layer=2, d_state=32, headdim=16, ngroups=2, vocab_size=256),
}


def scan_flops(config: Mamba2Config) -> float:
    """Operations of the scan's products, of one token in all layers, forward."""
    c = config
    chunk = 2 * SCAN_CHUNK * (c.ngroups * c.d_state + c.d_inner)
    return c.n_layer * (chunk + 4 * c.d_state * c.d_inner)


def linear_weights(config: Mamba2Config) -> int:
    """Weights of the projections and of the head."""
    c = config
    return c.n_layer * c.d_model * (c.d_in_proj + c.d_inner) + c.d_model * c.vocab_size


def decode_bytes(config: Mamba2Config, dtype: str, batch: int) -> float:
    """Bytes that a step of `batch` sequences must move: weights once, float32 states twice."""
    c = config
    state = c.n_layer * c.nheads * c.headdim * c.d_state * 4
    return linear_weights(c) * WEIGHT_BYTES[dtype] + 2 * batch * state


def random_model(config: Mamba2Config, seed: int) -> Mamba2LM:
    """A model whose every parameter matters to the logits, and is a bfloat16 number.

    So the bfloat16 contestants have the very weights of the float32 ones.
    """
    torch.manual_seed(seed)
    model = Mamba2LM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.add_(0.1 * torch.randn_like(p))
            elif name.endswith(("mixer.D", "conv1d.bias")):
                p.add_(0.3 * torch.randn_like(p))
            elif name.endswith("norm_f.weight"):
                p.add_(0.1 * torch.randn_like(p)).mul_(LOGIT_SPREAD * (768 / config.d_model) ** 0.5)
            p.copy_(p.bfloat16())
    return model


def save_checkpoint(model: Mamba2LM, folder: Path) -> Path:
    """Write the model in float32 as a folder that `transformers` and Statewise read."""
    folder.mkdir(parents=True)
    described = to_hf(model.config, eos_id=0, dtype=torch.float32)
    (folder / "config.json").write_text(json.dumps(described))
    weights = {name: t.contiguous() for name, t in model.state_dict().items()}
    if model.config.tie_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "sizes.json").write_text(json.dumps(asdict(model.config)))
    return folder


def random_tokens(config: Mamba2Config, *shape: int, seed: int = 0) -> np.ndarray:
    """Token ids drawn evenly."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape, dtype=np.int64)
