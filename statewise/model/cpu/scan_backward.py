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
from numba import njit
from torch import Tensor

from statewise.model.config import Mamba2Config
from statewise.model.cpu.scan import (
    _A,
    _BEFORE,
    _CARRIES,
    _COLUMNS,
    _D,
    _DOCS,
    _FIELDS,
    _FIRST_SPAN,
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
    _SPLITS,
    _START,
    _STATE_IN,
    _TAPS,
    _TOKENS,
    _WIDTH,
    _WORK,
    _WORK_SIZE,
    _Y,
    _ZX,
    CHUNK,
    SPAN,
    Pass,
    activate,
    convolve,
    flip,
    inside,
    read,
    read_inputs,
    scores,
    step_sizes,
    write,
)
from statewise.model.cpu.threads import kernel
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


@njit(error_model="numpy", inline="always")
def backward_scratch(P, N, K, heads):  # pragma: no cover (compiled)
    """Floats of scratch that a unit of so many heads needs."""
    wide = max(P, N)
    chunk = (K - 1 + CHUNK) * wide + 3 * CHUNK * CHUNK + 6 * CHUNK * wide + 5 * CHUNK
    span = 6 * CHUNK * N + 2 * CHUNK * CHUNK + 2 * CHUNK * P + 3 * CHUNK + N * P
    return chunk + SPAN * span + heads * N * P


@njit(error_model="numpy")
def _scale_rows(source, factors, n, padded, columns, target):  # pragma: no cover
    """target[i, :] = factors[i] source[i, :]; rows n ... padded - 1 become zero."""
    for i in range(n):
        factor = splat(load1(factors, i))
        for c in range(0, columns, 16):
            store(target, i * columns + c, factor * load(source, i * columns + c))
    for i in range(n * columns, padded * columns, 16):
        store(target, i, const(0.0))


@njit(error_model="numpy")
def _dot(x, y, n):  # pragma: no cover (compiled)
    s = const(0.0)
    for i in range(0, n, 16):
        s = fma(load(x, i), load(y, i), s)
    return total(s)


