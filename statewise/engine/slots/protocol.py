"""What the engine asks of whatever keeps its running sequences."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

Weights = Literal["model", "int8"]

Ints = npt.NDArray[np.int64]


class Slots(Protocol):
    """The memory of a fixed number of sequences, and the step that reads a token for some."""

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, at any length."""
        ...

    def write_(self, slots: Ints, rows: Any) -> None:
        """Put the k sequences of `rows`, a memory of the model's kind, into the slots (k,)."""
        ...

    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
        """Read one token (b,) for the sequences in the slots (b,); logits (b, vocab_size)."""
        ...
