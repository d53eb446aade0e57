"""Everything between a mixer's two projections, forward, as one pass over the tokens.

A unit of work is one document, one group of heads and a share of its heads. It goes through the
document in chunks, keeps the states of its heads in the processor's own memory all the while, and
reads each number of the projection once; nothing is laid out for it before. Within a chunk it does
what `statewise.model.ssd.ssd_chunked` does (Dao and Gu 2024, arXiv 2405.21060, section 6):

    Y = exp(ld) C S + (C B^T * L) X        S' = exp(ld_end) S + (B * f)^T X

with ld the running sum of dt A from the chunk's start, L = exp(ld_q - ld_s) dt_s below and on the
diagonal, and f = exp(ld_end - ld_s) dt_s. All of it is float32, whatever the projections are.

Chunks are cut at multiples of CHUNK of the token's position in its document, so neither the
neighbours in a row nor the place where a prefill was cut changes a bit. Each output is one sum in
one order, so the number of threads does not change one either.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from statewise.model.config import Mamba2Config
from statewise.model.cpu.threads import kernel, num_threads, run
from statewise.model.cpu.tile import product
from statewise.model.cpu.vector import (
    const,
    exp,
    fma,
    load,
    load1,
    load1_bf16,
    load1_i64,
    load_bf16,
    maximum,
    minimum,
    silu,
    softplus,
    splat,
    store,
    store1,
    store_bf16,
    ticket,
    total,
    transpose,
)
from statewise.model.layout import Layout

CHUNK = 32
SPAN = 4  # chunks from one state that is kept for the backward pass to the next
PAD = 16  # elements between scratch arrays, so that a vector may hang over

# The arguments of a pass: where in the array of int64 each stands.
(
    _TICKET, _THREADS, _IDS,
    _DOCS, _ROW, _START, _LENGTH, _POSITION, _CARRIES, _LAST, _COLUMNS,
    _GROUPS, _HEADS, _P, _N, _K, _SPLITS,
    _ZX, _WIDTH, _HALF, _BEFORE, _STATE_IN, _STATE_OUT,
    _TAPS, _BIAS, _DT_BIAS, _A, _D, _LIMITS,
    _Y, _GATED, _SQUARES, _RSTD, _OUT, _NORM, _EPS,
    _WORK, _WORK_SIZE, _TOKENS, _SAVED, _FIRST_SPAN,
    _FIELDS,
) = range(42)  # fmt: skip


@njit(error_model="numpy", inline="always")
def read(base, index, half):  # pragma: no cover (compiled)
    """Sixteen numbers of an array that is bfloat16 (`half`) or float32."""
    if half != 0:
        return load_bf16(base, index)
    return load(base, index)


@njit(error_model="numpy", inline="always")
def write(base, index, value, half):  # pragma: no cover (compiled)
    """Write sixteen numbers to an array that is bfloat16 (`half`) or float32."""
    if half != 0:
        store_bf16(base, index, value)
    else:
        store(base, index, value)


@njit(error_model="numpy")
def read_inputs(a, d, first, n, channel, columns, raw):  # pragma: no cover
    """The convolution's inputs to tokens first ... first + n - 1 of a document, and the K - 1
    before them, as float32 (K - 1 + n, columns).

    `first` counts from the document's first token in this row; what lies before that comes from
    the row's window if the document carries on, else it is zero.
    """
    k = load1_i64(a, _K) - 1
    width, half = load1_i64(a, _WIDTH), load1_i64(a, _HALF)
    inner = load1_i64(a, _HEADS) * load1_i64(a, _P)
    conv_dim = inner + 2 * load1_i64(a, _GROUPS) * load1_i64(a, _N)
    row = load1_i64(load1_i64(a, _ROW), d)
    token = row * load1_i64(a, _COLUMNS) + load1_i64(load1_i64(a, _START), d)
    carries = load1_i64(load1_i64(a, _CARRIES), d)
    before = load1_i64(a, _BEFORE)
    zx = load1_i64(a, _ZX)
    for i in range(n + k):
        t = first - k + i
        if t >= 0:
            base = (token + t) * width + inner + channel
            for c in range(0, columns, 16):
                store(raw, i * columns + c, read(zx, base + c, half))
        elif carries != 0 and before != 0:
            base = (row * k + t + k) * conv_dim + channel
            for c in range(0, columns, 16):
                store(raw, i * columns + c, load(before, base + c))
        else:
            for c in range(0, columns, 16):
                store(raw, i * columns + c, const(0.0))


@njit(error_model="numpy")
def convolve(a, raw, n, channel, columns, out):  # pragma: no cover
    """The convolution of `read_inputs`' numbers before its SiLU, (n, columns)."""
    K = load1_i64(a, _K)
    inner = load1_i64(a, _HEADS) * load1_i64(a, _P)
    conv_dim = inner + 2 * load1_i64(a, _GROUPS) * load1_i64(a, _N)
    taps, bias = load1_i64(a, _TAPS), load1_i64(a, _BIAS)
    for c in range(0, columns, 16):
        start = load(bias, channel + c)
        for q in range(n):
            acc = start
            for j in range(K):
                tap = load(taps, j * conv_dim + channel + c)
                acc = fma(tap, load(raw, (q + j) * columns + c), acc)
            store(out, q * columns + c, acc)


