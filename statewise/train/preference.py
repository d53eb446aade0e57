"""Preference training: pairs of completions of which one is better, learnt without a reward model.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7: with r = beta (log p - log p0) of a completion
given its prompt, p0 being the model as it was when the phase began, a pair's loss is
-log sigmoid(r chosen - r rejected). Where adapters are trained from the first phase on, p0 is the
model without them. Otherwise log p0 is computed once, before the phase's first step, and kept on
disk beside the checkpoints:

    reference/PHASE-SOURCE/part-NUMBER-CHECKSUM.npy    (n, 2) float32: of chosen, of rejected

A pair's two completions are two documents behind each other in one packed row, each behind the
prompt; rows of pairs go through the loop that rows of documents go through.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from statewise.errors import CheckpointError, DataError
from statewise.train import lora
from statewise.train.config import Long
from statewise.train.corpus import Corpus
from statewise.train.loss import LOGIT_ROWS, SummedLoss
from statewise.train.packing import NO_TARGET, SHAPE_GRAIN, Document, Row, pack, rows_of
from statewise.train.parallel import Engine

PART = 1024  # pairs: what a kill costs while the reference is computed


@dataclass(frozen=True, slots=True)
class Pair(Document):
    """Two completions of a prompt, in one row or in none: `ids` are those of two documents.

    Attributes:
        rejected: where the second document begins; the first one has the better completion.
        reference: their log-probabilities by the model that the phase began with, if computed.
    """

    rejected: int
    reference: tuple[float, float] | None = None

    @classmethod
    def of(cls, chosen: Document, rejected: Document) -> Pair:
        """The pair of two documents with one prompt."""
        ids = np.concatenate([chosen.ids, rejected.ids])
        return cls(ids, chosen.num_prompt, len(chosen.ids))

    @property
    def documents(self) -> tuple[Document, Document]:
        """Both: prompt and chosen completion, prompt and rejected one."""
        both = self.ids[: self.rejected], self.ids[self.rejected :]
        return Document(both[0], self.num_prompt), Document(both[1], self.num_prompt)


@dataclass(frozen=True, slots=True)
class PairRow(Row):
    """A packed row of pairs.

    Attributes:
        lengths: how many targets each document has: chosen, rejected, chosen, ...
        reference: (pairs, 2) float32 log-probabilities of the reference; None: it is the model
            without its adapters.
        beta: of the loss.
    """

    lengths: tuple[int, ...]
    reference: Tensor | None
    beta: float

    @property
    def num_terms(self) -> int:
        """As `Row.num_terms`: pairs."""
        return len(self.lengths) // 2

    def to(self, device: torch.device) -> PairRow:
        """As `Row.to`."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            targets=self.targets.to(device),
            reference=None if self.reference is None else self.reference.to(device),
        )


def pack_pairs(pairs: Sequence[Pair], beta: float) -> PairRow:
    """Put pairs behind one another into one row, as `pack` puts documents."""
    documents = [document for pair in pairs for document in pair.documents]
    row = pack(documents)
    known = [pair.reference for pair in pairs if pair.reference is not None]
    return PairRow(
        row.tokens,
        row.layout,
        row.targets,
        tuple(len(d.ids) - d.num_prompt for d in documents),
        torch.tensor(known) if known else None,
        beta,
    )


def packed(documents: Sequence[Document], beta: float, parts: int = 1) -> Row:
    """The row of some documents, for so many processes; or of some pairs, with `beta`."""
    pairs = [d for d in documents if isinstance(d, Pair)]
    return pack_pairs(pairs, beta) if pairs else pack(documents, parts)


