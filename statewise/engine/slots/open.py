"""Which slots a model gets: compiled where it can be, plain elsewhere."""

from __future__ import annotations

from typing import Any, cast

from statewise.engine.slots.plain import PlainSlots
from statewise.engine.slots.protocol import Slots, Weights
from statewise.errors import ConfigError
from statewise.model import Mamba2LM
from statewise.model.language_model import LanguageModel
from statewise.model.state import StateDtype


def open_slots(
    model: LanguageModel[Any],
    slots: int,
    *,
    weights: Weights = "model",
    state: StateDtype = "float32",
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
    if model.decoder == "triton" and weights == "model":
        from statewise.engine.slots import triton  # an extra; not all machines have it

        return triton.Decoder(_with_kernels(model), slots, state=state)
    if state != "float32":
        raise ConfigError(
            f"state: {state!r} needs Triton's kernels, which do not decode this model here; "
            "backend = 'triton' says why"
        )
    if model.decoder == "cpu" and model.vocab_size > 3:
        from statewise.engine.slots import cpu  # compiles; not all runs need it

        return cpu.Decoder(_with_kernels(model), slots, weights=weights)
    if weights != "model":
        raise ConfigError(f"weights: {weights!r} needs the CPU's kernels, and this model has none")
    return PlainSlots(model, slots)


def _with_kernels(model: LanguageModel[Any]) -> Mamba2LM:
    """What says that kernels decode it is a `Mamba2LM`: they read its weights."""
    return cast(Mamba2LM, model)
