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


def decontaminate(
    statements: Sequence[str], tests: Mapping[str, Sequence[str]], *, containment: float
) -> Contamination:
    """Find training statements that hold (nearly) an evaluation statement.

    The measure is the share of the evaluation statement's word 8-grams that the training statement
    has too, each weighted by its rarity among the training statements: stock phrases ("where m and
    n are relatively prime positive integers") weigh little, the numbers and names of one problem
    much.

    Args:
        statements: training statements.
        tests: evaluation set name -> its statements.
        containment: the share from which a training statement is dropped.
    """
    grams = [set(_ngrams(tuple(words(s)), NGRAM)) for s in statements]
    owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
    names: list[str] = []
    test_grams: list[set[tuple[str, ...]]] = []
    for name, texts in tests.items():
        for text in texts:
            test_grams.append(set(_ngrams(tuple(words(text)), NGRAM)))
            names.append(name)
            for gram in test_grams[-1]:
                owners[gram].append(len(test_grams) - 1)
    frequency = Counter(g for statement_grams in grams for g in statement_grams if g in owners)
    weight = {g: math.log((len(grams) + 1) / (frequency[g] or 1)) + 1e-9 for g in owners}
    totals = [sum(weight[g] for g in statement_grams) for statement_grams in test_grams]
    dropped: set[int] = set()
    highest = dict.fromkeys(tests, 0.0)
    for i, statement_grams in enumerate(grams):
        shares = _shares(statement_grams, owners, weight, totals)
        if any(share >= containment for share in shares.values()):
            dropped.add(i)
            continue
        for test, share in shares.items():
            highest[names[test]] = max(highest[names[test]], share)
    return Contamination(dropped, highest)


def _shares(
    grams: Iterable[tuple[str, ...]],
    owners: dict[tuple[str, ...], list[int]],
    weight: dict[tuple[str, ...], float],
    totals: list[float],
) -> dict[int, float]:
    shares: dict[int, float] = defaultdict(float)
    for gram in grams:
        for test in owners.get(gram, ()):
            shares[test] += weight[gram] / totals[test]
    return shares
