"""What the workbook knows of one mathematical concept, and how its wordings are read back.

A template is written once, as "context|noun phrase|question" (context and question may be empty),
with slots in braces. It generates text when the slots are filled. For reading, a text is reduced
to its skeleton: every number, expression, person and thing is lifted out and a mark left behind.
A template's own skeleton, computed by the same reduction, is then a dictionary key, so reading is
one lookup a sentence, however many templates there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import NamedTuple

from statewise.records import Concept

NAMES = ("Ana", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kim", "Leo")
ITEMS = ("apples", "books", "cards", "coins", "marbles", "pens", "shells", "stamps")
# "a" is left out because it is also a word; x and y are the unknowns of equations.
VARIABLES = (("m", "n", "k"), ("p", "q", "r"), ("u", "v", "w"))

_SLOT = re.compile(
    rf"\b(?:({'|'.join(NAMES)})\b|({'|'.join(ITEMS)})\b"
    r"|(\d*[mnkpqruvw]\b(?: [+-] \d+)?|\d+))",
    re.ASCII,
)
LONGEST_SLOT = 16  # characters; the workbook writes no longer number or expression
_EXPRESSION = re.compile(r"(\d*)([mnkpqruvw])(?: ([+-]) (\d+))?")
_FIELD = re.compile(r"\{(\w+)\}")


def long_product(x: int, y: int) -> list[str]:
    """The lines of x * y, digit by digit of x: 37*5 is 30*5=150, 7*5=35, 150+35=185."""
    digits = str(x)
    parts = [int(d) * 10 ** (len(digits) - 1 - i) for i, d in enumerate(digits) if d != "0"] or [0]
    lines, total = [f"{parts[0]}*{y}={parts[0] * y}"], parts[0] * y
    for part in parts[1:]:
        lines += [f"{part}*{y}={part * y}", f"{total}+{part * y}={total + part * y}"]
        total += part * y
    return lines


def long_division(x: int, y: int) -> tuple[list[str], list[int]]:
    """The lines of x / y, tens before ones, and the parts of the quotient that they find.

    116/5 counts up by 50 until it has 116 or more, 50 100 150, takes 100 away, 116-100=16, then by
    5, 5 10 15 20, and 16-15=1; the parts are 20 and 3. To count up is one small step after another,
    where to see at once what 5 goes into is a large one; and that a number is too large is seen
    more easily once it stands there.
    """
    lines, parts, rest = [f"{x}/{y}"], [], x
    for unit in (10, 1):
        if not rest:
            break
        step = unit * y
        lines.append(" ".join(str(m) for m in range(step, rest + step, step)))
        if rest >= step:
            parts.append(unit * (rest // step))
            lines.append(f"{rest}-{rest - rest % step}={rest % step}")
            rest %= step
        elif unit == 1:
            lines.append(f"so {rest}")
    return lines, parts or [0]


class Link(NamedTuple):
    """A linear expression in an earlier result: `factor * result + addend`."""

    factor: int
    addend: int

    def of(self, value: int) -> int:
        """Its value where the earlier result is `value`."""
        return self.factor * value + self.addend

    def text(self, variable: str) -> str:
        """How it is written, such as "3m + 5"."""
        head = variable if self.factor == 1 else f"{self.factor}{variable}"
        if not self.addend:
            return head
        return f"{head} {'+' if self.addend > 0 else '-'} {abs(self.addend)}"

    def trace(self, variable: str, value: int) -> str:
        """Its evaluation, one operation at a time."""
        parts = [self.text(variable).replace(" ", "")]
        tail = f"{self.addend:+d}" if self.addend else ""
        if self.factor > 1:
            parts.append(f"{self.factor}*{value}{tail}")
        if tail:
            parts.append(f"{self.factor * value}{tail}")
        parts.append(str(self.of(value)))
        return "=".join(parts)


def skeleton(text: str) -> tuple[str, list[str]]:
    """The text with marks for what was lifted out, and the numbers and expressions in order."""
    slots: list[str] = []

    def lift(match: re.Match[str]) -> str:
        group = match.lastindex
        if group == 1:
            return "@"
        if group == 2:
            return "%"
        slots.append(match.group())
        return "#"

    return _SLOT.sub(lift, text), slots


def read_expression(text: str) -> tuple[str, Link] | int:
    """A lifted number, or the variable and the linear expression in it."""
    if text.isdigit():
        return int(text)
    match = _EXPRESSION.fullmatch(text)
    assert match is not None, text  # `skeleton` lifts nothing else
    factor, variable, sign, addend = match.groups()
    shift = int(addend or 0)
    return variable, Link(int(factor or 1), -shift if sign == "-" else shift)


class Pattern:
    """One piece of wording with slots: fills them, and names them in reading order."""

    def __init__(self, source: str) -> None:
        self.source = source
        pieces = _FIELD.split(source)
        self._literals = pieces[0::2]
        self._fields = pieces[1::2]
        # Literal numbers ("from 1 to {n}") are lifted too; they are read back as constants.
        marks = {name: str(90_000 + i) for i, name in enumerate(self._fields)}
        named = {mark: name for name, mark in marks.items()}
        dummies = {**marks, "name": NAMES[0], "item": ITEMS[0]}
        self.skeleton, slots = skeleton(self.fill(dummies))
        self.reads = tuple(named.get(text, f"={text}") for text in slots)

    def fill(self, values: dict[str, str]) -> str:
        """The wording with every slot replaced."""
        out = [self._literals[0]]
        for field, literal in zip(self._fields, self._literals[1:], strict=True):
            out.append(values[field])
            out.append(literal)
        return "".join(out)


class Wording:
    """A template: an optional sentence of context, a noun phrase, and perhaps a question."""

    def __init__(self, source: str) -> None:
        context, _, rest = source.rpartition("|") if source.count("|") == 1 else ("", "", source)
        phrase, question = rest, ""
        if source.count("|") == 2:
            context, phrase, question = source.split("|")
        self.context = Pattern(context) if context else None
        self.phrase = phrase
        self.question = Pattern(question) if question else None


@dataclass(frozen=True, slots=True, eq=False)
class Skill:
    """One mathematical concept in both directions: wordings and parameters, trace and check.

    `derive` and `check` take the slots' values as positional arguments. They must not share code:
    their agreement is what verifies an answer.
    """

    name: str
    domain: str
    slots: dict[str, tuple[int, int]]  # each parameter and the range it is drawn from
    carrier: str  # the slot that may hold an earlier result
    reach: tuple[int, int]  # the values the carrier may take then
    wordings: tuple[Wording, ...]
    derive: Callable[..., tuple[str, int]]  # the trace, which ends in the result, and the result
    check: Callable[..., int]  # the result by another method
    valid: Callable[..., bool] = lambda *_: True  # is the question well-posed?
    mild: Callable[..., bool] = lambda *_: True  # is it small enough to be worked in the head?
    symmetric: bool = False  # do the parameters commute?
    core: bool = False

    @property
    def concept(self) -> Concept:
        """The concept this skill teaches."""
        return Concept(self.name, self.domain, "math")

    def trained(self, slot: str) -> tuple[int, int]:
        """The smallest and the largest value that training problems have in a slot."""
        lo, hi = self.slots[slot]
        if slot == self.carrier:
            return min(lo, self.reach[0]), max(hi, self.reach[1])
        return lo, hi

    def beyond(self, slot: str) -> tuple[int, int]:
        """The values above those, half as many again, that only held-out problems have."""
        lo, hi = self.trained(slot)
        return hi + 1, hi + max((hi - lo) // 2, 2)

    def is_beyond(self, args: tuple[int, ...]) -> bool:
        """Whether a parameter is larger than any that training problems have in its slot.

        Of parameters that commute, whichever way round: 9 + 120 is beyond only if 120 + 9 is.
        """
        tops = [self.trained(slot)[1] for slot in self.slots]
        orders = permutations(args) if self.symmetric else (args,)
        return all(any(a > top for a, top in zip(o, tops, strict=True)) for o in orders)

    def accepts(self, args: tuple[int, ...]) -> bool:
        """Whether these parameters make a well-posed question of the size the workbook writes."""
        return self.valid(*args) and all(
            self.trained(slot)[0] <= a <= self.beyond(slot)[1]
            for slot, a in zip(self.slots, args, strict=True)
        )

    def content(self, args: tuple[int, ...]) -> str:
        """What is asked, independent of wording and of where the numbers come from."""
        ordered = sorted(args) if self.symmetric else args
        return f"{self.name}({','.join(map(str, ordered))})"

    def draw(
        self,
        rng: Random,
        carried: int | None = None,
        *,
        admits: Callable[[str], bool] = lambda _: True,
        beyond: bool = False,
    ) -> tuple[int, ...] | None:
        """Parameters for a well-posed, mild question, or None after many failed attempts.

        Args:
            rng: draws them.
            carried: an earlier result, for the carrier's slot.
            admits: which contents may be drawn.
            beyond: draw each parameter beyond the trained range with even odds, and at least one.
        """
        uniform = rng.random
        for _ in range(200):
            args = tuple(
                carried
                if carried is not None and slot == self.carrier
                else lo + int(uniform() * (hi - lo + 1))
                for slot, (lo, hi) in self._spans(rng, beyond=beyond)
            )
            if (
                self.valid(*args)
                and self.mild(*args)
                and admits(self.content(args))
                and (not beyond or self.is_beyond(args))
            ):
                return args
            if carried is not None and len(args) == 1:
                break  # the next attempt would be the same
        return None

    def _spans(self, rng: Random, *, beyond: bool) -> Iterable[tuple[str, tuple[int, int]]]:
        if not beyond:
            return self.slots.items()
        return [(s, self.beyond(s) if rng.random() < 0.5 else self.slots[s]) for s in self.slots]


def wordings(*sources: str) -> tuple[Wording, ...]:
    """Templates from their sources."""
    return tuple(Wording(source) for source in sources)
