"""The one matrix product that the kernels are made of, on tiles that stay in registers."""

from __future__ import annotations

from numba import njit

from statewise.model.cpu.vector import const, fma, load, load1, splat, store

ROWS = 8  # rows of a tile; 8 x 2 vectors are 16 of the 32 registers of AVX-512


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


@njit(error_model="numpy", inline="always")
def _write(C, j, value, alpha, i, beta):  # pragma: no cover
    if alpha != 0:
        value = value * splat(load1(alpha, i))
    if beta != 0:
        value = fma(splat(beta), load(C, j), value)
    store(C, j, value)


@njit(error_model="numpy")
def _tile2(A, ar, ak, B, bk, K, C, cr, alpha, beta):  # pragma: no cover
    c00 = c10 = c20 = c30 = c40 = c50 = c60 = c70 = const(0.0)
    c01 = c11 = c21 = c31 = c41 = c51 = c61 = c71 = const(0.0)
    for k in range(K):
        b0 = load(B, k * bk)
        b1 = load(B, k * bk + 16)
        a = splat(load1(A, k * ak))
        c00 = fma(a, b0, c00)
        c01 = fma(a, b1, c01)
        a = splat(load1(A, k * ak + ar))
        c10 = fma(a, b0, c10)
        c11 = fma(a, b1, c11)
        a = splat(load1(A, k * ak + 2 * ar))
        c20 = fma(a, b0, c20)
        c21 = fma(a, b1, c21)
        a = splat(load1(A, k * ak + 3 * ar))
        c30 = fma(a, b0, c30)
        c31 = fma(a, b1, c31)
        a = splat(load1(A, k * ak + 4 * ar))
        c40 = fma(a, b0, c40)
        c41 = fma(a, b1, c41)
        a = splat(load1(A, k * ak + 5 * ar))
        c50 = fma(a, b0, c50)
        c51 = fma(a, b1, c51)
        a = splat(load1(A, k * ak + 6 * ar))
        c60 = fma(a, b0, c60)
        c61 = fma(a, b1, c61)
        a = splat(load1(A, k * ak + 7 * ar))
        c70 = fma(a, b0, c70)
        c71 = fma(a, b1, c71)
    _write(C, 0, c00, alpha, 0, beta)
    _write(C, 16, c01, alpha, 0, beta)
    _write(C, cr, c10, alpha, 1, beta)
    _write(C, cr + 16, c11, alpha, 1, beta)
    _write(C, 2 * cr, c20, alpha, 2, beta)
    _write(C, 2 * cr + 16, c21, alpha, 2, beta)
    _write(C, 3 * cr, c30, alpha, 3, beta)
    _write(C, 3 * cr + 16, c31, alpha, 3, beta)
    _write(C, 4 * cr, c40, alpha, 4, beta)
    _write(C, 4 * cr + 16, c41, alpha, 4, beta)
    _write(C, 5 * cr, c50, alpha, 5, beta)
    _write(C, 5 * cr + 16, c51, alpha, 5, beta)
    _write(C, 6 * cr, c60, alpha, 6, beta)
    _write(C, 6 * cr + 16, c61, alpha, 6, beta)
    _write(C, 7 * cr, c70, alpha, 7, beta)
    _write(C, 7 * cr + 16, c71, alpha, 7, beta)


@njit(error_model="numpy")
def _tile1(A, ar, ak, B, bk, K, C, cr, alpha, beta):  # pragma: no cover
    c0 = c1 = c2 = c3 = c4 = c5 = c6 = c7 = const(0.0)
    for k in range(K):
        b = load(B, k * bk)
        c0 = fma(splat(load1(A, k * ak)), b, c0)
        c1 = fma(splat(load1(A, k * ak + ar)), b, c1)
        c2 = fma(splat(load1(A, k * ak + 2 * ar)), b, c2)
        c3 = fma(splat(load1(A, k * ak + 3 * ar)), b, c3)
        c4 = fma(splat(load1(A, k * ak + 4 * ar)), b, c4)
        c5 = fma(splat(load1(A, k * ak + 5 * ar)), b, c5)
        c6 = fma(splat(load1(A, k * ak + 6 * ar)), b, c6)
        c7 = fma(splat(load1(A, k * ak + 7 * ar)), b, c7)
    _write(C, 0, c0, alpha, 0, beta)
    _write(C, cr, c1, alpha, 1, beta)
    _write(C, 2 * cr, c2, alpha, 2, beta)
    _write(C, 3 * cr, c3, alpha, 3, beta)
    _write(C, 4 * cr, c4, alpha, 4, beta)
    _write(C, 5 * cr, c5, alpha, 5, beta)
    _write(C, 6 * cr, c6, alpha, 6, beta)
    _write(C, 7 * cr, c7, alpha, 7, beta)
