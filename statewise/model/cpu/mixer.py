"""The inside of a mixer as one differentiable function: kernels forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from statewise.model.config import Mamba2Config
from statewise.model.cpu import scan, scan_backward
from statewise.model.inside import Inside, window_after
from statewise.model.layout import Layout


def mix(
    zxbcdt: Tensor,
    window: Tensor | None,
    ssm: Tensor | None,
    inside: Inside,
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolution, recurrence, gate and norm of one mixer on the CPU.

    `Parts.mix` of `statewise.model.inside` within `docs/numerics.md`, arguments and results as
    there; everything is computed in float32. For the backward pass it keeps `zxbcdt`, y before the
    gate, one number a token and group, and a state every 128 tokens.

    Args:
        zxbcdt: (b, l, d_in_proj) float32 or bfloat16.
        window: (b, conv_dim, d_conv - 1), or None.
        ssm: (b, nheads, headdim, d_state) float32, or None.
        inside: of sizes whose headdim and d_state are multiples of 16.
        layout: the documents of the rows.

    Returns:
        (b, l, d_inner) in the dtype of `zxbcdt`, the window in it, and the states.
    """
    c = inside.config
    xBC = zxbcdt[..., c.d_inner : c.d_inner + c.conv_dim]
    if window is None:
        before = None
        told = xBC.new_zeros(xBC.shape[0], c.d_conv - 1, c.conv_dim)
    else:
        before = window.transpose(1, 2)
        told = before.to(xBC.dtype)
    after = window_after(told, xBC, layout)
    bias = torch.zeros(c.conv_dim) if inside.bias is None else inside.bias
    y, ssm = _Mix.apply(
        zxbcdt,
        before,
        ssm,
        inside.taps,
        bias,
        inside.dt_bias,
        inside.A_log,
        inside.D,
        inside.norm,
        c,
        layout,
    )
    return y, after, ssm


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        zxbcdt: Tensor,
        before: Tensor | None,
        ssm: Tensor | None,
        taps: Tensor,
        bias: Tensor,
        dt_bias: Tensor,
        A_log: Tensor,
        D: Tensor,
        norm: Tensor,
        config: Mamba2Config,
        documents: Layout,
    ) -> tuple[Tensor, Tensor]:
        shape = (zxbcdt.shape[0], zxbcdt.shape[1])
        zx = zxbcdt.reshape(-1, zxbcdt.shape[2]).contiguous()
        before = None if before is None else before.float().contiguous()
        ssm = None if ssm is None else ssm.contiguous()
        parameters = _parameters(taps, bias, dt_bias, A_log, D, norm)
        keep = any(ctx.needs_input_grad)
        out, after, kept = scan.forward(
            config, documents, shape, zx, before, ssm, parameters, keep=keep
        )
        if kept is not None:
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(zx, before, ssm, taps, bias, dt_bias, A_log, D, norm, *kept)
            ctx.sizes = (config, documents, shape)
        return out.view(*shape, -1), after

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_ssm: Tensor | None) -> Any:
        zx, before, ssm, *rest = ctx.saved_tensors
        given, kept, y = rest[:6], tuple(rest[6:]), rest[6]
        config, documents, shape = ctx.sizes
        if grad_out is None:
            grad_out = torch.zeros_like(y)
        grad_zx, grad_before, grad_ssm_in, grads = scan_backward.backward(
            config,
            documents,
            shape,
            zx,
            before,
            ssm,
            _parameters(*given),
            kept,
            grad_out.reshape(y.shape).to(y.dtype).contiguous(),
            None if grad_ssm is None else grad_ssm.contiguous(),
        )
        taps, bias, dt_bias, A_log, D, norm = given
        d_taps, d_bias, d_dt_bias, d_A, d_D, d_norm = grads
        d_A_log = d_A * -torch.exp(A_log.float())
        return (
            grad_zx.view(*shape, -1),
            grad_before,
            grad_ssm_in,
            d_taps.t().to(taps.dtype),
            d_bias.to(bias.dtype),
            d_dt_bias.to(dt_bias.dtype),
            d_A_log.to(A_log.dtype),
            d_D.to(D.dtype),
            d_norm.to(norm.dtype),
            None,
            None,
        )


def _parameters(
    taps: Tensor, bias: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, norm: Tensor
) -> tuple[Tensor, ...]:
    """In the form that the kernels read: float32, the taps one after the other."""
    A = -torch.exp(A_log.float())
    return tuple(t.detach().float().contiguous() for t in (taps.t(), bias, dt_bias, A, D, norm))
