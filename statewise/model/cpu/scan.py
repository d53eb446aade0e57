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
from statewise.model.cpu.scratch import Scratch, Shape, entry, place, thread_table
from statewise.model.cpu.threads import kernel, num_threads, piece, routine, run
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

# The arguments of a pass: where in the array of int64 each stands.
(
    _TICKET, _THREADS, _IDS,
    _DOCS, _ROW, _START, _LENGTH, _POSITION, _CARRIES, _LAST, _COLUMNS,
    _GROUPS, _HEADS, _P, _N, _K, _SPLITS,
    _ZX, _WIDTH, _HALF, _BEFORE, _STATE_IN, _STATE_OUT,
    _TAPS, _BIAS, _DT_BIAS, _A, _D, _LIMITS,
    _Y, _GATED, _SQUARES, _RSTD, _OUT, _NORM, _EPS,
    _SCRATCH, _TOKENS, _SAVED, _FIRST_SPAN,
    _FIELDS,
) = range(41)  # fmt: skip


@Scratch
def SCRATCH(P: int, N: int, K: int, heads: int) -> dict[str, Shape]:
    """Of a unit of so many heads: their states, and one chunk of Q tokens."""
    Q = CHUNK
    return {
        "raw": (K - 1 + Q, max(P, N)),  # the convolution's inputs
        "B": (Q, N),
        "C": (Q, N),
        "Bt": (N, Q),
        "CB": (Q, Q),  # C B^T
        "M": (Q, Q),  # C B^T * L
        "x": (Q, P),
        "xf": (Q, P),  # f x
        "y": (Q, P),
        "dt_raw": (Q,),
        "dt": (Q,),
        "ld": (Q,),
        "e": (Q,),  # exp(ld)
        "f": (Q,),
        "states": (heads, N, P),
    }


PART = SCRATCH.parts


@routine
def document(a, field, d):  # pragma: no cover (compiled)
    """What one of the arrays that describe the documents says of document d."""
    return load1_i64(load1_i64(a, field), d)


@routine
def first_token(a, d):  # pragma: no cover (compiled)
    """A document's first token, counted through all rows."""
    return document(a, _ROW, d) * load1_i64(a, _COLUMNS) + document(a, _START, d)


@njit(error_model="numpy")  # anew for each set of constant sizes: that is faster
def zero(array, n):  # pragma: no cover (compiled)
    """Write zeros to the first n elements, n a multiple of 16."""
    for i in range(0, n, 16):
        store(array, i, const(0.0))


@routine
def copy(source, n, target):  # pragma: no cover (compiled)
    """Copy n elements, a multiple of 16."""
    for i in range(0, n, 16):
        store(target, i, load(source, i))


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


@routine
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
    row, token, carries = document(a, _ROW, d), first_token(a, d), document(a, _CARRIES, d)
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


@routine
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


@njit(error_model="numpy")  # anew for each set of constant sizes: that is faster
def scale_rows(source, factors, n, padded, columns, target):  # pragma: no cover
    """target[i, :] = factors[i] source[i, :]; rows n ... padded - 1 become zero."""
    for i in range(n):
        factor = splat(load1(factors, i))
        for c in range(0, columns, 16):
            store(target, i * columns + c, factor * load(source, i * columns + c))
    zero(target + 4 * n * columns, (padded - n) * columns)


@routine
def convolve_silu(a, d, first, n, channel, columns, raw, out):  # pragma: no cover
    """SiLU of the convolution of some channels of a chunk, (CHUNK, columns), zero past row n."""
    read_inputs(a, d, first, n, channel, columns, raw)
    convolve(a, raw, n, channel, columns, out)
    for i in range(0, n * columns, 16):
        store(out, i, silu(load(out, i)))
    zero(out + 4 * n * columns, (CHUNK - n) * columns)


@routine
def step_sizes(a, d, first, n, h, raw, dt, ld):  # pragma: no cover
    """dt of a chunk's tokens and the running sum of dt A; both (CHUNK,), past n: 0 and the end's.

    `raw` receives dt before its softplus.
    """
    width, half, zx = load1_i64(a, _WIDTH), load1_i64(a, _HALF), load1_i64(a, _ZX)
    heads = load1_i64(a, _HEADS)
    token = first_token(a, d) + first
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


