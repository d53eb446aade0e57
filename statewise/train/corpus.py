"""A source's documents as token ids on disk: made once, part by part, and never read as a whole.

part-00000.ids        the ids of its documents behind one another, uint16 or uint32
part-00000.npy        (n, 2) int64: where each document ends there, and the length of its prompt
part-00000.rates.npy  (n,) float64: their pass rates, of a source that has them
part-00000.marks.npy  (m, 2) int32: a document of the part and one of its marks, where asked for
...
corpus.json           what there is; written last

In memory are where each document ends and the length of its prompt: 16 bytes a document.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from statewise.errors import DataError
from statewise.progress import task
from statewise.records import read_record, to_json, write_json
from statewise.text import BPETokenizer
from statewise.train.config import Long
from statewise.train.packing import Document, tokenise
from statewise.train.sources import Pair

PART = 10_000  # documents at most: what a kill costs, and what is held in memory while it is made
PART_CHARACTERS = 32_000_000  # at which a part of long documents ends before
BATCH_CHARACTERS = 4_000_000  # tokenised at once: an encoding is a hundred bytes a token

Marks = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a corpus holds, as it stands in `corpus.json`.

    Attributes:
        rated: its documents have pass rates.
        marked: their marks were written down.
    """

    documents: int
    tokens: int
    parts: int
    dtype: str
    rated: bool = False
    marked: bool = False


class Corpus(Sequence[Document]):
    """The documents of a source, read from disk one by one.

    Args:
        folder: where `make` has put them.

    Attributes:
        contents: what it holds.
        prompts: (n,) int32 tokens of each document's prompt.
        pass_rates: (n,) float64; None where the source has none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.contents = read_record(folder / "corpus.json", Contents)
        self._firsts, ends, prompts, rates = [0], [], [], []
        for part in range(self.contents.parts):
            index = np.load(_index(folder, part))
            ids = _ids(folder, part)
            size = ids.stat().st_size // np.dtype(self.contents.dtype).itemsize
            if len(index) and size != index[-1, 0]:
                raise DataError(
                    f"{ids}: holds {size} ids, and its index speaks of {index[-1, 0]}; delete "
                    f"{folder}, and it is made again"
                )
            self._firsts.append(self._firsts[-1] + len(index))
            ends.append(index[:, 0])
            prompts.append(index[:, 1].astype(np.int32))
            if self.contents.rated:
                rates.append(np.load(_rates(folder, part)))
        self._ends = np.concatenate(ends) if ends else np.empty(0, np.int64)
        self.prompts = np.concatenate(prompts) if prompts else np.empty(0, np.int32)
        self.pass_rates = np.concatenate(rates) if rates else None

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 tokens of each document."""
        lengths = np.diff(self._ends, prepend=0)
        firsts = np.array(self._firsts[:-1], dtype=np.int64)
        lengths[firsts] = self._ends[firsts]
        return lengths

    def marks(self) -> Iterator[tuple[int, Sequence[int]]]:
        """The documents that have marks, by number, each with its marks; a part at a time."""
        assert self.contents.marked
        for part, first in enumerate(self._firsts[:-1]):
            marked = np.load(_marks(self._folder, part))
            begins = np.flatnonzero(np.diff(marked[:, 0], prepend=-1))
            for found in np.split(marked, begins[1:]) if len(marked) else ():
                yield first + int(found[0, 0]), found[:, 1].tolist()

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, number: int) -> Document:  # type: ignore[override]
        at = range(len(self))[number]
        part = int(np.searchsorted(self._firsts, at, "right")) - 1
        start = int(self._ends[at - 1]) if at > self._firsts[part] else 0
        dtype, count = np.dtype(self.contents.dtype), int(self._ends[at]) - start
        # Mapped for this document alone: a map of all would fill the process's memory with what was
        # read, and keep a file open for each part.
        file, offset = _ids(self._folder, part), start * dtype.itemsize
        ids = np.array(np.memmap(file, dtype, "r", offset=offset, shape=(count,)))
        return Document(ids, int(self.prompts[at]))


