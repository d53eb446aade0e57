"""Which concepts a problem composes: sets that go together, learnt from problems that people wrote.

After PromptCoT 1.0 (arXiv 2503.02324): the first concept of a set is drawn as often as seed
problems have it, each further one with a weight of exp(score / temperature), where the score says
how often it stands with those chosen and how alike they are. The published sampler adds raw counts
to cosines, which one more occurrence swamps and 142 overflow, and gives the cosines to the wrong
concepts. Here both are on one scale, up to 1: the positive part of the normalised pointwise mutual
information (Bouma 2009), and the cosine, each the mean over those chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from statewise.errors import DataError
from statewise.records import iter_rows, rows_by_line

REPEATS = 1_000  # draws that give nothing new before no further set is thought to be there

Set = tuple[tuple[str, ...], str]
Embedding = Sequence[float] | NDArray[np.float32]


class Selector:
    """Draws concept sets.

    Args:
        lists: the concepts of each seed problem; of a list that names one twice it counts once.
        embeddings: of every concept, all of one length and of any scale; without them the score
            is that of co-occurrence alone.
        temperature: of the draws; the higher, the nearer to any set being as good as another.

    Attributes:
        names: the concepts, sorted.

    Raises:
        DataError: there is no concept, or one has no embedding, or one that says nothing.
    """

    def __init__(
        self,
        lists: Sequence[Sequence[str]],
        embeddings: Mapping[str, Embedding] | None = None,
        *,
        temperature: float = 0.2,
    ) -> None:
        sets = [sorted(set(names)) for names in lists if names]
        self.names = sorted({name for names in sets for name in names})
        if not self.names:
            raise DataError("no seed problem names a concept")
        where = {name: i for i, name in enumerate(self.names)}
        columns = [where[name] for names in sets for name in names]
        rows = np.repeat(np.arange(len(sets)), [len(names) for names in sets])
        shape = (len(sets), len(self.names))
        has = sparse.csr_array((np.ones(len(columns)), (rows, columns)), shape=shape)
        self._temperature = temperature
        self._counts: NDArray[np.float64] = np.asarray(has.sum(axis=0)).ravel()
        self._together = _information(has, self._counts)
        self._alike = None if embeddings is None else _directions(self.names, embeddings)

    def weights(self, chosen: Sequence[int]) -> NDArray[np.float64]:
        """The probability of each concept to be the next, given the numbers of those chosen."""
        if not chosen:
            weights = self._counts.copy()
        else:
            score = np.asarray(self._together[list(chosen)].sum(axis=0)).ravel() / len(chosen)
            if self._alike is not None:
                score = score + self._alike @ self._alike[list(chosen)].mean(axis=0)
            scaled = score / self._temperature
            scaled[list(chosen)] = -np.inf
            weights = np.exp(scaled - scaled.max())
        found: NDArray[np.float64] = weights / weights.sum()
        return found

    def draw(self, size: int, rng: np.random.Generator) -> tuple[str, ...]:
        """One set of so many different concepts, in the order in which they were drawn."""
        chosen: list[int] = []
        for _ in range(size):
            chosen.append(int(rng.choice(len(self.names), p=self.weights(chosen))))
        return tuple(self.names[i] for i in chosen)

    def sets(self, size: int, levels: Sequence[str], *, seed: int) -> Iterator[Set]:
        """Sets with a level each, no two with the same concepts in any order at the same level.

        The first of them are the same however many are asked for.

        Args:
            size: concepts of a set.
            levels: drawn from evenly.
            seed: names the draws.

        Raises:
            DataError: there are fewer concepts than that, or nothing new is found any more.
        """
        if size > len(self.names):
            raise DataError(f"a set of {size} concepts, but there are {len(self.names)}")
        seen: set[tuple[frozenset[str], str]] = set()
        number = 0
        while True:
            rng = np.random.default_rng([seed, number])
            for _ in range(REPEATS):
                names, level = self.draw(size, rng), levels[int(rng.integers(len(levels)))]
                if (frozenset(names), level) not in seen:
                    break
            else:
                raise DataError(
                    f"no further set of {size} of {len(self.names)} concepts was found in "
                    f"{REPEATS:,} draws, after {number:,}; ask for fewer, raise the temperature, "
                    "or bring more seed problems"
                )
            seen.add((frozenset(names), level))
            number += 1
            yield names, level


def _information(has: sparse.csr_array, counts: NDArray[np.float64]) -> sparse.csr_array:
    """Positive normalised pointwise mutual information of all pairs that stand together."""
    total = has.shape[0]
    pairs = (has.T @ has).tocoo()
    a, b, joint = pairs.row, pairs.col, pairs.data / total
    pmi = np.log(joint) - np.log(counts[a] / total) - np.log(counts[b] / total)
    surprise = -np.log(joint)
    # What stands in every problem is no surprise in any.
    npmi = np.where(surprise > 0, pmi / np.where(surprise > 0, surprise, 1.0), 0.0)
    kept = (npmi > 0) & (a != b)
    return sparse.csr_array((npmi[kept], (a[kept], b[kept])), shape=pairs.shape)


def _directions(names: Sequence[str], embeddings: Mapping[str, Embedding]) -> NDArray[np.float32]:
    """Embeddings of length 1, a row each."""
    for name in names:
        if name not in embeddings:
            raise DataError(f"the concept {name!r} has no embedding")
    first = len(embeddings[names[0]])
    for name in names:
        if len(embeddings[name]) != first:
            raise DataError(
                f"the embedding of {name!r} has {len(embeddings[name])} numbers, that of "
                f"{names[0]!r} has {first}"
            )
    rows = np.asarray([embeddings[name] for name in names], dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)).ravel())
    if len(bad):
        raise DataError(f"the embedding of {names[bad[0]]!r} has no direction")
    found: NDArray[np.float32] = rows / lengths
    return found


def read_lists(path: Path) -> list[list[str]]:
    """The concepts of each seed problem.

    Raises:
        DataError: a row has no list of texts under `concepts`.
    """
    lists = []
    for where, row in iter_rows(path):
        names = row.get("concepts")
        if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
            raise DataError(f"{where}: field 'concepts' must be a list of texts")
        lists.append([n.strip() for n in names])
    return lists


def read_embeddings(path: Path) -> dict[str, NDArray[np.float32]]:
    """Concept -> embedding, from rows of `sentence` and `embedding`.

    Raises:
        DataError: a row is of another form.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for where, row in rows_by_line(path):
        sentence, embedding = row.get("sentence"), row.get("embedding")
        if not isinstance(sentence, str) or not _numbers(embedding):
            raise DataError(f"{where}: fields 'sentence' and 'embedding': a text and its numbers")
        found[sentence.strip()] = np.asarray(embedding, dtype=np.float32)
    return found


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
    )
