"""The inside of a mixer, between its two projections, as it is defined: whole rows and one step.

Dao and Gu 2024 (arXiv 2405.21060), section 7; `mamba_ssm`'s Mamba2 block is the reference where
the paper is silent. b rows, l tokens, h heads, p headdim, g groups, n d_state, k = d_conv - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from statewise.model.config import Mamba2Config
from statewise.model.conv import causal_conv_silu, causal_conv_silu_step
from statewise.model.layout import Layout
from statewise.model.norm import skip_gate_norm
from statewise.model.ssd import SSDOutput, ssd_chunked, ssd_step


class Inside(NamedTuple):
    """The parameters of a mixer between its two projections.

    Attributes:
        config: the sizes.
        taps: (conv_dim, d_conv) of the convolution.
        bias: (conv_dim,) of the convolution, or None.
        dt_bias: (nheads,).
        A_log: (nheads,).
        D: (nheads,).
        norm: (d_inner,) the gated norm's weight.
    """

    config: Mamba2Config
    taps: Tensor
    bias: Tensor | None
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    norm: Tensor


def window_after(before: Tensor, xBC: Tensor, layout: Layout) -> Tensor:
    """(b, m, k) the last k inputs of each row's last document; zeros where it is shorter.

    Args:
        before: (b, k, m) those before the rows, in the dtype of `xBC`.
        xBC: (b, l, m) the inputs of the convolution.
        layout: the documents of the rows.
    """
    k = before.shape[1]
    after = torch.cat([before, xBC[:, -k:]], dim=1)[:, -k:]
    if layout.packed:
        foreign = layout.derived(_foreign, k, xBC.device)
        after = after.masked_fill(foreign, 0.0)  # not times 0: a neighbour may be infinite
    return after.transpose(1, 2)


def _foreign(layout: Layout, k: int, device: torch.device) -> Tensor:
    """(b, k, 1) which of a row's last k inputs are not its last document's."""
    start = layout.start[layout.last][:, None]
    column = np.arange(layout.columns - k, layout.columns)
    return torch.from_numpy((start > 0) & (column < start))[..., None].to(device)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the inside of a mixer is composed of, and the composition.

    Attributes:
        conv: the convolution, as `causal_conv_silu`.
        scan: the recurrence over rows, as `ssd_chunked`.
        recur: one token of it, as `ssd_step`.
        norm: skip, gate and norm, as `skip_gate_norm`.
        chunk_size: tokens of the scan's chunks; 0: what the model's configuration says.
    """

    conv: Callable[..., Tensor] = causal_conv_silu
    scan: Callable[..., SSDOutput] = ssd_chunked
    recur: Callable[..., Tensor] = ssd_step
    norm: Callable[..., Tensor] = skip_gate_norm
    chunk_size: int = 0

    def mix(
        self,
        zxbcdt: Tensor,
        window: Tensor | None,
        ssm: Tensor | None,
        inside: Inside,
        layout: Layout,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Convolution, recurrence, gate and norm of rows.

        Args:
            zxbcdt: (b, l, d_in_proj) the input projection's result.
            window: (b, conv_dim, k) the inputs of the convolution before each row; None is zeros.
            ssm: (b, h, p, n) float32, the states before each row; None is zeros.
            inside: the mixer's parameters.
            layout: the documents of the rows.

        Returns:
            (b, l, d_inner) for the output projection; window and states after each row's last
            token.
        """
        c = inside.config
        z, xBC, dt_raw = _split(zxbcdt, c)
        if window is None:
            window = xBC.new_zeros(xBC.shape[0], c.conv_dim, c.d_conv - 1)
        if ssm is None:
            ssm = xBC.new_zeros(xBC.shape[0], c.nheads, c.headdim, c.d_state, dtype=torch.float32)
        before = window.transpose(1, 2).to(xBC.dtype)
        after = window_after(before, xBC, layout)
        xBC = self.conv(xBC, before, inside.taps, inside.bias, layout=layout)
        x, B, C = _heads(xBC, c)
        with torch.autocast(zxbcdt.device.type, enabled=False):  # the scan stays float32
            y, ssm = self.scan(
                x,
                _dt(dt_raw, inside),
                _A(inside),
                B,
                C,
                chunk_size=self.chunk_size or c.chunk_size,
                state=ssm,
                layout=layout,
            )
        y = self.norm(y, x, inside.D, z, inside.norm, groups=c.ngroups, eps=c.norm_eps)
        return y, after, ssm

    def step_(self, zxbcdt: Tensor, window: Tensor, ssm: Tensor, inside: Inside) -> Tensor:
        """One token a row: (b, d_in_proj) to (b, d_inner). Overwrites `window` and `ssm`."""
        c = inside.config
        z, xBC, dt_raw = _split(zxbcdt, c)
        xBC = causal_conv_silu_step(xBC, window, inside.taps, inside.bias)
        x, B, C = _heads(xBC, c)
        with torch.autocast(zxbcdt.device.type, enabled=False):  # as over rows
            y = self.recur(ssm, x, _dt(dt_raw, inside), _A(inside), B, C)
        return self.norm(y, x, inside.D, z, inside.norm, groups=c.ngroups, eps=c.norm_eps)


def _split(zxbcdt: Tensor, c: Mamba2Config) -> tuple[Tensor, ...]:
    return zxbcdt.split([c.d_inner, c.conv_dim, c.nheads], dim=-1)


def _heads(xBC: Tensor, c: Mamba2Config) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., h, p), B and C (..., g, n)."""
    x, B, C = xBC.split([c.d_inner, c.ngroups * c.d_state, c.ngroups * c.d_state], dim=-1)
    groups = (c.ngroups, c.d_state)
    return x.unflatten(-1, (c.nheads, c.headdim)), B.unflatten(-1, groups), C.unflatten(-1, groups)


def _A(inside: Inside) -> Tensor:
    return -torch.exp(inside.A_log.float())


def _dt(dt_raw: Tensor, inside: Inside) -> Tensor:
    c = inside.config
    dt = F.softplus(dt_raw.float() + inside.dt_bias.float())
    if c.dt_limit_low > 0 or c.dt_limit_high > 0:
        dt = dt.clamp(c.dt_limit_low, c.dt_limit_high or None)
    return dt
