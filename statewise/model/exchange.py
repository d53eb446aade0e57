"""A sequence's memory handed over: caches of `transformers`, between any two tokens.

What is prefilled there may be decoded here and the other way round. They keep the last K inputs of
the convolution, of which the oldest is never read again; here it is K - 1. They do not count what a
sequence has read, so the caller says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from statewise.errors import DataError
from statewise.model.config import Mamba2Config
from statewise.model.state import State

if TYPE_CHECKING:
    from transformers import Cache, DynamicCache
    from transformers import Mamba2Config as TheirConfig


def from_transformers(cache: Cache, config: Mamba2Config, *, position: Tensor | int = 0) -> State:
    """The state that `Mamba2ForCausalLM` has left in its cache. A copy: the cache stays usable.

    Args:
        cache: the `cache_params` of its output, after at least one token.
        config: the model's sizes.
        position: (batch,) or a number: how many tokens each sequence has read, padding not
            counted. It decides where later chunks are cut and so is a matter of rounding only.

    Raises:
        DataError: the cache is of another model, or has read nothing.
    """
    c = config
    if len(cache.layers) != c.n_layer:
        raise DataError(f"cache: it has {len(cache.layers)} layers, the model {c.n_layer}")
    conv, ssm = [], []
    for i in range(c.n_layer):
        window, recurrent = cache.get_conv_state(i), cache.get_recurrent_state(i)
        if window is None or recurrent is None:
            raise DataError(f"cache: layer {i} has read nothing; a state begins with a first token")
        _check(f"cache: layer {i}: convolution", window, (c.conv_dim, c.d_conv))
        _check(f"cache: layer {i}: recurrent state", recurrent, (c.nheads, c.headdim, c.d_state))
        conv.append(window[..., 1:])
        ssm.append(recurrent.float())
    batch, device = window.shape[0], window.device
    read = torch.as_tensor(position, dtype=torch.int64, device=device)
    return State(torch.stack(conv), torch.stack(ssm), read.expand(batch).clone())


def to_transformers(state: State, config: TheirConfig) -> DynamicCache:
    """A state as the `cache_params` from which `Mamba2ForCausalLM` goes on. A copy.

    Args:
        state: of any number of sequences, each after at least one token.
        config: their model's configuration (`model.config`).

    Raises:
        DataError: the state is not of a model of these sizes.
    """
    from transformers import DynamicCache  # takes seconds, and only exchanges need it

    layers, heads = config.num_hidden_layers, config.num_heads
    channels = heads * config.head_dim + 2 * config.n_groups * config.state_size
    if state.conv.shape[0] != layers:
        raise DataError(f"state: it has {state.conv.shape[0]} layers, the model {layers}")
    _check("state: convolution", state.conv[0], (channels, config.conv_kernel - 1))
    _check("state: recurrent state", state.ssm[0], (heads, config.head_dim, config.state_size))
    cache = DynamicCache(config=config)
    for i in range(layers):
        window = torch.nn.functional.pad(state.conv[i], (1, 0))
        cache.update_conv_state(window, i, conv_kernel_size=config.conv_kernel)
        cache.update_recurrent_state(state.ssm[i], i)
    return cache


def _check(what: str, part: Tensor, sizes: tuple[int, ...]) -> None:
    if part.shape[1:] != sizes:
        raise DataError(
            f"{what}: a sequence's part has shape {tuple(part.shape[1:])}, the model needs {sizes}"
        )
