"""Sixteen float32 numbers at once, for Numba: the few operations from which the kernels are made.

Numba's arrays wrap negative indices, which keeps LLVM from turning loops over them into vector
code. Kernels therefore work on addresses and on values of the type `f16`, sixteen float32 numbers
that LLVM keeps in one register (AVX-512), two (AVX2) or four (NEON). Loads and stores take the
address of an array (an int64) and the index of an element, convert from and to bfloat16 where
their name says so, and check nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, register_model

WIDTH = 16

float_kind = ir.FloatType()
int8_kind, half_kind, _i32, _i64 = (ir.IntType(n) for n in (8, 16, 32, 64))
f16_kind = ir.VectorType(float_kind, WIDTH)
_ints = ir.VectorType(_i32, WIDTH)


class _F16(types.Type):
    def __init__(self) -> None:
        super().__init__(name="f16")


f16 = _F16()


@register_model(_F16)
class _F16Model(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, f16_kind)


def broadcast(b: Any, value: Any) -> Any:
    """The instructions for sixteen times the same number."""
    one = b.insert_element(ir.Constant(f16_kind, ir.Undefined), value, ir.Constant(_i32, 0))
    zeros = ir.Constant(_ints, [0] * WIDTH)
    return b.shuffle_vector(one, ir.Constant(f16_kind, ir.Undefined), zeros)


def element(b: Any, base: Any, index: Any, kind: Any) -> Any:
    """The instructions for a pointer to `kind` at float32 number `index` of an address."""
    return address(b, base, index, float_kind, kind)


def address(b: Any, base: Any, index: Any, kind: Any, to: Any) -> Any:
    """The instructions for a pointer to `to` at number `index`, of `kind`, of an address.

    An address may be split into null and an index: LLVM's CodeGenPrepare does that, and Numba may
    optimise what it left once more where it is inlined. A function that does not say that null is
    a valid pointer then loses the access as undefined (docs/log.md has the case).
    """
    set.add(b.function.attributes, "null_pointer_is_valid")  # llvmlite's own list lacks it
    pointer = b.gep(b.inttoptr(base, kind.as_pointer()), [index])
    return b.bitcast(pointer, to.as_pointer())


# Memory. `volatile` and alias metadata are not needed: kernels write what only they read.


def _loader(element: Any, result: Any, to_result: Callable[[Any, Any], Any], n: int) -> Any:
    memory = ir.VectorType(element, n) if n > 1 else element

    @intrinsic
    def load(typingctx: Any, base: Any, index: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
            pointer = address(b, args[0], args[1], element, memory)
            return to_result(b, b.load(pointer, align=_size(element)))

        return result(types.int64, types.int64), codegen

    return load


def _storer(element: Any, value: Any, to_memory: Callable[[Any, Any], Any], n: int) -> Any:
    memory = ir.VectorType(element, n) if n > 1 else element

    @intrinsic
    def store(typingctx: Any, base: Any, index: Any, v: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
            pointer = address(b, args[0], args[1], element, memory)
            b.store(to_memory(b, args[2]), pointer, align=_size(element))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, value), codegen

    return store


def _size(element: Any) -> int:
    return {float_kind: 4, int8_kind: 1, half_kind: 2, _i32: 4, _i64: 8}[element]


def widen(b: Any, half: Any) -> Any:
    """bfloat16 -> float32: its bits are the upper half."""
    return b.bitcast(b.shl(b.zext(half, _ints), ir.Constant(_ints, [16] * WIDTH)), f16_kind)


def _round(b: Any, v: Any) -> Any:
    """float32 -> bfloat16, to nearest, ties to even, as torch rounds."""
    bits = b.bitcast(v, _ints)
    odd = b.and_(b.lshr(bits, ir.Constant(_ints, [16] * WIDTH)), ir.Constant(_ints, [1] * WIDTH))
    up = b.add(b.add(bits, ir.Constant(_ints, [0x7FFF] * WIDTH)), odd)
    half = b.lshr(up, ir.Constant(_ints, [16] * WIDTH))
    nan = b.fcmp_unordered("uno", v, v)
    half = b.select(nan, ir.Constant(_ints, [0x7FC0] * WIDTH), half)
    return b.trunc(half, ir.VectorType(half_kind, WIDTH))


@intrinsic
def rounded(typingctx: Any, v: Any) -> Any:
    """To the nearest bfloat16, kept as float32."""
    return f16(f16), lambda context, b, sig, args: widen(b, _round(b, args[0]))


def _same(b: Any, v: Any) -> Any:
    return v


def from_int8(b: Any, v: Any) -> Any:
    """int8 -> float32."""
    return b.sitofp(b.sext(v, _ints), f16_kind)


load = _loader(float_kind, f16, _same, WIDTH)
store = _storer(float_kind, f16, _same, WIDTH)
load_bf16 = _loader(half_kind, f16, widen, WIDTH)
store_bf16 = _storer(half_kind, f16, _round, WIDTH)
load_int8 = _loader(int8_kind, f16, from_int8, WIDTH)
load1 = _loader(float_kind, types.float32, _same, 1)
store1 = _storer(float_kind, types.float32, _same, 1)
load1_i64 = _loader(_i64, types.int64, _same, 1)
store1_i64 = _storer(_i64, types.int64, _same, 1)


def _widen1(b: Any, half: Any) -> Any:
    return b.bitcast(b.shl(b.zext(half, _i32), ir.Constant(_i32, 16)), float_kind)


def _round1(b: Any, v: Any) -> Any:
    return b.extract_element(_round(b, broadcast(b, v)), ir.Constant(_i32, 0))


load1_bf16 = _loader(half_kind, types.float32, _widen1, 1)
store1_bf16 = _storer(half_kind, types.float32, _round1, 1)


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """Sixteen times the same number."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return broadcast(b, args[0])

    return f16(types.float32), codegen


