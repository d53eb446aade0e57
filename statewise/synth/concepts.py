"""Difficulty levels: the name a prompt carries, and how many concepts a problem of it composes."""

from __future__ import annotations

from statewise.errors import DataError

LEVELS: dict[str, int] = {
    "Foundation": 1,
    "AMC8": 1,
    "AMC10": 2,
    "AMC12": 2,
    "AIME": 3,
    "HMMT-Feb": 4,
}


def levels_for(num_concepts: int) -> tuple[str, ...]:
    """The levels whose problems compose this many concepts.

    Raises:
        DataError: no level does.
    """
    names = tuple(name for name, k in LEVELS.items() if k == num_concepts)
    if not names:
        most = max(LEVELS.values())
        raise DataError(f"no level composes {num_concepts} concepts: choose between 1 and {most}")
    return names