@njit(error_model="numpy")
def activate(values, n, padded, columns):  # pragma: no cover
    """SiLU in place of (n, columns); rows n ... padded - 1 become zero."""
    for i in range(0, n * columns, 16):
        store(values, i, silu(load(values, i)))
    for i in range(n * columns, padded * columns, 16):
        store(values, i, const(0.0))


@njit(error_model="numpy")
def step_sizes(a, d, first, n, h, raw, dt, ld):  # pragma: no cover
    """dt of a chunk's tokens and the running sum of dt A; both (CHUNK,), past n: 0 and the end's.

    `raw` receives dt before its softplus.
    """
    width, half, zx = load1_i64(a, _WIDTH), load1_i64(a, _HALF), load1_i64(a, _ZX)
    heads = load1_i64(a, _HEADS)
    token = load1_i64(load1_i64(a, _ROW), d) * load1_i64(a, _COLUMNS)
    token += load1_i64(load1_i64(a, _START), d) + first
    bias = load1(load1_i64(a, _DT_BIAS), h)
    A = load1(load1_i64(a, _A), h)
    low, high = load1(load1_i64(a, _LIMITS), 0), load1(load1_i64(a, _LIMITS), 1)
    for q in range(CHUNK):
        value = np.float32(0)
        if q < n:
            at = (token + q) * width + width - heads + h
            if half != 0:
                value = load1_bf16(zx, at) + bias
            else:
                value = load1(zx, at) + bias
        store1(raw, q, value)
    for q in range(0, CHUNK, 16):
        store(dt, q, minimum(maximum(softplus(load(raw, q)), splat(low)), splat(high)))
    run_ = np.float32(0)
    for q in range(CHUNK):
        if q < n:
            run_ += load1(dt, q) * A
        else:
            store1(dt, q, np.float32(0))
        store1(ld, q, run_)


@njit(error_model="numpy")
def inside(CB, dt, ld, M, n):  # pragma: no cover (compiled)
    """M[q, s] = CB[q, s] exp(ld_q - ld_s) dt_s for s <= q, else 0; (CHUNK, CHUNK)."""
    for q in range(CHUNK):
        here = splat(load1(ld, q))
        for s in range(0, CHUNK, 16):
            if s > q or q >= n:
                store(M, q * CHUNK + s, const(0.0))
            else:
                decay = exp(minimum(here - load(ld, s), const(0.0)))
                store(M, q * CHUNK + s, load(CB, q * CHUNK + s) * decay * load(dt, s))
                for later in range(q + 1, min(s + 16, CHUNK)):
                    store1(M, q * CHUNK + later, np.float32(0))


@njit(error_model="numpy", inline="always")
def scan_scratch(P, N, K):  # pragma: no cover (compiled)
    """Floats of scratch that a unit needs beside its states."""
    wide = max(P, N)
    return (K - 1 + CHUNK) * wide + 3 * CHUNK * N + 2 * CHUNK * CHUNK + 3 * CHUNK * P + 8 * CHUNK


@njit(error_model="numpy")
def load_state(a, d, h, S):  # pragma: no cover (compiled)
    """The state of a head before the document's first token in this row, as (N, P)."""
    heads, P, N = load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N)
    carries = load1_i64(load1_i64(a, _CARRIES), d)
    source = load1_i64(a, _STATE_IN)
    if carries != 0 and source != 0:
        row = load1_i64(load1_i64(a, _ROW), d)
        flip(source + 4 * (row * heads + h) * P * N, P, N, S)
    else:
        for i in range(0, P * N, 16):
            store(S, i, const(0.0))


