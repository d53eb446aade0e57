"""Reading a prompt before anything is drawn: alone, and in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from statewise.model.language_model import LanguageModel, Memory

PREFILL_TOKENS = (
    2048  # a piece: bounds the memory of a long prompt; whole chunks of any power of two
)


class Prefill:
    """A prompt that a model reads, alone, so that nothing beside it can change how it is rounded.

    It is cut at the multiples of `PREFILL_TOKENS`, whatever else runs.

    Args:
        ids: the prompt's tokens, at least one.

    Attributes:
        state: one row, after what was read.
        logits: (vocab_size,) after the last token; of use once `pending` is 0.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids
        self.state: Memory | None = None
        self.logits: Tensor | None = None
        self._read = 0

    @property
    def pending(self) -> int:
        """Tokens of the next piece; 0 when all is read."""
        return min(PREFILL_TOKENS, len(self.ids) - self._read)

    def read(self, model: LanguageModel[Any]) -> None:
        """Let the model read the next piece."""
        piece = self.ids[self._read : self._read + PREFILL_TOKENS]
        out = model(torch.tensor([piece], device=model.device), self.state, logits_to_keep=1)
        self.state, self.logits = out.state, out.logits[0, -1]
        self._read += len(piece)
