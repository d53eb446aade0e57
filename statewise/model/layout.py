"""Which documents stand where in a batch of rows: one value, built once and read by everything.

Packing knows the lengths of its documents when it lays them behind one another. Kernels, the
convolution, the chunks of the scan and the attention of the baseline each want to know them in
another form; each form is derived from this value the first time it is asked for, and kept on it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.errors import DataError

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The documents of b rows of l tokens, in the order in which they stand.

    The first document of a row continues the sequence that the row's state belongs to; every other
    begins with its first token. It is built on the host and holds nothing of a device; what is
    derived for a device is made there once. All arrays are contiguous, one element a document, and
    are not written to.

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
    _derived: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def whole(cls, b: int, l: int) -> Layout:
        """One document in each of b rows of l tokens."""
        return cls._starting(np.arange(b, dtype=np.int64) * l, b, l)

    @classmethod
    def of(cls, lengths: Sequence[Sequence[int]]) -> Layout:
        """Rows by the lengths of their documents, each at least 1.

        Raises:
            DataError: a length is below 1, or the rows are not equally long.
        """
        sums = {sum(row) for row in lengths}
        if len(sums) != 1 or min(min(row, default=0) for row in lengths) < 1:
            raise DataError(
                "layout: every document needs a token, and all rows the same number of them; "
                f"found rows of {sorted(sums)} tokens, the shortest document with "
                f"{min((n for row in lengths for n in row), default=0)}"
            )
        every = np.array([n for row in lengths for n in row], dtype=np.int64)
        return cls._starting(np.cumsum(every) - every, len(lengths), sums.pop())

    @classmethod
    def numbered(cls, seq_idx: Tensor) -> Layout:
        """Rows by the document number of each token, (b, l) integers; each change is a boundary.

        Numbers that lie on a GPU are copied from there.

        Raises:
            DataError: `seq_idx` has another number of axes, or no tokens.
        """
        if seq_idx.dim() != 2 or not seq_idx.numel():
            raise DataError(
                f"layout: seq_idx needs the shape (rows, tokens), found {tuple(seq_idx.shape)}"
            )
        ids = seq_idx.detach().cpu().numpy()
        first = np.ones(ids.shape, dtype=bool)
        first[:, 1:] = ids[:, 1:] != ids[:, :-1]
        return cls._starting(np.flatnonzero(first).astype(np.int64, copy=False), *ids.shape)

    @classmethod
    def _starting(cls, flat: Int64s, b: int, l: int) -> Layout:
        """By the token (row * l + column) with which each document begins."""
        if b < 1 or l < 1:
            raise DataError(f"layout: there must be a row and a token, found {b} rows of {l}")
        start = flat % l
        length = np.diff(np.append(flat, b * l))
        unread = np.zeros(len(flat), dtype=np.int64)
        return cls(flat // l, start, length, unread, start == 0, start + length == l)

    def continuing(self, position: Tensor | None) -> Layout:
        """The same rows, whose first documents have so many tokens behind them already.

        Args:
            position: (b,) int64, as in a `State`; None: none.

        Raises:
            DataError: there are not as many positions as rows.
        """
        if position is None:
            return self
        if position.shape != (self.rows,):
            raise DataError(
                f"layout: {self.rows} rows need as many positions, found {tuple(position.shape)}; "
                "a state has one sequence for each row"
            )
        read = np.zeros_like(self.position)
        read[self.carries] = position.detach().cpu().numpy()
        return replace(self, position=read, _derived={})

    def columns_of(self, begin: int, end: int) -> Layout:
        """The columns from `begin` up to `end` of every row, as rows of their own.

        What stands at `begin` goes on from the columns before, unless it begins there.
        """
        first = np.maximum(self.start, begin)
        length = np.minimum(self.start + self.length, end) - first
        there = length > 0
        start = first[there] - begin
        return Layout(
            self.row[there],
            start,
            length[there],
            (self.position + first - self.start)[there],
            start == 0,
            start + length[there] == end - begin,
        )

    @property
    def rows(self) -> int:
        """b."""
        return int(self.row[-1]) + 1

    @property
    def columns(self) -> int:
        """l."""
        return int(self.start[-1] + self.length[-1])

    @property
    def packed(self) -> bool:
        """Whether a row holds more than one document."""
        return len(self.row) > self.rows

    def check(self, tokens: Tensor) -> None:
        """Refuse rows (b, l) of another shape. Raises `DataError`."""
        if tuple(tokens.shape) != (self.rows, self.columns):
            raise DataError(
                f"layout: it describes {self.rows} rows of {self.columns} tokens, but the tokens "
                f"have the shape {tuple(tokens.shape)}"
            )

    def derived(self, make: Callable[..., R], *how: Hashable) -> R:
        """`make(self, *how)`, made once and kept.

        Args:
            make: a function of the module's level, or it would be made again each time.
            how: what the result depends on beside the layout, such as the device of its tensors.
        """
        key = (make, *how)
        if key not in self._derived:
            with torch.inference_mode(False):  # a backward pass may want what a prefill made
                self._derived[key] = make(self, *how)
        result: R = self._derived[key]
        return result

    def next_position(self) -> Tensor:
        """(b,) int64: tokens of each row's last document that are read when the row is."""
        return torch.from_numpy((self.position + self.length)[self.last])

    def ages(self, device: torch.device) -> Tensor:
        """(b, l) int64 on `device`: how many tokens of its document in this row each has behind it.

        A document that continues its row's state is counted from the row's first token.
        """
        return self.derived(_ages, device)

    def numbers(self, device: torch.device) -> Tensor:
        """(b, l) int64 on `device`: the number of each token's document in its row, from 0."""
        return self.derived(_numbers, device)


def _ages(layout: Layout, device: torch.device) -> Tensor:
    column = np.arange(layout.rows * layout.columns) % layout.columns
    ages = column - np.repeat(layout.start, layout.length)
    return torch.from_numpy(ages.reshape(layout.rows, layout.columns)).to(device)


def _numbers(layout: Layout, device: torch.device) -> Tensor:
    first = np.flatnonzero(layout.carries)  # one a row
    number = np.arange(len(layout.row)) - first[layout.row]
    every = np.repeat(number, layout.length).reshape(layout.rows, layout.columns)
    return torch.from_numpy(every).to(device)
