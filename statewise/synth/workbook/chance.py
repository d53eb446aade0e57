"""Concepts of counting, geometry, probability and statistics."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from itertools import combinations, pairwise, permutations, product

from statewise.synth.workbook.skill import Skill, long_product, wordings


def _union(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{a}+{b}={a + b}\n{a + b}-{c}={a + b - c}", a + b - c


def _pairs(n: int) -> tuple[str, int]:
    return f"{n}-1={n - 1}\n{n}*{n - 1}={n * (n - 1)}\n{n * (n - 1)}/2={n * (n - 1) // 2}", (
        n * (n - 1) // 2
    )


def _triple_product(a: int, b: int, c: int) -> tuple[str, int]:
    return "\n".join([*long_product(a, b), *long_product(a * b, c)]), a * b * c


def _arrangements(n: int, r: int) -> tuple[str, int]:
    lines, total = [str(n)], n
    for i in range(1, r):
        lines.append(f"{total}*{n - i}={total * (n - i)}")
        total *= n - i
    return "\n".join(lines), total


def _paths(a: int, b: int) -> tuple[str, int]:
    lines, total = [], 1
    for i in range(1, b + 1):
        lines.append(f"{total}*{a + i}={total * (a + i)}\n{total * (a + i)}/{i}=")
        total = total * (a + i) // i
        lines[-1] += str(total)
    return "\n".join(lines), total


def _paths_by_grid(a: int, b: int) -> int:
    row = [1] * (a + 1)
    for _ in range(b):
        for i in range(1, a + 1):
            row[i] += row[i - 1]
    return row[a]


def _perimeter(x: int, y: int) -> tuple[str, int]:
    return f"{x}+{y}={x + y}\n2*{x + y}={2 * (x + y)}", 2 * (x + y)


def _angle(x: int, y: int) -> tuple[str, int]:
    return f"{x}+{y}={x + y}\n180-{x + y}={180 - x - y}", 180 - x - y


def _area(x: int, y: int) -> tuple[str, int]:
    return "\n".join(long_product(x, y)), x * y


def _half_product(x: int, y: int) -> tuple[str, int]:
    return f"{x}*{y}={x * y}\n{x * y}/2={x * y // 2}", x * y // 2


def _diagonals(n: int) -> tuple[str, int]:
    return f"{n}-3={n - 3}\n{n}*{n - 3}={n * (n - 3)}\n{n * (n - 3)}/2={n * (n - 3) // 2}", (
        n * (n - 3) // 2
    )


def _grid_distance(a: int, b: int, c: int, d: int) -> tuple[str, int]:
    h, v = abs(a - c), abs(b - d)
    return (
        f"{max(a, c)}-{min(a, c)}={h}\n{max(b, d)}-{min(b, d)}={v}\n{h}+{v}={h + v}",
        h + v,
    )


def _reduced(top: int, bottom: int) -> tuple[str, int]:
    g = math.gcd(top, bottom)
    m, n = top // g, bottom // g
    return f"{top}/{g}={m}\n{bottom}/{g}={n}\n{m}+{n}={m + n}", m + n


def _draw_one(a: int, b: int) -> tuple[str, int]:
    trace, answer = _reduced(a, a + b)
    return f"{a}+{b}={a + b}\n{trace}", answer


def _parts(value: Fraction) -> int:
    return value.numerator + value.denominator


def _draw_multiple(n: int, d: int) -> tuple[str, int]:
    trace, answer = _reduced(n // d, n)
    return f"{n}/{d}\n{d}*{n // d}={n // d * d}\n{trace}", answer


def _expected(n: int, a: int, b: int) -> tuple[str, int]:
    return "\n".join([f"{n}/{b}={n // b}", *long_product(n // b, a)]), n // b * a


def _mean(x: int, y: int, z: int) -> tuple[str, int]:
    s = x + y + z
    return f"{x}+{y}={x + y}\n{x + y}+{z}={s}\n{s}/3={s // 3}", s // 3


def _median(a: int, b: int, c: int, d: int, e: int) -> tuple[str, int]:
    order = sorted((a, b, c, d, e))
    return f"{' '.join(map(str, order))}\nmiddle {order[2]}", order[2]


def _range(a: int, b: int, c: int, d: int, e: int) -> tuple[str, int]:
    hi, lo = max(a, b, c, d, e), min(a, b, c, d, e)
    return f"{hi}-{lo}={hi - lo}", hi - lo


def _range_by_gaps(*numbers: int) -> int:
    order = sorted(numbers)
    return sum(b - a for a, b in pairwise(order))


def _missing(x: int, y: int, m: int) -> tuple[str, int]:
    return f"3*{m}={3 * m}\n{x}+{y}={x + y}\n{3 * m}-{x + y}={3 * m - x - y}", 3 * m - x - y


CHANCE: tuple[Skill, ...] = (
    Skill(
        name="overlapping groups",
        domain="counting",
        slots={"a": (12, 60), "b": (12, 60), "c": (2, 11)},
        carrier="a",
        reach=(12, 99),
        wordings=wordings(
            "In a class, {a} pupils sing, {b} pupils dance and {c} do both."
            "|the number of pupils who sing or dance|How many pupils sing or dance?",
            "Two sets have {a} and {b} elements, and {c} elements lie in both."
            "|the size of their union",
            "{name} owns {a} red {item} and {b} large {item}, and {c} are both red and large."
            "|the number of {item} that are red or large",
            "the number of elements in the union of sets of sizes {a} and {b} with {c} in common",
        ),
        derive=_union,
        check=lambda a, b, c: len(set(range(a)) | set(range(a - c, a - c + b))),
        valid=lambda a, b, c: 0 <= c <= min(a, b),
        core=True,
    ),
    Skill(
        name="choosing pairs",
        domain="counting",
        slots={"n": (4, 40)},
        carrier="n",
        reach=(4, 40),
        wordings=wordings(
            "the number of ways to choose 2 people out of {n}",
            "Each of {n} guests shakes hands once with every other guest."
            "|the number of handshakes|How many handshakes are there?",
            "the number of matches when {n} teams each meet every other team once",
        ),
        derive=_pairs,
        check=lambda n: sum(1 for _ in combinations(range(n), 2)),
        valid=lambda n: n >= 2,
    ),
    Skill(
        name="multiplication principle",
        domain="counting",
        slots={"a": (2, 9), "b": (2, 9), "c": (2, 9)},
        carrier="a",
        reach=(2, 15),
        wordings=wordings(
            "A menu offers {a} soups, {b} mains and {c} desserts.|the number of full meals"
            "|How many different full meals are there?",
            "{name} has {a} hats, {b} shirts and {c} scarves."
            "|the number of outfits with one of each",
            "the number of codes with {a} choices for the first sign, {b} for the second and {c} "
            "for the third",
        ),
        derive=_triple_product,
        check=lambda a, b, c: sum(1 for _ in product(range(a), range(b), range(c))),
        valid=lambda a, b, c: min(a, b, c) > 0,
        mild=lambda a, b, c: a * b * c <= 400,
    ),
    Skill(
        name="arrangements",
        domain="counting",
        slots={"n": (3, 30), "r": (2, 4)},
        carrier="n",
        reach=(3, 30),
        wordings=wordings(
            "the number of ways to line up {r} of {n} people",
            "the number of ordered choices of {r} different things from {n}",
            "A race has {n} runners.|the number of possible results for the first {r} places",
        ),
        derive=_arrangements,
        check=lambda n, r: sum(1 for _ in permutations(range(n), r)),
        valid=lambda n, r: 0 < r <= n,
        mild=lambda n, r: math.perm(n, r) <= 999,
    ),
    Skill(
        name="grid paths",
        domain="counting",
        slots={"a": (2, 40), "b": (2, 4)},
        carrier="a",
        reach=(2, 40),
        wordings=wordings(
            "the number of shortest paths on a grid that go {a} steps right and {b} steps up",
            "A robot must take {a} steps east and {b} steps north in any order."
            "|the number of possible routes",
            "the number of ways to order {a} equal white and {b} equal black beads in a row",
        ),
        derive=_paths,
        check=_paths_by_grid,
        valid=lambda a, b: a >= 0 and b >= 0,
        mild=lambda a, b: math.comb(a + b, b) <= 900,
    ),
    Skill(
        name="rectangle perimeters",
        domain="geometry",
        slots={"x": (4, 70), "y": (4, 70)},
        carrier="x",
        reach=(3, 99),
        wordings=wordings(
            "the perimeter of a rectangle with sides {x} and {y}",
            "A garden is {x} meters long and {y} meters wide.|the length of a fence around it"
            "|How many meters of fence go around it?",
            "A rectangle has width {y} and length {x}.|its perimeter",
            "the perimeter of a {x} by {y} rectangle",
        ),
        derive=_perimeter,
        check=lambda x, y: sum((x, y, x, y)),
        valid=lambda x, y: x > 0 and y > 0,
        symmetric=True,
        core=True,
    ),
    Skill(
        name="triangle angles",
        domain="geometry",
        slots={"x": (20, 85), "y": (20, 85)},
        carrier="x",
        reach=(11, 120),
        wordings=wordings(
            "Two angles of a triangle measure {x} and {y} degrees.|the third angle in degrees"
            "|How many degrees does the third angle measure?",
            "the third angle in degrees of a triangle with angles of {x} and {y} degrees",
            "In a triangle one angle is {x} degrees and another is {y} degrees."
            "|the measure of the last angle in degrees",
        ),
        derive=_angle,
        check=lambda x, y: len(range(x + y, 180)),
        valid=lambda x, y: x > 0 and y > 0 and x + y < 180,
        symmetric=True,
        core=True,
    ),
    Skill(
        name="rectangle areas",
        domain="geometry",
        slots={"x": (11, 99), "y": (2, 9)},
        carrier="x",
        reach=(11, 99),
        wordings=wordings(
            "the area of a rectangle with sides {x} and {y}",
            "A floor is {x} feet long and {y} feet wide.|its area in square feet",
            "the number of unit squares in a rectangle of length {x} and width {y}",
        ),
        derive=_area,
        check=lambda x, y: sum(x for _ in range(y)),
        valid=lambda x, y: x > 0 and y > 0,
        symmetric=True,
    ),
    Skill(
        name="triangle areas",
        domain="geometry",
        slots={"x": (4, 40), "y": (3, 24)},
        carrier="x",
        reach=(4, 60),
        wordings=wordings(
            "the area of a triangle with base {x} and height {y}",
            "A sail has the shape of a triangle with base {x} and height {y}.|its area",
            "the area of a right triangle whose legs are {x} and {y}",
        ),
        derive=_half_product,
        check=lambda x, y: int(Fraction(x, 2) * y),
        valid=lambda x, y: x > 0 and y > 0 and x * y % 2 == 0,
        mild=lambda x, y: x * y <= 400,
        symmetric=True,
    ),
    Skill(
        name="box volumes",
        domain="geometry",
        slots={"a": (2, 12), "b": (2, 9), "c": (2, 9)},
        carrier="a",
        reach=(2, 20),
        wordings=wordings(
            "the volume of a box with edges {a}, {b} and {c}",
            "A box is {a} inches long, {b} inches wide and {c} inches high."
            "|its volume in cubic inches",
            "the number of unit cubes that fill a box of size {a} by {b} by {c}",
        ),
        derive=_triple_product,
        check=lambda a, b, c: sum(b * c for _ in range(a)),
        valid=lambda a, b, c: min(a, b, c) > 0,
        mild=lambda a, b, c: a * b * c <= 500,
        symmetric=True,
    ),
    Skill(
        name="polygon diagonals",
        domain="geometry",
        slots={"n": (4, 40)},
        carrier="n",
        reach=(4, 40),
        wordings=wordings(
            "the number of diagonals of a convex polygon with {n} sides",
            "A convex polygon has {n} corners.|the number of its diagonals",
            "the number of segments that join corners of a convex polygon with {n} corners and "
            "are not sides",
        ),
        derive=_diagonals,
        check=lambda n: sum(1 for _ in combinations(range(n), 2)) - n,
        valid=lambda n: n >= 3,
    ),
    Skill(
        name="grid distances",
        domain="geometry",
        slots={"a": (0, 60), "b": (0, 60), "c": (0, 60), "d": (0, 60)},
        carrier="a",
        reach=(0, 99),
        wordings=wordings(
            "A taxi drives along the streets of a grid from ({a}, {b}) to ({c}, {d})."
            "|the length of the shortest drive in blocks",
            "the least number of unit steps along grid lines from ({a}, {b}) to ({c}, {d})",
            "the sum of the horizontal and vertical distances between ({a}, {b}) and ({c}, {d})",
        ),
        derive=_grid_distance,
        check=lambda a, b, c, d: (
            len(range(min(a, c), max(a, c))) + len(range(min(b, d), max(b, d)))
        ),
        mild=lambda a, b, c, d: a != c and b != d,
    ),
    Skill(
        name="drawing a ball",
        domain="probability",
        slots={"a": (1, 40), "b": (1, 40)},
        carrier="a",
        reach=(1, 60),
        wordings=wordings(
            "A bag holds {a} red and {b} blue balls, and the chance to draw a red one is the "
            "reduced fraction of two positive integers.|the sum of these two integers",
            "the sum of numerator and denominator of the reduced probability to draw a red ball "
            "from {a} red and {b} blue ones",
            "A jar has {a} white and {b} black beans.|the numerator plus the denominator of the "
            "reduced probability that a random bean is white",
        ),
        derive=_draw_one,
        check=lambda a, b: _parts(Fraction(a, a + b)),
        valid=lambda a, b: a > 0 and b > 0,
    ),
    Skill(
        name="drawing a multiple",
        domain="probability",
        slots={"n": (10, 99), "d": (2, 12)},
        carrier="n",
        reach=(10, 120),
        wordings=wordings(
            "A card is drawn from cards numbered 1 to {n}.|the numerator plus the denominator of "
            "the reduced probability that its number is divisible by {d}",
            "the sum of numerator and denominator of the reduced probability that a random integer "
            "from 1 to {n} is a multiple of {d}",
            "{name} picks a random page of a book with {n} pages.|the numerator plus the "
            "denominator of the reduced chance of a page number divisible by {d}",
        ),
        derive=_draw_multiple,
        check=lambda n, d: _parts(Fraction(sum(1 for i in range(1, n + 1) if i % d == 0), n)),
        valid=lambda n, d: 0 < d <= n,
    ),
    Skill(
        name="expected counts",
        domain="probability",
        slots={"n": (12, 160), "a": (1, 8), "b": (2, 9)},
        carrier="n",
        reach=(8, 180),
        wordings=wordings(
            "A shot hits with probability {a}/{b}.|the expected number of hits in {n} shots",
            "the expected number of successes in {n} trials with success probability {a}/{b}",
            "Each seed sprouts with probability {a}/{b}.|the expected number of sprouts from {n} "
            "seeds",
        ),
        derive=_expected,
        check=lambda n, a, b: int(Fraction(a, b) * n),
        valid=lambda n, a, b: 0 < a < b and n % b == 0,
        mild=lambda n, a, b: math.gcd(a, b) == 1 and n // b <= 20,
    ),
    Skill(
        name="means",
        domain="statistics",
        slots={"x": (5, 40), "y": (5, 40), "z": (5, 40)},
        carrier="x",
        reach=(3, 90),
        wordings=wordings(
            "the mean of {x}, {y} and {z}",
            "the average of the numbers {x}, {y} and {z}",
            "{name} scores {x}, {y} and {z} points in three games."
            "|the mean score|How many points is the mean score?",
            "Three bags hold {x}, {y} and {z} {item}.|the mean number of {item} in a bag",
        ),
        derive=_mean,
        check=lambda x, y, z: int(statistics.mean((x, y, z))),
        valid=lambda x, y, z: (x + y + z) % 3 == 0,
        symmetric=True,
        core=True,
    ),
    Skill(
        name="medians",
        domain="statistics",
        slots=dict.fromkeys("abcde", (3, 60)),
        carrier="a",
        reach=(1, 99),
        wordings=wordings(
            "the median of {a}, {b}, {c}, {d} and {e}",
            "the middle value of {a}, {b}, {c}, {d} and {e} when they are sorted",
            "Five children are {a}, {b}, {c}, {d} and {e} months old.|the median age in months",
        ),
        derive=_median,
        check=lambda *numbers: int(statistics.median(numbers)),
        symmetric=True,
    ),
    Skill(
        name="ranges",
        domain="statistics",
        slots=dict.fromkeys("abcde", (3, 60)),
        carrier="a",
        reach=(1, 99),
        wordings=wordings(
            "the range of {a}, {b}, {c}, {d} and {e}",
            "the difference between the largest and the smallest of {a}, {b}, {c}, {d} and {e}",
            "Five parcels weigh {a}, {b}, {c}, {d} and {e} grams.|the range of the weights",
        ),
        derive=_range,
        check=_range_by_gaps,
        symmetric=True,
    ),
    Skill(
        name="missing values",
        domain="statistics",
        slots={"x": (5, 40), "y": (5, 40), "m": (8, 40)},
        carrier="x",
        reach=(3, 80),
        wordings=wordings(
            "The mean of three numbers is {m}, and two of them are {x} and {y}.|the third number",
            "the number whose mean with {x} and {y} is {m}",
            "{name} scored {x} and {y} points in the first two of three games, with a mean of {m} "
            "over all three.|the score of the third game",
        ),
        derive=_missing,
        check=lambda x, y, m: next(z for z in range(3 * m + 1) if x + y + z == 3 * m),
        valid=lambda x, y, m: 3 * m >= x + y,
    ),
)