@njit(error_model="numpy")
def flip(source, rows, columns, target):  # pragma: no cover
    """(rows, columns) -> (columns, rows), both multiples of 16."""
    for i in range(0, rows, 16):
        for j in range(0, columns, 16):
            transpose(source + 4 * (i * columns + j), columns, target + 4 * (j * rows + i), rows)


@njit(error_model="numpy")
def scores(C, B, Bt, CB, N):  # pragma: no cover (compiled)
    """CB[q, s] = C_q . B_s of a chunk, (CHUNK, CHUNK); Bt receives B's transpose."""
    flip(B, CHUNK, N, Bt)
    product(C, N, 1, Bt, CHUNK, N, CB, CHUNK, CHUNK, CHUNK, 0, np.float32(0))


@njit(error_model="numpy")
def _unit(a, work, d, g, first_head, last_head):  # pragma: no cover
    heads, P, N, K = (
        load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N), load1_i64(a, _K)
    )  # fmt: skip
    inner = heads * P
    groups, width, half = load1_i64(a, _GROUPS), load1_i64(a, _WIDTH), load1_i64(a, _HALF)
    row = load1_i64(load1_i64(a, _ROW), d)
    length = load1_i64(load1_i64(a, _LENGTH), d)
    position = load1_i64(load1_i64(a, _POSITION), d)
    token = row * load1_i64(a, _COLUMNS) + load1_i64(load1_i64(a, _START), d)
    zx, y_out, gated = load1_i64(a, _ZX), load1_i64(a, _Y), load1_i64(a, _GATED)
    squares, saved = load1_i64(a, _SQUARES), load1_i64(a, _SAVED)

    raw = work
    B = raw + 4 * (K - 1 + CHUNK) * max(P, N)
    C = B + 4 * CHUNK * N
    Bt = C + 4 * CHUNK * N
    CB = Bt + 4 * CHUNK * N
    M = CB + 4 * CHUNK * CHUNK
    x = M + 4 * CHUNK * CHUNK
    xf = x + 4 * CHUNK * P
    y = xf + 4 * CHUNK * P
    dt = y + 4 * CHUNK * P
    ld = dt + 4 * CHUNK
    e = ld + 4 * CHUNK
    dt_raw = e + 4 * CHUNK
    states = dt_raw + 4 * 5 * CHUNK

    for h in range(first_head, last_head):
        load_state(a, d, h, states + 4 * (h - first_head) * N * P)
    first = 0
    while first < length:
        n = min(CHUNK - (position + first) % CHUNK, length - first)
        chunk = (position + first) // CHUNK
        if saved != 0 and (first == 0 or chunk % SPAN == 0):
            span = load1_i64(load1_i64(a, _FIRST_SPAN), d) + chunk // SPAN
            span -= position // CHUNK // SPAN
            for h in range(first_head, last_head):
                for i in range(0, N * P, 16):
                    value = load(states, (h - first_head) * N * P + i)
                    store(saved, (span * heads + h) * N * P + i, value)
        read_inputs(a, d, first, n, inner + g * N, N, raw)
        convolve(a, raw, n, inner + g * N, N, B)
        activate(B, n, CHUNK, N)
        read_inputs(a, d, first, n, inner + (groups + g) * N, N, raw)
        convolve(a, raw, n, inner + (groups + g) * N, N, C)
        activate(C, n, CHUNK, N)
        scores(C, B, Bt, CB, N)
        tall = (n + 7) // 8 * 8
        for h in range(first_head, last_head):
            S = states + 4 * (h - first_head) * N * P
            read_inputs(a, d, first, n, h * P, P, raw)
            convolve(a, raw, n, h * P, P, x)
            activate(x, n, CHUNK, P)
            step_sizes(a, d, first, n, h, dt_raw, dt, ld)
            for q in range(0, CHUNK, 16):
                store(e, q, exp(load(ld, q)))
            inside(CB, dt, ld, M, n)
            product(C, N, 1, S, P, N, y, P, tall, P, e, np.float32(0))
            product(M, CHUNK, 1, x, P, n, y, P, tall, P, 0, np.float32(1))
            end = load1(ld, CHUNK - 1)
            for s in range(0, CHUNK, 16):
                store(dt_raw, s, exp(splat(end) - load(ld, s)) * load(dt, s))
            for s in range(n):
                weight = splat(load1(dt_raw, s))
                for p in range(0, P, 16):
                    store(xf, s * P + p, load(x, s * P + p) * weight)
            product(B, 1, N, xf, P, n, S, P, N, P, 0, load1(e, CHUNK - 1))
            D = splat(load1(load1_i64(a, _D), h))
            for q in range(n):
                t = token + first + q
                square = const(0.0)
                for p in range(0, P, 16):
                    value = fma(D, load(x, q * P + p), load(y, q * P + p))
                    if y_out != 0:
                        write(y_out, t * inner + h * P + p, value, half)
                    value = value * silu(read(zx, t * width + h * P + p, half))
                    store(gated, t * inner + h * P + p, value)
                    square = fma(value, value, square)
                store1(squares, t * heads + h, total(square))
        first += n
    target = load1_i64(a, _STATE_OUT)
    if target != 0 and load1_i64(load1_i64(a, _LAST), d) != 0:
        for h in range(first_head, last_head):
            flip(
                states + 4 * (h - first_head) * N * P, N, P,
                target + 4 * (row * heads + h) * P * N,
            )  # fmt: skip


