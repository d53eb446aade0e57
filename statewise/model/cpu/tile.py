"""The one matrix product that the kernels are made of, on tiles that stay in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from statewise.model.cpu.vector import WIDTH, broadcast, call_fma, element, f16_kind, float_kind

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


@njit(error_model="numpy")
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
