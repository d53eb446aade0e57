"""The short causal convolution with its SiLU; letters as in `statewise.model.conv`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 16, 128  # of a program


@triton.jit
def _conv(
    x, before, taps, bias, age, carried, out, l, m, stride,
    K: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there, known = t < l, channel < m
    # Tokens of its own document behind each token, no more than K - 1 of them told; and whether
    # the row's window stands before that document.
    behind = tl.load(age + row * l + t, mask=there, other=0)
    window = tl.load(carried + row * l + t, mask=there, other=0) != 0
    total = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for tap in tl.static_range(K):
        back = K - 1 - tap
        weight = tl.load(taps + channel * K + tap, mask=known, other=0.0).to(tl.float32)
        own = there & (behind >= back)
        value = tl.load(
            x + (row * l + t - back)[:, None] * stride + channel[None, :],
            mask=own[:, None] & known[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        if back > 0:
            earlier = there & (behind < back) & window
            place = K - 1 - (back - behind)
            value += tl.load(
                before + (row * (K - 1) + place)[:, None] * m + channel[None, :],
                mask=earlier[:, None] & known[None, :], other=0.0,
            ).to(tl.float32)  # fmt: skip
        total += value * weight[None, :]
    if BIAS:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out + (row * l + t)[:, None] * m + channel[None, :], total * tl.sigmoid(total),
        mask=there[:, None] & known[None, :],
    )  # fmt: skip


def conv_triton(
    x: Tensor, before: Tensor, taps: Tensor, bias: Tensor | None, *, seq_idx: Tensor | None = None
) -> Tensor:
    """`causal_conv_silu` by the kernel. No gradients.

    Args:
        x: (b, l, m) inputs; the last axis contiguous, rows of any stride.
        before: (b, k, m) the inputs before each row, for its first document.
        taps: (m, K) weights.
        bias: (m,) or None.
        seq_idx: (b, l) document numbers.

    Returns:
        (b, l, m) float32.
    """
    b, l, m = x.shape
    K = taps.shape[1]
    if x.stride(2) != 1 or x.stride(0) != l * x.stride(1):
        x = x.contiguous()
    at = torch.arange(l, device=x.device).expand(b, l)
    if seq_idx is None:
        start = torch.zeros_like(at)
    else:
        new = torch.ones(b, l, dtype=torch.bool, device=x.device)
        new[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
        start = torch.where(new, at, 0).cummax(1).values
    out = torch.empty(b, l, m, dtype=torch.float32, device=x.device)
    _conv[(b, triton.cdiv(l, ROWS), triton.cdiv(m, CHANNELS))](
        x, before.contiguous(), taps.contiguous(), taps if bias is None else bias,
        (at - start).clamp(max=K - 1), (start == 0).to(torch.int8), out, l, m, x.stride(1),
        K=K, BIAS=bias is not None, ROWS=ROWS, CHANNELS=CHANNELS,
    )  # fmt: skip
    return out
