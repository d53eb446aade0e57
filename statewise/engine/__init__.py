"""The engine: continues prompts with a model, in a fixed amount of memory."""

from statewise.engine.engine import Engine

__all__ = ["Engine"]
