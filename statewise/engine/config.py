"""What a recipe says about the engine."""

from __future__ import annotations

from dataclasses import dataclass

from statewise.errors import ConfigError
from statewise.model.ops import Backend, Device
from statewise.model.state import StateDtype


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine of evaluation.

    Attributes:
        slots: sequences that run at once; their states are all the memory that decoding takes. In
            plain torch 1 or a multiple of 32 keeps every completion the same to the last bit in any
            company; the kernels, on a CPU and on a GPU, keep it with any number.
        device: "auto" is a GPU if there is one.
        backend: whose kernels compute (`Mamba2LM.backend`).
        state: dtype in which recurrent states are kept; 16 bits on a GPU, with Triton's kernels.
    """

    slots: int = 32
    device: Device = "auto"
    backend: Backend = "auto"
    state: StateDtype = "float32"

    def __post_init__(self) -> None:
        """Refuse an engine without slots. Raises `ConfigError`."""
        if self.slots < 1:
            raise ConfigError(f"slots: must be at least 1, found {self.slots}")
