"""Slots in plain torch: the step of the model itself, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.engine.slots.protocol import Ints
from statewise.model.language_model import LanguageModel, Memory

IDLE_TOKEN = 0  # what is read in a slot that nobody uses


class PlainSlots:
    """Slots over `step_` of the model itself, on any device.

    A step always runs over all slots, idle ones included. The shapes of its matrix products
    therefore never change, and a sequence's numbers do not depend on how many others are running.
    """

    def __init__(self, model: LanguageModel[Any], slots: int) -> None:
        self._model = model
        self._state = model.zero_state(slots)
        self._slots = slots

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, at any length."""
        return self._state.nbytes

    def write_(self, slots: Ints, rows: Memory) -> None:
        """Put the k sequences of `rows` into the slots (k,)."""
        self._state.write_(torch.from_numpy(slots).to(self._model.device), rows)

    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
        """Read one token (b,) for the sequences in the slots (b,); logits (b, vocab_size)."""
        ids = np.full(self._slots, IDLE_TOKEN)
        ids[slots] = tokens
        logits = self._model.step_(torch.from_numpy(ids).to(self._model.device), self._state)
        return logits if len(slots) == self._slots else logits[torch.from_numpy(slots)]
