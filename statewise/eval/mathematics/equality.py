"""Whether an answer says what the reference says: trees of `expressions.py`, compared.

Expressions are compared by value (`evaluator.py`), sets of real numbers as such (`regions.py`),
lists and sets in any order, tuples, matrices and ratios in theirs, equations up to a factor, words
as words, and units by what they measure (`units.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import product as every

import mpmath

from statewise.eval.mathematics.evaluator import (
    LOW,
    NEEDED,
    Costly,
    Evaluator,
    Point,
    as_mp,
    close,
    exact,
    has,
    infinity,
    points,
    same_value,
    symbols,
    walk,
    whole_letters,
)
from statewise.eval.mathematics.expressions import Node, Unreadable, flat, node, number, read
from statewise.eval.mathematics.regions import FLIPPED, same_region, try_region
from statewise.eval.mathematics.units import Unit, agree, number_word, without_labels

MAX_ITEMS = 32


def same(reference: Node, answer: Node) -> bool:
    """Whether an answer is right.

    Raises:
        Costly: that cannot be told, mostly because a value is not evaluated.
    """
    if reference == answer:
        return True
    if reference.kind in ("text", "phrase") or answer.kind in ("text", "phrase"):
        return _same_words(reference, answer)
    if has(reference, "either") or has(answer, "either"):
        return _same_either(reference, answer)
    if "compound" in (reference.kind, answer.kind):
        return _same_compound_quantity(reference, answer)
    marked = {reference.kind, answer.kind} & {"quantity", "percent", "degrees"}
    if "quantity" in marked or len(marked) > 1:
        return _same_quantity(reference, answer)
    if reference.kind == "percent" or answer.kind == "percent":
        return _same_percent(reference, answer)
    given, stated = _assigned(reference), _assigned(answer)
    if given is not None and stated is not None:
        return given.keys() == stated.keys() and all(same(given[k], stated[k]) for k in given)
    if reference.kind == "relation" or answer.kind == "relation":
        return _same_relation(reference, answer)
    if any(_unsigned(n).kind == "numeral" for n in (reference, answer)):
        return _same_numeral(reference, answer)
    if answer.kind == "product" and _as_mixed(answer) == reference:
        return True
    if any(n.kind in _COMPOUND or (n.kind == "constant" and n.parts[0] in ("R", "emptyset"))
           for n in (reference, answer)):  # fmt: skip
        return _same_compound(reference, answer)
    if reference.kind == "constant" and reference.parts[0] in ("N", "Z", "Q", "C"):
        return False
    return _same_angle(reference, answer) or same_value(reference, answer)


def _unsigned(n: Node) -> Node:
    return n.nodes[0] if n.kind == "negative" else n


def _as_mixed(n: Node) -> Node | None:
    """8(6/19), where the reference itself is a mixed number."""
    whole, *rest = n.nodes
    if whole.kind != "number" or len(rest) != 1 or rest[0].kind != "bracketed":
        return None
    part, value = exact(rest[0]), exact(whole)
    return None if part is None or value is None else node("number", value + part, "mixed")


_INEQUALITIES = {"<", ">", "<=", ">=", "!=", "in"}
_COMPOUND = {"list", "tuple", "set", "builder", "union", "cut", "without", "ratio", "matrix", "row"}


def _same_angle(reference: Node, answer: Node) -> bool:
    """Degrees for radians or the other way round, where the radians are a multiple of pi."""
    mine, theirs = has(reference, "degrees"), has(answer, "degrees")
    if mine == theirs:
        return False
    radians, degrees = (answer, reference) if mine else (reference, answer)
    if not has(radians, "constant", "pi"):
        return False
    turned = node("quotient", node("product", degrees, node("constant", "pi")), number(180))
    return same_value(radians, turned)


_NOTHING = re.compile(r"no (?:real )?solutions?(?: exists?)?|none|empty set")
_MONTH = re.compile(
    r"\b(?:january|february|march|april|may|june|july|august|september|october|november|december)\b"
)
_REALS = re.compile(r"(?:(?:all|any|every|the) )*reals?(?: numbers?| x)?")


def _same_words(reference: Node, answer: Node) -> bool:
    mine, theirs = (without_labels(words_of(n)) for n in (reference, answer))
    if mine == theirs:
        return bool(mine)
    x, y = _in_signs(mine), _in_signs(theirs)
    if x is not None or y is not None:
        return same(x or reference, y or answer)
    if reference.kind == "text" and (value := number_word(mine.split())) is not None:
        return answer.kind not in ("text", "phrase") and same(number(value), answer)
    return bool(_MONTH.search(mine)) and sorted(mine.split()) == sorted(theirs.split())


def _in_signs(words: str) -> Node | None:
    """The set that some words name."""
    if _NOTHING.fullmatch(words):
        return node("constant", "emptyset")
    return node("constant", "R") if _REALS.fullmatch(words) else None


def words_of(n: Node) -> str:
    """A tree as bare words; "" where it is not one of words, letters and numbers."""
    if n.kind in ("text", "phrase"):
        return str(n.parts[0])
    if n.kind == "constant" and n.parts[0] in ("emptyset", "R"):
        return str(n.parts[0])
    if n.kind == "set" and not n.parts:
        return "emptyset"
    if n.kind in ("symbol", "constant") and len(str(n.parts[0])) == 1:
        return str(n.parts[0]).lower()
    if n.kind == "bracketed":
        return words_of(n.nodes[0])
    if n.kind == "product":
        inner = [words_of(p) for p in n.nodes]
        return "".join(inner) if all(len(w) == 1 for w in inner) else ""
    if n.kind == "number" and len(n.parts) == 1:
        return str(n.parts[0])
    if n.kind == "quantity":
        unit = n.parts[1]
        assert isinstance(unit, Unit)
        inside = words_of(n.nodes[0])
        return " ".join([inside, *sorted(unit.words)]) if inside and not unit.bases else ""
    return ""


def _same_either(reference: Node, answer: Node) -> bool:
    sides = []
    for n in (reference, answer):
        if n.kind == "relation" and "!=" in n.parts:
            sides.append([node("list", "and", *_expanded(n))])
        else:
            sides.append(_expanded(n))
    return _unordered(*sides)


def _expanded(n: Node) -> list[Node]:
    """All that a tree with \\pm stands for; where there is \\mp, the signs go together."""
    if n.kind in ("list", "set"):
        return [m for part in n.nodes for m in _expanded(part)]
    signs = [str(m.parts[0]) for m in walk(n) if m.kind == "either"]
    if len(signs) > 4:
        raise Costly("more than four double signs")
    if "mp" in signs:
        choices = [[s == "mp" for s in signs], [s == "pm" for s in signs]]
    else:
        choices = [list(c) for c in every((False, True), repeat=len(signs))]
    made: list[Node] = []
    for choice in choices:
        chosen = _chosen(n, iter(choice))
        value = exact(chosen)
        if value is None or value not in map(exact, made):
            made.append(chosen)
    return made


def _chosen(n: Node, negative: Iterator[bool]) -> Node:
    if n.kind == "either":
        minus = next(negative)
        inner = _chosen(n.nodes[0], negative)
        return node("negative", inner) if minus else inner
    return Node(n.kind, tuple(_chosen(p, negative) if isinstance(p, Node) else p for p in n.parts))


def _same_quantity(reference: Node, answer: Node) -> bool:
    (x, mine), (y, theirs) = _taken_apart(reference), _taken_apart(answer)
    if theirs is not None and theirs.multiplier and (mine is None or not mine.words):
        y, theirs = node("product", y, number(theirs.multiplier)), theirs.without_words
    if mine is not None and mine.multiplier and (theirs is None or not theirs.words):
        x, mine = node("product", x, number(mine.multiplier)), mine.without_words
    if (mine is None) != (theirs is None) and (mine or theirs).changes:  # type: ignore[union-attr]
        return False
    if mine is not None and theirs is not None:
        factor = agree(mine, theirs)
        if factor is None:
            return mine.is_angle and theirs.is_radian and _same_angle(node("degrees", x), y)
        return same(x, y if factor == 1 else node("product", number(factor), y))
    x, y = _marked(x, mine), _marked(y, theirs)
    if theirs is not None and theirs.is_radian:
        return same_value(x, y) or _same_angle(x, y)
    return same(x, y)


def _marked(n: Node, unit: Unit | None) -> Node:
    """A percentage or an angle, whose unit is part of its meaning; other units are let go."""
    if unit is not None and unit.is_percent:
        return node("percent", n)
    return node("degrees", n) if unit is not None and unit.is_angle else n


def _same_compound_quantity(reference: Node, answer: Node) -> bool:
    """3 hours 30 minutes: as one quantity in the unit of its first part."""
    mine, theirs = _one_quantity(reference), _one_quantity(answer)
    return mine is not None and theirs is not None and same(mine, theirs)


def _one_quantity(n: Node) -> Node | None:
    if n.kind == "list" and n.parts[0] == "and" and all(m.kind == "quantity" for m in n.nodes):
        n = node("compound", *n.nodes)
    if n.kind != "compound":
        return n
    unit = n.nodes[0].parts[1]
    assert isinstance(unit, Unit)
    terms: list[Node] = []
    for part in n.nodes:
        other = part.parts[1]
        assert isinstance(other, Unit)
        if not unit.bases or other.bases != unit.bases or unit.words or other.words:
            return None
        factor = agree(unit, other)
        assert factor is not None
        terms.append(node("product", number(factor), part.nodes[0]))
    return node("quantity", node("sum", *terms), unit)


def _taken_apart(n: Node) -> tuple[Node, Unit | None]:
    """A value and all that stands around it: $5 profit has a currency and a word."""
    unit: Unit | None = None
    while n.kind in ("quantity", "percent", "degrees"):
        inner, more = n.nodes[0], n.parts[-1]
        if n.kind != "quantity":
            more = Unit.named("percent" if n.kind == "percent" else "degree")
        assert isinstance(more, Unit)
        if unit is None:
            unit = more
        else:
            bases = dict(unit.bases)
            for base, power in more.bases:
                bases[base] = power if base in bases else bases.get(base, 0) + power
            unit = Unit(
                max(unit.scale, more.scale) if unit.bases and more.bases
                else unit.scale * more.scale,
                tuple(sorted(bases.items())),
                unit.words | more.words,
            )  # fmt: skip
        n = inner
    return n, unit


def _same_percent(reference: Node, answer: Node) -> bool:
    """A percentage against a proper fraction is a share; else the sign is only a unit."""
    mine, theirs = reference.kind == "percent", answer.kind == "percent"
    x = reference.nodes[0] if mine else reference
    y = answer.nodes[0] if theirs else answer
    if theirs and not mine:
        share = exact(x)
        if share is not None and share.denominator != 1:
            as_share = same(node("product", number(100), x), y)
            return as_share or (abs(share) > 1 and same(x, y))
    return same(x, y)


def _same_numeral(reference: Node, answer: Node) -> bool:
    """Numerals of one base digit by digit; the answer may leave the base out."""
    if reference.kind == answer.kind == "negative":
        return _same_numeral(reference.nodes[0], answer.nodes[0])
    if reference.kind == "numeral":
        digits, base = (str(p) for p in reference.parts)
        if answer.kind == "numeral":
            same_digits = str(answer.parts[0]).lstrip("0") == digits.lstrip("0")
            return answer.parts[1] == base and same_digits
        return answer.kind == "number" and answer.parts == (Fraction(digits),)
    return same_value(reference, answer)


# --- names, equations, inequalities


def _is_name(n: Node) -> bool:
    """Whether a tree can be the name of a value: letters and calls, no numbers."""
    if n.kind == "tuple":
        return all(m.kind == "symbol" for m in n.nodes)
    inner = list(walk(n))
    if not any(m.kind in ("symbol", "call") for m in inner):
        return False
    if n.kind == "call":
        return True
    return all(m.kind not in ("number", "relation", "list", "text") for m in inner)


def _assigned(n: Node) -> dict[Node, Node] | None:
    """Values by name: of (x, y) = (1, 2), or of x = 1, y = 2; None for all else."""
    if n.kind == "relation" and _signs(n) == ["="] and n.nodes[0].kind == "tuple":
        names, values = n.nodes[0].nodes, n.nodes[1].nodes
        fits = n.nodes[1].kind == "tuple" and len(names) == len(values)
        return dict(zip(names, values, strict=True)) if fits and _is_name(n.nodes[0]) else None
    if n.kind != "list":
        return None
    named = [_named(m) if _signs(m) == ["="] else None for m in n.nodes]
    found = {m[0]: m[1] for m in named if m is not None}
    return found if len(found) == len(n.nodes) else None


def _signs(n: Node) -> list[str]:
    return [p for p in n.parts if isinstance(p, str)] if n.kind == "relation" else []


def _named(n: Node) -> tuple[Node, Node] | None:
    """Name and value of x = 3, x = 2 + 1 = 3, x in {3}."""
    signs = _signs(n)
    if not signs or (any(s != "=" for s in signs[:1]) and signs != ["in"]):
        return None
    if any(s not in ("=", "~") for s in signs) and signs != ["in"]:
        return None
    name = n.nodes[0]
    if not _is_name(name) or (symbols(name) & symbols(n.nodes[-1]) and name.kind == "symbol"):
        return None
    exact_sides = [m for m, s in zip(n.nodes[1:], signs, strict=True) if s != "~"]
    values = [v for m in exact_sides if (v := exact(m)) is not None]
    if not exact_sides or len(set(values)) > 1:  # x = 2 = 3
        return None
    return name, exact_sides[-1]


def _same_relation(reference: Node, answer: Node) -> bool:
    mine, theirs = _named(reference), _named(answer)
    if mine and theirs and (mine[0] == theirs[0] or _equal_names(mine[0], theirs[0])):
        return same(mine[1], theirs[1])
    if reference.kind != "relation":
        return _same_as_unnamed(reference, answer, theirs)
    if answer.kind != "relation":
        if mine and "in" not in _signs(reference):
            return same(mine[1], answer)
        return _same_regions(reference, answer)
    signs, others = _signs(reference), _signs(answer)
    signs, others = (["="] if s == ["==="] else s for s in (signs, others))
    if signs == others == ["="]:
        return _proportional(_difference(reference), _difference(answer), either_sign=True)
    a, b = try_region(reference), try_region(answer)
    if a is not None and b is not None and symbols(reference) == symbols(answer):
        return same_region(a, b)
    if signs == others and _same_items(reference, answer):
        return True
    if len(signs) == len(others) == 1 and signs[0] in FLIPPED and others[0] in FLIPPED:
        flipped = FLIPPED[others[0]]
        if signs[0] == others[0] and _proportional(_difference(reference), _difference(answer)):
            return True
        return signs[0] == flipped and _proportional(
            _difference(reference), node("negative", _difference(answer))
        )
    flipped_signs = [FLIPPED.get(s, "") for s in reversed(others)]
    if signs == flipped_signs and len(signs) > 1:
        return all(same(x, y) for x, y in zip(reference.nodes, reversed(answer.nodes), strict=True))
    return False


def _equal_names(a: Node, b: Node) -> bool:
    if a.kind == "tuple" or b.kind == "tuple" or symbols(a) != symbols(b):
        return False
    try:
        return same_value(a, b)
    except Costly:
        return False


def _same_as_unnamed(reference: Node, answer: Node, named: tuple[Node, Node] | None) -> bool:
    signs = _signs(answer)
    if named and (named[0].kind == "call" or not symbols(named[0]) & symbols(reference)):
        return same(reference, named[1])
    if signs == ["mod"]:
        return same(reference, answer.nodes[0])
    if signs and signs[0] == "~":
        first, *rest = answer.nodes
        if _is_name(first):
            return same(reference, rest[0])
        return same(reference, first) and _roughly(first, rest[0])
    if signs == ["="] and _is_name(answer.nodes[1]) and not symbols(answer.nodes[0]):
        return same(reference, answer.nodes[0])
    if signs and set(signs) == {"="} and not symbols(answer):
        return same(reference, answer.nodes[-1]) and same(reference, answer.nodes[0])
    return _same_regions(reference, answer)


def _roughly(a: Node, b: Node) -> bool:
    """Whether b may be meant as an approximation of a."""
    if symbols(a) or symbols(b):
        return True
    x, y = (as_mp(Evaluator({}, LOW).of(n)) for n in (a, b))
    return bool(abs(x - y) <= abs(x) / 10)


def _same_regions(reference: Node, answer: Node) -> bool:
    a, b = try_region(reference), try_region(answer)
    return a is not None and b is not None and same_region(a, b)


def _difference(n: Node) -> Node:
    return node("sum", n.nodes[0], node("negative", n.nodes[1]))


def _proportional(a: Node, b: Node, *, either_sign: bool = False) -> bool:
    """Whether b is a constant times a, a positive one unless either sign will do."""
    if symbols(a) != symbols(b) or not symbols(a):
        return False
    ratio: Node | None = None
    compared = 0
    for point in points(symbols(a), whole_letters(a) | whole_letters(b)):
        try:
            here = node("quotient", _at(b, point), _at(a, point))
            if ratio is None:
                value = as_mp(Evaluator({}, LOW).of(here))
                if value == 0 or (not either_sign and mpmath.re(value) < 0):
                    return False
                ratio = here
                compared += 1
                continue
            if not close(ratio, here):
                return False
            compared += 1
        except (ArithmeticError, ValueError):
            continue
    return compared >= NEEDED


def _at(n: Node, point: Point) -> Node:
    """The tree with numbers for its letters."""
    if n.kind == "symbol":
        return node("number", point[str(n.parts[0])])
    if n.kind == "range":
        return Node(n.kind, (*n.parts[:2], *(_at(p, point) for p in n.nodes[1:3]),
                             _at(n.nodes[3], {k: v for k, v in point.items()
                                              if k != n.nodes[0].parts[0]})))  # fmt: skip
    return Node(n.kind, tuple(_at(p, point) if isinstance(p, Node) else p for p in n.parts))


# --- lists, tuples, sets, matrices


def _same_compound(reference: Node, answer: Node) -> bool:
    whole = _mixed(answer)
    if whole is not None and reference.kind not in _COMPOUND:
        return same(reference, whole)
    reference, answer = _single_entry(reference), _single_entry(answer)
    kinds = (reference.kind, answer.kind)
    if not {*kinds} & _COMPOUND and not {*kinds} & {"constant"}:
        return same(reference, answer)
    if "union" in kinds:
        reference, answer = _as_union(reference), _as_union(answer)
        kinds = (reference.kind, answer.kind)
    if kinds == ("ratio", "ratio"):
        return _same_ratio(reference, answer)
    if reference.kind == "ratio" or answer.kind == "ratio":
        return _same_ratio_and_value(reference, answer)
    if kinds == ("matrix", "matrix"):
        return _same_items(reference, answer)
    if kinds == ("row", "row"):
        return _same_items(reference, answer)
    if "matrix" in kinds:
        return _same_vector(reference, answer)
    if reference.kind == "list" and answer.kind == "list":
        return _same_list(reference, answer)
    if kinds == ("tuple", "tuple"):
        brackets = [str(n.parts[0]) + str(n.parts[1]) for n in (reference, answer)]
        if brackets[0] != brackets[1] and set(brackets) != {"()", "<>"}:
            return False
        return _same_items(reference, answer)
    if kinds == ("list", "tuple") or kinds == ("tuple", "list"):
        listed, tied = (reference, answer) if kinds[0] == "list" else (answer, reference)
        if str(tied.parts[0]) + str(tied.parts[1]) not in ("()", "<>"):
            return _same_regions(reference, answer)
        listed = _in_order_of_names(listed)
        return _same_items(tied, listed) or _same_regions(reference, answer)
    if {*kinds} <= {"set", "list"}:
        return _unordered(list(reference.nodes), list(answer.nodes))
    if kinds == ("builder", "builder"):
        return _same_items(reference, answer) or _same_regions(reference, answer)
    if "set" in kinds and len((reference if kinds[0] == "set" else answer).nodes) == 1:
        single, other = (reference, answer) if kinds[0] == "set" else (answer, reference)
        if other.kind not in _COMPOUND and other.kind != "constant":
            return same(single.nodes[0], other) if single is reference else same(
                other, single.nodes[0]
            )  # fmt: skip
    if reference.kind == answer.kind and reference.kind in ("union", "cut", "without"):
        a, b = try_region(reference), try_region(answer)
        if a is not None and b is not None:
            return same_region(a, b)
        return _same_items(reference, answer)
    return _same_regions(reference, answer)


def _single_entry(n: Node) -> Node:
    """The one entry of a matrix that has no other."""
    one = n.kind == "matrix" and len(n.nodes) == 1 and len(n.nodes[0].nodes) == 1
    return n.nodes[0].nodes[0] if one else n


def _as_union(n: Node) -> Node:
    """The union that intervals at commas or "or" are, beside one that is written with its sign."""
    if n.kind == "list" and n.parts[0] != "and" and all(m.kind == "tuple" for m in n.nodes):
        made = n.nodes[0]
        for m in n.nodes[1:]:
            made = node("union", made, m)
        return made
    return n


def _mixed(n: Node) -> Node | None:
    """The mixed number that "1 and 1/2" is."""
    if n.kind != "list" or n.parts[0] != "and" or len(n.nodes) != 2:
        return None
    whole, part = exact(n.nodes[0]), exact(n.nodes[1])
    if whole is None or part is None or whole.denominator != 1 or not 0 < part < 1:
        return None
    return number(whole + part)


def _in_order_of_names(n: Node) -> Node:
    """The values of x = 1, y = 2 in the order of the names; any other list as it is."""
    named = [_named(m) for m in n.nodes]
    pairs = [m for m in named if m is not None and m[0].kind == "symbol"]
    names = {str(m[0].parts[0]) for m in pairs}
    if len(pairs) != len(n.nodes):
        return n
    if len(names) != len(pairs):
        return node("list", ",", *n.nodes, *n.nodes)  # x = 1, x = 2 is no pair
    return node("list", ",", *(v for _, v in sorted(pairs, key=lambda m: str(m[0].parts[0]))))


def _has_dots(n: Node) -> bool:
    return any(m == node("symbol", "\\dots") for m in n.nodes)


def _same_items(reference: Node, answer: Node) -> bool:
    mine, theirs = reference.nodes, answer.nodes
    return len(mine) == len(theirs) and all(same(a, b) for a, b in zip(mine, theirs, strict=True))


def _same_list(reference: Node, answer: Node) -> bool:
    if _has_dots(reference) or _has_dots(answer):
        return _same_items(reference, answer)
    if any(m.kind == "relation" and _signs(m)[0] in _INEQUALITIES for n in (reference, answer)
           for m in n.nodes):  # fmt: skip
        a, b = try_region(reference), try_region(answer)
        if a is not None and b is not None:
            return same_region(a, b)
        if reference.parts[0] != answer.parts[0]:
            return False
    (name, mine), (other, theirs) = _unnamed(reference), _unnamed(answer)
    if name is not None and other is not None and name != other:
        return False
    if name is not None and any(n[0].kind == "symbol" and n[0] != name for n in
                                map(_named, theirs) if n is not None):  # fmt: skip
        return False  # x = 1, y = 2 for x = 1, 2
    return len(mine) == len(theirs) and _unordered(mine, theirs)


def _unnamed(n: Node) -> tuple[Node | None, list[Node]]:
    """The common name of a list's items and their values: k = 4, 5, 6 or x = 1, x = 2."""
    first = _named(n.nodes[0])
    if first is None:
        return None, list(n.nodes)
    name, values = first[0], [first[1]]
    for m in n.nodes[1:]:
        named = _named(m)
        if named is None and m.kind != "relation":
            values.append(m)
        elif named is not None and named[0] == name:
            values.append(named[1])
        else:
            return None, list(n.nodes)
    return name, values


