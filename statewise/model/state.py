"""The memory of running sequences: fixed in size, whatever their length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from statewise.model.config import Mamba2Config

StateDtype = Literal["float32", "bfloat16", "float16"]  # in which an engine keeps `ssm`


@dataclass(frozen=True, slots=True)
class State:
    """The memory of `batch` sequences.

    Attributes:
        conv: (n_layer, batch, conv_dim, d_conv - 1) the last inputs of each convolution, oldest
            first, in the model's dtype.
        ssm: (n_layer, batch, nheads, headdim, d_state) the recurrent states, float32.
        position: (batch,) int64, how many tokens of its document each sequence has read. Chunks
            are cut by it, so that a text has the same ones wherever its prefill was interrupted.
    """

    conv: Tensor
    ssm: Tensor
    position: Tensor

    @classmethod
    def zeros(
        cls,
        config: Mamba2Config,
        batch: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> State:
        """The state before any token; `dtype` is the model's (the recurrent part is float32)."""
        c = config
        conv = (c.n_layer, batch, c.conv_dim, c.d_conv - 1)
        ssm = (c.n_layer, batch, c.nheads, c.headdim, c.d_state)
        return cls(
            torch.zeros(conv, device=device, dtype=dtype),
            torch.zeros(ssm, device=device, dtype=torch.float32),
            torch.zeros(batch, device=device, dtype=torch.int64),
        )

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.ssm.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all sequences' memory together (their positions, 8 bytes each, not counted)."""
        return self.conv.nbytes + self.ssm.nbytes

    def select(self, index: Tensor) -> State:
        """A copy of some sequences, in the order of `index` (k,); one may be taken repeatedly."""
        return State(
            self.conv.index_select(1, index),
            self.ssm.index_select(1, index),
            self.position.index_select(0, index),
        )

    def write_(self, slots: Tensor, rows: State) -> None:
        """Overwrite the sequences at `slots` (k,) with the k sequences of `rows`."""
        self.conv.index_copy_(1, slots, rows.conv)
        self.ssm.index_copy_(1, slots, rows.ssm)
        self.position.index_copy_(0, slots, rows.position)
