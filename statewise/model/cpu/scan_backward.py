"""The gradients of `statewise.model.cpu.scan`, recomputing what the forward pass did not keep.

Kept are the projection's result, y before the gate, the norm's 1 / rms and the state before every
SPAN-th chunk. A unit of work is the same as forward. It goes backwards from span to span, with the
gradients of its heads' states; within a span it first goes forward to find the state before each
chunk, then backwards from chunk to chunk. With dS the gradient of the state
after a chunk (the rest as in `scan`):

    dX  = M^T dY + f (B dS)            dC = exp(ld) dY S^T + dCB B
    dS' = exp(ld_end) dS + C^T (exp(ld) dY)      dB = f X dS^T + dCB^T C
    dCB = sum over heads of dY X^T * L

and every exponential passes its gradient to the running sum ld, which is summed back to dt and A.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from statewise.model.config import Mamba2Config
from statewise.model.cpu.scan import (
    _A,
    _BEFORE,
    _CARRIES,
    _D,
    _DOCS,
    _FIELDS,
    _GROUPS,
    _HALF,
    _HEADS,
    _IDS,
    _K,
    _LAST,
    _LENGTH,
    _LIMITS,
    _N,
    _NORM,
    _P,
    _POSITION,
    _ROW,
    _RSTD,
    _SAVED,
    _SCRATCH,
    _SPLITS,
    _STATE_IN,
    _TAPS,
    _TOKENS,
    _WIDTH,
    _Y,
    _ZX,
    CHUNK,
    SPAN,
    Pass,
    advance,
    convolve,
    copy,
    document,
    first_token,
    flip,
    inside,
    read,
    read_group,
    read_inputs,
    read_state,
    saved_state,
    scale_rows,
    scores,
    step_sizes,
    unit,
    write,
    write_state,
    zero,
)
from statewise.model.cpu.scratch import Scratch, Shape, entry, place, thread_table
from statewise.model.cpu.threads import kernel, piece, routine
from statewise.model.cpu.tile import product
from statewise.model.cpu.vector import (
    const,
    exp,
    fma,
    less,
    load,
    load1,
    load1_i64,
    minimum,
    sigmoid,
    softplus,
    splat,
    store,
    store1,
    store1_bf16,
    ticket,
    total,
)
from statewise.model.layout import Layout

# Further arguments, behind those of the forward pass.
(
    _DOUT, _DY, _DZX, _DNORM, _GX, _GBC, _DSTATE, _DSTATE_IN, _DBEFORE,
    _DHEADS, _DTAPS,
) = range(_FIELDS, _FIELDS + 11)  # fmt: skip
_MORE = 11
BLOCK = 64  # tokens that share one partial sum of the norm's gradient
LANES = 64  # channels of the convolution that are worked on together


@kernel
def _norm_backward(a):  # pragma: no cover (compiled)
    """Through the gated norm: dY (float32), dz into place, the norm weight's partial sums."""
    groups, heads, P = load1_i64(a, _GROUPS), load1_i64(a, _HEADS), load1_i64(a, _P)
    inner = heads * P
    wide = inner // groups
    width, half, tokens = load1_i64(a, _WIDTH), load1_i64(a, _HALF), load1_i64(a, _TOKENS)
    zx, y_in, rstd, norm = (
        load1_i64(a, _ZX), load1_i64(a, _Y), load1_i64(a, _RSTD), load1_i64(a, _NORM)
    )  # fmt: skip
    dout, dy, dzx, dnorm = (
        load1_i64(a, _DOUT), load1_i64(a, _DY), load1_i64(a, _DZX), load1_i64(a, _DNORM)
    )  # fmt: skip
    while True:
        block = ticket(a)
        if block * BLOCK >= tokens:
            break
        for c in range(0, inner, 16):
            store(dnorm, block * inner + c, const(0.0))
        for t in range(block * BLOCK, min(block * BLOCK + BLOCK, tokens)):
            for g in range(groups):
                inverse = load1(rstd, t * groups + g)
                along = const(0.0)
                for c in range(g * wide, (g + 1) * wide, 16):
                    z = read(zx, t * width + c, half)
                    gated = read(y_in, t * inner + c, half) * z * sigmoid(z)
                    grad = read(dout, t * inner + c, half)
                    along = fma(grad * load(norm, c), gated, along)
                    part = fma(grad * gated, splat(inverse), load(dnorm, block * inner + c))
                    store(dnorm, block * inner + c, part)
                mean = total(along) * inverse * inverse / np.float32(wide)
                for c in range(g * wide, (g + 1) * wide, 16):
                    z = read(zx, t * width + c, half)
                    y = read(y_in, t * inner + c, half)
                    s = sigmoid(z)
                    grad = read(dout, t * inner + c, half) * load(norm, c)
                    grad = (grad - y * z * s * splat(mean)) * splat(inverse)
                    store(dy, t * inner + c, grad * z * s)
                    slope = s * fma(z, const(1.0) - s, const(1.0))
                    write(dzx, t * width + c, grad * y * slope, half)


