"""Mathematical problems as plans, and plans as English: both directions.

A plan is a chain of steps. Each but the last defines a variable; each but the first uses the one
before it in its carrier slot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from statewise.synth.workbook.skill import (
    ITEMS,
    LONGEST_SLOT,
    NAMES,
    VARIABLES,
    Link,
    Pattern,
    Skill,
    Wording,
    read_expression,
    skeleton,
)

LARGEST_ANSWER = 999
LARGEST_STEP = 199  # that a further step goes on from: a small integer, as the drafts say
_DEFINE = (
    "Let {var} be {phrase}.",
    "Suppose {var} is {phrase}.",
    "Let {var} denote {phrase}.",
    "Write {var} for {phrase}.",
)
_ASK = (
    "What is {phrase}?",
    "Find {phrase}.",
    "Compute {phrase}.",
    "Determine {phrase}.",
    "Calculate {phrase}.",
)
_SENTENCE_END = re.compile(r"(?<=[.?]) ")


class IllPosed(ValueError):
    """The statement is understood in part, but asks nothing that can be answered."""


class Foreign(ValueError):
    """The statement is not one that the workbook could have written."""


@dataclass(frozen=True, slots=True)
class Step:
    """A skill and its parameters; a `Link` stands for an expression in the step before."""

    skill: Skill
    args: tuple[int | Link, ...]

    def accepted_values(self, previous: int | None) -> tuple[int, ...]:
        """The parameters as numbers.

        Raises:
            IllPosed: they make no well-posed question.
        """
        values = []
        for a in self.args:
            if isinstance(a, Link):
                if previous is None:
                    raise IllPosed("the first step refers to an earlier one")
                values.append(a.of(previous))
            else:
                values.append(a)
        args = tuple(values)
        if not self.skill.accepts(args):
            raise IllPosed(f"{self.skill.name} of {args} is not well-posed")
        return args

    def givens(self, variable: str) -> str:
        """The concept and its parameters; `variable` names the step before."""
        texts = [
            a.text(variable).replace(" ", "") if isinstance(a, Link) else str(a) for a in self.args
        ]
        return f"{self.skill.name} {','.join(texts)}"

    def key(self) -> str:
        """The content of the step, independent of its wording."""
        parts = [f"{a.factor}@{a.addend:+d}" if isinstance(a, Link) else str(a) for a in self.args]
        return f"{self.skill.name}({','.join(sorted(parts) if self.skill.symmetric else parts)})"


@dataclass(frozen=True, slots=True)
class Plan:
    """A problem without its wording."""

    steps: tuple[Step, ...]

    @property
    def key(self) -> str:
        """The canonical content: equal for two wordings of one problem."""
        return " > ".join(step.key() for step in self.steps)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of its concepts, in order."""
        return tuple(step.skill.name for step in self.steps)

    @property
    def contents(self) -> tuple[str, ...]:
        """Of each step its concept with its numbers, worked out.

        Raises:
            IllPosed: a step is not well-posed.
        """
        value: int | None = None
        contents = []
        for step in self.steps:
            args = step.accepted_values(value)
            contents.append(step.skill.content(args))
            value = step.skill.derive(*args)[1]
        return tuple(contents)

    def verify(self) -> int:
        """The answer by the skills' independent checks.

        Raises:
            IllPosed: a step is not well-posed, or the answer is out of range.
        """
        value: int | None = None
        for step in self.steps:
            value = step.skill.check(*step.accepted_values(value))
        return _in_range(value)

    def solve(self, variables: Sequence[str]) -> tuple[list[str], int]:
        """The lines of a worked solution and the answer, by the skills' derivations.

        The givens of every step come first, each with the name of its concept, from the last
        sentence to the first: what was read last is written down first. Each further step repeats
        its line, so that what follows needs only numbers that stand close by.

        Raises:
            IllPosed: a step is not well-posed, or the answer is out of range.
        """
        givens = [s.givens(variables[i - 1] if i else "") for i, s in enumerate(self.steps)]
        lines = givens[::-1]
        value: int | None = None
        last = len(self.steps) - 1
        for i, step in enumerate(self.steps):
            if value is not None:
                lines.append(givens[i])
                for a in step.args:
                    if isinstance(a, Link) and a != Link(1, 0):
                        lines.append(a.trace(variables[i - 1], value))
            trace, value = step.skill.derive(*step.accepted_values(value))
            lines.append(trace if i == last else f"{trace}\n{variables[i]}={value}")
        return lines, _in_range(value)


