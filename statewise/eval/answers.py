"""Mathematical answers: what a completion says, and whether it equals the reference.

Rules, in order; the first that can decide does, and the grade names it:

1. `truncated`: the token limit was reached, or the thinking was never closed.
2. `no box`: the visible text has no complete, non-empty `\\boxed{}`, or its last one is cut off. No
   other number is looked for. Boxes that a comma, "and" or "or" joins are one answer.
3. `exact`: spelled alike, once what only typesets is gone (`latex.py`).
4. `integer`, `rational`: both are literal numbers; compared exactly. 0.333 is not 1/3.
5. `base`, `time`, `choice`: numerals of another base, times of day, a letter among (A) to (H).
6. `expression`: read as mathematics (`expressions.py`) and compared by value (`equality.py`), in a
   worker process with a hard deadline (`workers.py`).

Letters of another case are other letters. Numbers with white space between them are a mixed number,
groups of three digits, or nothing known. Where the reference has words or a unit, those of the
answer must agree or convert (`units.py`); where it has none, a unit may stand behind the answer.

Kind "integer" (AIME, GSM8K) ends with rule 4 and a unit, a label ("the answer is", `n =`) or
brackets around the number; what has to be computed is no integer, but for a power of ten that
scales one. Kind "several" (a part of OlympiadBench) takes reference and answer apart at their outer
commas, at "and" and "or", writes a `\\pm` out, and asks that every part of one equals a part of the
other, in any order. A reference with a tolerance is met by any number that near (`tolerance`); a
unit that the reference names may stand behind the answer.

Text from a model is never executed. An answer that is not read, or not evaluated in time, is
incorrect, and its rule says so: nobody gains by what hangs a grader. Only a reference that is not
read or evaluated leaves an answer `unscored`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from statewise.errors import DataError
from statewise.eval.mathematics.equality import same_time
from statewise.eval.mathematics.evaluator import exact
from statewise.eval.mathematics.expressions import Node, Unreadable, read
from statewise.eval.mathematics.latex import grouped, scan, spelled
from statewise.eval.mathematics.units import Unit, agree
from statewise.eval.mathematics.workers import Comparison, compare
from statewise.records import FinishReason, Outcome
from statewise.text import boxed_answer, boxes_of_last_sentence, split_thinking

MAX_CHARS, MAX_DIGITS = 2_000, 5_000

Kind = Literal["math", "integer", "several"]
Checker = Callable[..., Comparison]


@dataclass(frozen=True, slots=True)
class Grade:
    """What one completion is worth, and why: `Verdict` without the names.

    Attributes:
        outcome: one of five; never a number.
        extracted: the answer as it stands in the box.
        rule: the rule that decided, or the reason why none could.
    """

    outcome: Outcome
    extracted: str | None = None
    rule: str = ""


def grade(
    completion: str,
    answer: str,
    *,
    kind: Kind = "math",
    unit: str = "",
    tolerance: float = 0.0,
    finish_reason: FinishReason = FinishReason.STOP,
    checker: Checker = compare,
) -> Grade:
    """Compare a completion's boxed answer with the reference. Never raises, whatever the text.

    Args:
        completion: what the model wrote after the prompt, thinking included.
        answer: the reference, as LaTeX without the box.
        kind: "math" allows any equal form, "integer" integers alone, "several" many answers.
        unit: LaTeX that may stand behind the answer, with or without a space or `\\text`.
        tolerance: absolute, of answers that are literal numbers.
        finish_reason: why the completion ended.
        checker: the last resort (`workers.compare`).
    """
    visible = split_thinking(completion).visible
    if finish_reason is FinishReason.LENGTH:
        return Grade(Outcome.TRUNCATED, rule="token limit")
    if visible is None:
        return Grade(Outcome.TRUNCATED, rule="thinking never closed")
    boxed = boxed_answer(visible)
    if boxed is None:
        return Grade(Outcome.NO_ANSWER, rule="no box")
    if kind == "integer":
        equal, rule = _compare_integers(answer, boxed)
    elif kind == "several":
        equal, rule = _compare(answer, boxed, checker, several=True)
    elif tolerance and (near := _near(answer, boxed, unit, tolerance)) is not None:
        equal, rule = near, "tolerance"
    else:
        equal, rule = _compare(answer, boxed, checker, unit=unit)
    if equal is False and kind != "integer":
        parts = boxes_of_last_sentence(visible)
        if 1 < len(parts) == parts_of(answer):
            boxed = ", ".join(parts)
            equal, rule = _compare(answer, boxed, checker, several=kind == "several", unit=unit)
        elif ", ".join(parts) == boxed and parts_of(answer) == 1:  # one answer in two forms
            found = [_compare(answer, part, checker, unit=unit) for part in parts]
            equal = all(verdict for verdict, _ in found)
    if equal is None:
        return Grade(Outcome.UNSCORED, boxed, rule)
    return Grade(Outcome.CORRECT if equal else Outcome.INCORRECT, boxed, rule)


def as_kind(name: str, otherwise: Kind) -> Kind:
    """The kind of that name; "" leaves it to the set.

    Raises:
        DataError: there is none.
    """
    for kind in get_args(Kind):
        if kind == name:
            return kind
    if name:
        raise DataError(f"checker {name!r}: there are {', '.join(get_args(Kind))}")
    return otherwise


def _compare(
    reference: str, stated: str, checker: Checker, *, several: bool = False, unit: str = ""
) -> tuple[bool | None, str]:
    """Rules 3 to 6."""
    stated = without_unit(stated, unit) if unit else stated
    a, b = (_spelled(t, commas=not several) for t in (reference, stated))
    if a == b and a:
        return True, "exact"
    if (reason := refusal(reference)) is not None:
        return None, f"the reference is {reason}"
    if (reason := refusal(stated)) is not None:
        return False, reason
    if not several:
        x, y = literal(reference), literal(stated)
        if x is not None and y is not None:
            return x == y, "integer" if x.denominator == y.denominator == 1 else "rational"
        if (based := _compare_bases(a.replace(" ", ""), b.replace(" ", ""))) is not None:
            return based, "base"
        if (timed := same_time(reference, stated)) is not None:
            return timed, "time"
        if (chosen := _compare_choices(a, b)) is not None:
            return chosen, "choice"
    found = checker(reference, stated, several=several, unit=unit)
    repeated = None if found.equal or several else _CHOSEN.fullmatch(b)
    if repeated is not None and not _OTHERWISE.search(repeated[3]):  # (C) 42, for 42
        found = checker(reference, repeated[3], several=several, unit=unit)
    return found.equal, found.rule


def refusal(text: str) -> str | None:
    """Why an answer is not read at all: it is too large to be one."""
    if len(text) > MAX_CHARS:
        return f"refused: {len(text):,} characters, the limit is {MAX_CHARS:,}"
    return None


def _spelled(text: str, *, commas: bool = True) -> str:
    return spelled(grouped(scan(text), commas=commas)) if len(text) <= 4 * MAX_CHARS else text


def literal(text: str) -> Fraction | None:
    """The value of a literal integer, decimal, fraction or mixed number; None for anything else."""
    if len(text) > MAX_CHARS:
        return None
    try:
        tree = read(text)
    except (Unreadable, ValueError):
        return None
    return _literal(tree)


def _literal(n: Node) -> Fraction | None:
    if n.kind == "number":
        value = n.parts[0]
        return value if isinstance(value, Fraction) else None
    if n.kind == "negative" and n.nodes[0].kind != "negative":
        inner = _literal(n.nodes[0])
        return None if inner is None else -inner
    if n.kind == "quotient":
        top, bottom = (_literal(p) for p in n.nodes)
        whole = all(v is not None and v.denominator == 1 for v in (top, bottom))
        if whole and bottom and not any(p.kind == "quotient" for p in n.nodes):
            assert top is not None
            return top / bottom
    return None


def as_integer(text: str) -> int | None:
    """The integer that an answer states: a label before it, a unit behind it, brackets around it.

    `6\\times10^1` is one; what has to be computed otherwise (`66/2`, `2^6`) is none.
    """
    if len(text) > MAX_CHARS:
        return None
    try:
        tree = read(text)
    except (Unreadable, ValueError):
        return None
    value = _integer(tree)
    return None if value is None or value.denominator != 1 else value.numerator


def _integer(n: Node) -> Fraction | None:
    if n.kind == "quantity":
        unit = n.parts[1]
        assert isinstance(unit, Unit)
        inner = _integer(n.nodes[0])
        if inner is None or (unit.changes and not unit.multiplier):
            return None
        return inner * (unit.multiplier or 1)
    if n.kind in ("percent", "degrees", "bracketed"):
        return _integer(n.nodes[0])
    if n.kind == "set" and len(n.nodes) == 1:
        return _integer(n.nodes[0])
    if n.kind == "negative":
        inner = _integer(n.nodes[0])
        return None if inner is None else -inner
    if n.kind == "number":
        value = n.parts[0]
        return value if isinstance(value, Fraction) and n.parts[1:] != ("mixed",) else None
    if n.kind == "numeral" and n.parts[1] == "10":
        return exact(n)
    if n.kind == "product" and len(n.nodes) == 2:
        scale = n.nodes[1]
        if scale.kind == "symbol" and scale.parts[0] in ("m", "g", "s", "h", "L"):
            return _integer(n.nodes[0])  # 60m: the reference has no letters
        if scale.kind == "power" and scale.nodes[0].parts == (Fraction(10),):
            by, inner = exact(scale), _integer(n.nodes[0])
            return None if by is None or inner is None else inner * by
        return None
    if n.kind == "relation" and set(n.parts[1::2]) == {"="}:
        sides = [_integer(p) for p in n.nodes]
        if sides[-1] is not None and all(s is None for s in sides[:-1]):
            return sides[-1]
        return sides[0] if len(sides) == 2 and n.nodes[1].kind == "symbol" else None
    return None


def _compare_integers(reference: str, stated: str) -> tuple[bool | None, str]:
    expected = as_integer(reference)
    if expected is None:
        return None, f"the reference {reference[:80]!r} is not an integer"
    if (reason := refusal(stated)) is not None:
        return False, reason
    return as_integer(stated) == expected, "integer"


def parts_of(reference: str) -> int:
    """How many answers a reference lists."""
    try:
        tree = read(reference, commas=False) if len(reference) <= MAX_CHARS else None
    except (Unreadable, ValueError):
        return 1
    return len(tree.nodes) if tree is not None and tree.kind == "list" else 1


def _near(reference: str, stated: str, unit: str, tolerance: float) -> bool | None:
    a, b = literal(reference), literal(without_unit(stated, unit))
    if a is None or b is None:
        return None
    return abs(a - b) <= Fraction(str(tolerance))


def without_unit(text: str, unit: str) -> str:
    """An answer without the unit behind it, if that is spelled as the reference spells it."""
    bare = "".join(t.text for t in scan(unit))
    tokens = scan(text)
    behind = ""
    for cut in range(len(tokens) - 1, 0, -1):
        behind = tokens[cut].text + behind
        if bare and behind in (bare, bare + "s", bare.removesuffix("s")):
            return spelled(tokens[:cut])
    return text


def undecided(reference: str, answer: str) -> str:
    """Why answers that the rules tell apart may yet be one: what decides it is not known here.

    Returns:
        "units": the same number of what is named differently, and none is converted; "rounding":
        one is the other to fewer places, and nobody stated a tolerance; "" where neither is so.
    """
    (x, mine), (y, theirs) = _quantity(reference), _quantity(answer)
    if x is None or y is None:
        return ""
    factor = Fraction(1)
    if mine is not None and theirs is not None:
        converted = agree(mine, theirs)
        if converted is None:
            return "units" if x == y else ""
        factor = converted
    for text, scale in ((reference, Fraction(1)), (answer, factor)):
        places = re.search(r"[0-9]\.([0-9]+)", text)
        if places and abs(x - y * factor) <= scale / (2 * 10 ** len(places[1])):
            return "rounding"
    return ""


def _quantity(text: str) -> tuple[Fraction | None, Unit | None]:
    if len(text) > MAX_CHARS:
        return None, None
    try:
        tree = read(text)
    except (Unreadable, ValueError):
        return None, None
    if tree.kind != "quantity":
        return _literal(tree), None
    unit = tree.parts[1]
    assert isinstance(unit, Unit)
    return _literal(tree.nodes[0]), unit


def canonical(answer: str) -> str:
    """One spelling for answers that are literally the same number or text, for counting votes."""
    try:
        tree = read(answer) if len(answer) <= MAX_CHARS else None
    except (Unreadable, ValueError):
        tree = None
    while tree is not None and tree.kind in ("quantity", "degrees", "percent"):
        tree = tree.nodes[0]  # a unit does not make another answer
    value = _literal(tree) if tree is not None else None
    return str(value) if value is not None else _spelled(answer) or answer.strip()


_BASED = re.compile(r"([0-9A-Z]*[0-9][0-9A-Z]*)_(?:\{([0-9]+)\}|([0-9]+))")


def _compare_bases(a: str, b: str) -> bool | None:
    """Numerals with their base, such as 4210_5. The reference may name a base the answer omits."""
    x, y = _BASED.fullmatch(a), _BASED.fullmatch(b)
    if x and y:
        same_base = int(x[2] or x[3]) == int(y[2] or y[3])
        return same_base and x[1].lstrip("0").upper() == y[1].lstrip("0").upper()
    if x and b.isalnum():
        return x[1].lstrip("0").upper() == b.lstrip("0").upper()
    if y and re.fullmatch(r"[+-]?[0-9]+", a):
        base = int((y[2] or y[3])[:3])
        digits = [int(d, 36) for d in y[1]]
        if not 2 <= base <= 36 or any(d >= base for d in digits):
            return False
        value = sum(d * base**i for i, d in enumerate(reversed(digits)))
        return bool(value == int(a))
    return None


_CHOICE = re.compile(r"\(?([A-H])\)?")
_CHOSEN = re.compile(
    r"(?:(?:[Cc]hoice|[Oo]ption|[Aa]nswer)[ :]*)?(?:\(([A-H])\)|([A-H])[).:]) *(.+)"
)
_OTHERWISE = re.compile(
    r"(?:^|[^A-Za-z\\])(?:(?:or|and)?[A-H]|or|and|not|no)(?![A-Za-z])|^[-+*/^=<>_,!.]"
)


def _compare_choices(a: str, b: str) -> bool | None:
    """A letter among choices, where the answer repeats what the letter stands for."""
    wanted, chosen = _CHOICE.fullmatch(a), _CHOSEN.fullmatch(b)
    if wanted is None or chosen is None or _OTHERWISE.search(chosen[3]):
        return None
    return wanted[1] == (chosen[1] or chosen[2])
