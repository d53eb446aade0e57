"""A block's sum into the residual stream and the norm after it, in one pass over the tokens."""

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
    _TICKET, _THREADS, _TOKENS, _D, _RESIDUAL, _MIXED, _MIXED_HALF, _SUM, _OUT, _HALF, _WEIGHT,
    _EPS, _GRAD_OUT, _GRAD_SUM, _GRAD, _GRAD_WEIGHT,
) = range(16)  # fmt: skip
BLOCK = 32  # tokens that a thread takes at once and that share one partial sum


@kernel
def _add_norm(a):  # pragma: no cover (compiled)
    d, tokens, half = load1_i64(a, _D), load1_i64(a, _TOKENS), load1_i64(a, _HALF)
    residual, mixed, mixed_half = (
        load1_i64(a, _RESIDUAL), load1_i64(a, _MIXED), load1_i64(a, _MIXED_HALF)
    )  # fmt: skip
    added, out, weight = load1_i64(a, _SUM), load1_i64(a, _OUT), load1_i64(a, _WEIGHT)
    eps = load1(load1_i64(a, _EPS), 0)
    while True:
        block = ticket(a) * BLOCK
        if block >= tokens:
            break
        for t in range(block, min(block + BLOCK, tokens)):
            square = const(0.0)
            for c in range(t * d, (t + 1) * d, 16):
                value = load(residual, c)
                if mixed != 0:
                    value = value + read(mixed, c, mixed_half)
                    store(added, c, value)
                square = fma(value, value, square)
            inverse = splat(np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps))
            for c in range(0, d, 16):
                value = load(added, t * d + c) * inverse * load(weight, c)
                write(out, t * d + c, value, half)


@kernel
def _add_norm_backward(a):  # pragma: no cover (compiled)
    d, tokens, half = load1_i64(a, _D), load1_i64(a, _TOKENS), load1_i64(a, _HALF)
    added, weight, eps = load1_i64(a, _SUM), load1_i64(a, _WEIGHT), load1(load1_i64(a, _EPS), 0)
    grad_out, grad_sum = load1_i64(a, _GRAD_OUT), load1_i64(a, _GRAD_SUM)
    grad, grad_weight = load1_i64(a, _GRAD), load1_i64(a, _GRAD_WEIGHT)
    mixed, mixed_half = load1_i64(a, _MIXED), load1_i64(a, _MIXED_HALF)
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
                value = load(added, t * d + c)
                square = fma(value, value, square)
                along = fma(read(grad_out, t * d + c, half) * load(weight, c), value, along)
            inverse = np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps)
            mean = splat(total(along) * inverse * inverse / np.float32(d))
            for c in range(0, d, 16):
                value = load(added, t * d + c)
                above = read(grad_out, t * d + c, half)
                part = fma(above * value, splat(inverse), load(grad_weight, block * d + c))
                store(grad_weight, block * d + c, part)
                below = (above * load(weight, c) - value * mean) * splat(inverse)
                if grad_sum != 0:
                    below = below + load(grad_sum, t * d + c)
                store(grad, t * d + c, below)
                if mixed != 0:
                    write(mixed, t * d + c, below, mixed_half)


def add_norm(
    residual: Tensor, mixed: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`residual + mixed` and its root-mean-square norm.

    Args:
        residual: (b, l, d) float32.
        mixed: (b, l, d) float32 or bfloat16, or None for nothing to add.
        weight: (d) of the norm.
        eps: of the norm.
        dtype: of the normed result, float32 or bfloat16.

    Returns:
        The sum, float32, and its norm in `dtype`.
    """
    out: tuple[Tensor, Tensor] = _AddNorm.apply(residual, mixed, weight, eps, dtype)
    return out


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        mixed: Tensor | None,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        residual = residual.contiguous()
        added = residual if mixed is None else torch.empty_like(residual)
        out = torch.empty(residual.shape, dtype=dtype)
        _call(_add_norm, eps, weight, added, out, residual=residual, mixed=mixed)
        ctx.save_for_backward(added, weight)
        ctx.eps, ctx.mixed, ctx.dtype = eps, None if mixed is None else mixed.dtype, dtype
        ctx.set_materialize_grads(False)
        if mixed is None:
            added = added.view_as(added)
        return added, out

    @staticmethod
    def backward(
        ctx: Any, grad_sum: Tensor | None, grad_out: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        added, weight = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros(added.shape, dtype=ctx.dtype)
        grad = torch.empty_like(added)
        narrow = ctx.mixed is not None and ctx.mixed != torch.float32
        grad_mixed = torch.empty(added.shape, dtype=ctx.mixed) if narrow else None
        tokens, d = added.numel() // added.shape[-1], added.shape[-1]
        partial = torch.empty(-(-tokens // BLOCK), d)
        _call(
            _add_norm_backward,
            ctx.eps,
            weight,
            added,
            grad_out.to(ctx.dtype),
            mixed=grad_mixed,
            grad_sum=grad_sum,
            grad=grad,
            grad_weight=partial,
        )
        if ctx.mixed is not None and not narrow:
            grad_mixed = grad
        return grad, grad_mixed, partial.sum(0).to(weight.dtype), None, None


def _call(
    compiled: Any,
    eps: float,
    weight: Tensor,
    added: Tensor,
    out: Tensor,
    *,
    residual: Tensor | None = None,
    mixed: Tensor | None = None,
    grad_sum: Tensor | None = None,
    grad: Tensor | None = None,
    grad_weight: Tensor | None = None,
) -> None:
    weight = weight.detach().float().contiguous()
    out = out.contiguous()
    mixed = None if mixed is None else mixed.contiguous()
    grad_sum = None if grad_sum is None else grad_sum.float().contiguous()
    epsilon = np.array([eps], dtype=np.float32)

    def address(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor.data_ptr()

    arguments = np.array(
        [
            0,
            0,
            added.numel() // added.shape[-1],
            added.shape[-1],
            address(residual),
            address(mixed),
            int(mixed is not None and mixed.dtype == torch.bfloat16),
            address(added),
            address(out),
            int(out.dtype == torch.bfloat16),
            weight.data_ptr(),
            epsilon.ctypes.data,
            address(out),
            address(grad_sum),
            address(grad),
            address(grad_weight),
        ],
        dtype=np.int64,
    )
    run(compiled, arguments)
