"""A source's documents as token ids on disk: made once, part by part, and never read as a whole.

part-00000.ids    the ids of its documents behind one another, uint16 or uint32
part-00000.npy    (n, 2) int64: where each document ends there, and the length of its prompt
...
corpus.json       what there is; written last
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from statewise.errors import DataError
from statewise.records import Example, read_record, to_json, write_json
from statewise.text import BPETokenizer
from statewise.train.config import Long
from statewise.train.packing import Document, tokenise

PART = 10_000  # documents: what a kill costs, and what is held in memory while it is made


@dataclass(frozen=True, slots=True)
class Contents:
    """What a corpus holds, as it stands in `corpus.json`."""

    documents: int
    tokens: int
    parts: int
    dtype: str


class Corpus(Sequence[Document]):
    """The documents of a source, read from disk one by one.

    Args:
        folder: where `make` has put them.
    """

    def __init__(self, folder: Path) -> None:
        self.contents = read_record(folder / "corpus.json", Contents)
        self._ids: list[np.ndarray] = []
        self._ends: list[np.ndarray] = []
        prompts = []
        for part in range(self.contents.parts):
            index = np.load(_index(folder, part), mmap_mode="r")
            self._ends.append(index[:, 0])
            prompts.append(np.asarray(index[:, 1]))
            ids = _ids(folder, part)
            size = ids.stat().st_size // np.dtype(self.contents.dtype).itemsize
            if len(index) and size != index[-1, 0]:
                raise DataError(
                    f"{ids}: holds {size} ids, and its index speaks of {index[-1, 0]}; delete "
                    f"{folder}, and it is made again"
                )
            self._ids.append(np.memmap(ids, self.contents.dtype, "r") if size else np.empty(0))
        self.prompts = np.concatenate(prompts) if prompts else np.empty(0, np.int64)
        parts = [np.diff(ends, prepend=0) for ends in self._ends]
        self.lengths = np.concatenate(parts) if parts else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Document:  # type: ignore[override]
        part, at = divmod(range(len(self))[number], PART)
        ends = self._ends[part]
        start = ends[at - 1] if at else 0
        return Document(self._ids[part][start : ends[at]], int(self.prompts[number]))


def make(folder: Path, examples: Iterable[Example], tokenizer: BPETokenizer) -> Corpus:
    """Tokenise a source, or open it where that was done.

    Prompt and completion are tokenised apart, as they are when a model answers a prompt. What a
    kill interrupted goes on with the next part.

    Args:
        folder: of this source and this tokenizer alone.
        examples: all of them, in their order; those of parts that are there are passed over.
        tokenizer: with an end-of-sequence id.
    """
    if (folder / "corpus.json").exists():
        return Corpus(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    documents = tokens = part = 0
    for rows in _batches(examples):
        if not _index(folder, part).exists():
            _write_part(folder, part, rows, tokenizer, dtype)
        index = np.load(_index(folder, part), mmap_mode="r")
        documents += len(index)
        tokens += int(index[-1, 0])
        part += 1
    contents = Contents(documents, tokens, part, dtype.name)
    write_json(folder / "corpus.json", to_json(contents))
    return Corpus(folder)


class Fitting(Sequence[Document]):
    """Those documents of a source that can be trained on.

    Args:
        corpus: all of them.
        max_tokens: what a row holds.
        long: what becomes of a longer one: "drop", "refuse", or "cut" behind so many tokens, by
            which it loses its end.
        where: the source's name, for messages.

    Attributes:
        left_out: how many were, and why.
        cut: how many were cut.

    Raises:
        DataError: nothing is left to train on, or one is too long and `long` refuses it.
    """

    def __init__(self, corpus: Corpus, *, max_tokens: int, long: Long, where: str) -> None:
        self._corpus, self._max_tokens, self._where = corpus, max_tokens, where
        if not len(corpus):
            raise DataError(f"{where}: holds no examples to train on")
        too_long = corpus.lengths > max_tokens
        if long == "refuse" and too_long.any():
            first = int(np.argmax(too_long))
            raise DataError(
                f"{where}: {int(too_long.sum())} of its examples are longer than {max_tokens} "
                f"tokens, the first is number {first + 1} with {corpus.lengths[first]}; raise "
                "train.row_tokens, or let train.long drop or cut them"
            )
        no_prompt = corpus.prompts == 0
        # A document of which only the prompt would be left has nothing to learn.
        unfit = corpus.prompts >= max_tokens if long == "cut" else too_long
        self._numbers = np.flatnonzero(~(unfit | no_prompt))
        if not len(self._numbers):
            raise DataError(
                f"{where}: none of its {len(corpus)} examples fits into {max_tokens} tokens "
                f"(the longest has {corpus.lengths.max()}); raise train.row_tokens"
            )
        self.left_out = {
            "longer than a row": int((unfit & ~no_prompt).sum()),
            "without a prompt": int(no_prompt.sum()),
        }
        self.cut = int((too_long[self._numbers]).sum())
        self.lengths = np.minimum(corpus.lengths[self._numbers], max_tokens)

    def hold_out(self, count: int, seed: int) -> list[Document]:
        """Take so many documents out of it, the same ones for a seed.

        Raises:
            DataError: it has no more than that.
        """
        if count >= len(self._numbers):
            raise DataError(
                f"{self._where}: hold_out: {count} of {len(self._numbers)} documents cannot be "
                "held out; some must be left to train on"
            )
        rng = np.random.default_rng([seed, *b"hold_out"])
        out = np.sort(rng.choice(len(self._numbers), count, replace=False))
        documents = [self[int(number)] for number in out]
        self._numbers = np.delete(self._numbers, out)
        self.lengths = np.delete(self.lengths, out)
        return documents

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Document:  # type: ignore[override]
        whole = self._corpus[int(self._numbers[number])]
        return Document(whole.ids[: self._max_tokens], whole.num_prompt)


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    rest = iter(examples)
    while rows := list(islice(rest, PART)):
        yield rows


def _write_part(
    folder: Path, part: int, rows: list[Example], tokenizer: BPETokenizer, dtype: np.dtype
) -> None:
    found = tokenise(rows, tokenizer)
    ids = np.concatenate([d.ids for d in found]).astype(dtype)
    ends = np.cumsum([len(d.ids) for d in found])
    index = np.stack([ends, [d.num_prompt for d in found]], axis=1).astype(np.int64)
    _appear(_ids(folder, part), ids.tofile)
    # Last, for it says that both are there.
    _appear(_index(folder, part), lambda file: np.save(file, index))


def _appear(path: Path, write: Callable[..., None]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _ids(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.ids"


def _index(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.npy"
