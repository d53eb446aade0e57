"""Decoding of the whole 7B: tokens a second, and the share of what the memory can do."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.card import Card
from statewise.model import Mamba2LM
from statewise.model.state import StateDtype
from statewise.model.triton.decode import RING, Decoder

STATES: tuple[StateDtype, ...] = ("float32", "float16", "bfloat16")


def measure(card: Card, model: Mamba2LM) -> dict[str, Any]:
    """A row for each dtype of the states and each batch."""
    found: dict[str, Any] = {
        "weight_gb": sum(p.nbytes for p in model.parameters()) / 1e9, "rows": [],
    }  # fmt: skip
    for state in STATES:
        for batch in card.plan.batches:
            row = card.attempt(partial(one, card, model, batch, state))
            found["rows"].append({"state": state, "batch": batch, **row})
    return found


def one(card: Card, model: Mamba2LM, batch: int, state: StateDtype) -> dict[str, float]:
    """A step of `batch` sequences, in the mean over a window in which each state is written."""
    decoder = started(card, model, batch, state)
    window = card.plan.window

    def steps() -> None:
        for _ in range(window):
            decoder.replay()

    took = card.time(steps, window)
    moved, operations = step_bytes(model, decoder), step_flops(model, batch)
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


def step_bytes(model: Mamba2LM, decoder: Decoder) -> float:
    """Bytes of a step: weights once, states once and one RING-th of a write, half of the rings."""
    c = model.config
    weights = sum(p.nbytes for p in model.parameters())
    if not c.tie_embeddings:
        weights -= model.backbone.embeddings.weight.nbytes
    element = model.lm_head.weight.element_size()
    states = c.d_inner * c.d_state * decoder._ssm.element_size() * (1 + 1 / RING)
    entry = element * (c.d_inner + c.ngroups * c.d_state) + 8 * c.nheads
    rings = entry * (RING - 1) / 2 + entry
    window = element * c.conv_dim * (c.d_conv + 1)
    return weights + decoder.slots * c.n_layer * (states + rings + window)


def step_flops(model: Mamba2LM, batch: int) -> float:
    """Operations of the projections and the head."""
    c = model.config
    weights = c.n_layer * c.d_model * (c.d_in_proj + c.d_inner) + c.d_model * c.vocab_size
    return 2.0 * batch * weights


def generate(card: Card, decoder: Decoder, tokens: int) -> float:
    """Seconds in which every sequence of a decoder takes the most likely token, so many times."""

    def loop() -> None:
        for _ in range(tokens):
            decoder._tokens.copy_(decoder.replay().argmax(-1))

    with torch.inference_mode():
        return card.once(loop)