# Arithmetic. `fma` is one rounding on every machine; the others round as written.


def _operator(python: Any, instruction: str) -> None:
    @infer_global(python)
    class Template(ConcreteTemplate):
        cases = [signature(f16, f16, f16)]  # noqa: RUF012 (Numba's form)

    @lower_builtin(python, f16, f16)
    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return getattr(b, instruction)(args[0], args[1])


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


def _llvm(name: str, arity: int) -> Any:
    def declare(b: Any) -> Any:
        kind = ir.FunctionType(f16_kind, [f16_kind] * arity)
        return cgutils.get_or_insert_function(b.module, kind, f"{name}.v{WIDTH}f32")

    if arity == 3:

        @intrinsic
        def op3(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
            return f16(f16, f16, f16), lambda context, b, sig, args: b.call(declare(b), args)

        return op3
    if arity == 2:

        @intrinsic
        def op2(typingctx: Any, x: Any, y: Any) -> Any:
            return f16(f16, f16), lambda context, b, sig, args: b.call(declare(b), args)

        return op2

    @intrinsic
    def op1(typingctx: Any, x: Any) -> Any:
        return f16(f16), lambda context, b, sig, args: b.call(declare(b), args)

    return op1


def call_fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    """The instructions for x y + z, rounded once."""
    kind = ir.FunctionType(f16_kind, [f16_kind] * 3)
    name = f"llvm.fma.v{WIDTH}f32"
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), [x, y, z])


fma = _llvm("llvm.fma", 3)
maximum = _llvm("llvm.maxnum", 2)
minimum = _llvm("llvm.minnum", 2)
floor = _llvm("llvm.floor", 1)


