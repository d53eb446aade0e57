"""The engine: continues prompts with a model, in a fixed amount of memory."""

from statewise.engine.engine import Engine
from statewise.engine.request import Event, Failed, Finished, Request, Token
from statewise.engine.slots import Slots, open_slots

__all__ = [
    "Engine",
    "Event",
    "Failed",
    "Finished",
    "Request",
    "Slots",
    "Token",
    "open_slots",
]
