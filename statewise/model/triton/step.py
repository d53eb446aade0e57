"""One token for every row of a slot table: the recurrence of decoding."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from statewise.model.triton.launch import LAUNCH, on_its_device


@triton.jit
def _step(
    state, slots, x, dt, A, B, C, y, h, r, p, n,
    P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        ps, ns = tl.program_id(2) * P + tl.arange(0, P), tl.arange(0, N)
        group, groups = head // r, h // r
        step = tl.load(dt + row * h + head).to(tl.float32)
        decay = tl.exp(step * tl.load(A + head).to(tl.float32))
        xs = tl.load(x + (row * h + head) * p + ps, mask=ps < p, other=0.0).to(tl.float32)
        at = (row * groups + group) * n + ns
        Bs = tl.load(B + at, mask=ns < n, other=0.0).to(tl.float32)
        Cs = tl.load(C + at, mask=ns < n, other=0.0).to(tl.float32)
        place = state + ((slot * h + head) * p + ps[:, None]) * n + ns[None, :]
        inside = (ps < p)[:, None] & (ns < n)[None, :]
        S = tl.load(place, mask=inside, other=0.0) * decay + (step * xs)[:, None] * Bs[None, :]
        tl.store(place, S, mask=inside)
        total = tl.sum(S * Cs[None, :], axis=1)
        tl.store(y + (row * h + head) * p + ps, total, mask=ps < p)


@on_its_device
def step_triton(
    state: Tensor, slots: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> Tensor:
    """`ssd_step` on the slots of a larger table. Writes `state` in place.

    Args:
        state: (slots, h, p, n) float32, contiguous; the rows' slots are overwritten.
        slots: (b,) int, the slot of each row, all different; -1: the row is idle and is skipped.
        x: (b, h, p) inputs.
        dt: (b, h) step sizes, after softplus and clamp.
        A: (h,) negative decay rates.
        B: (b, g, n) input maps.
        C: (b, g, n) output maps.

    Returns:
        y (b, h, p) float32; zeros for idle rows.
    """
    b, h, p = x.shape
    g, n = B.shape[1:]
    y = torch.zeros(b, h, p, dtype=torch.float32, device=x.device)
    N = triton.next_power_of_2(n)
    P = min(triton.next_power_of_2(p), max(1, 2048 // N))  # 16 values of a state a thread
    _step[(b, h, triton.cdiv(p, P))](
        state, slots, x.contiguous(), dt.contiguous(), A, B.contiguous(), C.contiguous(), y,
        h, h // g, p, n, P=P, N=N, **LAUNCH,
    )  # fmt: skip
    return y


def ssd_step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """`statewise.model.ssd.ssd_step` by its kernel; arguments and result as there."""
    rows = torch.arange(x.shape[0], device=x.device)
    return step_triton(state, rows, x, dt, A, B, C)
