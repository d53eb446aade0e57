"""Values of trees: exact where they are rational, to hundreds of digits where they are not.

Rational numbers are compared exactly, whatever their size. Other closed forms are evaluated with
mpmath and must agree, relatively, to 330 digits, to more where an exponent reaches further: no
tolerance for tiny values, and no rounding, but that twelve digits are enough where one side is a
decimal and nothing else. Expressions with letters must agree at points that depend on the letters'
names alone. What can be huge is bounded (`Costly`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import mpmath

from statewise.eval.mathematics.expressions import TRIGONOMETRIC, Node, node

LOW, HIGH, MOST = 60, 400, 5_000  # digits
CANCELLED = 70  # digits that cancellation may cost
DECIMAL = Fraction(5, 10**12)  # relative; where one side is a decimal
MAX_BITS = 200_000  # of an exact number
MAX_MAGNITUDE = 1_000  # bits of an exponent
MAX_TERMS = 20_000  # of a sum
POINTS, NEEDED = 16, 3
Value = Any  # Fraction, mpf or mpc
Point = dict[str, Fraction]


class Costly(Exception):
    """An expression that is not evaluated: it is too large, or no closed form of ours."""


class Evaluator:
    """Values of trees at one point.

    Args:
        point: values of the symbols.
        digits: to which irrational numbers are computed; 0 computes rational ones alone.
    """

    def __init__(self, point: Point, digits: int) -> None:
        self.point, self.digits, self.angle, self.terms = point, digits, False, 0

    def of(self, n: Node) -> Value:
        """The value.

        Raises:
            Costly: see there.
            ArithmeticError: there is none, as for 1/0; without digits also where it is irrational.
        """
        with mpmath.workdps(self.digits or 15):
            return self._of(n)

    def _of(self, n: Node) -> Value:
        method: Callable[[Node], Value] | None = getattr(self, "_" + n.kind, None)
        if method is None:
            raise Costly(f"no value: {n.kind}")
        return method(n)

    def _irrational(self, value: Fraction | Value) -> Value:
        """The value as mpmath has it; a way out where only rational numbers are wanted."""
        if not self.digits:
            raise ArithmeticError("irrational")
        if isinstance(value, Fraction):
            return mpmath.mpf(value.numerator) / mpmath.mpf(value.denominator)
        return value

    def _number(self, n: Node) -> Value:
        return n.parts[0]

    def _numeral(self, n: Node) -> Value:
        (whole, _, places), base = str(n.parts[0]).partition("."), int(str(n.parts[1]))
        return Fraction(int(whole + places, base), base ** len(places))

    def _symbol(self, n: Node) -> Value:
        name = str(n.parts[0])
        if name not in self.point:
            self.point[name] = _drawn(name, len(self.point))
        return self.point[name]

    def _constant(self, n: Node) -> Value:
        name = str(n.parts[0])
        if name in ("e", "pi", "i"):
            return self._irrational({"e": +mpmath.e, "pi": +mpmath.pi, "i": mpmath.mpc(0, 1)}[name])
        raise Costly(f"no value: {name}")

    def _bracketed(self, n: Node) -> Value:
        return self._of(n.nodes[0])

    def _sum(self, n: Node) -> Value:
        return self._folded([self._of(p) for p in n.nodes], lambda a, b: a + b)

    def _negative(self, n: Node) -> Value:
        return -self._of(n.nodes[0])

    def _product(self, n: Node) -> Value:
        return self._folded([self._of(p) for p in n.nodes], lambda a, b: a * b)

    def _folded(self, values: Sequence[Value], by: Callable[[Value, Value], Value]) -> Value:
        result = values[0]
        for value in values[1:]:
            if isinstance(result, Fraction) != isinstance(value, Fraction):
                result, value = self._irrational(result), self._irrational(value)
            result = by(result, value)
        return _bounded(result)

    def _quotient(self, n: Node) -> Value:
        top, bottom = (self._of(p) for p in n.nodes)
        return self._folded([top, bottom], lambda a, b: a / b)

    def _percent(self, n: Node) -> Value:
        return self._of(n.nodes[0]) / 100

    def _degrees(self, n: Node) -> Value:
        value = self._of(n.nodes[0])
        return self._irrational(value) * mpmath.pi / 180 if self.angle else value

    def _power(self, n: Node) -> Value:
        base, exponent = (self._of(p) for p in n.nodes)
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            made = self._rational_power(base, exponent)
            if made is not None:
                return made
        base, exponent = self._irrational(base), self._irrational(exponent)
        if base == 0:
            if exponent == 0 or mpmath.re(exponent) < 0:
                raise ZeroDivisionError
            return base
        if mpmath.mag(exponent) + mpmath.mag(mpmath.log(abs(base)) or 1) > MAX_MAGNITUDE:
            raise Costly("a power too large to evaluate")
        return mpmath.power(base, exponent)

    @staticmethod
    def _rational_power(base: Fraction, exponent: Fraction) -> Fraction | None:
        """The power, where it is rational and not too large."""
        if exponent.denominator != 1:
            if base < 0 or exponent.denominator > 64:
                return None
            rooted = _exact_root(base, exponent.denominator)
            if rooted is None:
                return None
            base, exponent = rooted, Fraction(exponent.numerator)
        if base == 0 and exponent <= 0:
            raise ZeroDivisionError
        if abs(base) == 1:
            return base if exponent.numerator % 2 else Fraction(1)
        bits = max(abs(base.numerator).bit_length(), base.denominator.bit_length())
        if abs(exponent) * bits > MAX_BITS:
            return None
        return base ** int(exponent)

    def _root(self, n: Node) -> Value:
        inside, degree = (self._of(p) for p in n.nodes)
        if isinstance(inside, Fraction) and isinstance(degree, Fraction):
            odd = degree.denominator == 1 and degree.numerator % 2 == 1
            negative = inside < 0 and odd  # the real root of a negative number
            if degree.denominator == 1 and 0 < degree <= 64 and (inside >= 0 or odd):
                rooted = _exact_root(abs(inside), int(degree))
                if rooted is not None:
                    return -rooted if negative else rooted
            if negative:
                return -mpmath.root(self._irrational(-inside), int(degree))
        return mpmath.power(self._irrational(inside), 1 / self._irrational(degree))

    def _factorial(self, n: Node) -> Value:
        value, bangs = self._of(n.nodes[0]), int(self._of(n.nodes[1]))
        if isinstance(value, Fraction) and value.denominator == 1:
            if value < 0:
                raise ArithmeticError("the factorial of a negative number")
            if value <= 3_000:
                return Fraction(math.prod(range(int(value), 0, -bangs)))
        if bangs > 1:
            raise Costly("a factorial too large to evaluate")
        return self._of_gamma(value)

    def _of_gamma(self, value: Value) -> Value:
        value = self._irrational(value)
        if mpmath.mag(value) > 200:
            raise Costly("a factorial too large to evaluate")
        return mpmath.factorial(value)

    def _binomial(self, n: Node) -> Value:
        top, bottom = (self._of(p) for p in n.nodes)
        if all(isinstance(v, Fraction) and v.denominator == 1 and 0 <= v <= 3_000
               for v in (top, bottom)):  # fmt: skip
            return Fraction(math.comb(int(top), int(bottom)))
        top, bottom = self._irrational(top), self._irrational(bottom)
        if max(mpmath.mag(top), mpmath.mag(bottom)) > 200:
            raise Costly("a binomial too large to evaluate")
        return mpmath.binomial(top, bottom)

    def _range(self, n: Node) -> Value:
        kind, (variable, lower, upper, body) = n.parts[0], n.nodes
        name = str(variable.parts[0])
        low, high = self._of(lower), self._of(upper)
        if not all(isinstance(v, Fraction) and v.denominator == 1 for v in (low, high)):
            raise Costly("a sum whose range is no range of whole numbers")
        self.terms += max(0, int(high - low) + 1)
        if self.terms > MAX_TERMS:
            raise Costly(f"a sum of {self.terms:,} terms")
        outer = self.point.get(name)
        result: Value = Fraction(0 if kind == "sum" else 1)
        for k in range(int(low), int(high) + 1):
            self.point[name] = Fraction(k)
            term = self._of(body if variable.kind == "symbol" else _with_index(body, name))
            result = self._folded(
                [result, term], (lambda a, b: a + b) if kind == "sum" else lambda a, b: a * b
            )
        if outer is None:
            self.point.pop(name, None)
        else:
            self.point[name] = outer
        return result

    def _call(self, n: Node) -> Value:
        """An unknown function: some number that depends on its name and arguments."""
        values = [self._of(p) for p in n.nodes]
        spelled = [v if isinstance(v, Fraction) else mpmath.nstr(v, 20) for v in values]
        if not all(isinstance(v, Fraction) for v in values):
            self._irrational(Fraction(1))
        return _drawn(f"{n.parts[0]}({spelled})", 0)

    def _function(self, n: Node) -> Value:
        name = str(n.parts[0])
        if name == "det":
            return self._determinant(n.nodes[0])
        if name in TRIGONOMETRIC:
            before, self.angle = self.angle, True
            try:
                values = [self._of(p) for p in n.nodes]
            finally:
                self.angle = before
        else:
            values = [self._of(p) for p in n.nodes]
        first = values[0]
        rational = all(isinstance(v, Fraction) for v in values)
        if name == "abs" and len(values) == 1:
            return abs(first)
        if name in ("floor", "ceil"):
            if not rational and mpmath.mag(first) > 2 * self.digits:
                raise Costly(f"{name} of a number too large")
            made = (mpmath.floor if name == "floor" else mpmath.ceil)(first) if not rational else (
                math.floor(first) if name == "floor" else math.ceil(first)
            )  # fmt: skip
            return Fraction(int(mpmath.re(made)))
        if name in ("gcd", "lcm") and all(rational and v.denominator == 1 for v in values):
            whole = [int(v) for v in values]
            return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))
        if name in ("gcd", "lcm"):
            return _drawn(f"{name}({sorted(map(str, values))})", 0)
        if name in ("max", "min"):
            return (max if name == "max" else min)(values)
        if name == "sgn":
            return Fraction((first > 0) - (first < 0))
        args = [self._irrational(v) for v in values]
        if name in ("log", "ln"):
            base = args[1] if len(args) > 1 else mpmath.mpf(10) if name == "log" else mpmath.e
            if args[0] == 0 or base in (0, 1):
                raise ZeroDivisionError
            return mpmath.log(args[0]) / mpmath.log(base)
        known = {
            "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot,
            "sec": mpmath.sec, "csc": mpmath.csc, "arcsin": mpmath.asin, "arccos": mpmath.acos,
            "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
            "arccsc": mpmath.acsc, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh,
            "exp": mpmath.exp, "Re": mpmath.re, "Im": mpmath.im, "arg": mpmath.arg,
        }  # fmt: skip
        if name not in known or len(args) != 1:
            raise Costly(f"no value: {name}")
        if mpmath.mag(args[0]) > 10_000:
            raise Costly(f"{name} of a number too large")
        return known[name](args[0])

    def _determinant(self, n: Node) -> Value:
        """By its first row: a matrix in an answer is small."""
        rows = [[self._of(cell) for cell in row.nodes] for row in n.nodes]
        if n.kind != "matrix" or len(rows) != len(rows[0]) or len(rows) > 5:
            raise Costly("a determinant of no small square matrix")
        return self._laplace(rows)

    def _laplace(self, rows: list[list[Value]]) -> Value:
        if len(rows) == 1:
            return rows[0][0]
        terms = []
        for i, value in enumerate(rows[0]):
            minor = self._laplace([[*row[:i], *row[i + 1 :]] for row in rows[1:]])
            term = self._folded([value, minor], lambda a, b: a * b)
            terms.append(-term if i % 2 else term)
        return self._folded(terms, lambda a, b: a + b)


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction) and (
        value.numerator.bit_length() > 4 * MAX_BITS or value.denominator.bit_length() > 4 * MAX_BITS
    ):
        raise Costly("a number too large to evaluate")
    return value


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    parts = []
    for part in (value.numerator, value.denominator):
        rooted = mpmath.libmp.libintmath.isqrt(part) if degree == 2 else _whole_root(part, degree)
        if rooted**degree != part:
            return None
        parts.append(int(rooted))
    return Fraction(*parts)


def _whole_root(value: int, degree: int) -> int:
    """The whole part of a root, by bisection."""
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low


def _drawn(name: str, index: int) -> Fraction:
    """A number between 1/3 and 4 that depends on the name and the index."""
    digest = hashlib.sha256(f"{name}\x1f{index}".encode("utf-8", "surrogatepass")).digest()
    return Fraction(int.from_bytes(digest[:4], "big") % 3_700 + 337, 1_009)


def _with_index(body: Node, name: str) -> Node:
    """The body of a sum over i or e, in which these are no constants."""
    if body.kind == "constant" and body.parts[0] == name:
        return node("symbol", name)
    return Node(
        body.kind, tuple(_with_index(p, name) if isinstance(p, Node) else p for p in body.parts)
    )


def exact(n: Node, point: Point | None = None) -> Fraction | None:
    """The value, if it is rational and can be told without approximation."""
    try:
        value = Evaluator(dict(point or {}), 0).of(n)
    except (ArithmeticError, ValueError, Costly):
        return None
    return value if isinstance(value, Fraction) else None


def walk(n: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield n
    for part in n.nodes:
        yield from walk(part)


def symbols(n: Node) -> set[str]:
    """The letters in a tree; those that a sum runs over are its own."""
    if n.kind == "symbol":
        return {str(n.parts[0])}
    inner = set().union(*(symbols(p) for p in n.nodes)) if n.nodes else set()
    return inner - {str(n.nodes[0].parts[0])} if n.kind == "range" else inner


def has(n: Node, kind: str, *names: str) -> bool:
    """Whether there is a node of a kind in a tree, with one of these names if there are any."""
    return any(m.kind == kind and (not names or m.parts[0] in names) for m in walk(n))


def _is_decimal(n: Node) -> bool:
    while n.kind in ("negative", "bracketed"):
        n = n.nodes[0]
    return n.kind == "number" and n.parts[1:] == ("decimal",)


def _digits(a: Node, b: Node) -> int:
    """To how many digits two trees are compared at last: more where powers reach further."""
    exponents = [
        abs(value) for n in (a, b) for m in walk(n)
        if m.kind == "power" and (value := exact(m.nodes[1])) is not None
    ]  # fmt: skip
    return max([HIGH, *(int(2 * e) + 100 for e in exponents)])


def close(a: Node, b: Node, point: Point | None = None) -> bool:
    """Whether two values are equal at a point.

    Raises:
        Costly: one of them is not evaluated.
        ArithmeticError, ValueError: one of them has no value there.
    """
    point = point or {}
    x, y = exact(a, point), exact(b, point)
    if x is not None and y is not None:
        return x == y
    low = [Evaluator(dict(point), LOW).of(n) for n in (a, b)]
    decimal = _is_decimal(a) or _is_decimal(b)
    with mpmath.workdps(LOW):
        low = [as_mp(v) for v in low]
        if decimal and _near(low[0], low[1], mpmath.mpf(DECIMAL.numerator) / DECIMAL.denominator):
            return True
        small = [abs(v) < mpmath.mpf(10) ** (-LOW // 2) for v in low]
        if not any(small) and not _near(low[0], low[1], mpmath.mpf(10) ** (-LOW // 2)):
            return False
    wanted = _digits(a, b)
    digits = min(wanted, MOST)
    high = [Evaluator(dict(point), digits).of(n) for n in (a, b)]
    with mpmath.workdps(digits):
        high = [as_mp(v) for v in high]
        # What is zero shrinks with the precision, at once or to nothing; what is tiny does not.
        nothing = mpmath.mpf(10) ** (CANCELLED - digits)
        zero = [s and abs(h) <= (abs(v) * mpmath.mpf(10) ** (-HIGH // 2) or nothing) for s, h, v in
                zip(small, high, low, strict=True)]  # fmt: skip
        if any(zero):
            return all(zero)
        if not _near(high[0], high[1], mpmath.mpf(10) ** (CANCELLED - digits)):
            return False
        if wanted > MOST:
            raise Costly(f"alike to {MOST - CANCELLED:,} digits, and its powers reach further")
        if max(abs(v) for v in high) > mpmath.mpf(10) ** (digits - CANCELLED):
            raise Costly("too large to be told apart from its neighbours")
        return True


def as_mp(v: Value) -> Value:
    """A value as mpmath has it, to the digits at work."""
    if not isinstance(v, Fraction):
        return mpmath.mpmathify(v)
    return mpmath.mpf(v.numerator) / mpmath.mpf(v.denominator)


def _near(a: Value, b: Value, tolerance: Value) -> bool:
    return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))


def points(names: set[str], whole: set[str]) -> Iterator[Point]:
    """Values for letters: first positive ones, then of either sign; whole numbers for some."""
    for index in range(POINTS):
        point = {}
        for name in sorted(names):
            value = _drawn(name, index + 1)
            if name in whole:
                value = Fraction(int(value * 7) + 2)
            elif index >= POINTS // 2 and int(value * 1_009) % 2:
                value = -value
            point[name] = value
        yield point


def whole_letters(n: Node) -> set[str]:
    """Letters that can only be whole numbers: of factorials, binomials, powers of -1."""
    found: set[str] = set()
    for m in walk(n):
        if m.kind in ("factorial", "binomial") or (m.kind == "range"):
            found |= symbols(m)
        elif m.kind == "power":
            base = exact(m.nodes[0])
            if base is not None and base < 0:
                found |= symbols(m.nodes[1])
    return found


def same_value(reference: Node, answer: Node) -> bool:
    """Whether two expressions are equal wherever both are defined.

    Raises:
        Costly: that cannot be told.
    """
    if reference == answer:
        return True
    for infinite in (infinity(reference), infinity(answer)):
        if infinite is not None:
            return infinity(reference) == infinity(answer)
    names = symbols(reference) | symbols(answer)
    calls = has(reference, "call") or has(answer, "call")
    if not names and not calls:
        try:
            return close(reference, answer)
        except (ArithmeticError, ValueError):
            return False
    whole = whole_letters(reference) | whole_letters(answer)
    compared = 0
    for index, point in enumerate(points(names, whole)):
        try:
            if index >= POINTS // 2 and not _real(reference, point):
                continue
            if not close(reference, answer, point):
                return False
        except (ArithmeticError, ValueError):
            continue
        compared += 1
    if compared < NEEDED:
        raise Costly("has no value at most points")
    return True


def _real(n: Node, point: Point) -> bool:
    """Whether a formula without i is real at a point, as its letters are meant to be."""
    if has(n, "constant", "i"):
        return True
    value = Evaluator(dict(point), 15).of(n)
    return isinstance(value, Fraction) or abs(mpmath.im(value)) < 1e-9


def infinity(n: Node) -> int | None:
    """1 for infinity, -1 for minus infinity, None for all else."""
    if n == node("constant", "infinity"):
        return 1
    if n.kind == "negative" and n.nodes[0] == node("constant", "infinity"):
        return -1
    return None