@Scratch
def SCRATCH(P: int, N: int, K: int, heads: int) -> dict[str, Shape]:
    """Of a unit of so many heads; a chunk has Q tokens."""
    Q = CHUNK
    return {
        # Of a chunk and head.
        "raw": (K - 1 + Q, max(P, N)),  # the convolution's inputs
        "M": (Q, Q),
        "dM": (Q, Q),
        "diagonal": (16,),
        "dy": (Q, P),
        "dye": (Q, P),  # exp(ld) dY
        "dx": (Q, P),
        "xf": (Q, P),  # rows of x times a factor
        "turned": (P, Q),
        "U": (N, Q),
        "e": (Q,),  # exp(ld)
        "to_end": (Q,),  # exp(ld_end - ld)
        "f": (Q,),  # exp(ld_end - ld) dt
        "dld": (Q,),
        "ddt": (Q,),
        # Of the chunks of a span, and of a head where it has (Q,), (Q, P) or (N, P).
        "B": (SPAN, Q, N),
        "C": (SPAN, Q, N),
        "Bt": (SPAN, N, Q),
        "Ct": (SPAN, N, Q),
        "dBt": (SPAN, N, Q),  # summed over the heads, as dCt and dCB
        "dCt": (SPAN, N, Q),
        "CB": (SPAN, Q, Q),
        "dCB": (SPAN, Q, Q),
        "x": (SPAN, Q, P),
        "slope": (SPAN, Q, P),  # of x by what went into its SiLU
        "dt_raw": (SPAN, Q),
        "dt": (SPAN, Q),
        "ld": (SPAN, Q),
        "S": (SPAN, N, P),  # before each chunk
        "sums": (3,),  # the gradients of A, D and dt_bias
        # Of the unit.
        "dS": (heads, N, P),  # after the chunk that is worked on
    }


PART = SCRATCH.parts


@routine
def _chunk(a, d, k):  # pragma: no cover (compiled)
    """The first of chunk k's tokens in this row, counted from the document's first there; and how
    many there are."""
    position, length = document(a, _POSITION, d), document(a, _LENGTH, d)
    first = max(k * CHUNK - position, 0)
    return first, min((k + 1) * CHUNK - position, length) - first


@piece
def _read_span(a, w, d, g, start, stop):  # pragma: no cover (compiled)
    """B, C and C B^T of chunks start ... stop - 1, and no gradient of them yet."""
    N = load1_i64(a, _N)
    for k in range(start, stop):
        i = k - start
        first, n = _chunk(a, d, k)
        B, C = entry(w, PART.B, i), entry(w, PART.C, i)
        read_group(a, d, first, n, g, place(w, PART.raw), B, C)
        scores(C, B, entry(w, PART.Bt, i), entry(w, PART.CB, i), N)
        flip(C, CHUNK, N, entry(w, PART.Ct, i))
        zero(entry(w, PART.dBt, i), N * CHUNK)
        zero(entry(w, PART.dCt, i), N * CHUNK)
        zero(entry(w, PART.dCB, i), CHUNK * CHUNK)


