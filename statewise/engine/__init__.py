"""The engine: continues prompts with a model, in a fixed amount of memory."""

from statewise.engine.engine import Engine
from statewise.engine.slots import Slots, open_slots

__all__ = ["Engine", "Slots", "open_slots"]