@kernel
def _scan(a):  # pragma: no cover (compiled)
    me = ticket(a + 8 * _IDS)
    work = load1_i64(a, _WORK) + 4 * me * load1_i64(a, _WORK_SIZE)
    groups, heads, splits = load1_i64(a, _GROUPS), load1_i64(a, _HEADS), load1_i64(a, _SPLITS)
    share = heads // groups
    units = load1_i64(a, _DOCS) * groups * splits
    while True:
        unit = ticket(a)
        if unit >= units:
            break
        d, rest = unit // (groups * splits), unit % (groups * splits)
        g, part = rest // splits, rest % splits
        _unit(
            a, work, d, g,
            g * share + part * share // splits, g * share + (part + 1) * share // splits,
        )  # fmt: skip


@kernel
def _normalise(a):  # pragma: no cover (compiled)
    groups, heads, P = load1_i64(a, _GROUPS), load1_i64(a, _HEADS), load1_i64(a, _P)
    inner, share = heads * P, heads // groups
    half, tokens = load1_i64(a, _HALF), load1_i64(a, _TOKENS)
    gated, squares, rstd = load1_i64(a, _GATED), load1_i64(a, _SQUARES), load1_i64(a, _RSTD)
    out, norm, eps = load1_i64(a, _OUT), load1_i64(a, _NORM), load1(load1_i64(a, _EPS), 0)
    while True:
        block = ticket(a) * 16
        if block >= tokens:
            break
        for t in range(block, min(block + 16, tokens)):
            for g in range(groups):
                square = np.float32(0)
                for h in range(g * share, (g + 1) * share):
                    square += load1(squares, t * heads + h)
                inverse = np.float32(1) / np.sqrt(square / np.float32(share * P) + eps)
                store1(rstd, t * groups + g, inverse)
                for c in range(g * share * P, (g + 1) * share * P, 16):
                    value = load(gated, t * inner + c) * splat(inverse) * load(norm, c)
                    write(out, t * inner + c, value, half)


