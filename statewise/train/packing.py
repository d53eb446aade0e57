"""Examples to packed rows: a deterministic stream that can be entered anywhere.

A row is a run of whole documents. Each document is prompt + completion + end of sequence; the loss
is taken where the next token belongs to the completion or is the end. A row is one micro-batch and
may be shorter than the limit; it is filled up to a multiple of 64 tokens with a document that
carries no loss, because matrix kernels are compiled anew for every shape they meet.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from statewise.model.layout import Layout
from statewise.records import Example
from statewise.text import BPETokenizer
from statewise.train.config import Phase

SHAPE_GRAIN = 64  # rows and losses come in multiples of this, so that shapes repeat
NO_TARGET = -100


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

    def to(self, device: torch.device) -> Row:
        """The row on another device; its layout is of none."""
        return Row(self.tokens.to(device), self.layout, self.targets.to(device))


def pack(documents: Sequence[Document]) -> Row:
    """Put documents behind one another into one row, and fill it up with token 0."""
    lengths = [len(d.ids) for d in documents]
    filler = -sum(lengths) % SHAPE_GRAIN
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


class Stream:
    """Rows of a phase, without end: each source in shuffled passes, sources mixed by weight.

    It can be left behind any row and entered there again without reading what came before.

    Args:
        phase: gives the weights.
        pools: the documents of each of the phase's sources.
        row_tokens: a row holds at most this many tokens.
        seed: the same seed gives the same rows.
    """

    def __init__(
        self, phase: Phase, pools: Sequence[Sequence[Document]], *, row_tokens: int, seed: int
    ) -> None:
        self._rng = np.random.default_rng([seed, *phase.name.encode()])
        weights = np.array([s.weight for s in phase.sources])
        self._shares = weights / weights.sum()
        self._sources = [_Passes(pool, self._rng.spawn(1)[0]) for pool in pools]
        self._row_tokens = row_tokens
        self._drawn: tuple[int, int] | None = None  # source and number of a row's first document

    def __iter__(self) -> Iterator[list[Document]]:
        return self

    def __next__(self) -> list[Document]:
        """The documents of the next row."""
        row: list[Document] = []
        used = 0
        while True:
            source, number = self._drawn or self._draw()
            document = self._sources[source].pool[number]
            if row and used + len(document.ids) > self._row_tokens:
                self._drawn = (source, number)
                return row
            self._drawn = None
            row.append(document)
            used += len(document.ids)

    def _draw(self) -> tuple[int, int]:
        count = len(self._sources)
        source = int(self._rng.choice(count, p=self._shares)) if count > 1 else 0
        return source, next(self._sources[source])

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON values."""
        return {
            "mix": self._rng.bit_generator.state,
            "drawn": self._drawn,
            "sources": [source.state() for source in self._sources],
        }

    def enter(self, state: dict[str, Any]) -> None:
        """Go on where another stream of the same phase and documents was.

        Raises:
            ValueError: it was one of other documents.
        """
        for source, its in zip(self._sources, state["sources"], strict=True):
            source.enter(its)
        self._rng.bit_generator.state = state["mix"]
        self._drawn = tuple(state["drawn"]) if state["drawn"] else None


class _Passes:
    """The numbers of a source's documents, pass after pass, each in an order of its own."""

    def __init__(self, pool: Sequence[Document], rng: np.random.Generator) -> None:
        self.pool = pool
        self._rng = rng
        self._passes = self._next = 0
        self._begin()

    def _begin(self) -> None:
        self._before = self._rng.bit_generator.state
        self._order = self._rng.permutation(len(self.pool))

    def __next__(self) -> int:
        if self._next == len(self._order):
            self._passes, self._next = self._passes + 1, 0
            self._begin()
        self._next += 1
        return int(self._order[self._next - 1])

    def state(self) -> dict[str, Any]:
        return {
            "documents": self._documents(),
            "passes": self._passes,
            "order": self._before,
            "next": self._next,
        }

    def enter(self, state: dict[str, Any]) -> None:
        if state["documents"] != self._documents():
            raise ValueError("the documents of a source are not those that it had")
        self._passes, self._next = state["passes"], state["next"]
        self._rng.bit_generator.state = state["order"]
        self._begin()

    def _documents(self) -> int:
        """A checksum of how long each of them is."""
        lengths = getattr(self.pool, "lengths", None)  # of a source that is not in memory
        if lengths is None:
            lengths = np.fromiter((len(d.ids) for d in self.pool), np.int64, len(self.pool))
        return zlib.crc32(lengths.tobytes())
