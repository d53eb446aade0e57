"""Running sequences in slots, behind one interface: compiled where it can be, plain elsewhere."""

from statewise.engine.slots.open import open_slots
from statewise.engine.slots.protocol import Ints, Slots, Weights

__all__ = ["Ints", "Slots", "Weights", "open_slots"]