def _in_range(answer: int | None) -> int:
    assert answer is not None  # a plan has a step
    if not 0 <= answer <= LARGEST_ANSWER:
        raise IllPosed(f"the answer {answer} is not between 0 and {LARGEST_ANSWER}")
    return answer


@dataclass(frozen=True, slots=True)
class _Entry:
    """A known sentence: its skill, the slots in reading order, and whether it ends the problem."""

    skill: Skill
    reads: tuple[str, ...]
    asks: bool


class Language:
    """Writes and reads problems about a set of skills.

    Args:
        skills: the concepts.
        reserved: of a concept's name, one more wording that is read, and written on request only.

    Raises:
        ValueError: two wordings cannot be told apart.
    """

    def __init__(self, skills: Sequence[Skill], reserved: Mapping[str, Wording]) -> None:
        self._entries: dict[str, _Entry] = {}
        self._define: dict[Wording, tuple[Pattern, ...]] = {}
        self._ask: dict[Wording, tuple[Pattern, ...]] = {}
        self._reserved = reserved
        for skill in skills:
            for wording in (*skill.wordings, reserved[skill.name]):
                self._learn(skill, wording)

    def _learn(self, skill: Skill, wording: Wording) -> None:
        define = tuple(Pattern(s.replace("{phrase}", wording.phrase)) for s in _DEFINE)
        ask = tuple(Pattern(s.replace("{phrase}", wording.phrase)) for s in _ASK)
        if wording.question:
            # A question of its own reads best; it gets as much weight as all the others together.
            ask += (wording.question,) * len(ask)
        self._define[wording], self._ask[wording] = define, ask
        context = wording.context
        for patterns, asks in ((define, False), (ask, True)):
            for pattern in patterns:
                key = f"{context.skeleton} {pattern.skeleton}" if context else pattern.skeleton
                reads = (context.reads if context else ()) + pattern.reads
                known = self._entries.setdefault(key, _Entry(skill, reads, asks))
                if known.skill is not skill or known.reads != reads:
                    raise ValueError(f"two wordings cannot be told apart: {key!r}")

    def write(
        self,
        plan: Plan,
        rng: Random,
        *,
        variables: Sequence[str] = (),
        dangling: bool = False,
        reserved: bool = False,
    ) -> str:
        """One of the many statements of a plan.

        Args:
            plan: the content.
            rng: chooses the wording.
            variables: names for the intermediate results; drawn if not given.
            dangling: leave the definition of the last question's operand out, on purpose.
            reserved: use the concepts' reserved wordings.
        """
        names = list(variables) or list(rng.choice(VARIABLES))
        fills = {"name": rng.choice(NAMES), "item": rng.choice(ITEMS)}
        sentences: list[str] = []
        last = len(plan.steps) - 1
        for i, step in enumerate(plan.steps):
            wording = (
                self._reserved[step.skill.name] if reserved else rng.choice(step.skill.wordings)
            )
            values = dict(fills)
            for slot, a in zip(step.skill.slots, step.args, strict=True):
                values[slot] = a.text(names[i - 1]) if isinstance(a, Link) else str(a)
                if dangling and i == last and slot == step.skill.carrier:
                    values[slot] = next(v[0] for v in VARIABLES if v[0] not in names)
            if i < last:
                values["var"] = names[i]
                pattern = rng.choice(self._define[wording])
            else:
                pattern = rng.choice(self._ask[wording])
            if wording.context:
                sentences.append(wording.context.fill(values))
            sentences.append(pattern.fill(values))
        return " ".join(sentences)

    def read(self, statement: str) -> tuple[Plan, tuple[str, ...]]:
        """The plan of a statement, and the names of its intermediate results.

        Raises:
            Foreign: a sentence is unknown.
            IllPosed: the sentences are known, but do not make up a problem.
        """
        marked, slots = skeleton(statement)
        sentences = _SENTENCE_END.split(marked)
        at = taken = 0
        steps: list[Step] = []
        variables: list[str] = []
        has_question = False
        while at < len(sentences):
            entry = self._entries.get(sentences[at])
            size = 1
            if entry is None:
                entry = self._entries.get(" ".join(sentences[at : at + 2]))
                size = 2
            if entry is None:
                raise Foreign(f"not a sentence of the workbook: {sentences[at]!r}")
            if has_question:
                raise IllPosed("something follows the question")
            texts = slots[taken : taken + len(entry.reads)]
            taken += len(entry.reads)
            at += size
            steps.append(self._step(entry, texts, variables))
            has_question = entry.asks
        if not has_question:
            raise IllPosed("no question is asked")
        return Plan(tuple(steps)), tuple(variables)

    def _step(self, entry: _Entry, texts: list[str], variables: list[str]) -> Step:
        values: dict[str, int | Link] = {}
        defined: str | None = None
        for name, text in zip(entry.reads, texts, strict=True):
            if name == "var":
                defined = text
                continue
            if len(text) > LONGEST_SLOT:
                raise Foreign(f"a number of {len(text)} characters")
            expression = read_expression(text)
            if name.startswith("="):
                if text != name[1:]:
                    raise Foreign(f"{text!r} stands where the workbook would write {name[1:]!r}")
                continue
            if isinstance(expression, int):
                values[name] = expression
                continue
            variable, link = expression
            if not variables or variable != variables[-1]:
                raise IllPosed(f"{variable} is not defined")
            values[name] = link
        linked = any(isinstance(v, Link) for v in values.values())
        if variables and not linked:
            raise IllPosed(f"{variables[-1]} is defined but not used")
        if defined is not None:
            if defined in variables:
                raise IllPosed(f"{defined} is defined twice")
            variables.append(defined)
        return Step(entry.skill, tuple(values[slot] for slot in entry.skill.slots))


