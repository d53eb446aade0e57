"""The Transformers beside a run's model: as many parameters, the same vocabulary, a like depth."""

from __future__ import annotations

import torch
from transformers import Qwen2Config

from statewise.baseline import TransformerLM, kv_cache_bytes, with_window
from statewise.baseline import shapes as shapes_of
from statewise.errors import ConfigError
from statewise.model import Mamba2Config

DEFAULT_SHAPE = "grouped-7"  # the leanest cache: what is fairest where speed alone is compared


def shapes(model: Mamba2Config) -> dict[str, Qwen2Config]:
    """The shapes that stand for choice, by name (`statewise.baseline.shapes`).

    Raises `ConfigError` where none has as many parameters.
    """
    return shapes_of(
        model.num_params,
        vocab_size=model.vocab_size,
        tie_embeddings=model.tie_embeddings,
        n_layer=model.n_layer,
    )


def shape(model: Mamba2Config) -> Qwen2Config:
    """The one that is taken where nothing was tried. Raises as `shapes`."""
    return shapes(model)[DEFAULT_SHAPE]


def windowed(model: Mamba2Config, config: Qwen2Config) -> Qwen2Config:
    """A shape whose tokens see just so far back that its keys and values fill the model's state.

    Raises:
        ConfigError: the state has not the bytes of one token's keys and values.
    """
    window = model.state_bytes() // kv_cache_bytes(config, 1)
    if window < 1:
        raise ConfigError(
            f"transformer: one token's keys and values take {kv_cache_bytes(config, 1)} bytes, "
            f"more than the model's whole state of {model.state_bytes()}"
        )
    return with_window(config, window)


def fresh(config: Qwen2Config, seed: int) -> TransformerLM:
    """A Transformer of a shape with fresh weights, drawn from a seed."""
    torch.manual_seed(seed)
    return TransformerLM(config)
