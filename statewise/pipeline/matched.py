"""The Transformer beside a run's model: as many parameters, the same vocabulary, a like depth."""

from __future__ import annotations

import torch
from transformers import Qwen2Config

from statewise.baseline import TransformerLM, match_config
from statewise.model import Mamba2Config


def shape(model: Mamba2Config) -> Qwen2Config:
    """Its sizes. Raises `ConfigError` where none has as many parameters."""
    return match_config(
        model.num_params,
        vocab_size=model.vocab_size,
        tie_embeddings=model.tie_embeddings,
        n_layer=model.n_layer,
    )


def transformer(model: Mamba2Config, seed: int) -> TransformerLM:
    """It with fresh weights, drawn from a seed."""
    torch.manual_seed(seed)
    return TransformerLM(shape(model))
