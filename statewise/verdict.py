"""The words in which a claim is decided: a closed list, the same in results, figures and pages."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """What the figures say of a claim."""

    HELD = "held"
    REVERSED = "reversed"
    MIXED = "mixed"  # parts of it disagree
    UNDECIDED = "undecided"  # an interval includes no difference
    TOO_WEAK = "too weak to say"  # not enough was measured for an interval
