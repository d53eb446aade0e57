"""The short causal convolution before the recurrence, with its SiLU: whole rows and one step.

Depthwise, K taps, oldest first. A document's first tokens see zeros before them (or, at the start
of a row, the window that the row came with), never the document that stands before it in the row.
b rows, l tokens, m channels, K taps, k = K - 1 the window's width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from statewise.model.layout import Layout


def causal_conv_silu(
    x: Tensor, before: Tensor, taps: Tensor, bias: Tensor | None, *, layout: Layout
) -> Tensor:
    """`silu(bias + sum_j taps[:, j] x[t - k + j])`, in float32.

    Documents are laid out with k zeros before each, so that one pass over the whole needs no mask.

    Args:
        x: (b, l, m) inputs.
        before: (b, k, m) the inputs before each row, for its first document.
        taps: (m, K) weights.
        bias: (m,) or None.
        layout: the documents of the rows.

    Returns:
        (b, l, m) float32.
    """
    b, l, m = x.shape
    k = before.shape[1]
    places, carried, total = layout.derived(_gapped, k, x.device)
    out: Tensor = _ConvSiLU.apply(  # type: ignore[no-untyped-call]
        x.reshape(b * l, m).float(),
        before.reshape(b * k, m).float(),
        taps.float(),
        None if bias is None else bias.float(),
        places,
        carried,
        total,
    )
    return out.view(b, l, m)


def _gapped(layout: Layout, k: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Where tokens (b * l,) and windows (b * k,) stand when k places precede each document."""
    num = len(layout.row)
    tokens = layout.rows * layout.columns
    gaps = np.repeat(np.arange(1, num + 1), layout.length)
    places = np.arange(tokens) + k * gaps
    starts = places[:: layout.columns, None]  # of the rows
    carried = (starts - k + np.arange(k)).reshape(-1)
    on_device = [torch.from_numpy(a).to(device) for a in (places, carried)]
    return on_device[0], on_device[1], tokens + k * num


class _ConvSiLU(torch.autograd.Function):
    """Convolution and SiLU over gapped documents; one pass a tap, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        before: Tensor,
        taps: Tensor,
        bias: Tensor | None,
        places: Tensor,
        carried: Tensor,
        total: int,
    ) -> Tensor:
        flat = x.new_zeros(total, x.shape[1])
        flat.index_copy_(0, places, x)
        flat.index_copy_(0, carried, before)
        pre = _convolve(flat, taps, bias)
        ctx.save_for_backward(flat, taps, pre, places, carried)
        ctx.has_bias = bias is not None
        return F.silu(pre).index_select(0, places - (taps.shape[1] - 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, taps, pre, places, carried = ctx.saved_tensors
        k = taps.shape[1] - 1
        full = torch.zeros_like(pre).index_copy_(0, places - k, grad)
        gate = torch.sigmoid(pre)
        # d silu(u) = s (1 + u (1 - s)), s = sigmoid(u)
        full.mul_(gate).mul_(torch.addcmul(pre.add(1), pre, gate, value=-1))
        grad_flat = torch.zeros_like(flat)
        grad_taps = torch.empty_like(taps)
        num = pre.shape[0]
        for j in range(k + 1):
            grad_flat[j : j + num].addcmul_(full, taps[:, j])
            grad_taps[:, j] = (full * flat[j : j + num]).sum(0)
        grad_bias = full.sum(0) if ctx.has_bias else None
        grad_x, grad_before = (grad_flat.index_select(0, i) for i in (places, carried))
        return grad_x, grad_before, grad_taps, grad_bias, None, None, None


def _convolve(flat: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    num = flat.shape[0] - (taps.shape[1] - 1)
    out = flat[:num] * taps[:, 0]
    for j in range(1, taps.shape[1]):
        out.addcmul_(flat[j : j + num], taps[:, j])
    return out if bias is None else out.add_(bias)


def causal_conv_silu_step(x: Tensor, window: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """One token a row: rounds as `causal_conv_silu` does. Writes `window` in place.

    Args:
        x: (b, m) inputs.
        window: (b, m, k) the inputs before, overwritten with those up to this token.
        taps: (m, K) weights.
        bias: (m,) or None.

    Returns:
        (b, m) float32.
    """
    inputs = torch.cat([window, x[..., None].to(window.dtype)], dim=2)
    window.copy_(inputs[..., 1:])
    inputs, taps = inputs.float(), taps.float()
    out = inputs[..., 0] * taps[:, 0]
    for j in range(1, taps.shape[1]):
        out.addcmul_(inputs[..., j], taps[:, j])
    return F.silu(out if bias is None else out.add_(bias))
