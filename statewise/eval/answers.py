"""Mathematical answers: what a completion says, and whether it equals the reference.

Rules, in order; the first that can decide does, and the grade names it:

1. `truncated`: the token limit was reached, or the thinking was never closed.
2. `no box`: the visible text has no complete, non-empty `\\boxed{}`. No other number is looked for.
3. `exact`: equal as strings once spacing and typesetting are normalised.
4. `integer`, `rational`: both are literal numbers; compared exactly. 0.333 is not 1/3.
5. `base`, `brackets`: a subscripted base, or a tuple against a set or an interval.
6. `math-verify`: Math-Verify in a worker process with a hard deadline (`workers.py`).

Kind "integer" (AIME, GSM8K) ends with rule 4: what is not an integer is wrong. Kind "several" (a
part of OlympiadBench) takes reference and answer apart at their outer commas, at "and" and "or",
writes a `\\pm` out, and asks that every part of one equals a part of the other, in any order. A
reference with a tolerance is met by any number that near (`tolerance`); a unit that the reference
names may stand behind the answer. Text from a model is
never evaluated; what Math-Verify does not get to read (too long, too deep, a tower of powers) or
does not finish is `unscored`, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from statewise.errors import DataError
from statewise.eval.workers import compare
from statewise.records import FinishReason, Outcome
from statewise.text import last_boxed, split_thinking

MAX_CHARS, MAX_DEPTH, MAX_DIGITS, MAX_PARTS = 2_000, 64, 256, 32

Kind = Literal["math", "integer", "several"]
Checker = Callable[[str, str], bool | str]


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
        checker: the last resort, called with reference and answer: equal or not, or as a string
            why that cannot be said.
    """
    visible = split_thinking(completion).visible
    if finish_reason is FinishReason.LENGTH:
        return Grade(Outcome.TRUNCATED, rule="token limit")
    if visible is None:
        return Grade(Outcome.TRUNCATED, rule="thinking never closed")
    boxed = last_boxed(visible)
    if boxed is None:
        return Grade(Outcome.NO_ANSWER, rule="no box")
    stated = without_unit(boxed, unit)
    if kind == "integer":
        verdict, rule = _compare_integers(answer, stated)
    elif kind == "several":
        verdict, rule = _compare_several(answer, stated, checker)
    elif tolerance and (near := _near(answer, stated, tolerance)) is not None:
        verdict, rule = near, "tolerance"
    else:
        verdict, rule = _compare(answer, stated, checker)
    if isinstance(verdict, str):
        return Grade(Outcome.UNSCORED, boxed, verdict)
    return Grade(Outcome.CORRECT if verdict else Outcome.INCORRECT, boxed, rule)


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


def _compare(reference: str, stated: str, checker: Checker) -> tuple[bool | str, str]:
    named, also = _NAMED.fullmatch(normalise(reference)), _NAMED.fullmatch(normalise(stated))
    if named and also and named[1] == also[1]:  # x=3 and x=4: what is on the right decides
        return _compare(named[2], also[2], checker)
    verdict, rule = _equal(reference, stated)
    if verdict is None:
        return checker(reference, _in_the_shape_of(reference, stated)), "math-verify"
    return verdict, rule


_NAMED = re.compile(r"([A-Za-z](?:_(?:\{[^{}=]*\}|\w+))?(?:\([a-z]\))?)=([^=<>]+)")


def _near(reference: str, stated: str, tolerance: float) -> bool | None:
    a, b = as_rational(reference), as_rational(stated)
    if a is None or b is None:
        return None
    return abs(a - b) <= Fraction(str(tolerance))


def without_unit(text: str, unit: str) -> str:
    """An answer without the unit behind it, if it is the one that the reference names."""
    bare = normalise(unit)
    if not bare:
        return text
    spelled = normalise(text)
    for form in (bare, bare + "s", bare.removesuffix("s")):
        if form and spelled.endswith(form) and spelled != form:
            return spelled.removesuffix(form)
    return text


_QUANTITY = re.compile(
    r"(?P<number>.*?[0-9}])(?:\\[,;:! ]|~|\s)*"
    r"(?:\\(?:text|mbox|mathrm|textrm)\s*\{(?P<unit>[^{}]*[A-Za-z][^{}]*)\}"
    r"|(?<=[0-9] )(?P<bare>[A-Za-z]+))\$?\.?"
)


def undecided(reference: str, answer: str) -> str:
    """Why answers that the rules tell apart may yet be one: what decides it is not known here.

    Returns:
        "units": both name a unit, each another, and none is converted; "rounding": one is the other
        to fewer places, and nobody stated a tolerance; "" where neither is so.
    """
    if refusal(reference) or refusal(answer):
        return ""
    a, b = _QUANTITY.fullmatch(reference.strip()), _QUANTITY.fullmatch(answer.strip())
    if a and b and _unit_name(a) != _unit_name(b):
        return "units"
    a_text, b_text = (m["number"] if m else t for m, t in ((a, reference), (b, answer)))
    x, y = as_rational(a_text), as_rational(b_text)
    if x is None or y is None:
        return ""
    for text in (a_text, b_text):
        whole, point, places = normalise(text).partition(".")
        if point and whole and abs(x - y) <= Fraction(1, 2 * 10 ** len(places)):
            return "rounding"
    return ""