@piece
def _forward_head(a, w, d, h, start, stop):  # pragma: no cover (compiled)
    """x, the slope of its SiLU, dt, ld, and the state before each chunk of a span."""
    P, N, raw = load1_i64(a, _P), load1_i64(a, _N), place(w, PART.raw)
    copy(saved_state(a, d, start, h), N * P, place(w, PART.S))
    for k in range(start, stop):
        i = k - start
        first, n = _chunk(a, d, k)
        x, slope = entry(w, PART.x, i), entry(w, PART.slope, i)
        read_inputs(a, d, first, n, h * P, P, raw)
        convolve(a, raw, n, h * P, P, x)
        for j in range(0, n * P, 16):
            u = load(x, j)
            gate = sigmoid(u)
            store(x, j, u * gate)
            store(slope, j, gate * fma(u, const(1.0) - gate, const(1.0)))
        zero(x + 4 * n * P, (CHUNK - n) * P)
        dt, ld = entry(w, PART.dt, i), entry(w, PART.ld, i)
        step_sizes(a, d, first, n, h, entry(w, PART.dt_raw, i), dt, ld)
        if k + 1 < stop:
            after = entry(w, PART.S, i + 1)
            copy(entry(w, PART.S, i), N * P, after)
            B, f, xf = entry(w, PART.B, i), place(w, PART.f), place(w, PART.xf)
            advance(B, x, dt, ld, n, P, N, f, xf, after)


@piece
def _decays(w, i):  # pragma: no cover (compiled)
    """The exponentials of chunk i of a span; no gradient of dt and ld yet."""
    dt, ld = entry(w, PART.dt, i), entry(w, PART.ld, i)
    e, to_end, f = place(w, PART.e), place(w, PART.to_end), place(w, PART.f)
    end = splat(load1(ld, CHUNK - 1))
    for s in range(0, CHUNK, 16):
        store(e, s, exp(load(ld, s)))
        store(to_end, s, exp(end - load(ld, s)))
        store(f, s, load(to_end, s) * load(dt, s))
    zero(place(w, PART.dld), CHUNK)
    zero(place(w, PART.ddt), CHUNK)


@piece
def _read_dy(a, w, i, d, first, n, h):  # pragma: no cover (compiled)
    """dY and exp(ld) dY of chunk i of a span; dD = sum of dY X (y + D x is what is gated)."""
    heads, P, dy_in = load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _DY)
    token = first_token(a, d) + first
    x, e, dy, dye = (
        entry(w, PART.x, i), place(w, PART.e), place(w, PART.dy), place(w, PART.dye)
    )  # fmt: skip
    along = const(0.0)
    for q in range(n):
        factor = splat(load1(e, q))
        for p in range(0, P, 16):
            grad = load(dy_in, (token + q) * heads * P + h * P + p)
            store(dy, q * P + p, grad)
            store(dye, q * P + p, grad * factor)
            along = fma(grad, load(x, q * P + p), along)
    zero(dy + 4 * n * P, (CHUNK - n) * P)
    zero(dye + 4 * n * P, (CHUNK - n) * P)
    sums = place(w, PART.sums)
    store1(sums, 1, load1(sums, 1) + total(along))


