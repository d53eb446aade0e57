"""The skip connection, the gate and the norm of each group of channels, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _gated_norm(
    y, x, D, z, weight, out, x_stride, z_stride, width, groups, headdim, eps,
    WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    inside = tl.arange(0, WIDTH) < width
    channel = group * width + tl.arange(0, WIDTH)
    value = tl.load(y + token * groups * width + channel, mask=inside, other=0.0).to(tl.float32)
    skip = tl.load(x + token * x_stride + channel, mask=inside, other=0.0).to(tl.float32)
    value += skip * tl.load(D + channel // headdim, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(z + token * z_stride + channel, mask=inside, other=0.0).to(tl.float32)
    value *= gate * tl.sigmoid(gate)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value *= scale * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    place = out + token * groups * width + channel
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


def gated_norm_triton(
    y: Tensor, x: Tensor, D: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float
) -> Tensor:
    """`GatedRMSNorm(y + D x, z)` by the kernel. No gradients.

    Args:
        y: (..., h, p) outputs of the scan.
        x: (..., h, p) its inputs; a token's channels contiguous.
        D: (h,) weights of the skip connection.
        z: (..., h * p) gates; the last axis contiguous.
        weight: (h * p,).
        groups: of channels that are normalised each on its own.
        eps: added to the mean square.

    Returns:
        (..., h * p) in the weight's dtype.
    """
    *rows, h, p = y.shape
    x, z = x.reshape(-1, h * p), z.reshape(-1, h * p)
    out = torch.empty(*rows, h * p, dtype=weight.dtype, device=y.device)
    width = h * p // groups
    _gated_norm[(x.shape[0], groups)](
        y.contiguous(), x, D, z, weight, out, x.stride(0), z.stride(0), width, groups, p, eps,
        WIDTH=triton.next_power_of_2(width),
    )  # fmt: skip
    return out
