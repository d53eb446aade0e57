"""The chunked scan in four kernels; shapes and letters as in `statewise.model.ssd`.

Chunks are those of `ChunkTable`: each is a list of tokens, so documents of any length stand side by
side without masks of their own, and a chunk never holds two of them. Padding has dt = 0.

    decays   (chunk, heads)          running sums of dt A, from the chunk's start
    added    (chunk, head)           what a chunk adds to the state by its end: one (p, n) tile
    chain    (document, head, tile)  from chunk to chunk; keeps the state before each
    outputs  (chunk, head, rows)     what a chunk's own tokens and the state before it give

Sums, decays and states are float32; the operands of products have the dtype that is asked for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from statewise.model.ssd import ChunkTable, SSDOutput

STATE_TILE, HEADS = 1024, 4  # of a program: elements of a state, heads
# Tokens of a program with products, and its warps: as many as fit into the registers of sm_80 and
# sm_90 at the sizes of the 7B (`python -m benchmarks.ptx`).
ROWS, WARPS = {torch.float32: 16, torch.bfloat16: 32}, 8
# Products of float32 in three parts on tensor cores; in full they spill 30 KB a program.
PRECISION = {torch.float32: "tf32x3", torch.bfloat16: "tf32"}


@triton.jit
def _operand(values, DTYPE: tl.constexpr, WIDEN: tl.constexpr):
    """Values as a product takes them, rounded to its dtype.

    WIDEN is for Triton's interpreter, which multiplies the bits of 16-bit floats as integers (3.9).
    """
    values = values.to(DTYPE)
    return values.to(tl.float32) if WIDEN else values


@triton.jit
def _decays(
    dt, A, tokens, valid, sums, steps, h, q, Q: tl.constexpr, HEADS: tl.constexpr
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    i = tl.arange(0, Q)
    inside = i < q
    token = tl.load(tokens + chunk * q + i, mask=inside, other=0)
    real = tl.load(valid + chunk * q + i, mask=inside, other=0) != 0
    mask = real[:, None] & (heads < h)[None, :]
    step = tl.load(dt + token[:, None] * h + heads[None, :], mask=mask, other=0.0).to(tl.float32)
    rate = tl.load(A + heads, mask=heads < h, other=0.0).to(tl.float32)
    total = tl.cumsum(step * rate[None, :], axis=0)
    place = (chunk * h + heads[None, :]) * q + i[:, None]
    kept = inside[:, None] & (heads < h)[None, :]
    tl.store(sums + place, total, mask=kept)
    tl.store(steps + place, step, mask=kept)


@triton.jit
def _added(
    x, B, tokens, sums, steps, added, h, r, q, p, n,
    ROWS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr, EXACT: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    group, groups = head // r, h // r
    ps, ns = tl.arange(0, P), tl.arange(0, N)
    base = (chunk * h + head) * q
    end = tl.load(sums + base + q - 1)
    total = tl.zeros((P, N), dtype=tl.float32)
    for begin in range(0, q, ROWS):
        i = begin + tl.arange(0, ROWS)
        inside = i < q
        token = tl.load(tokens + chunk * q + i, mask=inside, other=0)
        weight = tl.load(steps + base + i, mask=inside, other=0.0)
        weight *= tl.exp(end - tl.load(sums + base + i, mask=inside, other=0.0))
        xs = tl.load(
            x + (token[:, None] * h + head) * p + ps[None, :],
            mask=inside[:, None] & (ps < p)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        Bs = tl.load(
            B + (token[:, None] * groups + group) * n + ns[None, :],
            mask=inside[:, None] & (ns < n)[None, :], other=0.0,
        )  # fmt: skip
        weighted = _operand(xs * weight[:, None], DTYPE, WIDEN)
        Bs = _operand(Bs, DTYPE, WIDEN)
        total = tl.dot(tl.trans(weighted), Bs, total, input_precision=EXACT)
    tl.store(
        added + ((chunk * h + head) * p + ps[:, None]) * n + ns[None, :], total,
        mask=(ps < p)[:, None] & (ns < n)[None, :],
    )  # fmt: skip


@triton.jit
def _chain(
    added, sums, state, carries, offsets, lengths, incoming, final, h, q, size,
    TILE: tl.constexpr,
):  # fmt: skip
    document = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.program_id(2) * TILE + tl.arange(0, TILE)
    inside = at < size
    row = tl.load(carries + document)
    S = tl.load(state + (tl.maximum(row, 0) * h + head) * size + at, mask=inside, other=0.0)
    S = tl.where(row >= 0, S.to(tl.float32), 0.0)
    for k in range(tl.load(lengths + document)):
        place = (tl.load(offsets + k) + document) * h + head
        tl.store(incoming + place * size + at, S, mask=inside)
        decay = tl.exp(tl.load(sums + place * q + q - 1))
        S = S * decay + tl.load(added + place * size + at, mask=inside, other=0.0)
    tl.store(final + (document * h + head) * size + at, S, mask=inside)


@triton.jit
def _outputs(
    x, B, C, tokens, valid, sums, steps, incoming, y, h, r, q, p, n,
    ROWS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr, EXACT: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    first = tl.program_id(2) * ROWS
    group, groups = head // r, h // r
    ps, ns = tl.arange(0, P), tl.arange(0, N)
    base = (chunk * h + head) * q
    i = first + tl.arange(0, ROWS)
    token_i = tl.load(tokens + chunk * q + i, mask=i < q, other=0)
    real_i = tl.load(valid + chunk * q + i, mask=i < q, other=0) != 0
    sum_i = tl.load(sums + base + i, mask=i < q, other=0.0)
    Cs = tl.load(
        C + (token_i[:, None] * groups + group) * n + ns[None, :],
        mask=real_i[:, None] & (ns < n)[None, :], other=0.0,
    )  # fmt: skip
    S = tl.load(
        incoming + ((chunk * h + head) * p + ps[:, None]) * n + ns[None, :],
        mask=(ps < p)[:, None] & (ns < n)[None, :], other=0.0,
    )  # fmt: skip
    Cs, S = _operand(Cs, DTYPE, WIDEN), _operand(S, DTYPE, WIDEN)
    total = tl.dot(Cs, tl.trans(S), input_precision=EXACT) * tl.exp(sum_i)[:, None]
    for begin in range(0, tl.minimum(first + ROWS, q), ROWS):
        j = begin + tl.arange(0, ROWS)
        token_j = tl.load(tokens + chunk * q + j, mask=j < q, other=0)
        step_j = tl.load(steps + base + j, mask=j < q, other=0.0)
        sum_j = tl.load(sums + base + j, mask=j < q, other=0.0)
        there = step_j > 0
        Bs = tl.load(
            B + (token_j[:, None] * groups + group) * n + ns[None, :],
            mask=there[:, None] & (ns < n)[None, :], other=0.0,
        )  # fmt: skip
        xs = tl.load(
            x + (token_j[:, None] * h + head) * p + ps[None, :],
            mask=there[:, None] & (ps < p)[None, :], other=0.0,
        )  # fmt: skip
        Bs, xs = _operand(Bs, DTYPE, WIDEN), _operand(xs, DTYPE, WIDEN)
        CB = tl.dot(Cs, tl.trans(Bs), input_precision=EXACT)
        # Masked before the exponential: above the diagonal the difference is positive.
        before = (j[None, :] <= i[:, None]) & there[None, :]
        decay = tl.exp(tl.where(before, sum_i[:, None] - sum_j[None, :], -float("inf")))
        weights = _operand(CB * decay * step_j[None, :], DTYPE, WIDEN)
        total = tl.dot(weights, xs, total, input_precision=EXACT)
    tl.store(
        y + (token_i[:, None] * h + head) * p + ps[None, :], total,
        mask=real_i[:, None] & (ps < p)[None, :],
    )  # fmt: skip


def interpreted() -> bool:
    """Whether triton runs its kernels in Python, on any device (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret)