@piece
def _within_chunk(w, i, n, P):  # pragma: no cover (compiled)
    """Through Y = M X with M = C B^T * exp(ld_q - ld_s) dt_s, on and below the diagonal:

    dM = dY X^T         dCB += dM * exp(ld_q - ld_s) dt_s        dX = M^T dY
    ddt_s += sum over q of dM CB exp(ld_q - ld_s)
    dld_q += sum over s of dM M        dld_s -= sum over q of dM M
    """
    dt, ld = entry(w, PART.dt, i), entry(w, PART.ld, i)
    CB, dCB = entry(w, PART.CB, i), entry(w, PART.dCB, i)
    M, dM, dy, xt = (
        place(w, PART.M), place(w, PART.dM), place(w, PART.dy), place(w, PART.turned)
    )  # fmt: skip
    ddt, dld, diagonal = place(w, PART.ddt), place(w, PART.dld), place(w, PART.diagonal)
    tall = (n + 7) // 8 * 8
    inside(CB, dt, ld, M, n)
    flip(entry(w, PART.x, i), CHUNK, P, xt)
    product(dy, P, 1, xt, CHUNK, P, dM, CHUNK, tall, CHUNK, 0, np.float32(0))
    for q in range(n):
        now = splat(load1(ld, q))
        of_q = const(0.0)
        for s in range(0, q + 1, 16):
            at = q * CHUNK + s
            grad = load(dM, at) * exp(minimum(now - load(ld, s), const(0.0)))
            if s + 16 > q + 1:  # above the diagonal M is zero, and so must this be
                store(diagonal, 0, grad)
                for later in range(q + 1 - s, 16):
                    store1(diagonal, later, np.float32(0))
                grad = load(diagonal, 0)
            store(dCB, at, fma(grad, load(dt, s), load(dCB, at)))
            grad = grad * load(CB, at)
            store(ddt, s, load(ddt, s) + grad)
            grad = grad * load(dt, s)
            store(dld, s, load(dld, s) - grad)
            of_q = of_q + grad
        store1(dld, q, load1(dld, q) + total(of_q))
    product(M, 1, CHUNK, dy, P, n, place(w, PART.dx), P, tall, P, 0, np.float32(0))


@routine
def _dot(x, y, n):  # pragma: no cover (compiled)
    s = const(0.0)
    for i in range(0, n, 16):
        s = fma(load(x, i), load(y, i), s)
    return total(s)


@piece
def _through_state_after(w, i, dS, n, P, N):  # pragma: no cover (compiled)
    """Through S' = exp(ld_end) S + (B * f)^T X with f = exp(ld_end - ld) dt:

        dX += f (B dS)        dB += f X dS^T        with U = X dS^T exp(ld_end - ld):
        ddt += B . U          dld -= B . U dt       dld_end = exp(ld_end) S . dS + sum of B . U dt

    Returns dld_end.
    """
    B, Bt, dBt, S = (
        entry(w, PART.B, i), entry(w, PART.Bt, i), entry(w, PART.dBt, i), entry(w, PART.S, i)
    )  # fmt: skip
    x, xf, xt, U = entry(w, PART.x, i), place(w, PART.xf), place(w, PART.turned), place(w, PART.U)
    dt, e, f, to_end = (
        entry(w, PART.dt, i), place(w, PART.e), place(w, PART.f), place(w, PART.to_end)
    )  # fmt: skip
    ddt, dld = place(w, PART.ddt), place(w, PART.dld)
    tall = (n + 7) // 8 * 8
    product(B, N, 1, dS, P, N, place(w, PART.dx), P, tall, P, f, np.float32(1))
    scale_rows(x, to_end, n, CHUNK, P, xf)
    flip(xf, CHUNK, P, xt)
    product(dS, P, 1, xt, CHUNK, P, U, CHUNK, N, CHUNK, 0, np.float32(0))
    dld_end = _dot(dS, S, N * P) * load1(e, CHUNK - 1)
    for s in range(0, CHUNK, 16):
        along = const(0.0)
        step = load(dt, s)
        for j in range(N):
            at = j * CHUNK + s
            u = load(U, at)
            along = fma(load(Bt, at), u, along)
            store(dBt, at, fma(u, step, load(dBt, at)))
        store(ddt, s, load(ddt, s) + along)
        along = along * step
        store(dld, s, load(dld, s) - along)
        dld_end += total(along)
    return dld_end


