"""Triton's kernels for GPUs: the scan, the convolution, the gated norm, and the step of decoding.

Each is held to its definition in torch. Gradients are the definition's: it is computed again in the
backward pass. The package imports triton, which is an extra (`pip install 'statewise[gpu]'`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from statewise.model.conv import causal_conv_silu
from statewise.model.norm import skip_gate_norm
from statewise.model.ssd import ChunkTable, SSDOutput, ssd_chunked
from statewise.model.triton.conv import conv_triton
from statewise.model.triton.norm import gated_norm_triton
from statewise.model.triton.scan import interpreted, ssd_triton
from statewise.model.triton.step import step_triton

__all__ = ["conv_silu", "gated_norm", "interpreted", "ssd", "ssd_step"]

Function = Callable[..., Any]


class _ByDefinition(torch.autograd.Function):
    """A kernel forward; backward, its definition once more and torch's own gradients."""

    @staticmethod
    def forward(ctx: Any, kernel: Function, definition: Function, *inputs: Tensor | None) -> Any:
        ctx.definition = definition
        ctx.save_for_backward(*inputs)
        return kernel(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            inputs = [
                None if t is None else t.detach().requires_grad_(need)
                for t, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            made = ctx.definition(*inputs)
            outputs = made if isinstance(made, tuple) else (made,)
            wanted = [t for t in inputs if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))
        own = (next(found) if t is not None and t.requires_grad else None for t in inputs)
        return (None, None, *own)


def conv_silu(
    x: Tensor, before: Tensor, taps: Tensor, bias: Tensor | None, *, seq_idx: Tensor | None = None
) -> Tensor:
    """`causal_conv_silu` by its kernel; arguments and result as there."""
    how: dict[str, Any] = {"seq_idx": seq_idx}
    out: Tensor = _ByDefinition.apply(
        partial(conv_triton, **how), partial(causal_conv_silu, **how), x, before, taps, bias
    )
    return out


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    state: Tensor,
    table: ChunkTable,
    operands: torch.dtype,
) -> SSDOutput:
    """`ssd_chunked` by its kernels; `operands` as for `ssd_triton`, the rest as there."""

    def kernel(x: Any, dt: Any, A: Any, B: Any, C: Any, S: Any) -> tuple[Tensor, Tensor]:
        found = ssd_triton(x, dt, A, B, C, table=table, state=S, operands=operands)
        return found.y, found.state

    def definition(x: Any, dt: Any, A: Any, B: Any, C: Any, S: Any) -> tuple[Tensor, Tensor]:
        found = ssd_chunked(x, dt, A, B, C, chunk_size=chunk_size, state=S, table=table)
        return found.y, found.state

    return SSDOutput(*_ByDefinition.apply(kernel, definition, x, dt, A, B, C, state))


def ssd_step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`ssd_step` by its kernel; arguments and result as there. No gradients."""
    rows = torch.arange(x.shape[0], device=x.device)
    return step_triton(state, rows, x, dt, A, B, C)


def gated_norm(
    y: Tensor, x: Tensor, D: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float
) -> Tensor:
    """`skip_gate_norm` by its kernel; arguments and result as there."""
    how: dict[str, Any] = {"groups": groups, "eps": eps}
    out: Tensor = _ByDefinition.apply(
        partial(gated_norm_triton, **how), partial(skip_gate_norm, **how), y, x, D, z, weight
    )
    return out
