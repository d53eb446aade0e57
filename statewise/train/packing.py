"""Examples to packed rows: a deterministic stream that can be entered anywhere.

A row is a run of whole documents. Each document is prompt + completion + end of sequence; the loss
is taken where the next token belongs to the completion or is the end. A row is one micro-batch and
may be shorter than the limit; it is filled up to a multiple of 64 tokens with a document that
carries no loss, because matrix kernels are compiled anew for every shape they meet.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from statewise.model.layout import Layout
from statewise.records import Example
from statewise.text import BPETokenizer
from statewise.train.config import Packing, Phase

SHAPE_GRAIN = 64  # rows and losses come in multiples of this, so that shapes repeat
NO_TARGET = -100
WINDOW = 256  # rows whose documents are drawn together for best fit: one of them stays half empty


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids of one example; the first `num_prompt` of them carry no loss."""

    ids: np.ndarray
    num_prompt: int


def tokenise(examples: Sequence[Example], tokenizer: BPETokenizer) -> list[Document]:
    """Documents of examples, each with an end of sequence behind it.

    Prompt and completion are tokenised apart, as they are when a model answers a prompt.
    """
    prompts = tokenizer.encode_batch([e.prompt for e in examples])
    completions = tokenizer.encode_batch([e.completion for e in examples])
    return [
        Document(np.array([*p, *c, tokenizer.eos_id], dtype=np.int32), len(p))
        for p, c in zip(prompts, completions, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """A packed row.

    Attributes:
        tokens: (1, l) int64.
        layout: which of its documents stand where.
        targets: (1, l) int64 the next token, `NO_TARGET` where no loss is taken.
    """

    tokens: Tensor
    layout: Layout
    targets: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens in the row."""
        return self.tokens.shape[1]

    @property
    def num_targets(self) -> int:
        """Places that carry loss."""
        return int((self.targets >= 0).sum())

    @property
    def num_terms(self) -> int:
        """How many terms the row's loss is a sum of: one a target."""
        return self.num_targets

    def part(self, i: int, count: int) -> Row:
        """Part `i` of `count` equally long ones, which goes on where the one before it ends."""
        if count == 1:
            return self
        each = self.num_tokens // count
        at = slice(i * each, (i + 1) * each)
        layout = self.layout.columns_of(at.start, at.stop)
        return Row(self.tokens[:, at], layout, self.targets[:, at])

    def to(self, device: torch.device) -> Row:
        """The row on another device; its layout is of none."""
        return Row(self.tokens.to(device), self.layout, self.targets.to(device))


def pack(documents: Sequence[Document], parts: int = 1) -> Row:
    """Put documents behind one another into one row, and fill it up with token 0.

    Args:
        documents: the row's.
        parts: into how many the row shall be cut.
    """
    lengths = [len(d.ids) for d in documents]
    filler = -sum(lengths) % (SHAPE_GRAIN * parts)
    ids = [d.ids for d in documents] + [np.zeros(filler, dtype=np.int32)]
    tokens = np.concatenate(ids).astype(np.int64)
    targets = np.full(len(tokens), NO_TARGET, dtype=np.int64)
    start = 0
    for d in documents:
        first, end = start + d.num_prompt - 1, start + len(d.ids) - 1
        targets[first:end] = tokens[first + 1 : end + 1]
        start += len(d.ids)
    layout = Layout.of([[*lengths, filler] if filler else lengths])
    return Row(torch.from_numpy(tokens)[None], layout, torch.from_numpy(targets)[None])


D = TypeVar("D", bound=Document)


def rows_of(documents: Sequence[D], row_tokens: int) -> Iterator[list[D]]:
    """Every document once, in order, in rows of at most so many tokens."""
    row: list[D] = []
    used = 0
    for document in documents:
        if row and used + len(document.ids) > row_tokens:
            yield row
            row, used = [], 0
        row.append(document)
        used += len(document.ids)
    if row:
        yield row


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put lengths into as few rows as one easily can: the longest first, each where it fits best.

    Best-fit decreasing (Johnson 1973) takes at most 11/9 of the rows that are needed and four
    more.

    Args:
        lengths: none above the capacity.
        capacity: of a row.

    Returns:
        The numbers of the lengths in each row, in their order. Rows come by the number of their
        longest: by their first one, rows of many short lengths would come before all others.
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # what is left in a row, and its number, sorted
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(spaces, (lengths[number], -1))
        if at == len(spaces):
            space, row = capacity, len(rows)
            rows.append([])
        else:
            space, row = spaces.pop(at)
        rows[row].append(number)
        insort(spaces, (space - lengths[number], row))
    return [sorted(row) for row in sorted(rows)]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of a source.

    Attributes:
        samples: documents, those of all passes.
        tokens: theirs.
        documents: different ones.
        passes: samples for each document that there is.
    """

    samples: int
    tokens: int
    documents: int
    passes: float


Place = tuple[int, int]  # of a document: its source, and its number there


class Stream:
    """Rows of a phase, without end: each source in passes, sources mixed by weight.

    It can be left behind any row and entered there again without reading what came before.

    Args:
        phase: gives the weights, and the order of a pass.
        pools: the documents of each of the phase's sources; `lengths` and `pass_rates` as
            `corpus.Fitting` has them.
        row_tokens: a row holds at most this many tokens.
        seed: the same seed gives the same rows.
        packing: as the recipe's.

    Attributes:
        rows: that were read.
    """

    def __init__(
        self,
        phase: Phase,
        pools: Sequence[Sequence[Document]],
        *,
        row_tokens: int,
        seed: int,
        packing: Packing = "in-order",
    ) -> None:
        self._rng = np.random.default_rng([seed, *phase.name.encode()])
        weights = np.array([s.weight for s in phase.sources])
        self._shares = weights / weights.sum()
        easy_first = phase.order == "easy-to-hard"
        self._sources = [
            _Passes(pool, self._rng.spawn(1)[0], easy_first=easy_first) for pool in pools
        ]
        self._row_tokens = row_tokens
        self._packing = packing
        self.rows = 0
        self._drawn: Place | None = None  # in order: a row's first document
        self._window: list[list[Place]] = []  # best fit: the rows of what was drawn together
        self._at = 0  # the next of these
        self._before = self._position()  # where that was begun to be drawn

    def __iter__(self) -> Iterator[list[Document]]:
        return self

    def __next__(self) -> list[Document]:
        """The documents of the next row."""
        row = self._next_best_fit() if self._packing == "best-fit" else self._next_in_order()
        self.rows += 1
        return [self._sources[source].pool[number] for source, number in row]

    def _next_in_order(self) -> list[Place]:
        row: list[Place] = []
        used = 0
        while True:
            place = self._drawn or self._draw()
            length = self._length(place)
            if row and (self._packing == "none" or used + length > self._row_tokens):
                self._drawn = place
                return row
            self._drawn = None
            row.append(place)
            used += length

    def _next_best_fit(self) -> list[Place]:
        if self._at == len(self._window):
            self._before = self._position()
            self._window, self._at = self._draw_window(), 0
        self._at += 1
        return self._window[self._at - 1]

    def _draw_window(self) -> list[list[Place]]:
        """The next documents of so many rows' tokens, as rows; it ends where a source's pass does.

        So nothing stands in a window twice, and every document is read before any is read again.
        """
        places: list[Place] = []
        lengths: list[int] = []
        tokens = 0
        while tokens < WINDOW * self._row_tokens:
            places.append(self._draw())
            lengths.append(self._length(places[-1]))
            tokens += lengths[-1]
            if self._sources[places[-1][0]].at_end:
                break
        return [[places[i] for i in row] for row in best_fit(lengths, self._row_tokens)]

    def _draw(self) -> Place:
        count = len(self._sources)
        source = int(self._rng.choice(count, p=self._shares)) if count > 1 else 0
        return source, next(self._sources[source])

    def _length(self, place: Place) -> int:
        source, number = place
        return int(self._sources[source].lengths[number])

    @property
    def filled(self) -> float:
        """The share of the places in the rows so far that carry a document's token."""
        tokens = sum(seen.tokens for seen in self.seen())
        return tokens / (self.rows * self._row_tokens) if self.rows else 0.0

    def seen(self) -> list[Seen]:
        """What was read of each source, in their order."""
        drawn = [self._drawn] if self._drawn else []
        waiting = [*drawn, *(place for row in self._window[self._at :] for place in row)]
        return [
            source.seen([number for its, number in waiting if its == i])
            for i, source in enumerate(self._sources)
        ]

    def _position(self) -> dict[str, Any]:
        return {
            "mix": self._rng.bit_generator.state,
            "sources": [source.state() for source in self._sources],
        }

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON values."""
        here = self._before if self._packing == "best-fit" else self._position()
        return {**here, "drawn": self._drawn, "row": self._at, "rows": self.rows}

    def enter(self, state: dict[str, Any]) -> None:
        """Go on where another stream of the same phase and documents was.

        Raises:
            ValueError: it was one of other documents.
        """
        for source, its in zip(self._sources, state["sources"], strict=True):
            source.enter(its)
        self._rng.bit_generator.state = state["mix"]
        self._drawn = tuple(state["drawn"]) if state["drawn"] else None
        self._before = self._position()
        self._window = self._draw_window() if state["row"] else []
        self._at, self.rows = state["row"], state["rows"]


class _Passes:
    """The numbers of a source's documents, pass after pass, each in an order of its own."""

    def __init__(
        self, pool: Sequence[Document], rng: np.random.Generator, *, easy_first: bool
    ) -> None:
        self.pool = pool
        lengths = getattr(pool, "lengths", None)  # of a source that is not in memory
        if lengths is None:
            lengths = np.fromiter((len(d.ids) for d in pool), np.int64, len(pool))
        self.lengths: np.ndarray = lengths
        self._rates = getattr(pool, "pass_rates", None) if easy_first else None
        # Of how long each is, and of how easy where they go by that: are these the documents?
        checksum = zlib.crc32(self.lengths.tobytes())
        if self._rates is not None:
            checksum = zlib.crc32(self._rates.tobytes(), checksum)
        self._checksum = checksum
        self._rng = rng
        self._passes = self._next = 0
        self._begin()

    def _begin(self) -> None:
        self._before = self._rng.bit_generator.state
        self._order = self._rng.permutation(len(self.pool))
        if self._rates is not None:
            self._order = self._order[np.argsort(-self._rates[self._order], kind="stable")]

    def __next__(self) -> int:
        if self.at_end:
            self._passes, self._next = self._passes + 1, 0
            self._begin()
        self._next += 1
        return int(self._order[self._next - 1])

    @property
    def at_end(self) -> bool:
        """Whether the next document begins another pass."""
        return self._next == len(self._order)

    def seen(self, waiting: Sequence[int]) -> Seen:
        """What was read, if these documents were drawn and not read yet."""
        times = np.full(len(self.pool), self._passes)
        times[self._order[: self._next]] += 1
        np.subtract.at(times, np.array(waiting, dtype=np.int64), 1)
        samples = int(times.sum())
        return Seen(
            samples,
            tokens=int((times * self.lengths).sum()),
            documents=int((times > 0).sum()),
            passes=samples / len(times),
        )

    def state(self) -> dict[str, Any]:
        return {
            "documents": self._checksum,
            "passes": self._passes,
            "order": self._before,
            "next": self._next,
        }

    def enter(self, state: dict[str, Any]) -> None:
        if state["documents"] != self._checksum:
            raise ValueError("the documents of a source are not those that it had")
        self._passes, self._next = state["passes"], state["next"]
        self._rng.bit_generator.state = state["order"]
        self._begin()
