"""Programming problems: a line of numbers goes in, a few moves are made, and something is printed.

A move either turns the list into another list (a keep, a map) or folds it into one number. Every
program has the same shape, one line of Python a move; the reference that writes the tests walks
the list with plain loops and shares nothing with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from statewise.records import Concept
from statewise.synth.workbook.language import Foreign, IllPosed
from statewise.synth.workbook.skill import LONGEST_SLOT, Pattern, skeleton

_READ = (
    "The input is one line of positive integers separated by spaces.",
    "You are given several positive integers on one line, separated by spaces.",
    "A single line holds positive integers with spaces between them.",
)
_PRINT = ("Print", "Output", "Write out")
_SENTENCE_END = re.compile(r"(?<=\.) ")
_ADDENDS = (1, 99)
_FACTORS = (2, 9)


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """One programming concept: a list move (sentences) or a fold (noun phrases)."""

    name: str
    folds: bool
    slots: dict[str, tuple[int, int]]
    wordings: tuple[str, ...]
    line: Callable[..., str]  # the list move's new value of `a`, or the fold's expression
    reference: Callable[..., object]  # on (numbers, *args): a list, or an int
    probes: Callable[..., list[int]]  # numbers that tell this move from its neighbours
    preamble: str = ""
    valid: Callable[..., bool] = lambda *_: True
    core: bool = False

    @property
    def concept(self) -> Concept:
        """The concept this move teaches."""
        return Concept(self.name, "programming", "code")


def _keep(numbers: list[int], good: Callable[[int], bool]) -> list[int]:
    kept = []
    for x in numbers:
        if good(x):
            kept.append(x)
    return kept


def _total(numbers: list[int]) -> int:
    total = 0
    for x in numbers:
        total += x
    return total


def _largest(numbers: list[int]) -> int:
    best = 0
    for x in numbers:
        if x > best:
            best = x
    return best


def _common(numbers: list[int]) -> int:
    top = max(numbers, default=0)
    return next((d for d in range(top, 0, -1) if all(x % d == 0 for x in numbers)), 0)


def _digit_total(x: int) -> int:
    total = 0
    while x:
        total += x % 10
        x //= 10
    return total


def _primes(numbers: list[int]) -> int:
    top = max(numbers, default=0)
    composite = {i * j for i in range(2, top + 1) for j in range(2, top // i + 1)}
    return sum(1 for x in numbers if x > 1 and x not in composite)


def _tail_reversed(numbers: list[int], n: int) -> list[int]:
    taken: list[int] = []
    for x in numbers[max(0, len(numbers) - n) :]:
        taken.insert(0, x)
    return taken


MOVES: tuple[Move, ...] = (
    Move(
        name="sum of a list",
        folds=True,
        slots={},
        wordings=("their sum", "the sum of the numbers", "the total of the numbers"),
        line=lambda: "sum(a)",
        reference=_total,
        probes=list,
        core=True,
    ),
    Move(
        name="largest of a list",
        folds=True,
        slots={},
        wordings=(
            "the largest number (zero if there is none)",
            "the maximum (zero if there are no numbers)",
            "the greatest of the numbers (zero if none exists)",
        ),
        line=lambda: "max(a, default=0)",
        reference=_largest,
        probes=list,
        core=True,
    ),
    Move(
        name="length of a list",
        folds=True,
        slots={},
        wordings=("their count", "the count of the numbers", "the size of the list"),
        line=lambda: "len(a)",
        reference=lambda numbers: sum(1 for _ in numbers),
        probes=list,
    ),
    Move(
        name="common divisor of a list",
        folds=True,
        slots={},
        wordings=(
            "their greatest common divisor (zero if there is none)",
            "the greatest common divisor of the list (zero for an empty list)",
            "the largest integer that divides them all (zero if no number exists)",
        ),
        line=lambda: "math.gcd(*a)",
        reference=_common,
        probes=list,
        preamble="import math\n",
    ),
    Move(
        name="primes in a list",
        folds=True,
        slots={},
        wordings=(
            "the count of primes",
            "the count of prime numbers among them",
            "the number of entries that are prime",
        ),
        line=lambda: "sum(all(x % d for d in range(2, x)) for x in a if x > 1)",
        reference=_primes,
        probes=lambda: [1, 2, 3, 4, 9, 49, 53],
    ),
    Move(
        name="divisibility filter",
        folds=False,
        slots={"d": (2, 12)},
        wordings=(
            "Keep only the numbers divisible by {d}.",
            "Remove every number that is not a multiple of {d}.",
            "Use only those that are multiples of {d}.",
        ),
        line=lambda d: f"[x for x in a if x % {d} == 0]",
        reference=lambda numbers, d: _keep(numbers, lambda x: x // d * d == x),
        probes=lambda d: [d, 3 * d, 2 * d + 1, 5 * d],
        core=True,
    ),
    Move(
        name="threshold filter",
        folds=False,
        slots={"t": (10, 80)},
        wordings=(
            "Keep only the numbers greater than {t}.",
            "Remove every number that is at most {t}.",
            "Use only those that exceed {t}.",
        ),
        line=lambda t: f"[x for x in a if x > {t}]",
        reference=lambda numbers, t: _keep(numbers, lambda x: not x <= t),
        probes=lambda t: [t, t + 1, t - 1],
    ),
    Move(
        name="remainder filter",
        folds=False,
        slots={"d": (3, 12), "r": (1, 11)},
        wordings=(
            "Keep only the numbers that leave remainder {r} when divided by {d}.",
            "Use only those equal to {r} modulo {d}.",
            "Remove every number whose remainder on division by {d} is not {r}.",
        ),
        line=lambda d, r: f"[x for x in a if x % {d} == {r}]",
        reference=lambda numbers, d, r: _keep(numbers, lambda x: x - x // d * d == r),
        probes=lambda d, r: [d + r, 2 * d + r, d, r],
        valid=lambda d, r: 0 <= r < d,
    ),
    Move(
        name="scaling a list",
        folds=False,
        slots={"f": (2, 9), "s": (1, 20)},
        wordings=(
            "Replace each number x by {f} times x plus {s}.",
            "Multiply each number by {f} and add {s} to it.",
            "Turn each number into {f} times itself plus {s}.",
        ),
        line=lambda f, s: f"[{f} * x + {s} for x in a]",
        reference=lambda numbers, f, s: [sum([x] * f, s) for x in numbers],
        probes=lambda f, s: [f, s],
    ),
    Move(
        name="digit sums of a list",
        folds=False,
        slots={"f": (1, 30)},
        wordings=(
            "Replace each number by {f} times the sum of its digits.",
            "Turn each number into its digit sum multiplied by {f}.",
            "For each number take the sum of its digits times {f} instead.",
        ),
        line=lambda f: f"[{f} * sum(map(int, str(x))) for x in a]",
        reference=lambda numbers, f: [_digit_total(x) * f for x in numbers],
        probes=lambda f: [f, 99, 10],
    ),
    Move(
        name="reversed tail of a list",
        folds=False,
        slots={"n": (1, 12)},
        wordings=(
            "Take the last {n} numbers, or all if there are fewer, in reverse order.",
            "Reverse the list and keep its first {n} numbers, or all if there are fewer.",
            "Read the list backwards and stop after {n} numbers, or at its end.",
        ),
        line=lambda n: f"a[-{n}:][::-1]",
        reference=_tail_reversed,
        probes=lambda n: list(range(1, n + 3)),
    ),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A move with its parameters. A fold's first parameter is the factor it is printed with."""

    move: Move
    args: tuple[int, ...]

    def key(self) -> str:
        """Its content, independent of wording."""
        return f"{self.move.name}({','.join(map(str, self.args))})"