class Pass:
    """The arguments of one pass, with the tensors that they point into."""

    def __init__(
        self,
        config: Mamba2Config,
        documents: Layout,
        shape: tuple[int, int],
        zxbcdt: Tensor,
        parameters: tuple[Tensor, ...],
        more: int = 0,
    ) -> None:
        c = config
        self._kept: list[Tensor | np.ndarray] = []
        self.arguments = np.zeros(_FIELDS + more, dtype=np.int64)
        threads = num_threads()
        share = c.nheads // c.ngroups
        self.splits = min(share, threads)
        numbers = {
            _DOCS: len(documents.row),
            _COLUMNS: shape[1],
            _TOKENS: shape[0] * shape[1],
            _GROUPS: c.ngroups,
            _HEADS: c.nheads,
            _P: c.headdim,
            _N: c.d_state,
            _K: c.d_conv,
            _SPLITS: self.splits,
            _WIDTH: c.d_in_proj,
            _HALF: int(zxbcdt.dtype == torch.bfloat16),
        }
        for field, number in numbers.items():
            self.arguments[field] = number
        ends = documents.position + documents.length - 1
        spans = ends // (CHUNK * SPAN) - documents.position // (CHUNK * SPAN) + 1
        self.spans = int(spans.sum())
        high = c.dt_limit_high if c.dt_limit_high > 0 else np.inf
        arrays = {
            _ROW: documents.row,
            _START: documents.start,
            _LENGTH: documents.length,
            _POSITION: documents.position,
            _CARRIES: documents.carries.astype(np.int64),
            _LAST: documents.last.astype(np.int64),
            _FIRST_SPAN: np.cumsum(spans) - spans,
            _LIMITS: np.array([c.dt_limit_low, high], dtype=np.float32),
            _EPS: np.array([c.norm_eps], dtype=np.float32),
        }
        for field, array in arrays.items():
            self.array(field, array)
        self.tensor(_ZX, zxbcdt)
        for field, parameter in zip(
            (_TAPS, _BIAS, _DT_BIAS, _A, _D, _NORM), parameters, strict=True
        ):
            self.tensor(field, parameter)

    def array(self, field: int, array: np.ndarray) -> None:
        """Point a field at an array, which is kept alive."""
        self._kept.append(array)
        self.arguments[field] = array.ctypes.data

    def tensor(self, field: int, tensor: Tensor | None) -> None:
        """Point a field at a contiguous tensor, which is kept alive; None is address 0."""
        if tensor is not None:
            assert tensor.is_contiguous()
            self._kept.append(tensor)
            self.arguments[field] = tensor.data_ptr()

    def workspace(self, floats: int) -> None:
        """Scratch memory of so many float32 for each thread."""
        floats += PAD
        self.arguments[_WORK_SIZE] = floats
        self.tensor(_WORK, torch.empty(num_threads() * floats))

    def run(self, compiled: object) -> None:
        """Run one kernel of the pass."""
        self.arguments[_IDS] = 0
        run(compiled, self.arguments)


def forward(
    config: Mamba2Config,
    documents: Layout,
    shape: tuple[int, int],
    zxbcdt: Tensor,
    before: Tensor | None,
    ssm: Tensor | None,
    parameters: tuple[Tensor, ...],
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]:
    """From the input projection's result to the output projection's input.

    Args:
        config: the sizes; headdim and d_state are multiples of 16.
        documents: of the rows.
        shape: (b, l), rows and tokens a row.
        zxbcdt: (b * l, d_in_proj) float32 or bfloat16, contiguous.
        before: (b, d_conv - 1, conv_dim) float32, each row's window; None is zeros.
        ssm: (b, nheads, headdim, d_state) float32, each row's state; None is zeros.
        parameters: taps (d_conv, conv_dim), bias (conv_dim), dt_bias (nheads), A (nheads),
            D (nheads), the norm's weight (d_inner); float32.
        keep: whether to return what the backward pass needs.

    Returns:
        The normed output (b * l, d_inner) in the dtype of `zxbcdt`; the states after each row's
        last token; and, if kept, y before the gate (b * l, d_inner), 1 / rms (b * l, ngroups) of
        the gated norm, and the states at the start of every SPAN-th chunk of each document.
    """
    c = config
    b, tokens = shape[0], shape[0] * shape[1]
    p = Pass(config, documents, shape, zxbcdt, parameters)
    out = torch.empty(tokens, c.d_inner, dtype=zxbcdt.dtype)
    y = torch.empty(tokens, c.d_inner, dtype=zxbcdt.dtype) if keep else None
    rstd = torch.empty(tokens, c.ngroups)
    saved = torch.empty(p.spans, c.nheads, c.d_state, c.headdim) if keep else None
    after = torch.empty(b, c.nheads, c.headdim, c.d_state)
    p.tensor(_BEFORE, before)
    p.tensor(_STATE_IN, ssm)
    p.tensor(_STATE_OUT, after)
    p.tensor(_Y, y)
    p.tensor(_GATED, torch.empty(tokens, c.d_inner))
    p.tensor(_SQUARES, torch.empty(tokens, c.nheads))
    p.tensor(_RSTD, rstd)
    p.tensor(_OUT, out)
    p.tensor(_SAVED, saved)
    heads = -(-c.nheads // c.ngroups // p.splits)
    p.workspace(
        scan_scratch.py_func(c.headdim, c.d_state, c.d_conv) + heads * c.headdim * c.d_state
    )
    p.run(_scan)
    p.run(_normalise)
    kept = None if y is None or saved is None else (y, rstd, saved)
    return out, after, kept
