"""States that are rarely written: what the decoders of all devices keep of a sequence.

A decoding step is bound by memory: the weights are read once for all sequences, and every
sequence's state is read. What can be saved is the state's way back. So the last tokens' inputs are
kept in a short ring beside the state S as it was at the last multiple of `length` tokens of the
sequence,

    y_t = exp(l_t) S C_t + sum over the ring of exp(l_t - l_j) (B_j . C_t) dt_j x_j

with l the running sum of dt A since then; and only every `length`-th token writes S. The algebra is
the recurrence's own, nothing is approximated. (The idea is ReplaySSM's, in vLLM.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.engine.slots.protocol import Ints
from statewise.model import Mamba2Config, State


class Rings:
    """The memory of sequences in slots, which a decoder's kernels step, and its way in and out.

    Args:
        config: the sizes.
        slots: how many sequences there is room for.
        length: tokens from one write of a state to the next.
        device: where.
        model: dtype of the model, which is that of a `State`'s convolution.
        inputs: dtype in which inputs are kept.
        state: dtype in which states are kept.
        weighted: whether `x` is kept times dt; if not, dt has a ring of its own.

    Attributes:
        ssm: (n_layer, slots, nheads, headdim, d_state) the states when they were last written.
        conv: (n_layer, slots, d_conv, conv_dim) the convolution's last inputs: that of position t
            at place t % d_conv.
        x: (n_layer, slots, length, nheads, headdim) the tokens since then, oldest first.
        B: (n_layer, slots, length, ngroups, d_state).
        dt: (n_layer, slots, length, nheads) float32, or None.
        l: (n_layer, slots, length, nheads) float32, the running sum of dt A.
        position: (slots,) int64, tokens read.
        filled: (slots,) int64, how many of them are in the ring.
    """

    def __init__(
        self,
        config: Mamba2Config,
        slots: int,
        length: int,
        *,
        device: torch.device,
        model: torch.dtype,
        inputs: torch.dtype,
        state: torch.dtype,
        weighted: bool,
    ) -> None:
        c = self.config = config
        self.model_dtype = model

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(c.n_layer, slots, *shape, dtype=dtype, device=device)

        self.ssm = zeros(c.nheads, c.headdim, c.d_state, dtype=state)
        self.conv = zeros(c.d_conv, c.conv_dim, dtype=inputs)
        self.x = zeros(length, c.nheads, c.headdim, dtype=inputs)
        self.B = zeros(length, c.ngroups, c.d_state, dtype=inputs)
        self.dt = None if weighted else zeros(length, c.nheads)
        self.l = zeros(length, c.nheads)
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)
        self.filled = torch.zeros(slots, dtype=torch.int64, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots' memory, the rings included: fixed, at any length."""
        parts = (self.ssm, self.conv, self.x, self.B, self.dt, self.l)
        return sum(t.nbytes for t in parts if t is not None)

    def write_(self, slots: Ints, rows: State) -> None:
        """Put the k sequences of `rows` into the slots (k,), in place of what was there."""
        index = torch.from_numpy(slots).to(self.ssm.device)
        ssm = rows.ssm
        if self.ssm.dtype != torch.float32:
            largest = torch.finfo(self.ssm.dtype).max
            ssm = ssm.clamp(-largest, largest)
        self.ssm[:, index] = ssm.to(self.ssm.dtype)
        position = rows.position.to(index.device)
        places = self._window(position)
        rows_of_places = index[:, None].expand_as(places)
        self.conv[:, rows_of_places, places] = rows.conv.transpose(2, 3).to(self.conv.dtype)
        self.position[index] = position
        self.filled[index] = 0

    def read(self, slots: Ints) -> State:
        """A copy of the sequences in the slots (k,), with what their rings hold written in."""
        c = self.config
        index = torch.from_numpy(slots).to(self.ssm.device)
        ssm = self.ssm[:, index].float()
        for i, count in enumerate(self.filled[index].tolist()):
            if count:
                slot = int(slots[i])
                l = self.l[:, slot, :count]  # (layers, count, heads)
                weights = torch.exp(l[:, -1:] - l)
                if self.dt is not None:
                    weights = self.dt[:, slot, :count] * weights
                x = self.x[:, slot, :count].float() * weights[..., None]
                B = self.B[:, slot, :count].float()
                B = B.repeat_interleave(c.nheads // c.ngroups, dim=2)
                ssm[:, i] *= torch.exp(l[:, -1])[..., None, None]
                ssm[:, i] += torch.einsum("ljhp,ljhn->lhpn", x, B)
        position = self.position[index]
        places = self._window(position)
        conv = self.conv[:, index[:, None].expand_as(places), places].transpose(2, 3)
        return State(conv.to(self.model_dtype).contiguous(), ssm, position)

    def _window(self, position: Tensor) -> Tensor:
        """(k, d_conv - 1) where the last inputs of sequences at these positions lie, in order."""
        K = self.config.d_conv
        back = torch.arange(K - 1, 0, -1, device=position.device)
        return (position[:, None] - back) % K
