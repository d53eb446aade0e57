"""Running sequences in slots, behind one interface: compiled where it can be, plain elsewhere."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.errors import ConfigError
from statewise.model import Mamba2LM, State
from statewise.model.ops import choose
from statewise.model.state import StateDtype

Weights = Literal["model", "int8"]
IDLE_TOKEN = 0  # what a plain step reads in a slot that nobody uses

Ints = npt.NDArray[np.int64]


class Slots(Protocol):
    """The memory of a fixed number of sequences, and the step that reads a token for some."""

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, at any length."""
        ...

    def write_(self, slots: Ints, rows: State) -> None:
        """Put the k sequences of `rows` into the slots (k,)."""
        ...

    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
        """Read one token (b,) for the sequences in the slots (b,); logits (b, vocab_size)."""
        ...


def open_slots(
    model: Mamba2LM, slots: int, *, weights: Weights = "model", state: StateDtype = "float32"
) -> Slots:
    """Slots for a model: by kernels, the CPU's or a GPU's, where they fit it; else plain torch.

    Args:
        model: the weights.
        slots: how many sequences.
        weights: "int8" holds projections and head as int8; only the CPU's kernels can.
        state: dtype in which recurrent states are kept; only a GPU's kernels have another.

    Raises:
        ConfigError: what is asked for is not to be had here, or does not fit the sizes.
    """
    ours = isinstance(model, Mamba2LM)  # the baseline's Transformer has slots as well
    if weights == "model" and ours and model.decoder == "triton":
        from statewise.model.triton import decode

        return decode.Decoder(model, slots, state=state)
    if state != "float32":
        why = "it has states of its own"
        if ours:
            try:
                choose("triton", model.config, model.device, model.dtype)
                why = f"backend is {model.backend!r}"
            except ConfigError as e:
                why = str(e)
        raise ConfigError(
            f"state: {state!r} needs Triton's kernels, which are not used here: {why}"
        )
    if ours and model.decoder == "cpu" and model.config.vocab_size > 3:
        from statewise.model.cpu.decode import Decoder  # compiles; not all runs need it

        return Decoder(model, slots, weights=weights)
    if weights != "model":
        raise ConfigError(f"weights: {weights!r} needs the CPU's kernels, and this model has none")
    return PlainSlots(model, slots)


class PlainSlots:
    """Slots over `step_` of the model itself, on any device.

    A step always runs over all slots, idle ones included. The shapes of its matrix products
    therefore never change, and a sequence's numbers do not depend on how many others are running.
    """

    def __init__(self, model: Mamba2LM, slots: int) -> None:
        self._model = model
        self._state = model.zero_state(slots)
        self._slots = slots

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, at any length."""
        return self._state.nbytes

    def write_(self, slots: Ints, rows: State) -> None:
        """Put the k sequences of `rows` into the slots (k,)."""
        self._state.write_(torch.from_numpy(slots).to(self._model.device), rows)

    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
        """Read one token (b,) for the sequences in the slots (b,); logits (b, vocab_size)."""
        ids = np.full(self._slots, IDLE_TOKEN)
        ids[slots] = tokens
        logits = self._model.step_(torch.from_numpy(ids).to(self._model.device), self._state)
        return logits if len(slots) == self._slots else logits[torch.from_numpy(slots)]