@piece
def _through_state_before(w, i, dS, n, P, N):  # pragma: no cover (compiled)
    """Through Y = exp(ld) C S, and through S' = exp(ld_end) S; dS becomes that of S:

    dC += exp(ld) dY S^T        dld += C . (exp(ld) dY S^T)
    dS' = exp(ld_end) dS + C^T (exp(ld) dY)
    """
    C, Ct, dCt, S = (
        entry(w, PART.C, i), entry(w, PART.Ct, i), entry(w, PART.dCt, i), entry(w, PART.S, i)
    )  # fmt: skip
    dye, dyet, U = place(w, PART.dye), place(w, PART.turned), place(w, PART.U)
    dld, e = place(w, PART.dld), place(w, PART.e)
    flip(dye, CHUNK, P, dyet)
    product(S, P, 1, dyet, CHUNK, P, U, CHUNK, N, CHUNK, 0, np.float32(0))
    for q in range(0, CHUNK, 16):
        along = const(0.0)
        for j in range(N):
            at = j * CHUNK + q
            u = load(U, at)
            along = fma(load(Ct, at), u, along)
            store(dCt, at, load(dCt, at) + u)
        store(dld, q, load(dld, q) + along)
    product(C, 1, N, dye, P, n, dS, P, N, P, 0, load1(e, CHUNK - 1))


@piece
def _write_dx(a, w, i, d, first, n, h):  # pragma: no cover (compiled)
    """(dX + D dY) times the slope of the SiLU: the gradient of the convolution's outputs."""
    heads, P, D = load1_i64(a, _HEADS), load1_i64(a, _P), splat(load1(load1_i64(a, _D), h))
    token, gx = first_token(a, d) + first, load1_i64(a, _GX)
    dx, dy, slope = place(w, PART.dx), place(w, PART.dy), entry(w, PART.slope, i)
    for q in range(n):
        for p in range(0, P, 16):
            grad = fma(D, load(dy, q * P + p), load(dx, q * P + p))
            grad = grad * load(slope, q * P + p)
            store(gx, (token + q) * heads * P + h * P + p, grad)


@piece
def _through_step_sizes(a, w, i, n, h, dld_end):  # pragma: no cover (compiled)
    """Through ld_q = sum of dt A up to q and dt = clamp(softplus(dt_raw)); ddt becomes ddt_raw:

    dA += sum over q of dt_q (dld_q + ... + dld_end)        ddt_q += A (dld_q + ... + dld_end)
    """
    dt, dt_raw, sums = entry(w, PART.dt, i), entry(w, PART.dt_raw, i), place(w, PART.sums)
    ddt, dld = place(w, PART.ddt), place(w, PART.dld)
    A, dA = load1(load1_i64(a, _A), h), load1(sums, 0)
    low, high = load1(load1_i64(a, _LIMITS), 0), load1(load1_i64(a, _LIMITS), 1)
    from_q = dld_end
    for back in range(n):
        q = n - 1 - back
        from_q += load1(dld, q)
        dA += from_q * load1(dt, q)
        store1(ddt, q, load1(ddt, q) + from_q * A)
    store1(sums, 0, dA)
    for q in range(0, CHUNK, 16):
        u = load(dt_raw, q)
        value = softplus(u)
        slope = less(const(20.0), u, const(1.0), sigmoid(u))
        slope = less(value, splat(low), const(0.0), slope)
        slope = less(splat(high), value, const(0.0), slope)
        store(ddt, q, load(ddt, q) * slope)


@piece
def _write_ddt(a, w, d, first, n, h):  # pragma: no cover (compiled)
    """The gradient of dt as projected into place; that of its bias is their sum."""
    width, heads, dzx = load1_i64(a, _WIDTH), load1_i64(a, _HEADS), load1_i64(a, _DZX)
    half, token = load1_i64(a, _HALF), first_token(a, d) + first
    ddt, sums = place(w, PART.ddt), place(w, PART.sums)
    dbias = load1(sums, 2)
    for q in range(n):
        grad = load1(ddt, q)
        dbias += grad
        at = (token + q) * width + width - heads + h
        if half != 0:
            store1_bf16(dzx, at, grad)
        else:
            store1(dzx, at, grad)
    store1(sums, 2, dbias)