def call_total(b: Any, v: Any) -> Any:
    """The instructions for the sum of the sixteen: halves, then halves of those."""
    n = WIDTH
    while n > 1:
        n //= 2
        undefined = ir.Constant(v.type, ir.Undefined)
        index = ir.VectorType(_i32, n)
        low = b.shuffle_vector(v, undefined, ir.Constant(index, list(range(n))))
        high = b.shuffle_vector(v, undefined, ir.Constant(index, list(range(n, 2 * n))))
        v = b.fadd(low, high)
    return b.extract_element(v, ir.Constant(_i32, 0))


@intrinsic
def total(typingctx: Any, v: Any) -> Any:
    """The sum of the sixteen, always in the same tree."""
    return types.float32(f16), lambda context, b, sig, args: call_total(b, args[0])


@intrinsic
def _pow2(typingctx: Any, k: Any) -> Any:
    """2^k of whole k within the exponents of normal numbers."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        whole = b.fptosi(args[0], _ints)
        biased = b.add(whole, ir.Constant(_ints, [127] * WIDTH))
        return b.bitcast(b.shl(biased, ir.Constant(_ints, [23] * WIDTH)), f16_kind)

    return f16(f16), codegen


@intrinsic
def const(typingctx: Any, value: Any) -> Any:
    """Sixteen times a float64 constant, rounded to float32."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return broadcast(b, b.fptrunc(args[0], float_kind))

    return f16(types.float64), codegen


@intrinsic
def less(typingctx: Any, x: Any, y: Any, then: Any, otherwise: Any) -> Any:
    """`then` where x < y, elsewhere `otherwise`."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return f16(f16, f16, f16, f16), codegen


@intrinsic
def _exponent(typingctx: Any, v: Any) -> Any:
    """floor(log2 v) of normal positive numbers."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        bits = b.lshr(b.bitcast(args[0], _ints), ir.Constant(_ints, [23] * WIDTH))
        return b.sitofp(b.sub(bits, ir.Constant(_ints, [127] * WIDTH)), f16_kind)

    return f16(f16), codegen


@njit
def exp(x: Any) -> Any:  # pragma: no cover (compiled)
    """e^x within one unit in the last place; below -87 it is 0.

    2^k e^r with |r| <= ln 2 / 2, and the polynomial for e^r of the Cephes library.
    """
    clamped = minimum(maximum(x, const(-87.0)), const(88.0))
    k = floor(fma(clamped, const(1.4426950408889634), const(0.5)))
    r = fma(k, const(-0.693359375), clamped)
    r = fma(k, const(2.12194440e-4), r)
    p = fma(const(1.9875691500e-4), r, const(1.3981999507e-3))
    p = fma(p, r, const(8.3334519073e-3))
    p = fma(p, r, const(4.1665795894e-2))
    p = fma(p, r, const(1.6666665459e-1))
    p = fma(p, r, const(5.0000001201e-1))
    p = fma(p * r, r, r) + const(1.0)
    return less(x, const(-87.0), const(0.0), p * _pow2(k))


@njit
def log(x: Any) -> Any:  # pragma: no cover (compiled)
    """ln x of normal positive numbers, by the polynomial of the Cephes library."""
    k = _exponent(x)
    m = x * _pow2(const(0.0) - k)  # 1 <= m < 2
    high = less(const(1.41421356237), m, const(1.0), const(0.0))
    k = k + high
    m = less(const(1.41421356237), m, m * const(0.5), m) - const(1.0)
    z = m * m
    p = fma(const(7.0376836292e-2), m, const(-1.1514610310e-1))
    p = fma(p, m, const(1.1676998740e-1))
    p = fma(p, m, const(-1.2420140846e-1))
    p = fma(p, m, const(1.4249322787e-1))
    p = fma(p, m, const(-1.6668057665e-1))
    p = fma(p, m, const(2.0000714765e-1))
    p = fma(p, m, const(-2.4999993993e-1))
    p = fma(p, m, const(3.3333331174e-1))
    y = fma(k, const(-2.12194440e-4), p * m * z)
    y = fma(z, const(-0.5), y)
    return fma(k, const(0.693359375), m + y)


