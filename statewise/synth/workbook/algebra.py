"""Concepts of sequences, equations and rates."""

from __future__ import annotations

from itertools import accumulate, count, islice, repeat
from math import isqrt

from statewise.synth.workbook.skill import Skill, long_product, wordings


def _term(a: int, d: int, n: int) -> tuple[str, int]:
    p = (n - 1) * d
    return f"{n}-1={n - 1}\n{n - 1}*{d}={p}\n{a}+{p}={a + p}", a + p


def _series(a: int, d: int, n: int) -> tuple[str, int]:
    terms = [a + i * d for i in range(n)]
    lines, total = [" ".join(map(str, terms))], terms[0]
    for t in terms[1:]:
        lines.append(f"{total}+{t}={total + t}")
        total += t
    return "\n".join(lines), total


def _geometric(a: int, q: int, n: int) -> tuple[str, int]:
    lines = []
    for _ in range(n - 1):
        lines.append(f"{a}*{q}={a * q}")
        a *= q
    return "\n".join(lines), a


def _run(x: int, y: int) -> tuple[str, int]:
    n = y - x + 1
    return (
        f"{y}-{x}={n - 1}\n{n - 1}+1={n}\n{x}+{y}={x + y}\n{x + y}*{n}={(x + y) * n}\n"
        f"{(x + y) * n}/2={(x + y) * n // 2}",
        (x + y) * n // 2,
    )


def _additive(x: int, y: int, n: int) -> tuple[str, int]:
    lines = [f"{n}-2={n - 2}"]
    for left in range(n - 2, 0, -1):  # counted down: where to stop stands in the line itself
        lines.append(f"{left}: {x}+{y}={x + y}")
        x, y = y, x + y
    return "\n".join(lines), y


def _additive_by_table(x: int, y: int, n: int) -> int:
    terms = [x, y]
    while len(terms) < n:
        terms.append(sum(terms[-2:]))
    return terms[n - 1]