@piece
def _backward_head(a, w, d, h, dS, start, stop):  # pragma: no cover (compiled)
    """From the last chunk of a span to its first; dS is that after the span and becomes that
    before it."""
    P, N, sums = load1_i64(a, _P), load1_i64(a, _N), place(w, PART.sums)
    docs, heads, dheads = load1_i64(a, _DOCS), load1_i64(a, _HEADS), load1_i64(a, _DHEADS)
    for which in range(3):
        store1(sums, which, np.float32(0))
    for back in range(stop - start):
        i = stop - 1 - start - back
        first, n = _chunk(a, d, start + i)
        _decays(w, i)
        _read_dy(a, w, i, d, first, n, h)
        _within_chunk(w, i, n, P)
        dld_end = _through_state_after(w, i, dS, n, P, N)
        _through_state_before(w, i, dS, n, P, N)
        _write_dx(a, w, i, d, first, n, h)
        _through_step_sizes(a, w, i, n, h, dld_end)
        _write_ddt(a, w, d, first, n, h)
    for which in range(3):
        at = (which * docs + d) * heads + h
        store1(dheads, at, load1(dheads, at) + load1(sums, which))


@piece
def _write_group(a, w, d, g, part, start, stop):  # pragma: no cover (compiled)
    """dB += dCB^T C and dC += dCB B of a span, to (splits, tokens, 2 G N): one share's part."""
    N = load1_i64(a, _N)
    for k in range(start, stop):
        i = k - start
        dCB, U = entry(w, PART.dCB, i), place(w, PART.U)
        flip(entry(w, PART.dBt, i), N, CHUNK, U)
        C = entry(w, PART.C, i)
        product(dCB, 1, CHUNK, C, N, CHUNK, U, N, CHUNK, N, 0, np.float32(1))
        _write_columns(a, U, d, k, part, g)
        flip(entry(w, PART.dCt, i), N, CHUNK, U)
        B = entry(w, PART.B, i)
        product(dCB, CHUNK, 1, B, N, CHUNK, U, N, CHUNK, N, 0, np.float32(1))
        _write_columns(a, U, d, k, part, load1_i64(a, _GROUPS) + g)


@routine
def _write_columns(a, values, d, k, part, column):  # pragma: no cover (compiled)
    """(CHUNK, N) of chunk k into N columns of a share's part of dB and dC."""
    N, groups, gbc = load1_i64(a, _N), load1_i64(a, _GROUPS), load1_i64(a, _GBC)
    first, n = _chunk(a, d, k)
    token = part * load1_i64(a, _TOKENS) + first_token(a, d) + first
    for q in range(n):
        copy(values + 4 * q * N, N, gbc + 4 * ((token + q) * 2 * groups + column) * N)