@njit
def sigmoid(x: Any) -> Any:  # pragma: no cover (compiled)
    """1 / (1 + e^-x)."""
    return const(1.0) / (const(1.0) + exp(const(0.0) - x))


@njit
def silu(x: Any) -> Any:  # pragma: no cover (compiled)
    """x / (1 + e^-x)."""
    return x / (const(1.0) + exp(const(0.0) - x))


@njit
def softplus(x: Any) -> Any:  # pragma: no cover (compiled)
    """ln(1 + e^x), from both sides without overflow; x itself above 20, as in torch."""
    magnitude = maximum(x, const(0.0) - x)
    t = exp(const(0.0) - magnitude)
    u = const(1.0) + t  # ln(1 + t) = ln(u) t / (u - 1), exact in what u lost
    rest = u - const(1.0)
    small = less(const(0.0), rest, log(u) * t / maximum(rest, const(1e-30)), t)
    return less(const(20.0), x, x, maximum(x, const(0.0)) + small)


@intrinsic
def ticket(typingctx: Any, base: Any) -> Any:
    """The next number of the counter at an address: no two threads get the same."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = b.inttoptr(args[0], _i64.as_pointer())
        return b.atomic_rmw("add", pointer, ir.Constant(_i64, 1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def transpose(typingctx: Any, source: Any, row: Any, target: Any, target_row: Any) -> Any:
    """Write the transpose of a 16 x 16 block; rows are `row` and `target_row` elements apart.

    Args:
        source: address of the block's first element.
        row: elements from one row to the next.
        target: address of the first element of the transpose.
        target_row: elements from one row of the transpose to the next.
    """

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        def at(base: Any, stride: Any, i: int) -> Any:
            return address(b, base, b.mul(stride, ir.Constant(_i64, i)), float_kind, f16_kind)

        rows = [b.load(at(args[0], args[1], i), align=4) for i in range(WIDTH)]
        for d in (8, 4, 2, 1):
            low = [lane if not lane & d else WIDTH + lane - d for lane in range(WIDTH)]
            high = [lane + d if not lane & d else WIDTH + lane for lane in range(WIDTH)]
            for i in range(WIDTH):
                if not i & d:
                    x, y = rows[i], rows[i + d]
                    rows[i] = b.shuffle_vector(x, y, ir.Constant(_ints, low))
                    rows[i + d] = b.shuffle_vector(x, y, ir.Constant(_ints, high))
        for i in range(WIDTH):
            b.store(rows[i], at(args[2], args[3], i), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def call_void(typingctx: Any, function: Any) -> Any:
    """Call a C function of no arguments by its address, whatever it returns."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def call_int(typingctx: Any, function: Any) -> Any:
    """The int that a C function of no arguments returns, by its address."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_i32, [])
        return b.sext(b.call(b.inttoptr(args[0], kind.as_pointer()), []), _i64)

    return types.int64(types.int64), codegen


@intrinsic
def arrive(typingctx: Any, base: Any) -> Any:
    """Count one more thread at a barrier; what it wrote before is seen by who waits there."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = b.inttoptr(args[0], _i64.as_pointer())
        return b.atomic_rmw("add", pointer, ir.Constant(_i64, 1), "acq_rel")

    return types.int64(types.int64), codegen


@intrinsic
def arrived(typingctx: Any, base: Any) -> Any:
    """How many threads have been counted at a barrier."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        pointer = b.inttoptr(args[0], _i64.as_pointer())
        return b.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), codegen


@njit(error_model="numpy")
def wait(base, target, give_way):  # pragma: no cover (compiled)
    """Wait at a barrier until `target` threads have been counted, this one among them.

    Whoever waits long lets other threads have the core: the one that is waited for may need it.
    """
    arrive(base)
    spins = 0
    while arrived(base) < target:
        spins += 1
        if spins > 2000:
            call_void(give_way)
