"""What a claim comes to, decided from numbers by pure functions and said in a closed list of words.

A claim is a comparison of two models on several sets of problems: on each set, and over all of
them. The word never says more than the table beside it: a set on which nothing can be seen makes
the whole too weak, and sets that contradict each other make it mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """What came of a claim, or of one set of it.

    On one seed, "held" and "reversed" are not to be had: what would be those is "indicated" or
    "reversal indicated". Nor is "held" against an opponent that is not the best one.
    """

    HELD = "held"
    REVERSED = "reversed"
    MIXED = "mixed"
    UNDECIDED = "undecided"
    TOO_WEAK = "too weak to say"
    INDICATED = "indicated"
    REVERSAL_INDICATED = "reversal indicated"


_FOR = {Word.HELD, Word.INDICATED}
_AGAINST = {Word.REVERSED, Word.REVERSAL_INDICATED}
# From what speaks most against a claim to what speaks most for it.
_FROM_WORST = (
    Word.REVERSED,
    Word.REVERSAL_INDICATED,
    Word.TOO_WEAK,
    Word.MIXED,
    Word.UNDECIDED,
    Word.INDICATED,
    Word.HELD,
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one set, or of all together.

    Attributes:
        difference: how far the model that the claim is for lies above the other.
        interval: its 95 % interval, low and high; over seeds as well where there are several.
        scores: pass@1 of every model that is compared, by name.
    """

    difference: float
    interval: tuple[float, float]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """The word over all, the word of each set, and which set speaks most against the claim."""

    word: Word
    sets: dict[str, Word]
    worst: str


def of_interval(interval: tuple[float, float], *, seeds: int) -> Word:
    """The word of a difference by its interval alone."""
    low, high = interval
    if low > 0:
        return Word.HELD if seeds > 1 else Word.INDICATED
    if high < 0:
        return Word.REVERSED if seeds > 1 else Word.REVERSAL_INDICATED
    return Word.UNDECIDED


def of_set(evidence: Evidence, *, seeds: int, reach: float) -> Word:
    """The word of one set.

    It is too weak to say anything if fewer than two of the models that are compared have learned
    what it asks: two failures differ by accident.

    Args:
        evidence: its figures.
        seeds: how many trainings of each model they stand on.
        reach: the pass@1 from which on a model has learned what the set asks.
    """
    if sum(score >= reach for score in evidence.scores.values()) < 2:
        return Word.TOO_WEAK
    return of_interval(evidence.interval, seeds=seeds)


def over_sets(
    sets: Mapping[str, Evidence], together: Evidence, *, seeds: int, reach: float
) -> Decision:
    """The word over all sets.

    - a set is too weak: so is the whole;
    - one set speaks for the claim and another against it: mixed;
    - all sets speak alike: their word;
    - else some are undecided: what the interval over all problems together says.

    Args:
        sets: the figures of each; one at least.
        together: the figures over the problems of all.
        seeds: as for `of_set`.
        reach: as for `of_set`.
    """
    words = {name: of_set(e, seeds=seeds, reach=reach) for name, e in sets.items()}
    worst = min(words, key=lambda name: (rank(words[name]), sets[name].difference))
    said = set(words.values())
    if Word.TOO_WEAK in said:
        word = Word.TOO_WEAK
    elif said & _FOR and said & _AGAINST:
        word = Word.MIXED
    elif len(said) == 1:
        (word,) = said
    else:
        word = of_interval(together.interval, seeds=seeds)
        if (word in _FOR and not said & _FOR) or (word in _AGAINST and not said & _AGAINST):
            word = Word.UNDECIDED
    return Decision(word, words, worst)


def rank(word: Word) -> int:
    """How far a word speaks for the claim: 0 is most against it."""
    return _FROM_WORST.index(word)


def of_parts(words: Sequence[Word]) -> Word:
    """The word of a claim that several comparisons must all bear out."""
    said = set(words)
    if Word.TOO_WEAK in said:
        return Word.TOO_WEAK
    if Word.MIXED in said or (said & _FOR and said & _AGAINST):
        return Word.MIXED
    if len(said) == 1:
        return words[0]
    return Word.UNDECIDED


def supports(word: Word) -> bool | None:
    """Whether a word speaks for the claim (True), against it (False), or for neither (None)."""
    return True if word in _FOR else False if word in _AGAINST else None