def _unordered(mine: list[Node], theirs: list[Node]) -> bool:
    """Whether two lists pair off."""
    if len(mine) != len(theirs):
        return False
    if len(mine) > MAX_ITEMS:
        raise Costly(f"a list of {len(mine)}")
    left = list(theirs)
    costly: Costly | None = None
    for wanted in mine:
        for i, candidate in enumerate(left):
            try:
                if same(wanted, candidate):
                    del left[i]
                    break
            except Costly as e:
                costly = e
        else:
            if costly is not None:
                raise costly
            return False
    return True


def _same_ratio(reference: Node, answer: Node) -> bool:
    if len(reference.nodes) != len(answer.nodes):
        return False
    if _has_dots(reference) or _has_dots(answer):
        return _same_items(reference, answer)
    a, b = reference.nodes, answer.nodes
    if exact(a[0]) == 0 or exact(b[0]) == 0:
        return _same_items(reference, answer)
    return all(
        same_value(node("product", a[0], b[i]), node("product", a[i], b[0]))
        for i in range(1, len(a))
    )


def _same_ratio_and_value(reference: Node, answer: Node) -> bool:
    sides = [node("quotient", *n.nodes) if n.kind == "ratio" and len(n.nodes) == 2 else n
             for n in (reference, answer)]  # fmt: skip
    if any(n.kind in _COMPOUND for n in sides):
        return False
    return same_value(*sides)