def _unit_name(quantity: re.Match[str]) -> str:
    return (quantity["unit"] or quantity["bare"]).strip().casefold().removesuffix("s")


def parts(text: str) -> list[str]:
    """An answer's parts: cut at outer commas, semicolons, "and" and "or"; `\\pm` written out."""
    text = text.replace("\\$", "").replace("$", "").strip().removesuffix(".")
    text = re.sub(r"\\(?:text|mathrm|textrm)\s*\{\s*(and|or)\s*\}|\b(?:and|or)\b", ",", text)
    cuts, depth = [-1], 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c in ",;" and depth == 0 and text[i - 1 : i] != "\\":
            cuts.append(i)
    pieces = [text[a + 1 : b].strip() for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    written = []
    for piece in pieces:
        if "\\pm" in piece:
            written += [piece.replace("\\pm", "+"), piece.replace("\\pm", "-")]
        elif piece:
            written.append(piece.rpartition("=")[2].strip() or piece)
    return written


def _compare_several(reference: str, stated: str, checker: Checker) -> tuple[bool | str, str]:
    if normalise(reference) == normalise(stated):
        return True, "exact"
    if (reason := refusal(stated)) is not None:
        return reason, ""
    wanted, got = parts(reference), parts(stated)
    if len(wanted) > MAX_PARTS:
        return f"the reference has {len(wanted)} parts", ""
    if len(got) != len(wanted):
        return False, f"{len(got)} answers for {len(wanted)}"
    for part in wanted:
        undecided = ""
        for i, candidate in enumerate(got):
            verdict, _ = _compare(part, candidate, checker)
            if verdict is True:
                del got[i]
                break
            undecided = verdict if isinstance(verdict, str) else undecided
        else:
            return (undecided, "") if undecided else (False, "several")
    return True, "several"


def canonical(answer: str) -> str:
    """One spelling for answers that are literally the same, for counting votes."""
    if refusal(answer):
        return answer.strip()
    value = as_rational(answer)
    return str(value) if value is not None else normalise(answer)


_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|~|\s+")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_SIZES = re.compile(r"\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")


def normalise(text: str) -> str:
    """Strip what only typesets: spacing, sizes, dollars, degrees, percent signs, a final stop."""
    text = text.replace("−", "-").replace("\\$", "").replace("$", "").replace("{,}", ",")
    text = _SIZES.sub("", text)
    text = _WRAPPER.sub(r"\1", text)
    text = _SPACING.sub("", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = re.sub(r"\^\{?\\circ\}?|°|\\degree(?![a-zA-Z])", "", text)
    text = re.sub(r"\\?%$", "", text.removesuffix("."))
    return text.removesuffix(".")


_INTEGER = re.compile(r"[+-]?[0-9]+")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)")
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([0-9]+))",
)


