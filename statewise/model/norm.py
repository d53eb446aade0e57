"""The norms: of the residual stream, and behind the recurrence with its gate and skip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32; the result has the weight's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., width)."""
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps)
        return (normed * self.weight.float()).to(self.weight.dtype)


class GatedRMSNorm(nn.Module):
    """The weight of a mixer's norm; `skip_gate_norm` reads it, or a kernel.

    `norm_before_gate` of some published configurations is not meant: every reference gates first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> Tensor:
    """`norm(y * silu(z)) * weight` of each group of channels, (..., width), in float32.

    The result has the weight's dtype.
    """
    width = y.shape[-1]
    gated = y.float() * F.silu(z.float())
    grouped = gated.unflatten(-1, (groups, width // groups))
    normed = F.rms_norm(grouped, (width // groups,), eps=eps).flatten(-2)
    return (normed * weight.float()).to(weight.dtype)


def skip_gate_norm(
    y: Tensor, x: Tensor, D: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float
) -> Tensor:
    """What follows the scan: `gated_rms_norm(y + D x, z)`.

    Args:
        y: (..., h, p) outputs of the scan.
        x: (..., h, p) its inputs.
        D: (h,) weights of the skip connection.
        z: (..., h * p) gates.
        weight: (h * p,).
        groups: of channels that are normalised each on its own.
        eps: added to the mean square.

    Returns:
        (..., h * p) in the weight's dtype.
    """
    y = torch.addcmul(y, x, D.float()[:, None])
    return gated_rms_norm(y.flatten(-2), z, weight, groups=groups, eps=eps)