@routine
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


@njit(error_model="numpy")  # anew for each set of constant sizes: that is faster
def flip(source, rows, columns, target):  # pragma: no cover
    """(rows, columns) -> (columns, rows), both multiples of 16."""
    for i in range(0, rows, 16):
        for j in range(0, columns, 16):
            transpose(source + 4 * (i * columns + j), columns, target + 4 * (j * rows + i), rows)


@routine
def scores(C, B, Bt, CB, N):  # pragma: no cover (compiled)
    """CB[q, s] = C_q . B_s of a chunk, (CHUNK, CHUNK); Bt receives B's transpose."""
    flip(B, CHUNK, N, Bt)
    product(C, N, 1, Bt, CHUNK, N, CB, CHUNK, CHUNK, CHUNK, 0, np.float32(0))


@routine
def read_group(a, d, first, n, g, raw, B, C):  # pragma: no cover (compiled)
    """B and C of a chunk and a group, (CHUNK, N) each."""
    G, N = load1_i64(a, _GROUPS), load1_i64(a, _N)
    inner = load1_i64(a, _HEADS) * load1_i64(a, _P)
    convolve_silu(a, d, first, n, inner + g * N, N, raw, B)
    convolve_silu(a, d, first, n, inner + (G + g) * N, N, raw, C)


@routine
def read_state(a, states, d, h, S):  # pragma: no cover (compiled)
    """A head's entry for the row of document d in `states` (b, heads, P, N), as (N, P)."""
    heads, P, N = load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N)
    flip(states + 4 * (document(a, _ROW, d) * heads + h) * P * N, P, N, S)


@routine
def write_state(a, S, d, h, states):  # pragma: no cover (compiled)
    """The reverse of `read_state`."""
    heads, P, N = load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N)
    flip(S, N, P, states + 4 * (document(a, _ROW, d) * heads + h) * P * N)


@routine
def saved_state(a, d, chunk, h):  # pragma: no cover (compiled)
    """Where the state before a chunk, the first of its span in this row, is kept, (N, P)."""
    heads, P, N = load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N)
    spans_before = chunk // SPAN - document(a, _POSITION, d) // CHUNK // SPAN
    span = document(a, _FIRST_SPAN, d) + spans_before
    return load1_i64(a, _SAVED) + 4 * (span * heads + h) * N * P


@piece
def _outputs(w, S, n, P, N):  # pragma: no cover (compiled)
    """Y = exp(ld) C S + (C B^T * L) X of a chunk and head."""
    C, CB, M, x, y = (
        place(w, PART.C), place(w, PART.CB), place(w, PART.M), place(w, PART.x), place(w, PART.y)
    )  # fmt: skip
    dt, ld, e = place(w, PART.dt), place(w, PART.ld), place(w, PART.e)
    for q in range(0, CHUNK, 16):
        store(e, q, exp(load(ld, q)))
    inside(CB, dt, ld, M, n)
    tall = (n + 7) // 8 * 8
    product(C, N, 1, S, P, N, y, P, tall, P, e, np.float32(0))
    product(M, CHUNK, 1, x, P, n, y, P, tall, P, 0, np.float32(1))


@routine
def advance(B, x, dt, ld, n, P, N, f, xf, S):  # pragma: no cover (compiled)
    """S' = exp(ld_end) S + (B * f)^T X of a chunk and head, in place of S.

    f (CHUNK,) and xf (CHUNK, P) receive exp(ld_end - ld) dt and f X.
    """
    end = splat(load1(ld, CHUNK - 1))
    for s in range(0, CHUNK, 16):
        store(f, s, exp(end - load(ld, s)) * load(dt, s))
    scale_rows(x, f, n, n, P, xf)
    store(f, 0, exp(end))
    product(B, 1, N, xf, P, n, S, P, N, P, 0, load1(f, 0))


