"""Matrix products of float32 weights by oneDNN, forward and backward.

torch hands float32 products to MKL, which on processors that are not Intel's leaves half of their
speed unused (docs/log.md has the figures), and whose sums depend on the number of rows. oneDNN's do
not: a token's numbers are the same bits in whatever company it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# MKL takes transposed operands as they lie, oneDNN copies them first: a tenth of a small model's
# step. Which sums are made in which order is of no matter to gradients.
_MKL_IS_FAST = torch.backends.mkl.is_available() and not torch.cpu.get_capabilities().get(
    "sse4a",
    False,  # an instruction that only AMD's processors have
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` on the CPU: (..., k), (m, k), (m) -> (..., m).

    bfloat16 products, and all products under autocast, are oneDNN's already.
    """
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if x.numel() == x.shape[-1]:  # of a single row oneDNN makes a sum in another order
            two = torch.cat([x.reshape(1, -1)] * 2)
            return _product(two, weight, bias)[0].view(*x.shape[:-1], -1)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        need_x, need_weight, need_bias = ctx.needs_input_grad
        inputs = x.reshape(-1, x.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if need_x:
            grad_x = (rows @ weight if _MKL_IS_FAST else _product(rows, weight.t())).view(x.shape)
        if need_weight:
            grad_weight = rows.t() @ inputs if _MKL_IS_FAST else _product(rows.t(), inputs.t())
        if need_bias:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias
