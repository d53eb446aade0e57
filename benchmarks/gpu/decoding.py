"""Decoding of the whole 7B: tokens a second, and the share of what the memory can do."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.card import Card
from statewise.engine.slots.triton import RING, Decoder
from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.state import StateDtype

STATES: tuple[StateDtype, ...] = ("float32", "float16", "bfloat16")


def measure(card: Card, model: Mamba2LM) -> dict[str, Any]:
    """A row for each dtype of the states and each batch."""
    result: dict[str, Any] = {
        "weight_gb": sum(p.nbytes for p in model.parameters()) / 1e9, "rows": [],
    }  # fmt: skip
    for state in STATES:
        for batch in card.plan.batches:
            row = card.attempt(partial(one, card, model, batch, state))
            result["rows"].append({"state": state, "batch": batch, **row})
    return result


def one(card: Card, model: Mamba2LM, batch: int, state: StateDtype) -> dict[str, float]:
    """A step of `batch` sequences, in the mean over a window in which each state is written."""
    decoder = started(card, model, batch, state)
    window = card.plan.window

    def steps() -> None:
        for _ in range(window):  # the Transformer's graph takes the most likely token too
            decoder.replay().argmax(-1)

    took = card.time(steps, window)
    moved = step_bytes(model.config, batch, decoder.state_element, model.dtype.itemsize)
    operations = step_flops(model.config, batch)
    return {
        **card.against(took, moved, operations), "tokens_per_s": batch / took,
        "state_mb_a_sequence": decoder.nbytes / batch / 1e6,
    }  # fmt: skip


def started(card: Card, model: Mamba2LM, batch: int, state: StateDtype) -> Decoder:
    """Sequences that have just read a token, at phases that are spread out."""
    decoder = Decoder(model, batch, state=state)
    rows = np.arange(batch)
    fresh = model.zero_state(1)
    for row in rows:
        fresh.position.fill_(int(row) % RING)
        decoder.write_(row[None], fresh)
    decoder.step_(np.zeros(batch, dtype=np.int64), rows)
    return decoder


def weight_bytes(config: Mamba2Config, element: int = 2, *, embedding: bool = True) -> int:
    """Bytes of a model's weights; A_log, D and dt_bias are float32."""
    c = config
    layer = c.d_model * (c.d_in_proj + c.d_inner) + c.conv_dim * (c.d_conv + 1)
    count = c.n_layer * (layer + c.d_inner + c.d_model) + c.d_model * (c.vocab_size + 1)
    if embedding and not c.tie_embeddings:
        count += c.d_model * c.vocab_size
    return element * count + 12 * c.n_layer * c.nheads


def sequence_bytes(config: Mamba2Config, state: int, element: int = 2) -> int:
    """Bytes that a sequence takes in a decoder: state, window and ring; `state` of an element."""
    c = config
    window = element * c.conv_dim * c.d_conv
    return c.n_layer * (state * c.d_inner * c.d_state + window + RING * _entry(c, element))


def step_bytes(config: Mamba2Config, batch: int, state: int, element: int = 2) -> float:
    """Bytes of a step: weights once, states once and one RING-th of a write, half of the rings."""
    c = config
    states = state * c.d_inner * c.d_state * (1 + 1 / RING)
    rings = _entry(c, element) * ((RING - 1) / 2 + 1)
    window = element * c.conv_dim * c.d_conv  # all but the newest read, that one written
    weights = weight_bytes(c, element, embedding=False)
    return weights + batch * c.n_layer * (states + rings + window)


def _entry(config: Mamba2Config, element: int) -> int:
    """Bytes of one token in a layer's ring: x, B, dt and decay."""
    return element * (config.d_inner + config.ngroups * config.d_state) + 8 * config.nheads


def step_flops(config: Mamba2Config, batch: int) -> float:
    """Operations of the projections and the head."""
    c = config
    weights = c.n_layer * c.d_model * (c.d_in_proj + c.d_inner) + c.d_model * c.vocab_size
    return 2.0 * batch * weights


def generate(card: Card, decoder: Decoder, tokens: int) -> float:
    """Seconds in which every sequence of a decoder takes the most likely token, so many times."""

    def loop() -> None:
        for _ in range(tokens):
            decoder._tokens.copy_(decoder.replay().argmax(-1))

    with torch.inference_mode():
        return card.once(loop)