@njit(error_model="numpy")
def _unit(a, work, d, g, part, first_head, last_head):  # pragma: no cover
    heads, P, N, K = (
        load1_i64(a, _HEADS), load1_i64(a, _P), load1_i64(a, _N), load1_i64(a, _K)
    )  # fmt: skip
    inner = heads * P
    groups, width, half = load1_i64(a, _GROUPS), load1_i64(a, _WIDTH), load1_i64(a, _HALF)
    tokens = load1_i64(a, _TOKENS)
    row = load1_i64(load1_i64(a, _ROW), d)
    length = load1_i64(load1_i64(a, _LENGTH), d)
    position = load1_i64(load1_i64(a, _POSITION), d)
    token = row * load1_i64(a, _COLUMNS) + load1_i64(load1_i64(a, _START), d)
    dy_in, gx, gbc = load1_i64(a, _DY), load1_i64(a, _GX), load1_i64(a, _GBC)
    dzx, saved, sums = load1_i64(a, _DZX), load1_i64(a, _SAVED), load1_i64(a, _DHEADS)
    docs = load1_i64(a, _DOCS)
    begin, end = position // CHUNK, (position + length - 1) // CHUNK + 1  # chunks
    wide = max(P, N)
    low, high = load1(load1_i64(a, _LIMITS), 0), load1(load1_i64(a, _LIMITS), 1)

    # Of one chunk and head.
    raw = work
    M = raw + 4 * (K - 1 + CHUNK) * wide  # (Q, Q) from here
    dM = M + 4 * CHUNK * CHUNK
    E = dM + 4 * CHUNK * CHUNK
    xs = E + 4 * CHUNK * CHUNK  # (Q, P) or its transpose from here
    xt = xs + 4 * CHUNK * wide
    dy = xt + 4 * CHUNK * wide
    dye = dy + 4 * CHUNK * wide
    dx = dye + 4 * CHUNK * wide
    U = dx + 4 * CHUNK * wide  # (N, Q)
    e = U + 4 * CHUNK * wide  # (Q,) from here
    f = e + 4 * CHUNK
    to_end = f + 4 * CHUNK
    dld = to_end + 4 * CHUNK
    ddt = dld + 4 * CHUNK
    # Of the chunks of a span.
    B = ddt + 4 * CHUNK  # (Q, N) from here
    C = B + 4 * SPAN * CHUNK * N
    Bt = C + 4 * SPAN * CHUNK * N  # (N, Q) from here
    Ct = Bt + 4 * SPAN * CHUNK * N
    dBt = Ct + 4 * SPAN * CHUNK * N  # summed over the heads
    dCt = dBt + 4 * SPAN * CHUNK * N
    CB = dCt + 4 * SPAN * CHUNK * N  # (Q, Q)
    dCB = CB + 4 * SPAN * CHUNK * CHUNK
    xs_ = dCB + 4 * SPAN * CHUNK * CHUNK  # (Q, P): x, and the slope of its SiLU
    slopes = xs_ + 4 * SPAN * CHUNK * P
    dts = slopes + 4 * SPAN * CHUNK * P  # (Q,)
    lds = dts + 4 * SPAN * CHUNK
    dt_raws = lds + 4 * SPAN * CHUNK
    befores = dt_raws + 4 * SPAN * CHUNK  # (N, P): the state before each chunk
    dstates = befores + 4 * SPAN * N * P  # (heads, N, P)

    grad_state = load1_i64(a, _DSTATE)
    last = load1_i64(load1_i64(a, _LAST), d)
    for h in range(first_head, last_head):
        dS = dstates + 4 * (h - first_head) * N * P
        if grad_state != 0 and last != 0:
            flip(grad_state + 4 * (row * heads + h) * P * N, P, N, dS)
        else:
            for i in range(0, N * P, 16):
                store(dS, i, const(0.0))
        for which in range(3):
            store1(sums, (which * docs + d) * heads + h, np.float32(0))

    stop = end
    while stop > begin:
        start = max((stop - 1) // SPAN * SPAN, begin)
        for k in range(start, stop):
            first = max(k * CHUNK - position, 0)
            n = min((k + 1) * CHUNK - position, length) - first
            here = 4 * (k - start) * CHUNK * N
            read_inputs(a, d, first, n, inner + g * N, N, raw)
            convolve(a, raw, n, inner + g * N, N, B + here)
            activate(B + here, n, CHUNK, N)
            read_inputs(a, d, first, n, inner + (groups + g) * N, N, raw)
            convolve(a, raw, n, inner + (groups + g) * N, N, C + here)
            activate(C + here, n, CHUNK, N)
            scores(C + here, B + here, Bt + here, CB + 4 * (k - start) * CHUNK * CHUNK, N)
            flip(C + here, CHUNK, N, Ct + here)
        for i in range(0, SPAN * CHUNK * CHUNK, 16):
            store(dCB, i, const(0.0))
        for i in range(0, 2 * SPAN * CHUNK * N, 16):
            store(dBt, i, const(0.0))

        for h in range(first_head, last_head):
            A = load1(load1_i64(a, _A), h)
            D = load1(load1_i64(a, _D), h)
            # Forwards: x, dt, and the state before each chunk.
            span = load1_i64(load1_i64(a, _FIRST_SPAN), d) + start // SPAN - begin // SPAN
            for i in range(0, N * P, 16):
                store(befores, i, load(saved, (span * heads + h) * N * P + i))
            for k in range(start, stop):
                first = max(k * CHUNK - position, 0)
                n = min((k + 1) * CHUNK - position, length) - first
                x = xs_ + 4 * (k - start) * CHUNK * P
                slope = slopes + 4 * (k - start) * CHUNK * P
                dt, ld = dts + 4 * (k - start) * CHUNK, lds + 4 * (k - start) * CHUNK
                read_inputs(a, d, first, n, h * P, P, raw)
                convolve(a, raw, n, h * P, P, x)
                for i in range(0, n * P, 16):
                    u = load(x, i)
                    gate = sigmoid(u)
                    store(x, i, u * gate)
                    store(slope, i, gate * fma(u, const(1.0) - gate, const(1.0)))
                for i in range(n * P, CHUNK * P, 16):
                    store(x, i, const(0.0))
                step_sizes(a, d, first, n, h, dt_raws + 4 * (k - start) * CHUNK, dt, ld)
                if k + 1 < stop:
                    ending = splat(load1(ld, CHUNK - 1))
                    for s in range(0, CHUNK, 16):
                        store(f, s, exp(ending - load(ld, s)) * load(dt, s))
                    store(e, 0, exp(ending))
                    _scale_rows(x, f, n, n, P, xs)
                    S0 = befores + 4 * (k - start) * N * P
                    S1 = S0 + 4 * N * P
                    for i in range(0, N * P, 16):
                        store(S1, i, load(S0, i))
                    here = 4 * (k - start) * CHUNK * N
                    product(B + here, 1, N, xs, P, n, S1, P, N, P, 0, load1(e, 0))
            # Backwards.
            dS = dstates + 4 * (h - first_head) * N * P
            sum_A = np.float32(0)
            sum_D = np.float32(0)
            sum_bias = np.float32(0)
            for back in range(stop - start):
                k = stop - 1 - back
                first = max(k * CHUNK - position, 0)
                n = min((k + 1) * CHUNK - position, length) - first
                tall = (n + 7) // 8 * 8
                here = 4 * (k - start) * CHUNK * N
                S0 = befores + 4 * (k - start) * N * P
                x = xs_ + 4 * (k - start) * CHUNK * P
                slope = slopes + 4 * (k - start) * CHUNK * P
                dt, ld = dts + 4 * (k - start) * CHUNK, lds + 4 * (k - start) * CHUNK
                dt_raw = dt_raws + 4 * (k - start) * CHUNK
                ending = splat(load1(ld, CHUNK - 1))
                for s in range(0, CHUNK, 16):
                    store(e, s, exp(load(ld, s)))
                    store(to_end, s, exp(ending - load(ld, s)))
                    store(f, s, load(to_end, s) * load(dt, s))
                    store(dld, s, const(0.0))
                    store(ddt, s, const(0.0))
                along = const(0.0)
                for q in range(n):
                    factor = splat(load1(e, q))
                    for p in range(0, P, 16):
                        grad = load(dy_in, (token + first + q) * inner + h * P + p)
                        store(dy, q * P + p, grad)
                        store(dye, q * P + p, grad * factor)
                        along = fma(grad, load(x, q * P + p), along)
                sum_D += total(along)
                for i in range(n * P, CHUNK * P, 16):
                    store(dy, i, const(0.0))
                    store(dye, i, const(0.0))
                # Within the chunk.
                scored = CB + 4 * (k - start) * CHUNK * CHUNK
                inside(scored, dt, ld, M, n)
                flip(x, CHUNK, P, xt)
                product(dy, P, 1, xt, CHUNK, P, dM, CHUNK, tall, CHUNK, 0, np.float32(0))
                for q in range(n):
                    now = splat(load1(ld, q))
                    own = const(0.0)
                    for s in range(0, q + 1, 16):
                        # Above the diagonal M is zero, and so must this be.
                        decay = exp(minimum(now - load(ld, s), const(0.0)))
                        grad = load(dM, q * CHUNK + s) * decay
                        if s + 16 > q + 1:
                            store(E, 0, grad)
                            for later in range(q + 1 - s, 16):
                                store1(E, later, np.float32(0))
                            grad = load(E, 0)
                        at = (k - start) * CHUNK * CHUNK + q * CHUNK + s
                        store(dCB, at, fma(grad, load(dt, s), load(dCB, at)))
                        grad = grad * load(scored, q * CHUNK + s)
                        store(ddt, s, load(ddt, s) + grad)
                        grad = grad * load(dt, s)
                        store(dld, s, load(dld, s) - grad)
                        own = own + grad
                    store1(dld, q, load1(dld, q) + total(own))
                product(M, 1, CHUNK, dy, P, n, dx, P, tall, P, 0, np.float32(0))
                # From the chunk to the state after it.
                product(B + here, N, 1, dS, P, N, dx, P, tall, P, f, np.float32(1))
                _scale_rows(x, to_end, n, CHUNK, P, xs)
                flip(xs, CHUNK, P, xt)
                product(dS, P, 1, xt, CHUNK, P, U, CHUNK, N, CHUNK, 0, np.float32(0))
                at_end = _dot(dS, S0, N * P) * load1(e, CHUNK - 1)
                for s in range(0, CHUNK, 16):
                    along = const(0.0)
                    now = load(dt, s)
                    for i in range(N):
                        u = load(U, i * CHUNK + s)
                        along = fma(load(Bt + here, i * CHUNK + s), u, along)
                        at = i * CHUNK + s
                        store(dBt + here, at, fma(u, now, load(dBt + here, at)))
                    store(ddt, s, load(ddt, s) + along)
                    along = along * now
                    store(dld, s, load(dld, s) - along)
                    at_end += total(along)
                # From the state before the chunk to its outputs.
                flip(dye, CHUNK, P, xt)
                product(S0, P, 1, xt, CHUNK, P, U, CHUNK, N, CHUNK, 0, np.float32(0))
                for q in range(0, CHUNK, 16):
                    along = const(0.0)
                    for i in range(N):
                        u = load(U, i * CHUNK + q)
                        along = fma(load(Ct + here, i * CHUNK + q), u, along)
                        at = i * CHUNK + q
                        store(dCt + here, at, load(dCt + here, at) + u)
                    store(dld, q, load(dld, q) + along)
                product(C + here, 1, N, dye, P, n, dS, P, N, P, 0, load1(e, CHUNK - 1))
                # x, before its SiLU.
                for q in range(n):
                    for p in range(0, P, 16):
                        grad = fma(splat(D), load(dy, q * P + p), load(dx, q * P + p))
                        grad = grad * load(slope, q * P + p)
                        store(gx, (token + first + q) * inner + h * P + p, grad)
                # dt and A: ld_q is the sum of dt A up to q.
                later_sum = at_end
                for back_q in range(n):
                    q = n - 1 - back_q
                    later_sum += load1(dld, q)
                    sum_A += later_sum * load1(dt, q)
                    store1(ddt, q, load1(ddt, q) + later_sum * A)
                for q in range(0, CHUNK, 16):
                    u = load(dt_raw, q)
                    value = softplus(u)
                    steep = less(const(20.0), u, const(1.0), sigmoid(u))
                    steep = less(value, splat(low), const(0.0), steep)
                    steep = less(splat(high), value, const(0.0), steep)
                    store(ddt, q, load(ddt, q) * steep)
                for q in range(n):
                    grad1 = load1(ddt, q)
                    sum_bias += grad1
                    at = (token + first + q) * width + width - heads + h
                    if half != 0:
                        store1_bf16(dzx, at, grad1)
                    else:
                        store1(dzx, at, grad1)
            at = d * heads + h
            store1(sums, at, load1(sums, at) + sum_A)
            at += docs * heads
            store1(sums, at, load1(sums, at) + sum_D)
            at += docs * heads
            store1(sums, at, load1(sums, at) + sum_bias)

        # B and C: what the heads left, through the scores and directly; (splits, tokens, 2 G N).
        for k in range(start, stop):
            first = max(k * CHUNK - position, 0)
            n = min((k + 1) * CHUNK - position, length) - first
            here = 4 * (k - start) * CHUNK * N
            grads = dCB + 4 * (k - start) * CHUNK * CHUNK
            for which in range(2):
                if which == 0:
                    flip(dBt + here, N, CHUNK, U)
                    product(grads, 1, CHUNK, C + here, N, CHUNK, U, N, CHUNK, N, 0, np.float32(1))
                else:
                    flip(dCt + here, N, CHUNK, U)
                    product(grads, CHUNK, 1, B + here, N, CHUNK, U, N, CHUNK, N, 0, np.float32(1))
                for q in range(n):
                    at = (part * tokens + token + first + q) * 2 * groups * N
                    at += (which * groups + g) * N
                    for i in range(0, N, 16):
                        store(gbc, at + i, load(U, q * N + i))
        stop = start

    target = load1_i64(a, _DSTATE_IN)
    if target != 0 and load1_i64(load1_i64(a, _CARRIES), d) != 0:
        for h in range(first_head, last_head):
            dS = dstates + 4 * (h - first_head) * N * P
            flip(dS, N, P, target + 4 * (row * heads + h) * P * N)


@kernel
def _scan_backward(a):  # pragma: no cover (compiled)
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
            a, work, d, g, part,
            g * share + part * share // splits, g * share + (part + 1) * share // splits,
        )  # fmt: skip


