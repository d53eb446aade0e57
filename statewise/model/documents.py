"""Which documents stand in a batch of rows: the one description that all forms of the scan read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """The documents of b rows of l tokens, in the order in which they stand.

    A document is a run of equal document numbers within a row. The first of a row continues the
    sequence that the row's state belongs to; every other begins with its first token. All arrays
    are contiguous, one element a document.

    Attributes:
        row: its row.
        start: the column of its first token.
        length: its tokens in this row.
        position: tokens of it that were read before this row; 0 where it begins here. Chunks are
            cut at multiples of the chunk size counted from the document's true beginning.
        carries: whether it takes the row's incoming state.
        last: whether it is the row's last, whose state goes out.
    """

    row: Int64s
    start: Int64s
    length: Int64s
    position: Int64s
    carries: Bools
    last: Bools

    @classmethod
    def of(
        cls, b: int, l: int, seq_idx: Tensor | None = None, position: Tensor | None = None
    ) -> Documents:
        """Describe b rows of l tokens, l >= 1.

        Args:
            b: rows.
            l: tokens a row.
            seq_idx: (b, l) document number of each token; None: one document a row.
            position: (b,) tokens that each row's first document has behind it; None: none.
        """
        if seq_idx is None:
            flat = np.arange(b, dtype=np.int64) * l
        else:
            ids = seq_idx.detach().cpu().numpy()
            first = np.ones((b, l), dtype=bool)
            first[:, 1:] = ids[:, 1:] != ids[:, :-1]
            flat = np.flatnonzero(first).astype(np.int64, copy=False)
        row, start = flat // l, flat % l
        length = np.diff(np.append(flat, b * l))
        carries = start == 0
        read = np.zeros(len(flat), dtype=np.int64)
        if position is not None:
            read[carries] = position.detach().cpu().numpy()
        return cls(row, start, length, read, carries, start + length == l)

    @property
    def rows(self) -> int:
        """b."""
        return int(self.row[-1]) + 1

    @property
    def columns(self) -> int:
        """l."""
        return int(self.start[-1] + self.length[-1])

    def after(self) -> Tensor:
        """(b,) int64: tokens of each row's last document that are read when the row is."""
        return torch.from_numpy((self.position + self.length)[self.last])
