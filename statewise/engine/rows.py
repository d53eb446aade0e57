"""The arrays that sequences run on: one row a slot, drawn and read for all rows at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.engine.prefill import Prefill
from statewise.engine.sampling import RowParams, pick, table_row, uniforms
from statewise.engine.scheduler import Sequence
from statewise.engine.slots import Ints, Slots

# Tokens of a sequence that are kept in the arrays, and numbers drawn ahead for it. A full block
# goes into the sequence's own list, so nothing here is sized by how long a sequence may become.
BLOCK = 256


class Rows:
    """What runs in the slots. Only what starts, ends or fills a block is touched in Python.

    Arrays stay where they are. Idle rows are computed too, and mean nothing: the shapes never
    change, so that a row's numbers do not depend on how many others are running.

    Args:
        memory: the states of the sequences, `slots` of them.
        slots: how many.
        width: entries of the tokenizer. Logits beyond are padding of the vocabulary: never drawn.
        device: where the logits are.

    Attributes:
        memory: the states.
        running: (slots,) bool, which rows are in use.
        length: (slots,) tokens drawn, 0 in idle rows.
        limit: (slots,) tokens to draw at most.
        streamed: (slots,) bool, rows of which each token is told.
    """

    def __init__(self, memory: Slots, slots: int, width: int, device: torch.device) -> None:
        self.running = np.zeros(slots, dtype=bool)
        self.length = np.zeros(slots, dtype=np.int64)
        self.limit = np.zeros(slots, dtype=np.int64)
        self.streamed = np.zeros(slots, dtype=bool)
        self.memory = memory
        self._every = np.arange(slots)
        self._sequences: list[Sequence | None] = [None] * slots
        self._table = np.zeros((slots, 4))
        self._params: RowParams | None = None  # of all rows, until the next start or end
        self._logits = torch.zeros(slots, width, device=device)
        self._seen: Tensor | None = None  # (slots, width), once a sequence has a penalty
        self._tokens = np.zeros((slots, BLOCK), dtype=np.int32)
        self._uniforms = np.zeros((slots, BLOCK))

    def start(self, slot: int, sequence: Sequence, prefill: Prefill) -> None:
        """Copy a prompt that was read into a slot, for one of its samples."""
        request = sequence.entry.request
        assert prefill.state is not None
        assert prefill.logits is not None
        self.memory.write_(np.array([slot]), prefill.state)
        self._logits[slot] = prefill.logits[: self._logits.shape[1]]
        if request.params.repetition_penalty != 1:
            if self._seen is None:
                self._seen = torch.zeros_like(self._logits, dtype=torch.bool)
            self._seen[slot] = False
            self._seen[slot, torch.tensor(prefill.ids, device=self._seen.device)] = True
        self._sequences[slot] = sequence
        self._table[slot] = table_row(request.params)
        self._params = None
        self.running[slot] = True
        self.length[slot] = 0
        self.limit[slot] = request.params.max_tokens
        self.streamed[slot] = request.stream
        self._draw_ahead(slot, sequence)

    def stop(self, slot: int) -> None:
        """Leave a row idle."""
        self._sequences[slot] = None
        self._params = None
        self.running[slot] = self.streamed[slot] = False
        self.length[slot] = 0  # idle rows draw into their first place, over and over

    def draw(self) -> Ints:
        """One token for every row (idle ones: whatever), drawn from the current logits."""
        if self._params is None:
            # An idle row takes another's parameters, so that it asks for no operation of its own.
            other = self._table[int(self.running.argmax())]
            table = np.where(self.running[:, None], self._table, other)
            self._params = RowParams.of(table, self._logits.device)
        column = self.length % BLOCK
        uniform = torch.from_numpy(self._uniforms[self._every, column]).to(self._logits.device)
        seen = self._seen if self._params.penalised else None
        token = pick(self._logits, uniform, self._params, seen)
        if seen is not None:
            seen.scatter_(1, token.clamp(min=0)[:, None], True)
        drawn: Ints = token.cpu().numpy()
        self._tokens[self._every, column] = drawn
        self.length += self.running
        return drawn

    def read(self, tokens: Ints) -> None:
        """Let the model read one token for each running sequence; leaves the next logits."""
        for slot in np.flatnonzero(self.running & (self.length % BLOCK == 0)).tolist():
            sequence = self._sequences[slot]
            assert sequence is not None
            sequence.ids += self._tokens[slot].tolist()
            self._draw_ahead(slot, sequence)
        running = np.flatnonzero(self.running)
        logits = self.memory.step_(tokens[running], running)[:, : self._logits.shape[1]]
        self._logits[torch.from_numpy(running)] = logits

    def ids(self, slot: int) -> list[int]:
        """The tokens drawn so far by the sequence that runs in `slot`."""
        sequence = self._sequences[slot]
        assert sequence is not None
        block: npt.NDArray[np.int32] = self._tokens[slot, : self.length[slot] - len(sequence.ids)]
        return sequence.ids + block.tolist()

    def _draw_ahead(self, slot: int, sequence: Sequence) -> None:
        """The numbers by which the next block of tokens will be drawn."""
        request, start = sequence.entry.request, len(sequence.ids)
        self._uniforms[slot] = uniforms(
            request.params.seed, request.prompt.text, sequence.sample, BLOCK, start
        )
