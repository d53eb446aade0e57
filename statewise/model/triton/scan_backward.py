"""The scan's gradients in five kernels, after the forward's decays, products and states once more.

With u_j = dt_j x_j, S the state before a chunk, D the gradient of the state after it, s the running
sums of dt A, w_ij = exp(s_i - s_j) and e the chunk's last place:

    dD    before = exp(s_e) D + sum_i exp(s_i) dy_i C_i^T                        `_states_backward`
    dG_ij        = sum over heads of w_ij (dy_i . u_j)                           `_pairs`
    dC_i         = sum_j dG_ij B_j + sum over heads of exp(s_i) S^T dy_i         `_maps`
    dB_j         = sum_i dG_ij C_i + sum over heads of exp(s_e - s_j) D^T u_j    `_maps`
    du_j         = sum_i (C_i . B_j) w_ij dy_i + exp(s_e - s_j) D B_j            `_inputs`
    ds_i         = what passes to i from before, less what passes from i on      `_steps`

What passes from token j to token i > j is E_ij = (C_i . B_j) w_ij (dy_i . u_j): the same numbers
summed over j for i and over i for j, and never on the diagonal, which has no decay. Sums over heads
and over tiles are taken in one fixed order; no kernel adds to memory that another one writes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from statewise.model.layout import Layout
from statewise.model.ssd import ChunkTable, SSDOutput
from statewise.model.triton.launch import LAUNCH, on_its_device, operand, power_of_two, stages_of
from statewise.model.triton.scan import (
    HEADS,
    Scan,
    decay_between,
    rows_of,
    ssd_triton,
    state_of,
    tile_of,
)

MAPS_WARPS = 8  # of `_maps`, which keeps two tiles of n columns in registers


@triton.jit
def _states_backward(
    dy, C, tokens, valid, sums, incoming, grad_final, carries, ends, starts, lengths,
    outgoing, kept, grad_state, h, r, q, p, n, C_stride,
    STATE: tl.constexpr, FINAL: tl.constexpr, ROWS: tl.constexpr, PS: tl.constexpr,
    N: tl.constexpr, DTYPE: tl.constexpr, EXACT: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(p, PS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, document = rest % h, (rest // h).to(tl.int64)
    ps, ns = block * PS + tl.arange(0, PS), tl.arange(0, N)
    inside = (ns < n)[:, None] & (ps < p)[None, :]
    at = ps[None, :] * n + ns[:, None]
    D = tl.zeros((N, PS), dtype=tl.float32)
    if FINAL:
        row = tl.load(ends + document)
        if row >= 0:
            D = tl.load(grad_final + (row * h + head) * p * n + at, mask=inside, other=0.0)
    length = tl.load(lengths + document)
    for back in range(length):
        chunk = tl.load(starts + length - 1 - back) + document
        base = (chunk * h + head) * q
        place = (chunk * h + head) * p * n + at
        tl.store(outgoing + place, D.to(DTYPE), mask=inside)
        S = tl.load(incoming + place, mask=inside, other=0.0).to(tl.float32)
        D = D * tl.exp(tl.load(sums + base + q - 1))
        tl.store(kept + (chunk * h + head) * blocks + block, tl.sum(S * D))
        for first in range(0, q, ROWS):
            i, token, real = tile_of(tokens, valid, chunk, first, q, ROWS)
            weight = tl.exp(tl.load(sums + base + i, mask=i < q, other=0.0))
            dys = tl.load(
                dy + (token[:, None] * h + head) * p + ps[None, :],
                mask=real[:, None] & (ps < p)[None, :], other=0.0,
            )  # fmt: skip
            Cs = operand(rows_of(C, token, real, C_stride, head // r * n, n, N), DTYPE, WIDEN)
            weighted = operand(dys.to(tl.float32) * weight[:, None], DTYPE, WIDEN)
            D = tl.dot(tl.trans(Cs), weighted, D, input_precision=EXACT)
    if STATE:
        row = tl.load(carries + document)
        if row >= 0:
            tl.store(grad_state + (row * h + head) * p * n + at, D, mask=inside)


@triton.jit
def _pairs(
    dy, x, tokens, valid, sums, steps, products, grad_products, received, sent,
    h, r, q, p, x_stride, ROWS: tl.constexpr, P: tl.constexpr,
    DTYPE: tl.constexpr, EXACT: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    tiles, g = tl.cdiv(q, ROWS), h // r
    pair, rest = tl.program_id(0) % (tiles * tiles), tl.program_id(0) // (tiles * tiles)
    group, chunk = rest % g, (rest // g).to(tl.int64)
    tile_i, tile_j = pair // tiles, pair % tiles
    if tile_j <= tile_i:
        i, token_i, real_i = tile_of(tokens, valid, chunk, tile_i * ROWS, q, ROWS)
        j, token_j, real_j = tile_of(tokens, valid, chunk, tile_j * ROWS, q, ROWS)
        there = real_i[:, None] & real_j[None, :]
        place = ((chunk * g + group) * q + i[:, None]) * q + j[None, :]
        CB = tl.load(products + place, mask=there, other=0.0).to(tl.float32)
        CB = tl.where(j[None, :] < i[:, None], CB, 0.0)
        total = tl.zeros((ROWS, ROWS), dtype=tl.float32)
        for head in range(group * r, group * r + r):
            base = (chunk * h + head) * q
            sum_i = tl.load(sums + base + i, mask=i < q, other=0.0)
            sum_j = tl.load(sums + base + j, mask=j < q, other=0.0)
            step_j = tl.load(steps + base + j, mask=j < q, other=0.0)
            dys = operand(rows_of(dy, token_i, real_i, h * p, head * p, p, P), DTYPE, WIDEN)
            xs = operand(rows_of(x, token_j, real_j, x_stride, head * p, p, P), DTYPE, WIDEN)
            passed = tl.dot(dys, tl.trans(xs), input_precision=EXACT)
            passed *= decay_between(sum_i, sum_j, i, j, there) * step_j[None, :]
            total += passed
            passed *= CB
            ledger = (chunk * h + head) * tiles
            tl.store(received + (ledger + tile_j) * q + i, tl.sum(passed, axis=1), mask=i < q)
            tl.store(sent + (ledger + tile_i) * q + j, tl.sum(passed, axis=0), mask=j < q)
        inside = (i < q)[:, None] & (j < q)[None, :]
        tl.store(grad_products + place, total.to(DTYPE), mask=inside)


@triton.jit
def _maps(
    values, other, primal, tokens, valid, sums, steps, states, grad_products, out, through,
    h, r, q, p, n, values_stride, other_stride, primal_stride,
    BACK: tl.constexpr, ROWS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    DTYPE: tl.constexpr, EXACT: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    # dC: values dy, other B, primal C, states before the chunk. BACK, dB: values x, other C,
    # primal B, gradients of the states after it.
    tiles, g = tl.cdiv(q, ROWS), h // r
    tile, rest = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    group, chunk = rest % g, (rest // g).to(tl.int64)
    ns = tl.arange(0, N)
    i, token, real = tile_of(tokens, valid, chunk, tile * ROWS, q, ROWS)
    if tl.sum(real.to(tl.int32)) == 0:
        return
    total = tl.zeros((ROWS, N), dtype=tl.float32)
    begin, stop = 0, tile + 1
    if BACK:
        begin, stop = tile, tiles
    for t in range(begin, stop):
        j, token_j, real_j = tile_of(tokens, valid, chunk, t * ROWS, q, ROWS)
        place = (chunk * g + group) * q * q
        if BACK:
            place += j[None, :] * q + i[:, None]
        else:
            place += i[:, None] * q + j[None, :]
        pairs = tl.load(grad_products + place, mask=real[:, None] & real_j[None, :], other=0.0)
        others = rows_of(other, token_j, real_j, other_stride, group * n, n, N)
        pairs, others = operand(pairs, DTYPE, WIDEN), operand(others, DTYPE, WIDEN)
        total = tl.dot(pairs, others, total, input_precision=EXACT)
    mine = rows_of(primal, token, real, primal_stride, group * n, n, N).to(tl.float32)
    for head in range(group * r, group * r + r):
        base = (chunk * h + head) * q
        weight = tl.load(sums + base + i, mask=i < q, other=0.0)
        if BACK:
            weight = tl.exp(tl.load(sums + base + q - 1) - weight)
            weight *= tl.load(steps + base + i, mask=i < q, other=0.0)
        else:
            weight = tl.exp(weight)
        vs = rows_of(values, token, real, values_stride, head * p, p, P).to(tl.float32)
        S = state_of(states, chunk * h + head, p, n, P, N)
        vs, S = operand(vs * weight[:, None], DTYPE, WIDEN), operand(S, DTYPE, WIDEN)
        part = tl.dot(vs, S, input_precision=EXACT)
        total += part
        tl.store(through + base + i, tl.sum(part * mine, axis=1), mask=i < q)
    tl.store(
        out + (token[:, None] * g + group) * n + ns[None, :], total.to(out.dtype.element_ty),
        mask=real[:, None] & (ns < n)[None, :],
    )  # fmt: skip


@triton.jit
def _inputs(
    dy, x, B, tokens, valid, sums, steps, products, outgoing, dx, along,
    h, r, q, p, n, x_stride, B_stride,
    ROWS: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    DTYPE: tl.constexpr, EXACT: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(q, ROWS)
    tile, rest = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    head, chunk = rest % h, (rest // h).to(tl.int64)
    ps = tl.arange(0, P)
    base = (chunk * h + head) * q
    group = chunk * (h // r) + head // r
    j, token_j, real_j = tile_of(tokens, valid, chunk, tile * ROWS, q, ROWS)
    if tl.sum(real_j.to(tl.int32)) == 0:
        return
    sum_j = tl.load(sums + base + j, mask=j < q, other=0.0)
    Bs = operand(rows_of(B, token_j, real_j, B_stride, head // r * n, n, N), DTYPE, WIDEN)
    D = operand(state_of(outgoing, chunk * h + head, p, n, P, N), DTYPE, WIDEN)
    total = tl.dot(Bs, tl.trans(D), input_precision=EXACT)
    total *= tl.exp(tl.load(sums + base + q - 1) - sum_j)[:, None]
    for t in range(tile, tiles):
        i, token_i, real_i = tile_of(tokens, valid, chunk, t * ROWS, q, ROWS)
        sum_i = tl.load(sums + base + i, mask=i < q, other=0.0)
        there = real_i[:, None] & real_j[None, :]
        CB = tl.load(
            products + (group * q + i[:, None]) * q + j[None, :], mask=there, other=0.0
        ).to(tl.float32)
        weights = operand(CB * decay_between(sum_i, sum_j, i, j, there), DTYPE, WIDEN)
        dys = operand(rows_of(dy, token_i, real_i, h * p, head * p, p, P), DTYPE, WIDEN)
        total = tl.dot(tl.trans(weights), dys, total, input_precision=EXACT)
    xs = rows_of(x, token_j, real_j, x_stride, head * p, p, P).to(tl.float32)
    tl.store(along + base + j, tl.sum(total * xs, axis=1), mask=j < q)
    step_j = tl.load(steps + base + j, mask=j < q, other=0.0)
    tl.store(
        dx + (token_j[:, None] * h + head) * p + ps[None, :],
        (total * step_j[:, None]).to(dx.dtype.element_ty),
        mask=real_j[:, None] & (ps < p)[None, :],
    )  # fmt: skip


@triton.jit
def _steps(
    A, tokens, valid, steps, received, sent, through_C, through_B, along, kept, ddt, dA,
    h, q, tiles, blocks,
    ROWS: tl.constexpr, Q: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    groups = tl.cdiv(h, HEADS)
    chunk = (tl.program_id(0) // groups).to(tl.int64)
    heads = tl.program_id(0) % groups * HEADS + tl.arange(0, HEADS)
    known = heads < h
    i, token, real = tile_of(tokens, valid, chunk, 0, q, Q)
    inside = real[:, None] & known[None, :]  # a tile of padding alone is not written
    row = chunk * h + heads[None, :]
    place = row * q + i[:, None]
    sent_on = tl.load(through_B + place, mask=inside, other=0.0)
    end = tl.sum(sent_on, axis=0)
    for block in range(blocks):
        end += tl.load(kept + (chunk * h + heads) * blocks + block, mask=known, other=0.0)
    change = tl.load(through_C + place, mask=inside, other=0.0) - sent_on
    for t in range(tiles):  # tile t hands on to tiles from t on, and has from those up to t
        ledger = (row * tiles + t) * q + i[:, None]
        change += tl.load(received + ledger, mask=inside & (i[:, None] >= t * ROWS), other=0.0)
        change -= tl.load(sent + ledger, mask=inside & (i[:, None] < t * ROWS + ROWS), other=0.0)
    change += tl.where(i[:, None] == q - 1, end[None, :], 0.0)
    # A sum of dt A counts for all later places of its chunk.
    later = tl.cumsum(change, axis=0, reverse=True)
    rate = tl.load(A + heads, mask=known, other=0.0).to(tl.float32)
    step = tl.load(steps + place, mask=inside, other=0.0)
    grad = later * rate[None, :] + tl.load(along + place, mask=inside, other=0.0)
    tl.store(ddt + token[:, None] * h + heads[None, :], grad, mask=real[:, None] & known[None, :])
    tl.store(dA + chunk * h + heads, tl.sum(later * step, axis=0), mask=known)


def ssd_backward_triton(
    scan: Scan, dy: Tensor, grad_final: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of a scan's inputs. Deterministic.

    Args:
        scan: the forward's arguments.
        dy: (b, l, h, p) gradient of the outputs.
        grad_final: (b, h, p, n) float32 gradient of the states after the rows; None: zero.

    Returns:
        Gradients of x, dt, A, B, C and the state (None where the scan has none): those of x, B and
        C in their dtypes, the others float32.
    """
    s, t, empty = scan, scan.table, scan.empty
    sums, steps = s.decays()
    products = s.products()
    incoming, _ = s.states(sums, steps, final=False)
    dy = dy.contiguous()
    how: dict[str, Any] = {**s.dtypes, "num_warps": s.tiles.warps}
    tiles = {"ROWS": s.rows, "P": s.P, **how}
    strides = s.x.stride(1), s.B.stride(1), s.C.stride(1)

    outgoing = empty(s.c, s.h, s.p, s.n, dtype=s.operands)
    kept = empty(s.c, s.h, s.num_headings)
    grad_state = None if s.state is None else empty(s.b, s.h, s.p, s.n)
    _states_backward[(s.d * s.h * s.num_headings,)](
        dy, s.C, t.tokens, t.valid, sums, incoming,
        sums if grad_final is None else grad_final.contiguous(), t.carries, t.ends,
        t.starts, t.lengths, outgoing, kept, sums if grad_state is None else grad_state,
        s.h, s.r, s.q, s.p, s.n, strides[2], STATE=grad_state is not None,
        FINAL=grad_final is not None, ROWS=min(s.tiles.walk, power_of_two(s.q)), PS=s.heading,
        N=s.N, **how,
    )  # fmt: skip

    grad_products = empty(s.c, s.g, s.q, s.q, dtype=s.operands)
    received, sent = (empty(s.c, s.h, s.num_tiles, s.q) for _ in range(2))
    _pairs[(s.c * s.g * s.num_tiles**2,)](
        dy, s.x, t.tokens, t.valid, sums, steps, products, grad_products, received, sent,
        s.h, s.r, s.q, s.p, strides[0], **tiles,
    )  # fmt: skip

    dB, dC = empty(s.b, s.l, s.g, s.n, dtype=s.B.dtype), empty(*s.C.shape, dtype=s.C.dtype)
    through_B, through_C = (empty(s.c, s.h, s.q) for _ in range(2))
    grid = (s.c * s.g * s.num_tiles,)
    maps = {**tiles, "num_warps": MAPS_WARPS, "num_stages": stages_of(s.P * s.N)}
    _maps[grid](
        dy, s.B, s.C, t.tokens, t.valid, sums, steps, incoming, grad_products, dC, through_C,
        s.h, s.r, s.q, s.p, s.n, s.h * s.p, strides[1], strides[2], BACK=False, N=s.N, **maps,
    )  # fmt: skip
    _maps[grid](
        s.x, s.C, s.B, t.tokens, t.valid, sums, steps, outgoing, grad_products, dB, through_B,
        s.h, s.r, s.q, s.p, s.n, strides[0], strides[2], strides[1], BACK=True, N=s.N, **maps,
    )  # fmt: skip

    dx, along = empty(*s.x.shape, dtype=s.x.dtype), empty(s.c, s.h, s.q)
    _inputs[(s.c * s.h * s.num_tiles,)](
        dy, s.x, s.B, t.tokens, t.valid, sums, steps, products, outgoing, dx, along,
        s.h, s.r, s.q, s.p, s.n, strides[0], strides[1], N=s.N, **tiles,
    )  # fmt: skip

    ddt, dA = empty(s.b, s.l, s.h), empty(s.c, s.h)
    _steps[(s.c * triton.cdiv(s.h, HEADS),)](
        s.A, t.tokens, t.valid, steps, received, sent, through_C, through_B, along, kept, ddt, dA,
        s.h, s.q, s.num_tiles, s.num_headings,
        ROWS=s.rows, Q=triton.next_power_of_2(s.q), HEADS=HEADS, **LAUNCH,
    )  # fmt: skip
    return dx, ddt, dA.sum(0), dB, dC, grad_state


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        state: Tensor | None,
        table: ChunkTable,
        operands: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        output = ssd_triton(x, dt, A, B, C, table=table, state=state, operands=operands)
        ctx.save_for_backward(x, dt, A, B, C, state)
        ctx.how = {"table": table, "operands": operands}
        ctx.set_materialize_grads(False)
        return output.y, output.state

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor | None, grad_final: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *inputs, state = ctx.saved_tensors
        scan = Scan(*inputs, state=state, **ctx.how)
        if dy is None:
            dy = torch.zeros(inputs[0].shape, dtype=scan.operands, device=inputs[0].device)
        backward = on_its_device(lambda dy: ssd_backward_triton(scan, dy, grad_final))
        return (*backward(dy), None, None)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    state: Tensor | None,
    layout: Layout,
    operands: torch.dtype,
) -> SSDOutput:
    """`ssd_chunked` and its gradients by kernels; `operands` as for `ssd_triton`."""
    table = ChunkTable.of(layout, chunk_size, x.device)
    return SSDOutput(*_SSD.apply(x, dt, A, B, C, state, table, operands))
