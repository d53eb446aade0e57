"""Which slots a model gets: compiled where it can be, plain elsewhere."""

from __future__ import annotations

from statewise.engine.slots.plain import PlainSlots
from statewise.engine.slots.protocol import Slots, Weights
from statewise.errors import ConfigError
from statewise.model import Mamba2LM
from statewise.model.ops import DEFINITION, choose
from statewise.model.state import StateDtype


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
    if weights == "model" and ours and model.ops(model.device).step is not DEFINITION.step:
        from statewise.engine.slots import triton  # an extra; not all machines have it

        return triton.Decoder(model, slots, state=state)
    if state != "float32":
        why = "it has states of its own"
        if ours:
            try:
                choose("triton", model.device, model.dtype, _sizes(model))
                why = f"backend is {model.backend!r}"
            except ConfigError as e:
                why = str(e)
        raise ConfigError(
            f"state: {state!r} needs Triton's kernels, which are not used here: {why}"
        )
    if ours and model.compiled(model.device) and model.config.vocab_size > 3:
        from statewise.engine.slots import cpu  # compiles; not all runs need it

        return cpu.Decoder(model, slots, weights=weights)
    if weights != "model":
        raise ConfigError(f"weights: {weights!r} needs the CPU's kernels, and this model has none")
    return PlainSlots(model, slots)


def _sizes(model: Mamba2LM) -> tuple[int, int]:
    return model.config.headdim, model.config.d_state