def make(
    folder: Path,
    pairs: Iterable[Pair],
    tokenizer: BPETokenizer,
    *,
    marks: Marks | None = None,
    label: str = "tokens",
    total: Callable[[], int | None] = lambda: None,
) -> Corpus:
    """Tokenise a source, or open it where that was done.

    Prompt and completion are tokenised apart, as they are when a model answers a prompt. What a
    kill interrupted goes on with the next part.

    Args:
        folder: of this source, this tokenizer and these marks alone.
        pairs: all of them, in their order; those of parts that are there are passed over. Either
            all have a pass rate, or none.
        tokenizer: with an end-of-sequence id; it encodes on all cores.
        marks: numbers below 2**31 to be kept of each document, given its text.
        label: in progress lines.
        total: counts them, if that can be done; it is asked only where something is to be done.
    """
    if (folder / "corpus.json").exists():
        return Corpus(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    documents = tokens = part = 0
    rated = False
    with task(label, total(), "documents") as shown:
        for rows in _cut(pairs, PART, PART_CHARACTERS):
            there = _index(folder, part).exists()
            if not there:
                _write_part(folder, part, rows, tokenizer, dtype, marks)
            index = np.load(_index(folder, part), mmap_mode="r")
            documents += len(index)
            tokens += int(index[-1, 0])
            part += 1
            rated = rows[0].pass_rate is not None
            if there:
                shown.start_at(documents)
            shown.update(documents, f"{tokens:,} tokens")
    contents = Contents(documents, tokens, part, dtype.name, rated, marks is not None)
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
        near: numbers of documents that give away an evaluation problem.

    Attributes:
        left_out: how many were, and why; each document is counted once.
        cut: how many were cut.
        lengths: (n,) int64 tokens of each that is left.
        pass_rates: (n,) float64 of each that is left; None where the source has none.

    Raises:
        DataError: nothing is left to train on, or one is too long and `long` refuses it.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        max_tokens: int,
        long: Long,
        where: str,
        near: Sequence[int] = (),
    ) -> None:
        self._corpus, self._max_tokens, self._where = corpus, max_tokens, where
        if not len(corpus):
            raise DataError(f"{where}: holds no examples to train on")
        lengths, prompts = corpus.lengths, corpus.prompts
        fits = np.ones(len(corpus), dtype=bool)
        self.left_out: dict[str, int] = {}

        def leave_out(why: str, those: np.ndarray) -> None:
            self.left_out[why] = int((fits & those).sum())
            np.logical_and(fits, ~those, out=fits)

        leave_out("without a prompt", prompts == 0)
        leave_out("without a completion", lengths == prompts + 1)
        contaminated = np.zeros(len(corpus), dtype=bool)
        contaminated[np.array(near, dtype=np.int64)] = True
        leave_out("near an evaluation problem", contaminated)
        too_long = fits & (lengths > max_tokens)
        if long == "refuse" and too_long.any():
            first = int(np.argmax(too_long))
            raise DataError(
                f"{where}: {int(too_long.sum())} of its examples are longer than {max_tokens} "
                f"tokens, the first is number {first + 1} with {lengths[first]}; raise "
                "train.row_tokens, or let train.long drop or cut them"
            )
        if long == "cut":
            # Of which only the prompt would be left, there is nothing to learn.
            leave_out("with a prompt as long as a row", prompts >= max_tokens)
        else:
            leave_out("longer than a row", too_long)
        self._numbers = np.flatnonzero(fits)
        if not len(self._numbers):
            told = ", ".join(f"{count} {why}" for why, count in self.left_out.items() if count)
            raise DataError(
                f"{where}: none of its {len(corpus)} examples can be trained on: {told} (the "
                f"longest has {lengths.max()} tokens, and train.row_tokens is {max_tokens})"
            )
        self.cut = int(too_long[self._numbers].sum())
        self.lengths = np.minimum(lengths[self._numbers], max_tokens)
        rates = corpus.pass_rates
        self.pass_rates = None if rates is None else rates[self._numbers]

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
        if self.pass_rates is not None:
            self.pass_rates = np.delete(self.pass_rates, out)
        return documents

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Document:  # type: ignore[override]
        whole = self._corpus[int(self._numbers[number])]
        return Document(whole.ids[: self._max_tokens], whole.num_prompt)


def _cut(pairs: Iterable[Pair], count: int, characters: int) -> Iterator[list[Pair]]:
    """Runs of at most so many pairs; one ends with the pair by which it has so many characters."""
    run: list[Pair] = []
    size = 0
    for pair in pairs:
        run.append(pair)
        size += len(pair.example.prompt) + len(pair.example.completion)
        if len(run) == count or size >= characters:
            yield run
            run, size = [], 0
    if run:
        yield run


def _write_part(
    folder: Path,
    part: int,
    pairs: list[Pair],
    tokenizer: BPETokenizer,
    dtype: np.dtype,
    marks: Marks | None,
) -> None:
    ids, lengths, prompts = [], [], []
    for run in _cut(pairs, len(pairs), BATCH_CHARACTERS):
        found = tokenise([pair.example for pair in run], tokenizer)
        ids.append(np.concatenate([d.ids for d in found]).astype(dtype).tobytes())
        lengths += [len(d.ids) for d in found]
        prompts += [d.num_prompt for d in found]
    index = np.stack([np.cumsum(lengths), prompts], axis=1).astype(np.int64)
    _appear(_ids(folder, part), lambda file: file.writelines(ids))
    if pairs[0].pass_rate is not None:
        rates = np.array([pair.pass_rate for pair in pairs], dtype=np.float64)
        _appear(_rates(folder, part), lambda file: np.save(file, rates))
    if marks is not None:
        texts = (f"{pair.example.prompt}\n{pair.example.completion}" for pair in pairs)
        marked = [(number, mark) for number, text in enumerate(texts) for mark in marks(text)]
        table = np.array(marked, dtype=np.int32).reshape(-1, 2)
        _appear(_marks(folder, part), lambda file: np.save(file, table))
    # Last, for it says that all are there.
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


def _rates(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.rates.npy"


def _marks(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.marks.npy"