def draw_link(rng: Random, value: int, reach: tuple[int, int]) -> Link | None:
    """An expression in an earlier result that falls within `reach`, or None if none was found."""
    lo, hi = reach
    if lo <= value <= hi and rng.random() < 0.35:
        return Link(1, 0)
    for _ in range(12):
        factor = 1 if rng.random() < 0.6 else rng.randint(2, 4)
        addend = rng.randint(1, 30) if factor == 1 or rng.random() < 0.5 else 0
        if factor * value > 150:
            factor = 1
        if value > hi:
            factor, addend = 1, rng.randint(lo, hi) - value
        link = Link(factor, addend)
        if lo <= link.of(value) <= hi and link != Link(1, 0):
            return link
    return None


def draw_plan(
    rng: Random,
    skills: Sequence[Skill],
    *,
    admits: Callable[[str], bool] = lambda _: True,
    beyond: bool = False,
) -> Plan | None:
    """A plan that uses the skills in the order given, or None if the numbers do not work out.

    Args:
        rng: draws it.
        skills: a step each.
        admits: which contents a step may have.
        beyond: the first step has a number beyond the trained range, and may have any content.
    """
    steps: list[Step] = []
    value: int | None = None
    for skill in skills:
        args: tuple[int | Link, ...]
        if value is None:
            # What is beyond the trained range was trained nowhere, whatever `admits` says.
            drawn = skill.draw(rng, beyond=True) if beyond else skill.draw(rng, admits=admits)
            if drawn is None:
                return None
            args = drawn
        else:
            linked = _draw_linked(rng, skill, value, admits)
            if linked is None:
                return None
            link, drawn = linked
            args = tuple(
                link if slot == skill.carrier else a
                for slot, a in zip(skill.slots, drawn, strict=True)
            )
        steps.append(Step(skill, args))
        value = skill.derive(*drawn)[1]
        # Beyond the trained range, what a further step goes on from may be beyond it, too.
        large = len(steps) == len(skills) or (beyond and len(steps) == 1)
        if not 0 <= value <= (LARGEST_ANSWER if large else LARGEST_STEP):
            return None
    return Plan(tuple(steps))


def _draw_linked(
    rng: Random, skill: Skill, value: int, admits: Callable[[str], bool]
) -> tuple[Link, tuple[int, ...]] | None:
    """An expression in the step before, and all parameters with its value in the carrier's slot."""
    for _ in range(8):
        link = draw_link(rng, value, skill.reach)
        drawn = None if link is None else skill.draw(rng, link.of(value), admits=admits)
        if link is not None and drawn is not None:
            return link, drawn
    return None
