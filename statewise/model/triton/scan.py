"""The chunked scan in four kernels; shapes and letters as in `statewise.model.ssd`.

Chunks are those of `ChunkTable`: each is a list of tokens, so documents of any length stand side by
side without masks of their own, and a chunk never holds two of them. Padding has dt = 0.

    decays    (chunk, heads)            running sums of dt A, from the chunk's start
    products  (chunk, group, two tiles) C B^T below the diagonal, once for all heads of a group
    states    (document, head, rows)    from chunk to chunk; keeps the state before each
    outputs   (chunk, head, tile)       what a chunk's own tokens and the state before it give

Sums, decays and the running state are float32, and so is every sum of products; the factors of
products, and what is laid down between kernels, have the dtype that is asked for.
`statewise.model.triton.scan_backward` takes the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from statewise.model.ssd import ChunkTable, SSDOutput
from statewise.model.triton.launch import (
    DTYPES,
    LAUNCH,
    OF_TILES,
    interpreted,
    on_its_device,
    operand,
    power_of_two,
)

HEADS = 4  # of a program of `_decays`
# Tokens of a chunk, whatever the model's configuration says: it changes speed and rounding alone.
# Of 64, 128 and 256 the last moves the fewest bytes at the sizes of the 7B (docs/kernels.md).
CHUNK = 256
# Products of float32 in three parts on tensor cores; in full they spill 30 KB a program.
PRECISION = {torch.float32: "tf32x3", torch.bfloat16: "tf32"}


@dataclass(frozen=True, slots=True)
class Tiles:
    """The sizes of programs: one pinned configuration for each dtype.

    They are what fits the registers of sm_80 and sm_90 at the sizes of the 7B
    (`python -m benchmarks.ptx`). Nothing is tuned by timing when a program runs.

    Attributes:
        rows: tokens of a tile, in kernels that multiply tiles of tokens.
        walk: tokens that a walk from chunk to chunk takes at once.
        heading: rows of a state that a walk keeps.
        warps: of kernels that multiply.
    """

    rows: int
    walk: int
    heading: int
    warps: int


TILES = {torch.float32: Tiles(32, 16, 32, 8), torch.bfloat16: Tiles(64, 64, 32, 4)}


@triton.jit
def tile_of(tokens, valid, chunk, first, q, ROWS: tl.constexpr):
    """A tile's places in its chunk, the tokens that stand there, and whether they are real."""
    i = first + tl.arange(0, ROWS)
    token = tl.load(tokens + chunk * q + i, mask=i < q, other=0)
    real = tl.load(valid + chunk * q + i, mask=i < q, other=0) != 0
    return i, token, real


@triton.jit
def rows_of(t, token, real, stride, first, count, WIDTH: tl.constexpr):
    """(tokens, WIDTH): `count` columns from `first` on of these tokens' rows; else zeros."""
    at = tl.arange(0, WIDTH)
    return tl.load(
        t + token[:, None] * stride + first + at[None, :],
        mask=real[:, None] & (at < count)[None, :], other=0.0,
    )  # fmt: skip


@triton.jit
def state_of(t, place, p, n, P: tl.constexpr, N: tl.constexpr):
    """(P, N): a head's state in one chunk, `place` being chunk * heads + head; else zeros."""
    ps, ns = tl.arange(0, P), tl.arange(0, N)
    return tl.load(
        t + place * p * n + ps[:, None] * n + ns[None, :],
        mask=(ps < p)[:, None] & (ns < n)[None, :], other=0.0,
    )  # fmt: skip


@triton.jit
def decay_between(sum_i, sum_j, i, j, there):
    """(i, j): how much of what token j adds is left at token i; 0 above the diagonal.

    Masked before the exponential: above the diagonal the difference is positive.
    """
    before = (j[None, :] <= i[:, None]) & there
    return tl.exp(tl.where(before, sum_i[:, None] - sum_j[None, :], -float("inf")))