@kernel
def _conv_backward(a):  # pragma: no cover (compiled)
    """Through the convolution: a unit is LANES channels of one document.

    The channels of B and C come as one part for each share of the heads, after their SiLU.
    """
    me = ticket(a + 8 * _IDS)
    work = load1_i64(a, _WORK) + 4 * me * load1_i64(a, _WORK_SIZE)
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
    raw = work  # (K - 1 + CHUNK, LANES)
    pre = raw + 4 * (k + CHUNK) * LANES  # (CHUNK, LANES)
    G = pre + 4 * CHUNK * LANES  # (CHUNK + K - 1, LANES): gradients here and just after
    blocks = (conv_dim + LANES - 1) // LANES
    while True:
        unit = ticket(a)
        if unit >= load1_i64(a, _DOCS) * blocks:
            break
        d, channel = unit // blocks, unit % blocks * LANES
        columns = min(LANES, conv_dim - channel)
        row = load1_i64(load1_i64(a, _ROW), d)
        length = load1_i64(load1_i64(a, _LENGTH), d)
        token = row * load1_i64(a, _COLUMNS) + load1_i64(load1_i64(a, _START), d)
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
                if dbefore != 0 and load1_i64(load1_i64(a, _CARRIES), d) != 0:
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
    p.workspace(backward_scratch.py_func(c.headdim, c.d_state, c.d_conv, share))
    p.run(_norm_backward)
    p.run(_scan_backward)
    p.workspace((3 * CHUNK + 2 * c.d_conv) * LANES)
    p.run(_conv_backward)
    grad_A, grad_D, grad_bias = heads.sum(1)
    taps_and_bias = conv.sum(0)
    grads = (taps_and_bias[:-1], taps_and_bias[-1], grad_bias, grad_A, grad_D, partial.sum(0))
    return grad_zx, grad_before, grad_ssm_in, grads