@piece
def _gate(a, x, y, d, first, n, h):  # pragma: no cover (compiled)
    """(y + D x) silu(z) of a chunk and head, and the sum of its squares for the norm."""
    heads, P, D = load1_i64(a, _HEADS), load1_i64(a, _P), splat(load1(load1_i64(a, _D), h))
    inner, width, half = heads * P, load1_i64(a, _WIDTH), load1_i64(a, _HALF)
    zx, y_out, gated, squares = (
        load1_i64(a, _ZX), load1_i64(a, _Y), load1_i64(a, _GATED), load1_i64(a, _SQUARES)
    )  # fmt: skip
    token = first_token(a, d) + first
    for q in range(n):
        t = token + q
        square = const(0.0)
        for p in range(0, P, 16):
            value = fma(D, load(x, q * P + p), load(y, q * P + p))
            if y_out != 0:
                write(y_out, t * inner + h * P + p, value, half)
            value = value * silu(read(zx, t * width + h * P + p, half))
            store(gated, t * inner + h * P + p, value)
            square = fma(value, value, square)
        store1(squares, t * heads + h, total(square))


@routine
def _unit(a, w, d, g, first_head, last_head):  # pragma: no cover (compiled)
    """Heads first_head ... last_head - 1, of group g, of one document, chunk by chunk."""
    P, N = load1_i64(a, _P), load1_i64(a, _N)
    length, position = document(a, _LENGTH, d), document(a, _POSITION, d)
    states_in, states_out = load1_i64(a, _STATE_IN), load1_i64(a, _STATE_OUT)
    raw, B, C = place(w, PART.raw), place(w, PART.B), place(w, PART.C)
    x, dt, ld = place(w, PART.x), place(w, PART.dt), place(w, PART.ld)

    for h in range(first_head, last_head):
        S = entry(w, PART.states, h - first_head)
        if document(a, _CARRIES, d) != 0 and states_in != 0:
            read_state(a, states_in, d, h, S)
        else:
            zero(S, N * P)
    first = 0
    while first < length:
        n = min(CHUNK - (position + first) % CHUNK, length - first)
        chunk = (position + first) // CHUNK
        saves = load1_i64(a, _SAVED) != 0 and (first == 0 or chunk % SPAN == 0)
        read_group(a, d, first, n, g, raw, B, C)
        scores(C, B, place(w, PART.Bt), place(w, PART.CB), N)
        for h in range(first_head, last_head):
            S = entry(w, PART.states, h - first_head)
            if saves:
                copy(S, N * P, saved_state(a, d, chunk, h))
            convolve_silu(a, d, first, n, h * P, P, raw, x)
            step_sizes(a, d, first, n, h, place(w, PART.dt_raw), dt, ld)
            _outputs(w, S, n, P, N)
            advance(B, x, dt, ld, n, P, N, place(w, PART.f), place(w, PART.xf), S)
            _gate(a, x, place(w, PART.y), d, first, n, h)
        first += n
    if states_out != 0 and document(a, _LAST, d) != 0:
        for h in range(first_head, last_head):
            write_state(a, entry(w, PART.states, h - first_head), d, h, states_out)


@routine
def unit(a, number):  # pragma: no cover (compiled)
    """The document, group, share of the group's heads, and its first and last head, of a unit.

    The document is past the last one where there is no such unit.
    """
    groups, heads, splits = load1_i64(a, _GROUPS), load1_i64(a, _HEADS), load1_i64(a, _SPLITS)
    d, rest = number // (groups * splits), number % (groups * splits)
    g, part = rest // splits, rest % splits
    share = heads // groups
    begin, end = part * share // splits, (part + 1) * share // splits
    return d, g, part, g * share + begin, g * share + end


@kernel
def _scan(a):  # pragma: no cover (compiled)
    w = thread_table(load1_i64(a, _SCRATCH), PART, ticket(a + 8 * _IDS))
    while True:
        d, g, _, first_head, last_head = unit(a, ticket(a))
        if d >= load1_i64(a, _DOCS):
            break
        _unit(a, w, d, g, first_head, last_head)


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

    def workspace(self, scratch: Scratch, **sizes: int) -> None:
        """Scratch memory for each thread, of these sizes."""
        memory = scratch.allocate(num_threads(), **sizes)
        self._kept.append(memory.floats)
        self.array(_SCRATCH, memory.table)

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
    p.workspace(SCRATCH, P=c.headdim, N=c.d_state, K=c.d_conv, heads=heads)
    p.run(_scan)
    p.run(_normalise)
    kept = None if y is None or saved is None else (y, rstd, saved)
    return out, after, kept
