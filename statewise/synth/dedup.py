"""Which statements are copies of one another, and which training statements give away a test.

Numbers count as words: two exercises of one form with other numbers are different problems.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from statewise.text import words

SHINGLE = 3
NGRAM = 8


def duplicates(statements: Sequence[str], *, jaccard: float) -> set[int]:
    """Indices of statements that repeat an earlier one.

    A repeat has the same words, or word 3-shingles whose Jaccard similarity (MinHash estimate, 64
    permutations) is at least `jaccard`. The first of a group stays.
    """
    repeated: set[int] = set()
    seen: set[tuple[str, ...]] = set()
    index = MinHashLSH(threshold=jaccard, num_perm=64)
    signatures: dict[int, MinHash] = {}
    for i, statement in enumerate(statements):
        tokens = tuple(words(statement))
        if tokens in seen:
            repeated.add(i)
            continue
        seen.add(tokens)
        signature = MinHash(num_perm=64, seed=1)
        signature.update_batch(
            [" ".join(s).encode("utf-8", "surrogatepass") for s in _ngrams(tokens, SHINGLE)]
        )
        if any(signature.jaccard(signatures[j]) >= jaccard for j in index.query(signature)):
            repeated.add(i)
        else:
            index.insert(i, signature)
            signatures[i] = signature
    return repeated


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    n = min(n, len(tokens))
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


class Contamination(NamedTuple):
    """What decontamination found.

    Attributes:
        dropped: indices of training statements that contain an evaluation statement.
        highest: for each evaluation set, the largest containment left in what was kept.
    """

    dropped: set[int]
    highest: dict[str, float]


class Exams:
    """Evaluation statements that training texts are held against, any number of texts.

    The measure is the share of an evaluation statement's word 8-grams that a text has too, each
    weighted by its rarity among the texts: stock phrases ("where m and n are relatively prime
    positive integers") weigh little, the numbers and names of one problem much.

    The texts are read once, for their `marks`; when all have been read, `weigh` says how rare each
    mark is, and `shares` what a text comes to. What is kept of a text are its marks.

    Args:
        tests: evaluation set -> its statements.

    Attributes:
        statements: of each statement its set, and its number there.
    """

    def __init__(self, tests: Mapping[str, Sequence[str]]) -> None:
        self.statements = [(name, i) for name, texts in tests.items() for i in range(len(texts))]
        self._marks: dict[tuple[str, ...], int] = {}  # of an n-gram
        self._holders: list[list[int]] = []  # of each mark, the statements that have it
        texts = (text for texts in tests.values() for text in texts)
        for statement, text in enumerate(texts):
            for gram in dict.fromkeys(_ngrams(tuple(words(text)), NGRAM)):
                mark = self._marks.setdefault(gram, len(self._holders))
                if mark == len(self._holders):
                    self._holders.append([])
                self._holders[mark].append(statement)
        self._weights: list[float] = []
        self._totals: list[float] = []

    def marks(self, text: str) -> list[int]:
        """The numbers of the n-grams of evaluation statements that a text has, each once."""
        grams = _ngrams(tuple(words(text)), NGRAM)
        return sorted({self._marks[gram] for gram in grams if gram in self._marks})

    def weigh(self, texts: int, having: Mapping[int, int]) -> None:
        """Give each n-gram its weight: how rare it is among the texts.

        Args:
            texts: how many there are.
            having: of each mark, how many of them have it.
        """
        self._weights = [
            math.log((texts + 1) / (having.get(mark) or 1)) + 1e-9
            for mark in range(len(self._holders))
        ]
        self._totals = [0.0] * len(self.statements)
        for weight, holders in zip(self._weights, self._holders, strict=True):
            for statement in holders:
                self._totals[statement] += weight

    def shares(self, marks: Iterable[int]) -> dict[int, float]:
        """How much of which statements a text with these marks holds, in 0..1, where not 0."""
        shares: dict[int, float] = defaultdict(float)
        for mark in marks:
            for statement in self._holders[mark]:
                shares[statement] += self._weights[mark] / self._totals[statement]
        return shares


def decontaminate(
    statements: Sequence[str], tests: Mapping[str, Sequence[str]], *, containment: float
) -> Contamination:
    """Find training statements that hold (nearly) an evaluation statement, as `Exams` measures it.

    Args:
        statements: training statements.
        tests: evaluation set name -> its statements.
        containment: the share from which a training statement is dropped.
    """
    exams = Exams(tests)
    every = [exams.marks(s) for s in statements]
    exams.weigh(len(statements), Counter(mark for marks in every for mark in marks))
    dropped: set[int] = set()
    highest = dict.fromkeys(tests, 0.0)
    for i, marks in enumerate(every):
        shares = exams.shares(marks)
        if any(share >= containment for share in shares.values()):
            dropped.add(i)
            continue
        for statement, share in shares.items():
            name, _ = exams.statements[statement]
            highest[name] = max(highest[name], share)
    return Contamination(dropped, highest)