@triton.jit
def _decays(
    dt, A, tokens, valid, sums, steps, h, q, Q: tl.constexpr, HEADS: tl.constexpr
):  # fmt: skip
    blocks = tl.cdiv(h, HEADS)
    chunk = (tl.program_id(0) // blocks).to(tl.int64)
    heads = tl.program_id(0) % blocks * HEADS + tl.arange(0, HEADS)
    i, token, real = tile_of(tokens, valid, chunk, 0, q, Q)
    mask = real[:, None] & (heads < h)[None, :]
    step = tl.load(dt + token[:, None] * h + heads[None, :], mask=mask, other=0.0).to(tl.float32)
    rate = tl.load(A + heads, mask=heads < h, other=0.0).to(tl.float32)
    total = tl.cumsum(step * rate[None, :], axis=0)
    place = (chunk * h + heads[None, :]) * q + i[:, None]
    kept = (i < q)[:, None] & (heads < h)[None, :]
    tl.store(sums + place, total, mask=kept)
    tl.store(steps + place, step, mask=kept)


@triton.jit
def _products(
    B, C, tokens, valid, products, g, q, n, B_stride, C_stride,
    ROWS: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr, EXACT: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(q, ROWS)
    pair, rest = tl.program_id(0) % (tiles * tiles), tl.program_id(0) // (tiles * tiles)
    group, chunk = rest % g, (rest // g).to(tl.int64)
    first_i, first_j = pair // tiles * ROWS, pair % tiles * ROWS
    if first_j <= first_i:
        i, token_i, real_i = tile_of(tokens, valid, chunk, first_i, q, ROWS)
        j, token_j, real_j = tile_of(tokens, valid, chunk, first_j, q, ROWS)
        Cs = operand(rows_of(C, token_i, real_i, C_stride, group * n, n, N), DTYPE, WIDEN)
        Bs = operand(rows_of(B, token_j, real_j, B_stride, group * n, n, N), DTYPE, WIDEN)
        CB = tl.dot(Cs, tl.trans(Bs), input_precision=EXACT)
        tl.store(
            products + ((chunk * g + group) * q + i[:, None]) * q + j[None, :], CB.to(DTYPE),
            mask=(i < q)[:, None] & (j < q)[None, :],
        )  # fmt: skip


@triton.jit
def _states(
    x, B, tokens, valid, sums, steps, state, carries, ends, starts, lengths, incoming, final,
    h, r, q, p, n, x_stride, B_stride, STATE: tl.constexpr, FINAL: tl.constexpr,
    ROWS: tl.constexpr, PS: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr,
    EXACT: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(p, PS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, document = rest % h, (rest // h).to(tl.int64)
    ps, ns = block * PS + tl.arange(0, PS), tl.arange(0, N)
    # n by p: for products that sm_90 has instructions for, one side needs 64 rows or more.
    inside = (ns < n)[:, None] & (ps < p)[None, :]
    at = ps[None, :] * n + ns[:, None]
    S = tl.zeros((N, PS), dtype=tl.float32)
    if STATE:
        row = tl.load(carries + document)
        if row >= 0:
            S = tl.load(state + (row * h + head) * p * n + at, mask=inside, other=0.0)
            S = S.to(tl.float32)
    for k in range(tl.load(lengths + document)):
        chunk = tl.load(starts + k) + document
        base = (chunk * h + head) * q
        tl.store(incoming + (chunk * h + head) * p * n + at, S.to(DTYPE), mask=inside)
        end = tl.load(sums + base + q - 1)
        S = S * tl.exp(end)
        for first in range(0, q, ROWS):
            i, token, real = tile_of(tokens, valid, chunk, first, q, ROWS)
            weight = tl.load(steps + base + i, mask=i < q, other=0.0)
            weight *= tl.exp(end - tl.load(sums + base + i, mask=i < q, other=0.0))
            xs = tl.load(
                x + token[:, None] * x_stride + head * p + ps[None, :],
                mask=real[:, None] & (ps < p)[None, :], other=0.0,
            )  # fmt: skip
            Bs = rows_of(B, token, real, B_stride, head // r * n, n, N)
            weighted = operand(xs.to(tl.float32) * weight[:, None], DTYPE, WIDEN)
            Bs = operand(Bs, DTYPE, WIDEN)
            S = tl.dot(tl.trans(Bs), weighted, S, input_precision=EXACT)
    if FINAL:
        row = tl.load(ends + document)
        if row >= 0:
            tl.store(final + (row * h + head) * p * n + at, S, mask=inside)


@triton.jit
def _outputs(
    x, C, tokens, valid, sums, steps, products, incoming, y, h, r, q, p, n, x_stride, C_stride,
    ROWS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr, EXACT: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(q, ROWS)
    tile, rest = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    head, chunk = rest % h, (rest // h).to(tl.int64)
    ps = tl.arange(0, P)
    base = (chunk * h + head) * q
    group = chunk * (h // r) + head // r
    i, token_i, real_i = tile_of(tokens, valid, chunk, tile * ROWS, q, ROWS)
    if tl.sum(real_i.to(tl.int32)) == 0:
        return
    sum_i = tl.load(sums + base + i, mask=i < q, other=0.0)
    Cs = operand(rows_of(C, token_i, real_i, C_stride, head // r * n, n, N), DTYPE, WIDEN)
    S = operand(state_of(incoming, chunk * h + head, p, n, P, N), DTYPE, WIDEN)
    total = tl.dot(Cs, tl.trans(S), input_precision=EXACT) * tl.exp(sum_i)[:, None]
    for first in range(0, tile * ROWS + ROWS, ROWS):
        j, token_j, real_j = tile_of(tokens, valid, chunk, first, q, ROWS)
        step_j = tl.load(steps + base + j, mask=j < q, other=0.0)
        sum_j = tl.load(sums + base + j, mask=j < q, other=0.0)
        there = (i < q)[:, None] & real_j[None, :]
        CB = tl.load(
            products + (group * q + i[:, None]) * q + j[None, :], mask=there, other=0.0
        ).to(tl.float32)
        decay = decay_between(sum_i, sum_j, i, j, there)
        weights = operand(CB * decay * step_j[None, :], DTYPE, WIDEN)
        xs = operand(rows_of(x, token_j, real_j, x_stride, head * p, p, P), DTYPE, WIDEN)
        total = tl.dot(weights, xs, total, input_precision=EXACT)
    tl.store(
        y + (token_i[:, None] * h + head) * p + ps[None, :], total.to(y.dtype.element_ty),
        mask=real_i[:, None] & (ps < p)[None, :],
    )  # fmt: skip


class Scan:
    """A scan's arguments as the kernels take them: sizes, tables, strides, and the work areas.

    Args:
        x, dt, A, B, C, table, state, operands: as for `ssd_triton`.
    """

    def __init__(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        *,
        table: ChunkTable,
        state: Tensor | None,
        operands: torch.dtype,
    ) -> None:
        self.b, self.l, self.h, self.p = x.shape
        self.g, self.n = B.shape[2:]
        self.c, self.q = table.valid.shape
        self.d = table.counts[0]
        self.r = self.h // self.g
        self.table, self.operands = table, operands
        self.x, self.B, self.C = by_token(x), by_token(B), by_token(C)
        self.dt, self.A = dt.contiguous(), A.contiguous()
        self.state = None if state is None else state.contiguous()
        self.tiles = TILES[operands]
        self.P, self.N = power_of_two(self.p), power_of_two(self.n)
        fitting = self.tiles.rows * OF_TILES // max(OF_TILES, self.P * self.N)
        self.rows = min(max(16, fitting), power_of_two(self.q))
        self.num_tiles = triton.cdiv(self.q, self.rows)
        self.heading = min(self.tiles.heading, self.P)
        self.num_headings = triton.cdiv(self.p, self.heading)
        self.dtypes: dict[str, Any] = {
            "DTYPE": DTYPES[operands], "EXACT": PRECISION[operands], "WIDEN": interpreted(),
            **LAUNCH,
        }  # fmt: skip

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory on the inputs' device."""
        return torch.empty(shape, dtype=dtype, device=self.x.device)

    def decays(self) -> tuple[Tensor, Tensor]:
        """(c, h, q) running sums of dt A from each chunk's start, and dt; float32."""
        t = self.table
        sums, steps = self.empty(self.c, self.h, self.q), self.empty(self.c, self.h, self.q)
        _decays[(self.c * triton.cdiv(self.h, HEADS),)](
            self.dt, self.A, t.tokens, t.valid, sums, steps, self.h, self.q,
            Q=triton.next_power_of_2(self.q), HEADS=HEADS, **LAUNCH,
        )  # fmt: skip
        return sums, steps

    def products(self) -> Tensor:
        """(c, g, q, q) C B^T of each chunk, up to the diagonal's tiles; the rest is not written."""
        t = self.table
        out = self.empty(self.c, self.g, self.q, self.q, dtype=self.operands)
        _products[(self.c * self.g * self.num_tiles**2,)](
            self.B, self.C, t.tokens, t.valid, out, self.g, self.q, self.n, self.B.stride(1),
            self.C.stride(1), ROWS=self.rows, N=self.N, **self.dtypes, num_warps=self.tiles.warps,
        )  # fmt: skip
        return out

    def states(self, sums: Tensor, steps: Tensor, *, final: bool) -> tuple[Tensor, Tensor | None]:
        """(c, h, p, n) the state before each chunk, and (b, h, p, n) after each row if wanted."""
        t = self.table
        incoming = self.empty(self.c, self.h, self.p, self.n, dtype=self.operands)
        after = self.empty(self.b, self.h, self.p, self.n) if final else None
        _states[(self.d * self.h * self.num_headings,)](
            self.x, self.B, t.tokens, t.valid, sums, steps, sums if self.state is None
            else self.state, t.carries, t.ends, t.starts, t.lengths, incoming,
            sums if after is None else after, self.h, self.r, self.q, self.p, self.n,
            self.x.stride(1), self.B.stride(1), STATE=self.state is not None, FINAL=final,
            ROWS=min(self.tiles.walk, power_of_two(self.q)), PS=self.heading, N=self.N,
            **self.dtypes, num_warps=self.tiles.warps,
        )  # fmt: skip
        return incoming, after

    def outputs(self, sums: Tensor, steps: Tensor, products: Tensor, incoming: Tensor) -> Tensor:
        """(b, l, h, p) y, in the operands' dtype."""
        t = self.table
        y = self.empty(self.b, self.l, self.h, self.p, dtype=self.operands)
        _outputs[(self.c * self.h * self.num_tiles,)](
            self.x, self.C, t.tokens, t.valid, sums, steps, products, incoming, y,
            self.h, self.r, self.q, self.p, self.n, self.x.stride(1), self.C.stride(1),
            ROWS=self.rows, P=self.P, N=self.N, **self.dtypes, num_warps=self.tiles.warps,
        )  # fmt: skip
        return y


def by_token(t: Tensor) -> Tensor:
    """(b, l, ...) with one stride from token to token and each token's values in a row."""
    width = t[0, 0].numel()
    even = t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1)
    packed = t.stride(-1) == 1 and (t.dim() < 4 or t.stride(-2) == t.shape[-1])
    if even and packed and t.stride(1) >= width:
        return t
    # `contiguous` would keep whatever stride an axis of length 1 has.
    return t.clone(memory_format=torch.contiguous_format)


@on_its_device
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
        x: (b, l, h, p) inputs, of any float dtype; may be a part of a wider tensor.
        dt: (b, l, h) step sizes.
        A: (h,) negative decay rates.
        B: (b, l, g, n) input maps.
        C: (b, l, g, n) output maps.
        table: the chunks of the rows' documents.
        state: (b, h, p, n) the state before each row's first token; zero if None.
        operands: dtype of the factors of matrix products: float32, or bfloat16 for tensor cores.

    Returns:
        `SSDOutput(y, state)`; y in `operands`, the state float32. No gradients.
    """
    scan = Scan(x, dt, A, B, C, table=table, state=state, operands=operands)
    sums, steps = scan.decays()
    incoming, final = scan.states(sums, steps, final=True)
    assert final is not None
    return SSDOutput(scan.outputs(sums, steps, scan.products(), incoming), final)