def _same_vector(reference: Node, answer: Node) -> bool:
    """A column or a row against its entries in brackets."""
    matrix, other = (reference, answer) if reference.kind == "matrix" else (answer, reference)
    if other.kind != "tuple" or str(other.parts[0]) + str(other.parts[1]) not in ("()", "<>"):
        return False
    rows = matrix.nodes
    entries = [r.nodes[0] for r in rows] if len(rows[0].nodes) == 1 else list(rows[0].nodes)
    if len(rows) > 1 and len(rows[0].nodes) > 1:
        return False
    flat_matrix = node("list", ",", *entries)
    pair = (flat_matrix, other) if matrix is reference else (other, flat_matrix)
    return _same_items(*pair)


# --- texts


_TIME = re.compile(
    r"([0-9]{1,2})(?= :| [ap] ?m$)(?: : ([0-9]{2}))?(?: : ([0-9]{2}))?(?: ([ap]) ?m)?"
)


def same_time(reference: str, answer: str) -> bool | None:
    """Times of day; None where the reference is none or the answer is no time."""
    a, b = _TIME.fullmatch(flat(reference)), _TIME.fullmatch(flat(answer))
    if a is None or b is None:
        return None
    if any(int(t[2] or 0) > 59 or int(t[1]) > 24 for t in (a, b)):
        return None
    if a[4] is None and b[4] is not None and 0 < int(a[1]) < 13:
        return False
    same_clock = (int(a[1]), a[2], a[3] or "00") == (int(b[1]), b[2], b[3] or "00")
    if b[4] is None:
        return same_clock or (a[4] is not None and _minutes(a) == _minutes(b))
    return _minutes(a) == _minutes(b) and (a[3] or "00") == (b[3] or "00")