@dataclass(frozen=True, slots=True)
class Program:
    """A programming problem without its wording: list moves, then up to two folds, plus a shift."""

    parts: tuple[Part, ...]
    addend: int

    @property
    def key(self) -> str:
        """The canonical content."""
        return " > ".join([*(part.key() for part in self.parts), f"+{self.addend}"])

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of its concepts, in order."""
        return tuple(part.move.name for part in self.parts)

    @property
    def contents(self) -> tuple[str, ...]:
        """Of each part its move with its numbers and what is added to the result."""
        return tuple(f"{part.key()} +{self.addend}" for part in self.parts)

    def _split(self) -> tuple[list[Part], list[Part]]:
        return (
            [p for p in self.parts if not p.move.folds],
            [p for p in self.parts if p.move.folds],
        )

    def source(self) -> tuple[list[str], str]:
        """The plan of a worked solution, one move a line, and the program."""
        moves, folds = self._split()
        preamble = "".join(dict.fromkeys(p.move.preamble for p in self.parts))
        lines = ["a = list(map(int, input().split()))"]
        thoughts = []
        for part in self.parts:
            thoughts.append(" ".join([part.move.name, *map(str, part.args)]))
        for part in moves:
            lines.append(f"a = {part.move.line(*part.args)}")
        if folds:
            terms = [f"{p.args[0]} * {p.move.line(*p.args[1:])}" for p in folds]
            result = f"{' + '.join(terms)} + {self.addend}"
        else:
            result = f"*[x + {self.addend} for x in a]"
        thoughts.append(f"plus {self.addend}")
        return thoughts, preamble + "\n".join([*lines, f"print({result})"])

    def run(self, numbers: list[int]) -> str:
        """What a right program prints for this input, worked out by the references."""
        moves, folds = self._split()
        for part in moves:
            result = part.move.reference(numbers, *part.args)
            assert isinstance(result, list)
            numbers = result
        if not folds:
            return " ".join(str(x + self.addend) for x in numbers) + "\n"
        total = self.addend
        for part in folds:
            value = part.move.reference(numbers, *part.args[1:])
            assert isinstance(value, int)
            total += part.args[0] * value
        return f"{total}\n"

    def tests(self, rng: Random) -> str:
        """Six or more test cases as a fenced json block."""
        probes = [p for part in self.parts for p in self._probes(part)]
        inputs = [[rng.randint(1, 99) for _ in range(size)] for size in (5, 6, 8, 10)]
        inputs.insert(0, [rng.randint(1, 99)])
        inputs.append([*(max(1, p) for p in probes), *inputs[1]])
        if probes:
            mixed = [max(1, rng.choice(probes)) for _ in range(5)] + inputs[2][:3]
            rng.shuffle(mixed)
            inputs.append(mixed)
        rows = [{"input": " ".join(map(str, n)) + "\n", "output": self.run(n)} for n in inputs]
        return "```json\n" + json.dumps(rows) + "\n```"

    @staticmethod
    def _probes(part: Part) -> list[int]:
        return part.move.probes(*(part.args[1:] if part.move.folds else part.args))


def draw_program(
    rng: Random, moves: Sequence[Move], *, admits: Callable[[str], bool] = lambda _: True
) -> Program | None:
    """A program that uses the moves, list moves first; None if the parameters do not fit.

    Args:
        rng: draws it.
        moves: its parts.
        admits: which contents a part may have.
    """
    parts = []
    for move in sorted(moves, key=lambda m: m.folds):
        args = [rng.randint(*span) for span in move.slots.values()]
        if not move.valid(*args):
            return None
        parts.append(Part(move, tuple([rng.randint(*_FACTORS), *args] if move.folds else args)))
    program = Program(tuple(parts), rng.randint(*_ADDENDS))
    return program if all(map(admits, program.contents)) else None


@dataclass(frozen=True, slots=True)
class _Sentence:
    moves: tuple[Move, ...]
    reads: tuple[str, ...]
    prints: bool


class ProgramLanguage:
    """Writes and reads programming problems about a set of moves."""

    def __init__(self, moves: Sequence[Move]) -> None:
        self._read = {skeleton(s)[0] for s in _READ}
        self._sentences: dict[str, _Sentence] = {}
        self._moves: dict[Move, tuple[Pattern, ...]] = {}
        self._prints: dict[tuple[Move, ...], tuple[Pattern, ...]] = {}
        folds = [m for m in moves if m.folds]
        for move in moves:
            if not move.folds:
                self._moves[move] = tuple(Pattern(w) for w in move.wordings)
                for pattern in self._moves[move]:
                    self._learn(pattern, (move,), prints=False)
        plain = "the numbers in their order, each increased by {c}"
        self._add_prints((), (plain, "every number of the list in order, with {c} added to it"))
        for f in folds:
            self._add_prints((f,), tuple(f"{{f0}} times {w}, plus {{c}}" for w in f.wordings))
            for g in folds:
                pairs = tuple(
                    f"{{f0}} times {v}, plus {{f1}} times {w}, plus {{c}}"
                    for v, w in zip(f.wordings, g.wordings, strict=True)
                )
                self._add_prints((f, g), pairs)

    def _add_prints(self, folds: tuple[Move, ...], phrases: tuple[str, ...]) -> None:
        patterns = tuple(Pattern(f"{verb} {phrase}.") for phrase in phrases for verb in _PRINT)
        self._prints[folds] = patterns
        for pattern in patterns:
            self._learn(pattern, folds, prints=True)

    def _learn(self, pattern: Pattern, moves: tuple[Move, ...], *, prints: bool) -> None:
        if pattern.skeleton in self._sentences or pattern.skeleton in self._read:
            raise ValueError(f"two wordings cannot be told apart: {pattern.skeleton!r}")
        self._sentences[pattern.skeleton] = _Sentence(moves, pattern.reads, prints)

    def write(self, program: Program, rng: Random, *, dangling: bool = False) -> str:
        """One of the statements of a program; `dangling` leaves out what is to be printed."""
        sentences = [rng.choice(_READ)]
        folds: list[Move] = []
        values = {"c": str(program.addend)}
        for part in program.parts:
            if part.move.folds:
                values[f"f{len(folds)}"] = str(part.args[0])
                folds.append(part.move)
            else:
                slots = zip(part.move.slots, map(str, part.args), strict=True)
                sentences.append(rng.choice(self._moves[part.move]).fill(dict(slots)))
        if not dangling:
            sentences.append(rng.choice(self._prints[tuple(folds)]).fill(values))
        return " ".join(sentences)

    def read(self, statement: str) -> Program:
        """The program a statement asks for.

        Raises:
            Foreign: a sentence is unknown.
            IllPosed: the sentences are known, but do not make up a problem.
        """
        marked, slots = skeleton(statement)
        first, *rest = _SENTENCE_END.split(marked)
        if first not in self._read:
            raise Foreign(f"not a sentence of the workbook: {first!r}")
        taken = 0
        parts: list[Part] = []
        addend: int | None = None
        for text in rest:
            sentence = self._sentences.get(text)
            if sentence is None:
                raise Foreign(f"not a sentence of the workbook: {text!r}")
            if addend is not None:
                raise IllPosed("something follows the output")
            numbers = slots[taken : taken + len(sentence.reads)]
            taken += len(sentence.reads)
            if not all(n.isdigit() and len(n) <= LONGEST_SLOT for n in numbers):
                raise IllPosed("a number is not given, or far too large")
            values = dict(zip(sentence.reads, map(int, numbers), strict=True))
            if sentence.prints:
                parts += [Part(m, (values[f"f{i}"],)) for i, m in enumerate(sentence.moves)]
                addend = values["c"]
            else:
                (move,) = sentence.moves
                args = tuple(values[slot] for slot in move.slots)
                spans = zip(args, move.slots.values(), strict=True)
                if not move.valid(*args) or any(not lo <= a <= hi for a, (lo, hi) in spans):
                    raise IllPosed(f"{move.name} with {args} is not well-posed")
                parts.append(Part(move, args))
        if addend is None or not parts:
            raise IllPosed("nothing is asked for")
        return Program(tuple(parts), addend)
