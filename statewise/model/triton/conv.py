"""The short causal convolution with its SiLU; letters as in `statewise.model.conv`.

Documents need two numbers a token: how many tokens of its own document are behind it, no more than
K - 1 of them told, and whether the row's window stands before that document.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from statewise.model.layout import Layout
from statewise.model.triton.launch import LAUNCH, on_its_device

ROWS, CHANNELS, BACKWARD_CHANNELS = 16, 128, 64  # of a program
SPAN = 64  # tokens whose share of the taps' gradient one program adds up


@triton.jit
def _place(age, carried, at, there, PACKED: tl.constexpr):
    """The two numbers of tokens (row * l + t); without documents, what they then are."""
    row_start, t = at
    behind, window = t, t >= 0
    if PACKED:
        behind = tl.load(age + row_start + t, mask=there, other=0)
        window = tl.load(carried + row_start + t, mask=there, other=0) != 0
    return behind, window


@triton.jit
def _tapped(
    x, before, row, l, m, stride, t, behind, window, back, there, channel, known,
    K: tl.constexpr,
):  # fmt: skip
    """(tokens, channels): the inputs `back` tokens before these, as their convolution sees them."""
    inside = there & (behind >= back)
    value = tl.load(
        x + (row * l + t - back)[:, None] * stride + channel[None, :],
        mask=inside[:, None] & known[None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip
    if back > 0:
        earlier = there & (behind < back) & window
        place = row * (K - 1) + K - 1 - (back - behind)
        value += tl.load(
            before + place[:, None] * m + channel[None, :],
            mask=earlier[:, None] & known[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
    return value


@triton.jit
def _conv(
    x, before, taps, bias, age, carried, out, l, m, stride,
    K: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    blocks, strips = tl.cdiv(m, CHANNELS), tl.cdiv(l, ROWS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    row = (rest // strips).to(tl.int64)
    t = rest % strips * ROWS + tl.arange(0, ROWS)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    there, known = t < l, channel < m
    behind, window = _place(age, carried, (row * l, t), there, PACKED)
    total = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for tap in tl.static_range(K):
        weight = tl.load(taps + channel * K + tap, mask=known, other=0.0).to(tl.float32)
        value = _tapped(
            x, before, row, l, m, stride, t, behind, window, K - 1 - tap, there, channel, known, K
        )
        total += value * weight[None, :]
    if BIAS:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out + (row * l + t)[:, None] * m + channel[None, :],
        (total * tl.sigmoid(total)).to(out.dtype.element_ty),
        mask=there[:, None] & known[None, :],
    )  # fmt: skip


@triton.jit
def _conv_backward(
    grad, x, before, taps, bias, age, carried, dx, dbefore, parts, l, m, stride, programs,
    K: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, TILES: tl.constexpr, KINDS: tl.constexpr,
):  # fmt: skip
    # A token's gradient comes from itself and the K - 1 after it, whose sums are computed again;
    # the window's tokens are those before the row's first.
    blocks = tl.cdiv(m, CHANNELS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    row = (rest // programs).to(tl.int64)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < m
    kind = tl.arange(0, KINDS)[:, None]
    shares = tl.zeros((KINDS, CHANNELS), dtype=tl.float32)  # of each tap, and of the bias
    for tile in range(TILES):
        t = (rest % programs * TILES + tile) * ROWS + tl.arange(0, ROWS) - (K - 1)
        total = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
        for back in tl.static_range(K):
            reader = t + back
            there = (reader >= 0) & (reader < l)
            behind, window = _place(age, carried, (row * l, reader), there, PACKED)
            pre = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
            for tap in tl.static_range(K):
                weight = tl.load(taps + channel * K + tap, mask=known, other=0.0).to(tl.float32)
                pre += weight[None, :] * _tapped(
                    x, before, row, l, m, stride, reader, behind, window, K - 1 - tap, there,
                    channel, known, K,
                )  # fmt: skip
            if BIAS:
                pre += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
            slope = tl.load(
                grad + (row * l + reader)[:, None] * m + channel[None, :],
                mask=there[:, None] & known[None, :], other=0.0,
            ).to(tl.float32)  # fmt: skip
            gate = tl.sigmoid(pre)
            slope *= gate * (1 + pre * (1 - gate))
            reads = there & tl.where(t >= 0, behind >= back, window & (behind < back))
            weight = tl.load(taps + channel * K + (K - 1 - back), mask=known, other=0.0)
            total += tl.where(reads[:, None], slope * weight.to(tl.float32)[None, :], 0.0)
            if back == 0:
                for tap in tl.static_range(K):
                    value = _tapped(
                        x, before, row, l, m, stride, reader, behind, window, K - 1 - tap, there,
                        channel, known, K,
                    )  # fmt: skip
                    shares += tl.where(kind == tap, tl.sum(slope * value, axis=0)[None, :], 0.0)
                shares += tl.where(kind == K, tl.sum(slope, axis=0)[None, :], 0.0)
        tl.store(
            dx + (row * l + t)[:, None] * m + channel[None, :], total.to(dx.dtype.element_ty),
            mask=((t >= 0) & (t < l))[:, None] & known[None, :],
        )  # fmt: skip
        tl.store(
            dbefore + (row * (K - 1) + t + K - 1)[:, None] * m + channel[None, :],
            total.to(dbefore.dtype.element_ty), mask=(t < 0)[:, None] & known[None, :],
        )  # fmt: skip
    tl.store(
        parts + (rest.to(tl.int64) * KINDS + kind) * m + channel[None, :], shares,
        mask=known[None, :],
    )  # fmt: skip


class _Conv(torch.autograd.Function):
    @staticmethod
    @on_its_device
    def forward(
        ctx: Any,
        x: Tensor,
        before: Tensor,
        taps: Tensor,
        bias: Tensor | None,
        layout: Layout,
        dtype: torch.dtype,
    ) -> Tensor:
        b, l, m = x.shape
        even = b == 1 or x.stride(0) == l * x.stride(1)
        if x.stride(2) != 1 or x.stride(1) < m or not even:
            # `contiguous` would keep whatever stride an axis of length 1 has.
            x = x.clone(memory_format=torch.contiguous_format)
        before, taps = before.contiguous(), taps.contiguous()
        age, carried = layout.derived(_documents, taps.shape[1], x.device)
        out = torch.empty(b, l, m, dtype=dtype, device=x.device)
        _conv[(triton.cdiv(m, CHANNELS) * triton.cdiv(l, ROWS) * b,)](
            x, before, taps, taps if bias is None else bias, x if age is None else age,
            x if carried is None else carried, out, l, m, x.stride(1),
            K=taps.shape[1], BIAS=bias is not None, PACKED=age is not None, ROWS=ROWS,
            CHANNELS=CHANNELS, **LAUNCH,
        )  # fmt: skip
        ctx.save_for_backward(x, before, taps, bias, age, carried)
        return out

    @staticmethod
    @once_differentiable
    @on_its_device
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, before, taps, bias, age, carried = ctx.saved_tensors
        b, l, m = x.shape
        K = taps.shape[1]
        programs = triton.cdiv(l + K - 1, SPAN)
        kinds = triton.next_power_of_2(K + 1)
        dx = torch.empty(b, l, m, dtype=x.dtype, device=x.device)
        dbefore = torch.empty_like(before)
        parts = torch.empty(b * programs, kinds, m, dtype=torch.float32, device=x.device)
        _conv_backward[(triton.cdiv(m, BACKWARD_CHANNELS) * programs * b,)](
            grad.contiguous(), x, before, taps, taps if bias is None else bias,
            x if age is None else age, x if carried is None else carried, dx, dbefore, parts,
            l, m, x.stride(1), programs,
            K=K, BIAS=bias is not None, PACKED=age is not None, ROWS=ROWS,
            CHANNELS=BACKWARD_CHANNELS, TILES=SPAN // ROWS, KINDS=kinds, **LAUNCH,
        )  # fmt: skip
        sums = parts.sum(0)
        dtaps = sums[:K].t().to(taps.dtype)
        dbias = None if bias is None else sums[K].to(bias.dtype)
        return dx, dbefore, dtaps, dbias, None, None


def _documents(
    layout: Layout, K: int, device: torch.device
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Of packed rows the two numbers of each token (b, l); None where its place tells them."""
    if not layout.packed:
        return None, None
    window = layout.numbers(device) == 0
    return layout.ages(device).clamp(max=K - 1), window.to(torch.int8)


def conv_silu(
    x: Tensor,
    before: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    *,
    layout: Layout,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`causal_conv_silu` and its gradients by kernels; sums are float32.

    Args:
        x: (b, l, m) inputs; a part of a projection is taken as it lies.
        before: (b, k, m) the inputs before each row, for its first document.
        taps: (m, K) weights.
        bias: (m,) or None.
        layout: the documents of the rows.
        dtype: of the result.

    Returns:
        (b, l, m) in `dtype`.
    """
    out: Tensor = _Conv.apply(x, before, taps, bias, layout, dtype)
    return out