def _linear(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{c}-{b}={c - b}\n{c - b}/{a}={(c - b) // a}", (c - b) // a


def _larger(s: int, d: int) -> tuple[str, int]:
    return f"{s}+{d}={s + d}\n{s + d}/2={(s + d) // 2}", (s + d) // 2


def _backwards(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{c}/{b}={c // b}\n{c // b}-{a}={c // b - a}", c // b - a


def _factor_root(b: int, c: int) -> tuple[str, int]:
    lines = []
    for x in count(1):
        lines.append(f"{x}*{x + b}={x * (x + b)}")
        if x * (x + b) >= c:
            break
    return "\n".join([*lines, f"so {x}"]), x


def _proportion(a: int, b: int, c: int) -> tuple[str, int]:
    return "\n".join([f"{b}/{a}={b // a}", *long_product(b // a, c)]), b // a * c


def _distance(v: int, t: int, d: int) -> tuple[str, int]:
    return "\n".join([*long_product(v, t), f"{v * t}+{d}={v * t + d}"]), v * t + d


def _minutes(h: int, m: int) -> tuple[str, int]:
    return f"60*{h}={60 * h}\n{60 * h}+{m}={60 * h + m}", 60 * h + m


def _tank(x: int, a: int, b: int) -> tuple[str, int]:
    return f"{a}-{b}={a - b}\n{x}/{a - b}={x // (a - b)}", x // (a - b)


def _tank_by_minutes(x: int, a: int, b: int) -> int:
    level = minutes = 0
    while level < x:
        level += a
        level -= b
        minutes += 1
    return minutes


ALGEBRA: tuple[Skill, ...] = (
    Skill(
        name="arithmetic sequences",
        domain="sequences",
        slots={"a": (2, 60), "d": (2, 9), "n": (4, 12)},
        carrier="a",
        reach=(2, 99),
        wordings=wordings(
            "An arithmetic sequence starts with {a} and has the common difference {d}."
            "|its term number {n}",
            "term number {n} of the arithmetic sequence with first term {a} and difference {d}",
            "{name} saves {a} dollars in week 1 and each week {d} more than the week before."
            "|the saving of week {n} in dollars|How many dollars does {name} save in week {n}?",
            "A sequence begins at {a} and grows by {d} at each step.|its term number {n}",
        ),
        derive=_term,
        check=lambda a, d, n: next(islice(count(a, d), n - 1, None)),
        valid=lambda a, d, n: n > 0,
        core=True,
    ),
    Skill(
        name="arithmetic series",
        domain="sequences",
        slots={"a": (2, 30), "d": (2, 9), "n": (3, 6)},
        carrier="a",
        reach=(2, 60),
        wordings=wordings(
            "the sum of the first {n} terms of the arithmetic sequence with first term {a} and "
            "difference {d}",
            "A theater has {n} rows, the front row has {a} seats, and each row has {d} seats more "
            "than the row before.|the number of seats in the theater",
            "An arithmetic sequence starts with {a} and has the common difference {d}."
            "|the sum of its first {n} terms",
        ),
        derive=_series,
        check=lambda a, d, n: n * (2 * a + (n - 1) * d) // 2,
        valid=lambda a, d, n: n > 0,
    ),
    Skill(
        name="geometric sequences",
        domain="sequences",
        slots={"a": (1, 40), "q": (2, 5), "n": (3, 7)},
        carrier="a",
        reach=(1, 60),
        wordings=wordings(
            "term number {n} of the geometric sequence with first term {a} and ratio {q}",
            "A geometric sequence starts with {a} and has the ratio {q}.|its term number {n}",
            "A colony of {a} cells grows to {q} times its size every hour, and hour 1 starts with "
            "these cells.|the number of cells at the start of hour {n}",
        ),
        derive=_geometric,
        check=lambda a, q, n: a * pow(q, n - 1),
        valid=lambda a, q, n: n > 0,
        mild=lambda a, q, n: a * q ** (n - 1) <= 500,
    ),
    Skill(
        name="sums of consecutive integers",
        domain="sequences",
        slots={"x": (1, 40), "y": (4, 60)},
        carrier="x",
        reach=(1, 60),
        wordings=wordings(
            "the sum of all integers from {x} to {y}",
            "the sum of the consecutive integers {x} through {y}",
            "{name} adds up the page numbers from page {x} to page {y}."
            "|the total that {name} finds",
        ),
        derive=_run,
        check=lambda x, y: sum(range(x, y + 1)),
        valid=lambda x, y: x < y,
        mild=lambda x, y: 3 <= y - x <= 9 and sum(range(x, y + 1)) < 500,
    ),
    Skill(
        name="additive recurrences",
        domain="sequences",
        slots={"x": (1, 20), "y": (1, 30), "n": (4, 7)},
        carrier="y",
        reach=(1, 40),
        wordings=wordings(
            "A sequence starts with {x} and {y}, and each later term is the sum of the two before."
            "|its term number {n}",
            "term number {n} of the sequence that starts {x}, {y} and adds the last two terms to "
            "get the next",
            "{name} writes {x}, then {y}, and then always the sum of the last two numbers."
            "|number {n} in the list that {name} writes",
        ),
        derive=_additive,
        check=_additive_by_table,
        valid=lambda x, y, n: n > 2,
    ),
    Skill(
        name="linear equations",
        domain="equations",
        slots={"a": (2, 9), "b": (1, 30), "c": (10, 99)},
        carrier="c",
        reach=(10, 120),
        wordings=wordings(
            "the solution of {a}x + {b} = {c}",
            "the number x with {a}x + {b} = {c}",
            "{name} buys {a} {item} at equal prices and a {b} dollar bag, and pays {c} dollars."
            "|the price of one of the {item}",
            "the number that gives {c} when it is multiplied by {a} and then increased by {b}",
        ),
        derive=_linear,
        check=lambda a, b, c: next(x for x in count() if a * x + b == c),
        valid=lambda a, b, c: a > 0 and c >= b and (c - b) % a == 0,
        mild=lambda a, b, c: 2 <= (c - b) // a <= 15,
        core=True,
    ),
    Skill(
        name="sum and difference",
        domain="equations",
        slots={"s": (10, 99), "d": (2, 40)},
        carrier="s",
        reach=(8, 120),
        wordings=wordings(
            "Two numbers have sum {s} and difference {d}.|the larger of them"
            "|What is the larger number?",
            "the number x with x + y = {s} and x - y = {d}",
            "{name} and a friend have {s} {item} together, and {name} has {d} more than the friend."
            "|the number of {item} that {name} has|How many {item} does {name} have?",
            "the larger of the two numbers whose sum is {s} and whose difference is {d}",
        ),
        derive=_larger,
        check=lambda s, d: next(x for x in range(s + 1) if x - (s - x) == d),
        valid=lambda s, d: 0 <= d <= s and (s + d) % 2 == 0,
        mild=lambda s, d: d < s,
        core=True,
    ),
    Skill(
        name="working backwards",
        domain="equations",
        slots={"a": (2, 12), "b": (2, 9), "c": (20, 150)},
        carrier="c",
        reach=(15, 160),
        wordings=wordings(
            "the number that gives {c} when {a} is added to it and the sum is multiplied by {b}",
            "{name} thinks of a number, adds {a}, multiplies by {b}, and gets {c}."
            "|the number {name} thought of",
            "the solution x of the equation in which {b} times the sum of x and {a} equals {c}",
        ),
        derive=_backwards,
        check=lambda a, b, c: next(x for x in range(c) if (x + a) * b == c),
        valid=lambda a, b, c: b > 0 and c % b == 0 and c // b >= a,
        mild=lambda a, b, c: 1 <= c // b - a <= 30,
    ),
    Skill(
        name="factor pairs",
        domain="equations",
        slots={"b": (1, 60), "c": (10, 500)},
        carrier="b",
        reach=(1, 60),
        wordings=wordings(
            "the positive number whose product with the number {b} larger is {c}",
            "A rectangle has area {c}, and one side is {b} longer than the other."
            "|the length of the shorter side",
            "Two positive numbers differ by {b} and have the product {c}.|the smaller of them",
        ),
        derive=_factor_root,
        check=lambda b, c: next(x for x in range(1, c + 1) if x * x + b * x - c == 0),
        valid=lambda b, c: b >= 0 and c > 0 and isqrt(b * b + 4 * c) ** 2 == b * b + 4 * c,
        mild=lambda b, c: 6 * (6 + b) >= c,
    ),
    Skill(
        name="proportions",
        domain="rates",
        slots={"a": (2, 9), "b": (6, 99), "c": (2, 12)},
        carrier="b",
        reach=(6, 120),
        wordings=wordings(
            "{a} {item} cost {b} dollars.|the price of {c} {item} in dollars"
            "|How many dollars do {c} {item} cost?",
            "A machine makes {b} parts in {a} hours.|the number of parts it makes in {c} hours",
            "the number that is to {c} as {b} is to {a}",
        ),
        derive=_proportion,
        check=lambda a, b, c: next(v for v in range(b * c + 1) if v * a == b * c),
        valid=lambda a, b, c: a > 0 and b % a == 0,
        mild=lambda a, b, c: a != c and b // a <= 20,
    ),
    Skill(
        name="speed and distance",
        domain="rates",
        slots={"v": (11, 60), "t": (2, 6), "d": (5, 60)},
        carrier="d",
        reach=(2, 150),
        wordings=wordings(
            "A train is {d} miles from home and moves on at {v} miles an hour."
            "|its distance from home in miles after {t} hours",
            "{name} has walked {d} meters and walks {v} meters in each further minute."
            "|the number of meters walked after {t} further minutes",
            "A tank holds {d} liters and gains {v} liters every minute."
            "|the number of liters in it after {t} minutes",
        ),
        derive=_distance,
        check=lambda v, t, d: sum(repeat(v, t), d),
    ),
    Skill(
        name="hours and minutes",
        domain="rates",
        slots={"h": (1, 9), "m": (1, 59)},
        carrier="m",
        reach=(1, 59),
        wordings=wordings(
            "the number of minutes in {h} hours and {m} minutes",
            "A film lasts {h} hours and {m} minutes.|its length in minutes",
            "the duration in minutes of a trip of {h} hours and {m} minutes",
        ),
        derive=_minutes,
        check=lambda h, m: list(accumulate([m] + [60] * h))[-1],
        valid=lambda h, m: h >= 0 and m >= 0,
    ),
    Skill(
        name="filling and draining",
        domain="rates",
        slots={"x": (12, 120), "a": (5, 20), "b": (1, 15)},
        carrier="x",
        reach=(6, 160),
        wordings=wordings(
            "A tank of {x} liters gains {a} liters and loses {b} liters every minute."
            "|the number of minutes until the empty tank is full",
            "{name} earns {a} dollars and spends {b} dollars a day, and wants to save {x} dollars."
            "|the number of days this takes",
            "the number of steps to reach {x} from 0 when each step goes {a} forward and {b} back",
        ),
        derive=_tank,
        check=_tank_by_minutes,
        valid=lambda x, a, b: a > b and x % (a - b) == 0,
        mild=lambda x, a, b: x // (a - b) <= 20,
    ),
)
