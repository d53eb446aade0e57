"""The matrix products that the kernels are made of, on tiles that stay in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from statewise.model.cpu.vector import (
    WIDTH,
    address,
    broadcast,
    call_fma,
    call_total,
    element,
    f16_kind,
    float_kind,
    from_int8,
    half_kind,
    int8_kind,
    widen,
)

ROWS = 8  # rows of a tile; 8 x 2 vectors are 16 of the 32 registers of AVX-512


def _tile(vectors: int) -> Any:
    """The function of one tile, 8 rows of so many vectors: arguments as for `product`.

    Written as instructions: its 8 to 16 running sums are variables of one loop, and Numba would
    take seconds to find out the type of each.
    """

    @intrinsic
    def tile(typingctx, A, a_row, a_k, B, b_k, K, C, c_row, alpha, beta):
        def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
            A, a_row, a_k, B, b_k, K, C, c_row, alpha, beta = args
            places = [(i, j) for i in range(ROWS) for j in range(vectors)]
            sums = {}
            for at in places:
                sums[at] = cgutils.alloca_once(b, f16_kind)
                b.store(ir.Constant(f16_kind, [0.0] * WIDTH), sums[at])
            whole = K.type

            def number(n: int) -> Any:
                return ir.Constant(whole, n)

            with cgutils.for_range(b, K) as loop:
                k = loop.index
                row = [
                    element(b, B, b.add(b.mul(k, b_k), number(WIDTH * j)), f16_kind)
                    for j in range(vectors)
                ]
                factors = [b.load(r, align=4) for r in row]
                for i in range(ROWS):
                    place = b.add(b.mul(k, a_k), b.mul(number(i), a_row))
                    a = broadcast(b, b.load(element(b, A, place, float_kind), align=4))
                    for j in range(vectors):
                        at = sums[i, j]
                        b.store(call_fma(b, a, factors[j], b.load(at)), at)
            scaled = b.icmp_signed("!=", alpha, number(0))
            with b.if_then(scaled):
                for i in range(ROWS):
                    scale = b.load(element(b, alpha, number(i), float_kind), align=4)
                    for j in range(vectors):
                        value = b.fmul(b.load(sums[i, j]), broadcast(b, scale))
                        b.store(value, sums[i, j])
            added = b.fcmp_unordered("!=", beta, ir.Constant(float_kind, 0.0))
            with b.if_then(added):
                for i, j in places:
                    place = b.add(b.mul(number(i), c_row), number(WIDTH * j))
                    old = b.load(element(b, C, place, f16_kind), align=4)
                    value = call_fma(b, broadcast(b, beta), old, b.load(sums[i, j]))
                    b.store(value, sums[i, j])
            for i, j in places:
                place = b.add(b.mul(number(i), c_row), number(WIDTH * j))
                b.store(b.load(sums[i, j]), element(b, C, place, f16_kind), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, types.float32), codegen

    return tile


_tile1, _tile2 = _tile(1), _tile(2)


@njit(error_model="numpy")  # anew for each set of constant sizes: that is faster
def product(
    A: int,
    a_row: int,
    a_k: int,
    B: int,
    b_k: int,
    K: int,
    C: int,
    c_row: int,
    rows: int,
    columns: int,
    alpha: int,
    beta: float,
) -> None:  # pragma: no cover (compiled)
    """C[i, :] = beta C[i, :] + alpha[i] sum_k A[i, k] B[k, :], all float32, all addresses.

    The sum runs over k in order, so that an element does not depend on the others.

    Args:
        A: element (i, k) is at i * a_row + k * a_k.
        a_row: see A.
        a_k: see A.
        B: element (k, j) is at k * b_k + j.
        b_k: see B.
        K: terms of each sum.
        C: element (i, j) is at i * c_row + j.
        c_row: see C.
        rows: of A and C, a multiple of 8.
        columns: of B and C, a multiple of 16.
        alpha: address of one factor a row, or 0 for none.
        beta: factor of what C holds; where it is 0, C is not read.
    """
    wide = columns - columns % 32
    for i in range(0, rows, 8):
        scale = alpha + 4 * i if alpha != 0 else 0
        for j in range(0, wide, 32):
            _tile2(
                A + 4 * i * a_row, a_row, a_k, B + 4 * j, b_k, K, C + 4 * (i * c_row + j), c_row,
                scale, beta,
            )  # fmt: skip
        if wide < columns:
            _tile1(
                A + 4 * i * a_row, a_row, a_k, B + 4 * wide, b_k, K, C + 4 * (i * c_row + wide),
                c_row, scale, beta,
            )  # fmt: skip


# Rows of weights times a few vectors, for decoding: the weights are read once, in their own layout.

FLOAT, HALF, INT8 = range(3)  # how weights are stored
QUANTUM = 64  # int8 weights of a row that share one float32 factor
AHEAD = 512  # bytes of a row that are asked for before they are needed


def _dots(rows: int, batch: int, kind: int) -> Any:
    """out[j * out_row + i] = sum_k W[i, k] X[j, k] for i < rows and j < batch.

    Every sum is made in the same order, whatever `rows` and `batch` are: a sequence's numbers are
    the same in any company.
    """
    stored = (float_kind, half_kind, int8_kind)[kind]
    memory = ir.VectorType(stored, WIDTH)
    align = (4, 2, 1)[kind]
    width = QUANTUM if kind == INT8 else WIDTH

    @intrinsic
    def dots(typingctx, W, w_row, X, x_row, K, scales, s_row, out, out_row):
        def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
            W, w_row, X, x_row, K, scales, s_row, out, out_row = args

            def number(n: int) -> Any:
                return ir.Constant(K.type, n)

            def fetch(i: int, k: Any) -> None:
                place = b.add(b.mul(number(i), w_row), b.add(k, number(AHEAD // align)))
                pointer = address(b, W, place, stored, ir.IntType(8))
                kind_of = ir.FunctionType(ir.VoidType(), [pointer.type, *[ir.IntType(32)] * 3])
                function = b.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind_of)
                b.call(function, [pointer, *(ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))])

            def weights(i: int, k: Any) -> Any:
                place = b.add(b.mul(number(i), w_row), k)
                loaded = b.load(address(b, W, place, stored, memory), align=align)
                return (lambda b, v: v, widen, from_int8)[kind](b, loaded)

            def inputs(j: int, k: Any) -> Any:
                place = b.add(b.mul(number(j), x_row), k)
                return b.load(element(b, X, place, f16_kind), align=4)

            sums = {}
            for i in range(rows):
                for j in range(batch):
                    sums[i, j] = cgutils.alloca_once(b, f16_kind)
                    b.store(ir.Constant(f16_kind, [0.0] * WIDTH), sums[i, j])

            def add(k: Any) -> None:
                xs = [inputs(j, k) for j in range(batch)]
                for i in range(rows):
                    fetch(i, k)
                    w = weights(i, k)
                    for j in range(batch):
                        b.store(call_fma(b, w, xs[j], b.load(sums[i, j])), sums[i, j])

            def add_quantum(index: Any, k: Any) -> None:
                for i in range(rows):
                    fetch(i, k)
                    place = b.add(b.mul(number(i), s_row), index)
                    scale = broadcast(b, b.load(element(b, scales, place, float_kind), align=4))
                    part: list[Any] = [None] * batch
                    for v in range(QUANTUM // WIDTH):
                        at = b.add(k, number(WIDTH * v))
                        w = weights(i, at)
                        for j in range(batch):
                            x = inputs(j, at)
                            part[j] = b.fmul(w, x) if v == 0 else call_fma(b, w, x, part[j])
                    for j in range(batch):
                        total = call_fma(b, scale, part[j], b.load(sums[i, j]))
                        b.store(total, sums[i, j])

            whole = b.sdiv(K, number(width))
            with cgutils.for_range(b, whole) as loop:
                k = b.mul(loop.index, number(width))
                if kind == INT8:
                    add_quantum(loop.index, k)
                else:
                    add(k)
            for i in range(rows):
                for j in range(batch):
                    place = b.add(b.mul(number(j), out_row), number(i))
                    b.store(
                        call_total(b, b.load(sums[i, j])),
                        element(b, out, place, float_kind),
                        align=4,
                    )
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return dots


_float_4x1, _float_4x4 = _dots(4, 1, FLOAT), _dots(4, 4, FLOAT)
_half_4x1, _half_4x4 = _dots(4, 1, HALF), _dots(4, 4, HALF)
_int8_4x1, _int8_4x4 = _dots(4, 1, INT8), _dots(4, 4, INT8)


@njit(error_model="numpy")
def rows_product(
    kind: int,
    W: int,
    scales: int,
    X: int,
    K: int,
    batch: int,
    first: int,
    last: int,
    out: int,
    out_row: int,
) -> None:  # pragma: no cover (compiled)
    """out[j, i] = sum_k W[i, k] X[j, k] for rows i of `first` ... `last` - 1 and all j.

    Args:
        kind: FLOAT, HALF (bfloat16) or INT8.
        W: address of the weights, row by row.
        scales: address of the factors of int8 weights, K / QUANTUM a row.
        X: address of (batch, K) float32.
        K: terms of each sum, a multiple of 16, for INT8 of QUANTUM.
        batch: rows of X.
        first: row of W.
        last: row of W, at least 4 behind `first`; the last tile begins 4 rows before it.
        out: address of float32.
        out_row: elements from one j to the next.
    """
    size = 4 if kind == FLOAT else (2 if kind == HALF else 1)
    per_row = K // QUANTUM
    together = batch - batch % 4
    for row in range(first, last, 4):
        i = min(row, last - 4)
        w, s, o = W + size * i * K, scales + 4 * i * per_row, out + 4 * i
        for j in range(0, together, 4):
            x, to = X + 4 * j * K, o + 4 * j * out_row
            if kind == FLOAT:
                _float_4x4(w, K, x, K, K, s, per_row, to, out_row)
            elif kind == HALF:
                _half_4x4(w, K, x, K, K, s, per_row, to, out_row)
            else:
                _int8_4x4(w, K, x, K, K, s, per_row, to, out_row)
        for j in range(together, batch):
            x, to = X + 4 * j * K, o + 4 * j * out_row
            if kind == FLOAT:
                _float_4x1(w, K, x, K, K, s, per_row, to, out_row)
            elif kind == HALF:
                _half_4x1(w, K, x, K, K, s, per_row, to, out_row)
            else:
                _int8_4x1(w, K, x, K, K, s, per_row, to, out_row)