def ssd_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    table: ChunkTable,
    state: Tensor | None = None,
    operands: torch.dtype = torch.float32,
) -> SSDOutput:
    """The recurrence by the kernels; equal to `ssd_chunked` within `docs/numerics.md`.

    Args:
        x: (b, l, h, p) inputs.
        dt: (b, l, h) step sizes.
        A: (h,) negative decay rates.
        B: (b, l, g, n) input maps.
        C: (b, l, g, n) output maps.
        table: the chunks of the rows' documents.
        state: (b, h, p, n) the state before each row's first token; zero if None.
        operands: dtype of the factors of matrix products: float32, or bfloat16 for tensor cores.

    Returns:
        `SSDOutput(y, state)`, both float32. No gradients.
    """
    b, l, h, p = x.shape
    g, n = B.shape[2:]
    c, q = table.valid.shape
    d = table.counts[0]
    x, dt, A, B, C = (t.contiguous() for t in (x, dt, A, B, C))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    sums, steps = empty(c, h, q), empty(c, h, q)
    added, incoming = empty(c, h, p, n), empty(c, h, p, n)
    final, y = empty(d, h, p, n), empty(b, l, h, p)
    if state is None:
        state, carries = final, torch.full_like(table.carries, -1)  # never read
    else:
        state, carries = state.contiguous(), table.carries
    counts = torch.tensor(table.counts, device=x.device)
    offsets = torch.cumsum(counts, 0) - counts
    lengths = (counts[:, None] > torch.arange(d, device=x.device)[None, :]).sum(0)
    how = {
        "ROWS": min(ROWS[operands], max(16, triton.next_power_of_2(q))),
        "P": max(16, triton.next_power_of_2(p)),
        "N": max(16, triton.next_power_of_2(n)),
        "DTYPE": tl.float32 if operands == torch.float32 else tl.bfloat16,
        "EXACT": PRECISION[operands],
        "WIDEN": interpreted(),
    }
    _decays[(c, triton.cdiv(h, HEADS))](
        dt, A, table.tokens, table.valid, sums, steps, h, q,
        Q=triton.next_power_of_2(q), HEADS=HEADS,
    )  # fmt: skip
    _added[(c, h)](
        x, B, table.tokens, sums, steps, added, h, h // g, q, p, n, **how, num_warps=WARPS
    )
    _chain[(d, h, triton.cdiv(p * n, STATE_TILE))](
        added, sums, state, carries, offsets, lengths, incoming, final, h, q, p * n,
        TILE=min(STATE_TILE, triton.next_power_of_2(p * n)),
    )  # fmt: skip
    _outputs[(c, h, triton.cdiv(q, how["ROWS"]))](
        x, B, C, table.tokens, table.valid, sums, steps, incoming, y, h, h // g, q, p, n,
        **how, num_warps=WARPS,
    )  # fmt: skip
    # A row's last document is the one that its last chunk belongs to.
    level = torch.searchsorted(offsets, table.last_chunk, right=True) - 1
    return SSDOutput(y, final[table.last_chunk - offsets[level]])
