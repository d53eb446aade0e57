"""The norm of the residual stream, in one pass over the tokens, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.model.cpu.scan import read, write
from statewise.model.cpu.threads import kernel, run
from statewise.model.cpu.vector import (
    const,
    fma,
    load,
    load1,
    load1_i64,
    splat,
    store,
    ticket,
    total,
)

(
    _TICKET, _THREADS, _TOKENS, _D, _RESIDUAL, _OUT, _HALF, _WEIGHT, _EPS, _GRAD_PASSED, _GRAD,
    _GRAD_WEIGHT,
) = range(12)  # fmt: skip
BLOCK = 32  # tokens that a thread takes at once and that share one partial sum


@kernel
def _norm(a):  # pragma: no cover (compiled)
    d, tokens, half = load1_i64(a, _D), load1_i64(a, _TOKENS), load1_i64(a, _HALF)
    residual, out, weight = load1_i64(a, _RESIDUAL), load1_i64(a, _OUT), load1_i64(a, _WEIGHT)
    eps = load1(load1_i64(a, _EPS), 0)
    while True:
        block = ticket(a) * BLOCK
        if block >= tokens:
            break
        for t in range(block, min(block + BLOCK, tokens)):
            square = const(0.0)
            for c in range(t * d, (t + 1) * d, 16):
                value = load(residual, c)
                square = fma(value, value, square)
            inverse = splat(np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps))
            for c in range(0, d, 16):
                value = load(residual, t * d + c) * inverse * load(weight, c)
                write(out, t * d + c, value, half)


@kernel
def _norm_backward(a):  # pragma: no cover (compiled)
    d, tokens, half = load1_i64(a, _D), load1_i64(a, _TOKENS), load1_i64(a, _HALF)
    residual, weight = load1_i64(a, _RESIDUAL), load1_i64(a, _WEIGHT)
    eps = load1(load1_i64(a, _EPS), 0)
    grad_out, grad_passed = load1_i64(a, _OUT), load1_i64(a, _GRAD_PASSED)
    grad, grad_weight = load1_i64(a, _GRAD), load1_i64(a, _GRAD_WEIGHT)
    while True:
        block = ticket(a)
        if block * BLOCK >= tokens:
            break
        for c in range(0, d, 16):
            store(grad_weight, block * d + c, const(0.0))
        for t in range(block * BLOCK, min(block * BLOCK + BLOCK, tokens)):
            square = const(0.0)
            along = const(0.0)
            for c in range(0, d, 16):
                value = load(residual, t * d + c)
                square = fma(value, value, square)
                along = fma(read(grad_out, t * d + c, half) * load(weight, c), value, along)
            inverse = np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps)
            mean = splat(total(along) * inverse * inverse / np.float32(d))
            for c in range(0, d, 16):
                value = load(residual, t * d + c)
                above = read(grad_out, t * d + c, half)
                part = fma(above * value, splat(inverse), load(grad_weight, block * d + c))
                store(grad_weight, block * d + c, part)
                below = (above * load(weight, c) - value * mean) * splat(inverse)
                if grad_passed != 0:
                    below = below + load(grad_passed, t * d + c)
                store(grad, t * d + c, below)


def norm_residual(
    residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The residual stream as it is, and its root-mean-square norm.

    The stream is passed through so that the backward pass has the gradients of both at once and
    adds them where it makes the one.

    Args:
        residual: (..., d) float32.
        weight: (d) of the norm.
        eps: of the norm.
        dtype: of the normed result, float32 or bfloat16.

    Returns:
        `residual`, and its norm in `dtype`.
    """
    out: tuple[Tensor, Tensor] = _Norm.apply(residual, weight, eps, dtype)
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        residual = residual.contiguous()
        out = torch.empty(residual.shape, dtype=dtype)
        _call(_norm, eps, weight, residual, out)
        ctx.save_for_backward(residual, weight)
        ctx.eps, ctx.dtype = eps, dtype
        ctx.set_materialize_grads(False)
        return residual.view_as(residual), out

    @staticmethod
    def backward(
        ctx: Any, grad_passed: Tensor | None, grad_out: Tensor | None
    ) -> tuple[Tensor, Tensor, None, None]:
        residual, weight = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros(residual.shape, dtype=ctx.dtype)
        grad = torch.empty_like(residual)
        tokens, d = residual.numel() // residual.shape[-1], residual.shape[-1]
        partial = torch.empty(-(-tokens // BLOCK), d)
        _call(
            _norm_backward,
            ctx.eps,
            weight,
            residual,
            grad_out.to(ctx.dtype),
            grad_passed=grad_passed,
            grad=grad,
            grad_weight=partial,
        )
        return grad, partial.sum(0).to(weight.dtype), None, None


def _call(
    compiled: Any,
    eps: float,
    weight: Tensor,
    residual: Tensor,
    out: Tensor,
    *,
    grad_passed: Tensor | None = None,
    grad: Tensor | None = None,
    grad_weight: Tensor | None = None,
) -> None:
    """Run a kernel; `out` is the normed result, or its gradient."""
    weight = weight.detach().float().contiguous()
    out = out.contiguous()
    grad_passed = None if grad_passed is None else grad_passed.float().contiguous()
    epsilon = np.array([eps], dtype=np.float32)

    def address(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor.data_ptr()

    arguments = np.array(
        [
            0,
            0,
            residual.numel() // residual.shape[-1],
            residual.shape[-1],
            residual.data_ptr(),
            out.data_ptr(),
            int(out.dtype == torch.bfloat16),
            weight.data_ptr(),
            epsilon.ctypes.data,
            address(grad_passed),
            address(grad),
            address(grad_weight),
        ],
        dtype=np.int64,
    )
    run(compiled, arguments)