@routine
def _unit(a, w, d, g, part, first_head, last_head):  # pragma: no cover (compiled)
    """Heads first_head ... last_head - 1, share `part` of group g, of one document."""
    P, N, heads, docs = (
        load1_i64(a, _P), load1_i64(a, _N), load1_i64(a, _HEADS), load1_i64(a, _DOCS)
    )  # fmt: skip
    dstates, dstates_in = load1_i64(a, _DSTATE), load1_i64(a, _DSTATE_IN)
    for h in range(first_head, last_head):
        dS = entry(w, PART.dS, h - first_head)
        if dstates != 0 and document(a, _LAST, d) != 0:
            read_state(a, dstates, d, h, dS)
        else:
            zero(dS, N * P)
        for which in range(3):
            store1(load1_i64(a, _DHEADS), (which * docs + d) * heads + h, np.float32(0))
    position = document(a, _POSITION, d)
    begin = position // CHUNK
    stop = (position + document(a, _LENGTH, d) - 1) // CHUNK + 1
    while stop > begin:
        start = max((stop - 1) // SPAN * SPAN, begin)
        _read_span(a, w, d, g, start, stop)
        for h in range(first_head, last_head):
            _forward_head(a, w, d, h, start, stop)
            _backward_head(a, w, d, h, entry(w, PART.dS, h - first_head), start, stop)
        _write_group(a, w, d, g, part, start, stop)
        stop = start
    if dstates_in != 0 and document(a, _CARRIES, d) != 0:
        for h in range(first_head, last_head):
            write_state(a, entry(w, PART.dS, h - first_head), d, h, dstates_in)


@kernel
def _scan_backward(a):  # pragma: no cover (compiled)
    w = thread_table(load1_i64(a, _SCRATCH), PART, ticket(a + 8 * _IDS))
    while True:
        d, g, part, first_head, last_head = unit(a, ticket(a))
        if d >= load1_i64(a, _DOCS):
            break
        _unit(a, w, d, g, part, first_head, last_head)


@Scratch
def CONV_SCRATCH(K: int) -> dict[str, Shape]:
    """Of LANES channels of a chunk of Q tokens."""
    Q = CHUNK
    return {
        "raw": (K - 1 + Q, LANES),  # the convolution's inputs
        "pre": (Q, LANES),  # its outputs, before their SiLU
        "G": (Q + K - 1, LANES),  # the gradients of those, here and just after
    }


CONV_PART = CONV_SCRATCH.parts


@kernel
def _conv_backward(a):  # pragma: no cover (compiled)
    """Through the convolution: a unit is LANES channels of one document.

    The channels of B and C come as one part for each share of the heads, after their SiLU.
    """
    w = thread_table(load1_i64(a, _SCRATCH), CONV_PART, ticket(a + 8 * _IDS))
    raw, pre, G = place(w, CONV_PART.raw), place(w, CONV_PART.pre), place(w, CONV_PART.G)
    heads, P, N, K = (
        load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N), load1_i64(a, _K)
    )  # fmt: skip
    inner, groups = heads * P, load1_i64(a, _GROUPS)
    bc = 2 * groups * N
    conv_dim = inner + bc
    width, half = load1_i64(a, _WIDTH), load1_i64(a, _HALF)
    splits, tokens = load1_i64(a, _SPLITS), load1_i64(a, _TOKENS)
    gx, gbc, dzx = load1_i64(a, _GX), load1_i64(a, _GBC), load1_i64(a, _DZX)
    taps, dtaps, dbefore = load1_i64(a, _TAPS), load1_i64(a, _DTAPS), load1_i64(a, _DBEFORE)
    k = K - 1
    blocks = (conv_dim + LANES - 1) // LANES
    while True:
        unit = ticket(a)
        if unit >= load1_i64(a, _DOCS) * blocks:
            break
        d, channel = unit // blocks, unit % blocks * LANES
        columns = min(LANES, conv_dim - channel)
        row, length, token = document(a, _ROW, d), document(a, _LENGTH, d), first_token(a, d)
        sums = dtaps + 4 * d * (K + 1) * conv_dim
        for j in range(K + 1):
            for c in range(0, columns, 16):
                store(sums, j * conv_dim + channel + c, const(0.0))
        chunks = (length + CHUNK - 1) // CHUNK
        for back in range(chunks):
            first = (chunks - 1 - back) * CHUNK
            n = min(CHUNK, length - first)
            read_inputs(a, d, first, n, channel, columns, raw)
            convolve(a, raw, n, channel, columns, pre)
            if back == 0:  # nothing comes after the document
                for i in range(0, k * columns, 16):
                    store(G, n * columns + i, const(0.0))
            for q in range(n):
                t = token + first + q
                for c in range(0, columns, 16):
                    if channel + c < inner:
                        grad = load(gx, t * inner + channel + c)
                    else:
                        grad = const(0.0)
                        for s in range(splits):
                            at = (s * tokens + t) * bc + channel + c - inner
                            grad = grad + load(gbc, at)
                        u = load(pre, q * columns + c)
                        gate = sigmoid(u)
                        grad = grad * gate * fma(u, const(1.0) - gate, const(1.0))
                    store(G, q * columns + c, grad)
            for c in range(0, columns, 16):
                bias = load(sums, K * conv_dim + channel + c)
                for q in range(n):
                    bias = bias + load(G, q * columns + c)
                store(sums, K * conv_dim + channel + c, bias)
                for j in range(K):
                    along = load(sums, j * conv_dim + channel + c)
                    for q in range(n):
                        grad = load(G, q * columns + c)
                        along = fma(grad, load(raw, (q + j) * columns + c), along)
                    store(sums, j * conv_dim + channel + c, along)
                for q in range(n):
                    grad = const(0.0)
                    for j in range(K):
                        tap = load(taps, j * conv_dim + channel + c)
                        grad = fma(tap, load(G, (q + k - j) * columns + c), grad)
                    write(dzx, (token + first + q) * width + inner + channel + c, grad, half)
            # This chunk's first gradients are what the chunk before it looks ahead to.
            if first == 0:
                if dbefore != 0 and document(a, _CARRIES, d) != 0:
                    for i in range(k):
                        for c in range(0, columns, 16):
                            grad = const(0.0)
                            for j in range(i + 1):
                                if i - j < n:
                                    tap = load(taps, j * conv_dim + channel + c)
                                    grad = fma(tap, load(G, (i - j) * columns + c), grad)
                            store(dbefore, (row * k + i) * conv_dim + channel + c, grad)
            else:
                for i in range(0, k * columns, 16):
                    store(G, CHUNK * columns + i, load(G, i))