class RowLoss(SummedLoss):
    """The loss of any row: cross-entropy of documents, or preferences of pairs."""

    def forward(self, row: Row, *, log_probs: bool = False) -> Tensor:
        """The sums that make a step's figures, float32.

        Args:
            row: packed documents or pairs.
            log_probs: of pairs, those and not the loss.

        Returns:
            Of documents (1,): the summed cross-entropy. Of pairs (3,): the summed loss; how often
            the chosen one has the higher reward; the sum of the rewards' differences. With
            `log_probs` (pairs, 2) those of chosen and rejected.
        """
        if not isinstance(row, PairRow):
            return super().forward(row)[None]
        found = self._log_probs(row)
        if log_probs:
            return found
        reference = row.reference
        if reference is None:
            with torch.no_grad(), lora.off(self.model):
                reference = self._log_probs(row)
        rewards = row.beta * (found - reference)
        margins = rewards[:, 0] - rewards[:, 1]
        won = (margins > 0).float()
        return torch.stack([-F.logsigmoid(margins).sum(), won.sum(), margins.detach().sum()])

    def _log_probs(self, row: PairRow) -> Tensor:
        """(pairs, 2) float32: log-probabilities of the completions, their ends included."""
        hidden, _ = self.model.hidden(row.tokens, layout=row.layout)
        # As in a row of documents; places with a target stay in their order.
        order = torch.argsort(row.targets.flatten() < 0, stable=True)
        kept = order[: -(-row.num_targets // SHAPE_GRAIN) * SHAPE_GRAIN]
        hidden, targets = hidden.flatten(0, 1)[kept], row.targets.flatten()[kept]
        pieces = zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
        each = torch.cat([checkpoint(self._each, *p, use_reentrant=False) for p in pieces])
        ofs = each[: row.num_targets].split(row.lengths)
        return torch.stack([of.sum() for of in ofs]).view(-1, 2)

    def _each(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.head(hidden).float()
        return -F.cross_entropy(logits, targets, reduction="none", ignore_index=NO_TARGET)


class Pairs(Sequence[Pair]):
    """The pairs of a source that can be trained on: both completions fit into one row.

    Args:
        corpus: its documents, chosen and rejected in turn.
        max_tokens: what a row holds.
        long: whether a longer pair is refused; otherwise it is left out.
        where: the source's name, for messages.
        near: numbers of documents that give away an evaluation problem: their pairs are left out.

    Attributes:
        left_out: how many were, and why; each pair is counted once.
        cut: none is.
        lengths: (n,) int64 tokens of each pair that is left.
        pass_rates: (n,) float64 of each; None where the source has none.

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
        self._corpus = corpus
        if not len(corpus):
            raise DataError(f"{where}: holds no pairs to train on")
        lengths = corpus.lengths.reshape(-1, 2).sum(1)
        too_long, no_prompt = lengths > max_tokens, corpus.prompts[::2] == 0
        if long == "refuse" and too_long.any():
            first = int(np.argmax(too_long))
            raise DataError(
                f"{where}: {int(too_long.sum())} of its pairs are longer than {max_tokens} tokens, "
                f"the first is number {first + 1} with {lengths[first]} in both completions; raise "
                "train.row_tokens, or let train.long drop them"
            )
        given_away = np.zeros(len(lengths), dtype=bool)
        given_away[np.array(near, dtype=np.int64) // 2] = True
        fits = np.ones(len(lengths), dtype=bool)
        self.left_out = {}
        for why, those in (
            ("without a prompt", no_prompt),
            ("near an evaluation problem", given_away),
            ("longer than a row", too_long),
        ):
            self.left_out[why] = int((fits & those).sum())
            fits &= ~those
        self._numbers = np.flatnonzero(fits)
        if not len(self._numbers):
            told = ", ".join(f"{count} {why}" for why, count in self.left_out.items() if count)
            raise DataError(
                f"{where}: none of its {len(lengths)} pairs can be trained on: {told} (the longest "
                f"has {lengths.max()} tokens in both completions, and train.row_tokens is "
                f"{max_tokens})"
            )
        self.cut = 0
        self.lengths = lengths[self._numbers]
        rates = corpus.pass_rates
        self.pass_rates = None if rates is None else rates[::2][self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Pair:  # type: ignore[override]
        at = 2 * int(self._numbers[number])
        return Pair.of(self._corpus[at], self._corpus[at + 1])


class Referenced(Sequence[Pair]):
    """Pairs with the log-probabilities of their reference.

    Args:
        pairs: without.
        reference: (pairs, 2) float32.
    """

    def __init__(self, pairs: Sequence[Pair], reference: np.ndarray) -> None:
        self._pairs, self._reference = pairs, reference
        self.lengths = np.array([len(pair.ids) for pair in pairs])
        self.pass_rates = getattr(pairs, "pass_rates", None)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Pair:  # type: ignore[override]
        chosen, rejected = self._reference[number]
        return replace(self._pairs[number], reference=(float(chosen), float(rejected)))


def with_reference(
    pairs: Sequence[Pair], folder: Path, engine: Engine, *, row_tokens: int, begun: bool
) -> Referenced:
    """Compute what the loss compares with, part by part, or take it up from disk.

    Every process calls it, and each reads its share of the rows.

    Args:
        pairs: of one source.
        folder: of this phase and source; parts are named by what their pairs are.
        engine: around the model, and a `RowLoss`.
        row_tokens: a packed row holds at most this many tokens.
        begun: whether the phase has taken steps, so that the model is no longer the reference.

    Raises:
        CheckpointError: a part is missing or is not of these pairs, and the phase has begun.
    """
    parts = []
    for first in range(0, len(pairs), PART):
        some = [pairs[i] for i in range(first, min(first + PART, len(pairs)))]
        file = folder / f"part-{first // PART:05d}-{_checksum(some):08x}.npy"
        there = engine.index == 0 and file.is_file()
        if engine.totals(float(there)) == [0.0]:  # what the first process sees
            if begun:
                raise CheckpointError(
                    f"{file}: is missing, and cannot be made again, for the model is no longer the "
                    "one that the phase began with; put it back, or move the training's folder "
                    "away to train from the start"
                )
            found = _log_probs(some, engine, row_tokens)
            if engine.index == 0:
                _write(file, found)
            engine.rank.wait()
        parts.append(np.load(file))
    return Referenced(pairs, np.concatenate(parts))


@torch.no_grad()
def _log_probs(pairs: Sequence[Pair], engine: Engine, row_tokens: int) -> np.ndarray:
    """(pairs, 2) float32, in every process."""
    rows = list(rows_of(pairs, row_tokens))
    ends = np.cumsum([len(row) for row in rows])
    found = torch.zeros(len(pairs), 2)
    for first in range(0, len(rows), engine.world):
        mine = first + engine.index
        # Every process reads as many rows: what is sharded is made whole by all of them.
        row = pack_pairs(rows[min(mine, len(rows) - 1)], 0.0).to(engine.device)
        values = engine.loss(row, log_probs=True)
        if mine < len(rows):
            found[ends[mine] - len(rows[mine]) : ends[mine]] = values.float().cpu()
    engine.settle()
    return np.array(engine.totals(*found.flatten()), np.float32).reshape(-1, 2)


def _checksum(pairs: Sequence[Pair]) -> int:
    found = 0
    for pair in pairs:
        found = zlib.crc32(np.array([pair.num_prompt, pair.rejected]).tobytes(), found)
        found = zlib.crc32(pair.ids.astype(np.int64).tobytes(), found)
    return found


def _write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as f:
        np.save(f, values)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, file)
