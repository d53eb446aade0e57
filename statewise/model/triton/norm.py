"""The skip connection, the gate and the norm of each group of channels, in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from statewise.model.triton.launch import LAUNCH, on_its_device, warps_of

TOKENS = 32  # whose share of the weights' gradients one program adds up


@triton.jit
def _part(t, token, stride, channel, inside):
    """A token's values of these channels, float32."""
    return tl.load(t + token * stride + channel, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _gated_norm(
    y, x, D, z, weight, out, x_stride, z_stride, width, groups, headdim, eps,
    WIDTH: tl.constexpr,
):  # fmt: skip
    group, token = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    inside = tl.arange(0, WIDTH) < width
    channel = group * width + tl.arange(0, WIDTH)
    value = _part(y, token, groups * width, channel, inside)
    skip = tl.load(D + channel // headdim, mask=inside, other=0.0).to(tl.float32)
    value += _part(x, token, x_stride, channel, inside) * skip
    gate = _part(z, token, z_stride, channel, inside)
    value *= gate * tl.sigmoid(gate)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value *= scale * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    place = out + token * groups * width + channel
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_norm_backward(
    grad, y, x, D, z, weight, dy, dx, dz, parts, x_stride, z_stride, rows, width, groups, headdim,
    eps, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    group, block = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    inside = tl.arange(0, WIDTH) < width
    channel = group * width + tl.arange(0, WIDTH)
    whole = groups * width
    skip = tl.load(D + channel // headdim, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    of_weight, of_skip = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for token in range(block * TOKENS, tl.minimum(block * TOKENS + TOKENS, rows)):
        xs = _part(x, token, x_stride, channel, inside)
        value = _part(y, token, whole, channel, inside) + xs * skip
        gate = _part(z, token, z_stride, channel, inside)
        share = tl.sigmoid(gate)
        gated = value * gate * share
        inverse = tl.rsqrt(tl.sum(gated * gated, axis=0) / width + eps)
        slope = _part(grad, token, whole, channel, inside)
        of_weight += slope * gated * inverse
        slope *= scale
        common = tl.sum(slope * gated, axis=0) / width * inverse * inverse
        slope = inverse * (slope - gated * common)
        of_value = slope * gate * share
        of_skip += of_value * xs
        place = token * whole + channel
        tl.store(dy + place, of_value.to(dy.dtype.element_ty), mask=inside)
        tl.store(dx + place, (of_value * skip).to(dx.dtype.element_ty), mask=inside)
        of_gate = slope * value * share * (1 + gate * (1 - share))
        tl.store(dz + place, of_gate.to(dz.dtype.element_ty), mask=inside)
    tl.store(parts + block * 2 * whole + channel, of_weight, mask=inside)
    tl.store(parts + (block * 2 + 1) * whole + channel, of_skip, mask=inside)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    @on_its_device
    def forward(
        ctx: Any, y: Tensor, x: Tensor, D: Tensor, z: Tensor, weight: Tensor, *how: Any
    ) -> Tensor:
        groups, eps, dtype = how
        *rows, h, p = y.shape
        y, x, z = y.reshape(-1, h * p), x.reshape(-1, h * p), z.reshape(-1, h * p)
        y = y.contiguous()
        out = torch.empty(*rows, h * p, dtype=dtype, device=y.device)
        width = h * p // groups
        _gated_norm[(x.shape[0] * groups,)](
            y, x, D, z, weight, out, x.stride(0), z.stride(0), width, groups, p, eps,
            WIDTH=triton.next_power_of_2(width), num_warps=warps_of(width), **LAUNCH,
        )  # fmt: skip
        ctx.save_for_backward(y, x, D, z, weight)
        ctx.how = (groups, eps, rows, h, p)
        return out

    @staticmethod
    @once_differentiable
    @on_its_device
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, x, D, z, weight = ctx.saved_tensors
        groups, eps, rows, h, p = ctx.how
        count, width = x.shape[0], h * p // groups
        blocks = triton.cdiv(count, TOKENS)
        dy, dx, dz = (torch.empty(count, h * p, dtype=t.dtype, device=t.device) for t in (y, x, z))
        parts = torch.empty(blocks, 2, h * p, dtype=torch.float32, device=y.device)
        _gated_norm_backward[(blocks * groups,)](
            grad.contiguous(), y, x, D, z, weight, dy, dx, dz, parts, x.stride(0), z.stride(0),
            count, width, groups, p, eps, TOKENS=TOKENS,
            WIDTH=triton.next_power_of_2(width), num_warps=warps_of(width), **LAUNCH,
        )  # fmt: skip
        of_weight, of_skip = parts.sum(0)
        heads = (*rows, h, p)
        dD = of_skip.view(h, p).sum(1).to(D.dtype)
        grads = (dy.view(heads), dx.view(heads), dD, dz.view(*rows, h * p))
        return (*grads, of_weight.to(weight.dtype), None, None, None)


def gated_norm(
    y: Tensor,
    x: Tensor,
    D: Tensor,
    z: Tensor,
    weight: Tensor,
    *,
    groups: int,
    eps: float,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`skip_gate_norm`, `GatedRMSNorm(y + D x, z)`, and its gradients by kernels.

    Args:
        y: (..., h, p) outputs of the scan.
        x: (..., h, p) its inputs; a token's channels contiguous.
        D: (h,) weights of the skip connection.
        z: (..., h * p) gates; the last axis contiguous.
        weight: (h * p,).
        groups: of channels that are normalised each on its own.
        eps: added to the mean square.
        dtype: of the result; the weight's if None.

    Returns:
        (..., h * p) in `dtype`.
    """
    out: Tensor = _GatedNorm.apply(y, x, D, z, weight, groups, eps, dtype or weight.dtype)
    return out
