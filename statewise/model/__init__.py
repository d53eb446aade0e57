"""The model: its shape, the recurrence, the language model, its state, and checkpoints."""

from statewise.model.config import Mamba2Config
from statewise.model.mamba2 import LMOutput, Mamba2LM
from statewise.model.ssd import SSDOutput, ssd_chunked, ssd_recurrent, ssd_step
from statewise.model.state import State

__all__ = [
    "LMOutput",
    "Mamba2Config",
    "Mamba2LM",
    "SSDOutput",
    "State",
    "ssd_chunked",
    "ssd_recurrent",
    "ssd_step",
]