def _minutes(time: re.Match[str]) -> int:
    hour = int(time[1])
    if time[4] is not None:
        hour = hour % 12 + (12 if time[4] == "p" else 0)
    return 60 * hour + int(time[2] or 0)


class Reference:
    """A reference that was read and can be evaluated.

    Args:
        text: LaTeX without the box.
        several: its parts are the answers, in any order.
        unit: what may stand behind it.

    Raises:
        Unreadable, Costly: it is none; the message says why.
    """

    def __init__(self, text: str, *, several: bool = False, unit: Unit | None = None) -> None:
        self.several = several
        self.tree = read(text, commas=not several)
        if unit is not None and self.tree.kind != "quantity":
            self.tree = node("quantity", self.tree, unit)
        for part in _scalars(self.tree):
            _probe(part)

    def equals(self, text: str) -> bool:
        """Whether an answer is right.

        Raises:
            Unreadable, Costly: the answer is not read or evaluated.
        """
        answers: list[Node] = []
        failure: Exception | None = None
        for commas in (True, False):
            try:
                tree = read(text, commas=commas)
            except Unreadable as e:
                failure = e
            else:
                if tree not in answers:
                    answers.append(tree)
        if not answers and self.tree.kind not in ("text", "phrase"):
            assert failure is not None
            raise failure
        if self.tree.kind in ("text", "phrase") and flat(text) == self.tree.parts[0]:
            return True  # June 5 without \\text
        verdicts: list[bool] = []
        for answer in answers:
            try:
                verdicts.append(self._equals(answer))
            except Costly as e:
                failure = e
        if any(verdicts) or len(verdicts) == len(answers):
            return any(verdicts)
        assert failure is not None
        raise failure

    def _equals(self, answer: Node) -> bool:
        if not self.several:
            return same(self.tree, answer)
        given, stated = _assigned(self.tree), _assigned(answer)
        if given is not None and stated is not None:
            return same(self.tree, answer)
        return _unordered(_several(self.tree), _several(answer))


def _several(n: Node) -> list[Node]:
    """The answers of a list: \\pm written out, a common name or their own left out."""
    parts = list(n.nodes) if n.kind == "list" else [n]
    made: list[Node] = []
    for part in parts:
        for chosen in _expanded(part):
            named = _named(chosen)
            value = named[1] if named else chosen
            made += value.nodes if named and value.kind == "set" else [value]
    return made


def _scalars(n: Node) -> Iterator[Node]:
    """The expressions of a tree whose values are asked for."""
    if n.kind in _COMPOUND or n.kind in ("relation", "quantity", "percent", "compound"):
        for part in n.nodes:
            yield from _scalars(part)
    elif not (
        n.kind in ("text", "phrase", "numeral", "constant")
        or infinity(n) is not None
        or has(n, "either")
        or has(n, "relation")
    ):
        yield n


def _probe(n: Node) -> None:
    """Evaluate an expression once, so that what it costs is known to be its own cost."""
    point = next(points(symbols(n), whole_letters(n)))
    try:
        Evaluator(dict(point), LOW).of(n)
    except (ArithmeticError, ValueError):
        return