def as_rational(text: str) -> Fraction | None:
    """The value of a literal integer, decimal or fraction of integers; None for anything else."""
    text = normalise(text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, *parts = match.groups()
    top, bottom = (int(p) for p in parts if p is not None)
    if bottom == 0:
        return None
    return Fraction(-top if sign == "-" else top, bottom)


def as_integer(text: str) -> int | None:
    """The integer that an answer states, a name before it and a unit behind it set aside."""
    text = text.rpartition("=")[2]
    text = re.sub(r"\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"(?<=[0-9.])\s+[A-Za-z][A-Za-z .]*$", "", text.strip())
    value = as_rational(text) if not _FRACTION.fullmatch(normalise(text)) else None
    return value.numerator if value is not None and value.denominator == 1 else None


_TOWER = re.compile(r"\^\s*[0-9]\s*\^|\^\s*\{[^{}]*[0-9]\s*\)?\s*\^\s*\{?\s*[0-9]")


def refusal(text: str) -> str | None:
    """Why an answer is not parsed: it is too large to be an answer, or made to cost time."""
    if len(text) > MAX_CHARS:
        return f"refused: {len(text):,} characters, the limit is {MAX_CHARS:,}"
    depth = deepest = 0
    for c in text:
        depth += (c in "({[") - (c in ")}]")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"refused: {deepest} levels of brackets, the limit is {MAX_DEPTH}"
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", normalise(text).replace(",", "")):
        return f"refused: a number of more than {MAX_DIGITS} digits"
    if _TOWER.search(text):
        return "refused: a tower of powers"
    if re.search(r"\^\s*\{?\s*\(?\s*[0-9]{5}", text):
        return "refused: a power of five or more digits"
    return None


def _compare_integers(reference: str, stated: str) -> tuple[bool | str, str]:
    if (reason := refusal(stated) or refusal(reference)) is not None:
        return reason, ""
    expected = as_integer(reference)
    if expected is None:
        return f"the reference {reference!r} is not an integer", ""
    return as_integer(stated) == expected, "integer"


def _equal(reference: str, stated: str) -> tuple[bool | str | None, str]:
    """Rules 3 to 5: equal or not and by which rule, a reason not to look, or None: undecided."""
    if (share := _as_share(reference, stated)) is not None:
        return share, "percent"
    mine, theirs = _unit_power(reference), _unit_power(stated)
    if mine and theirs and mine[0] == theirs[0] and mine[1] != theirs[1]:
        return False, "unit"  # cm^2 and cm^3; Math-Verify takes both for no more than a unit
    a, b = normalise(reference), normalise(stated)
    if a == b and a:
        return True, "exact"
    if "\\text" in reference and a.casefold() == b.casefold():
        return True, "exact"
    if (reason := refusal(stated) or refusal(reference)) is not None:
        return reason, ""
    x, y = as_rational(reference), as_rational(stated)
    if x is not None and y is not None and (x == y or "," not in a):  # "100,200" may be a list
        both = _INTEGER.fullmatch(a) and _INTEGER.fullmatch(b)
        return x == y, "integer" if both else "rational"
    based = _compare_bases(a, b)
    if based is not None:
        return based, "base"
    shape, other = _brackets(a), _brackets(b)
    if shape and other and shape != other:
        return False, "brackets"
    return None, ""


_POWER = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{([^{}]*)\}\s*\^\s*\{?\s*(\d+)\s*\}?\$?\s*$")


def _unit_power(text: str) -> tuple[str, str] | None:
    """The unit that an answer ends in, and its power, where both are written out."""
    match = _POWER.search(text[-80:])
    return (match[1].strip().casefold(), match[2]) if match else None


_PERCENT = re.compile(r"%\s*\$?\s*\.?\s*\$?\s*$")


def _as_share(reference: str, stated: str) -> bool | None:
    """A percentage against a proper fraction, which it must equal as a share.

    Where the reference is a percentage itself, or a number of at least one, the percent sign is
    only a unit ("what percentage ...").
    """
    if not _PERCENT.search(stated) or _PERCENT.search(reference) or refusal(stated):
        return None
    share, percents = as_rational(reference), as_rational(stated)
    if share is None or percents is None or share.denominator == 1 or abs(share) > 1:
        return None
    return percents == 100 * share


_BASED = re.compile(r"([0-9A-Za-z]+)_(?:\{([0-9]+)\}|([0-9]+))")


def _compare_bases(a: str, b: str) -> bool | None:
    """Numerals with their base, such as 4210_5. The reference may name a base the answer omits."""
    x, y = _BASED.fullmatch(a), _BASED.fullmatch(b)
    if x and x[1][0].isalpha():  # a variable with an index
        return None
    if x and y:
        same_base = int(x[2] or x[3]) == int(y[2] or y[3])
        return same_base and x[1].lstrip("0").upper() == y[1].lstrip("0").upper()
    if x and b.isalnum():
        return x[1].lstrip("0").upper() == b.lstrip("0").upper()
    if y and _INTEGER.fullmatch(a):
        base = int(y[2] or y[3])
        digits = [int(d, 36) for d in y[1]]
        if not 2 <= base <= 36 or any(d >= base for d in digits):
            return False
        value = sum(d * base**i for i, d in enumerate(reversed(digits)))
        return bool(value == int(a))
    return None


def _brackets(text: str) -> str:
    """The pair of brackets around a whole list: "()", "[)", "{}" and so on; "" if there is none."""
    text = text.replace("\\{", "\x01").replace("\\}", "\x02").replace("\\lbrace", "\x01")
    text = text.replace("\\rbrace", "\x02")
    opening, closing = "([\x01", ")]\x02"
    if len(text) < 2 or text[0] not in opening or text[-1] not in closing:
        return ""
    depth, commas = 0, 0
    for i, c in enumerate(text):
        depth += (c in opening + "{") - (c in closing + "}")
        commas += c == "," and depth == 1
        if depth == 0 and i < len(text) - 1:
            return ""  # two groups side by side
    return "()[]{}"[opening.index(text[0]) * 2] + ")]}"[closing.index(text[-1])] if commas else ""


def _in_the_shape_of(reference: str, stated: str) -> str:
    """Put brackets around a bare list where the reference is an ordered tuple."""
    if _brackets(normalise(reference)) != "()":
        return stated
    wrapped = f"({stated})"
    return wrapped if _brackets(normalise(wrapped)) and not _brackets(normalise(stated)) else stated