def backward(
    config: Mamba2Config,
    documents: Layout,
    shape: tuple[int, int],
    zxbcdt: Tensor,
    before: Tensor | None,
    ssm: Tensor | None,
    parameters: tuple[Tensor, ...],
    kept: tuple[Tensor, Tensor, Tensor],
    grad_out: Tensor,
    grad_ssm: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[Tensor, ...]]:
    """The gradients of `scan.forward`.

    Args:
        config: as forward.
        documents: as forward.
        shape: as forward.
        zxbcdt: as forward.
        before: as forward.
        ssm: as forward.
        parameters: as forward.
        kept: what forward kept.
        grad_out: (b * l, d_inner) of the output, in its dtype.
        grad_ssm: (b, nheads, headdim, d_state) float32 of the final states; None is zero.

    Returns:
        The gradients of `zxbcdt`, `before` and `ssm` (None where those are) and, float32, of each
        of `parameters`.
    """
    c = config
    tokens = shape[0] * shape[1]
    docs = len(documents.row)
    p = Pass(config, documents, shape, zxbcdt, parameters, more=_MORE)
    grad_zx = torch.empty_like(zxbcdt)
    partial = torch.empty(-(-tokens // BLOCK), c.d_inner)
    heads = torch.empty(3, docs, c.nheads)
    conv = torch.empty(docs, c.d_conv + 1, c.conv_dim)
    grad_before = None if before is None else torch.zeros_like(before)
    grad_ssm_in = None if ssm is None else torch.zeros_like(ssm)
    p.tensor(_BEFORE, before)
    p.tensor(_STATE_IN, ssm)
    for field, tensor in zip((_Y, _RSTD, _SAVED), kept, strict=True):
        p.tensor(field, tensor)
    p.tensor(_DOUT, grad_out)
    p.tensor(_DY, torch.empty(tokens, c.d_inner))
    p.tensor(_DZX, grad_zx)
    p.tensor(_DNORM, partial)
    p.tensor(_GX, torch.empty(tokens, c.d_inner))
    p.tensor(_GBC, torch.empty(p.splits, tokens, 2 * c.ngroups * c.d_state))
    p.tensor(_DSTATE, grad_ssm)
    p.tensor(_DSTATE_IN, grad_ssm_in)
    p.tensor(_DBEFORE, grad_before)
    p.tensor(_DHEADS, heads)
    p.tensor(_DTAPS, conv)
    share = -(-c.nheads // c.ngroups // p.splits)
    p.workspace(SCRATCH, P=c.headdim, N=c.d_state, K=c.d_conv, heads=share)
    p.run(_norm_backward)
    p.run(_scan_backward)
    p.workspace(CONV_SCRATCH, K=c.d_conv)
    p.run(_conv_backward)
    grad_A, grad_D, grad_bias = heads.sum(1)
    taps_and_bias = conv.sum(0)
    grads = (taps_and_bias[:-1], taps_and_bias[-1], grad_bias, grad_A, grad_D, partial.sum(0))
    return grad_zx, grad_before, grad_ssm_in, grads
