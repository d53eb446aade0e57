"""Sets of real numbers: what intervals, inequalities, unions and set-builders describe."""

from __future__ import annotations

from fractions import Fraction
from itertools import product as every
from typing import NamedTuple

import mpmath

from statewise.eval.mathematics.evaluator import (
    LOW,
    Costly,
    Evaluator,
    Value,
    as_mp,
    has,
    infinity,
    same_value,
    symbols,
)
from statewise.eval.mathematics.expressions import Node, node


class End(NamedTuple):
    """An end of an interval: its place for sorting, the tree, whether it belongs to it."""

    place: Value
    value: Node
    closed: bool


Interval = tuple[End, End]
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_INFINITE = node("constant", "infinity")


def _end(n: Node, closed: bool) -> End:
    infinite = infinity(n)
    if infinite is not None:
        return End(mpmath.inf * infinite, n, False)
    if symbols(n) or has(n, "call"):
        raise Costly("an interval with letters")
    return End(mpmath.re(as_mp(Evaluator({}, LOW).of(n))), n, closed)


def region(n: Node) -> list[Interval] | None:
    """The real numbers that a tree describes, as intervals in order; None if it describes none."""
    if n.kind == "tuple" and len(n.nodes) == 2 and str(n.parts[0]) + str(n.parts[1]) in (
        "()", "[]", "(]", "[)",
    ):  # fmt: skip
        low, high = n.nodes
        return [(_end(low, n.parts[0] == "["), _end(high, n.parts[1] == "]"))]
    if n.kind == "constant" and n.parts[0] == "R":
        return [(_end(node("negative", _INFINITE), False), _end(_INFINITE, False))]
    if n.kind == "constant" and n.parts[0] == "R+":
        return [(_end(node("number", Fraction(0)), False), _end(_INFINITE, False))]
    if n.kind == "constant" and n.parts[0] == "emptyset":
        return []
    if n.kind == "set" and not any(m.kind in ("tuple", "set", "list") for m in n.nodes):
        return [(_end(m, True), _end(m, True)) for m in n.nodes]
    if n.kind == "bracketed":
        return region(n.nodes[0])
    if n.kind == "builder":
        element, condition = n.nodes
        if element.kind == "relation" and element.parts[1:] == ("in", node("constant", "R")):
            element = element.nodes[0]
        return region(condition) if element.kind == "symbol" else None
    if n.kind == "relation":
        return _region_of_relation(n)
    if n.kind in ("union", "cut", "without", "list") and len(n.nodes) >= 2:
        if n.kind == "list" and not _of_one_letter(n.nodes):
            return None
        parts = [p for m in n.nodes if (p := region(m)) is not None]
        if len(parts) != len(n.nodes):
            return None
        result = parts[0]
        for part in parts[1:]:
            both = _cut(result, part)
            if n.kind == "without":
                result = _cut(result, _complement(part))
            elif n.kind == "cut" or (n.kind == "list" and n.parts[0] == "and"):
                result = both
            elif n.kind == "list" and n.parts[0] == "," and any(a.place < b.place for a, b in both):
                result = both  # x > 1, x < 3: both hold; x < 1, x > 3: one of them does
            else:
                result = _merged(result + part)
        return result
    return None


def _of_one_letter(parts: tuple[Node, ...]) -> bool:
    """Whether these are relations, all on one letter."""
    letters = [symbols(p) for p in parts]
    return all(p.kind == "relation" for p in parts) and len(letters[0]) == 1 and all(
        found == letters[0] for found in letters
    )  # fmt: skip


def _region_of_relation(n: Node) -> list[Interval] | None:
    sides, signs = n.nodes, [p for p in n.parts if isinstance(p, str)]
    if signs == ["in"] and sides[0].kind == "symbol":
        return region(sides[1])
    letters = [s for s in sides if s.kind == "symbol"]
    if len(letters) != 1 or not all(s in FLIPPED for s in signs):
        return None
    at = sides.index(letters[0])
    result = [(_end(node("negative", _INFINITE), False), _end(_INFINITE, False))]
    for i, sign in enumerate(signs):
        bound = i if i < at else i + 1
        if abs(bound - at) != 1:
            return None
        sign = FLIPPED[sign] if bound < at else sign
        value = sides[bound]
        low, high = _end(node("negative", _INFINITE), False), _end(_INFINITE, False)
        closed = "=" in sign and sign != "!="
        here = _end(value, closed)
        part = {
            "<": [(low, here)], ">": [(here, high)], "=": [(here, here)],
            "!": [(low, here), (here, high)],
        }[sign[0]]  # fmt: skip
        result = _cut(result, part)
    return result


def _merged(intervals: list[Interval]) -> list[Interval]:
    ordered = sorted(intervals, key=lambda i: (i[0].place, not i[0].closed))
    made: list[Interval] = []
    for low, high in ordered:
        if not made:
            made.append((low, high))
            continue
        last_low, last_high = made[-1]
        touches = low.place < last_high.place or (
            low.place == last_high.place and (low.closed or last_high.closed)
        )
        if touches:
            further = max(last_high, high, key=lambda e: (e.place, e.closed))
            made[-1] = (last_low, further)
        else:
            made.append((low, high))
    return made


def _cut(a: list[Interval], b: list[Interval]) -> list[Interval]:
    made = []
    for (low, high), (other_low, other_high) in every(a, b):
        left = max(low, other_low, key=lambda e: (e.place, not e.closed))
        right = min(high, other_high, key=lambda e: (e.place, e.closed))
        if left.place < right.place or (left.place == right.place and left.closed and right.closed):
            made.append((left, right))
    return _merged(made)


def _complement(a: list[Interval]) -> list[Interval]:
    ends: list[End] = [_end(node("negative", _INFINITE), False)]
    for low, high in _merged(a):
        ends += [low._replace(closed=not low.closed), high._replace(closed=not high.closed)]
    ends.append(_end(_INFINITE, False))
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return [(a, b) for a, b in pairs if a.place < b.place or (a.closed and b.closed)]


def same_region(a: list[Interval], b: list[Interval]) -> bool:
    """Whether two sets are one."""
    a, b = _merged(a), _merged(b)
    if len(a) != len(b):
        return False
    return all(
        x.closed == y.closed and same_value(x.value, y.value)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


def try_region(n: Node) -> list[Interval] | None:
    """`region`, or None where its ends have no value to be put in order by."""
    try:
        return region(n)
    except (Costly, ArithmeticError, ValueError):
        return None
