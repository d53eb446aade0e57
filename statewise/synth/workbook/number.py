"""Concepts of arithmetic, divisibility, modular arithmetic, and digits and bases."""

from __future__ import annotations

import math
from itertools import count

from statewise.synth.workbook.skill import Skill, long_division, long_product, wordings


def _cost(a: int, b: int, c: int) -> tuple[str, int]:
    return f"{a}*{b}={a * b}\n{a * b}+{c}={a * b + c}", a * b + c


def _sum(x: int, y: int) -> tuple[str, int]:
    return f"{x}+{y}={x + y}", x + y


def _difference(x: int, y: int) -> tuple[str, int]:
    return f"{x}-{y}={x - y}", x - y


def _product(x: int, y: int) -> tuple[str, int]:
    return "\n".join(long_product(x, y)), x * y


def _quotient(x: int, y: int) -> tuple[str, int]:
    return f"{x}/{y}={x // y}", x // y


def _percentage(p: int, x: int) -> tuple[str, int]:
    tenth, tens = x // 10, p // 10
    return f"{x}/10={tenth}\n{tenth}*{tens}={tenth * tens}", tenth * tens


def _subtractions(x: int, y: int) -> list[tuple[int, int]]:
    """The pairs of Euclid's algorithm by subtraction, larger number first."""
    pairs = []
    while x != y:
        x, y = max(x, y), min(x, y)
        pairs.append((x, y))
        x -= y
    return pairs


def _gcd(x: int, y: int) -> tuple[str, int]:
    pairs = _subtractions(x, y)
    return "\n".join(f"{a}-{b}={a - b}" for a, b in pairs), pairs[-1][1]


def _gcd_search(x: int, y: int) -> int:
    return next(d for d in range(min(x, y), 0, -1) if x % d == 0 and y % d == 0)


def _lcm(x: int, y: int) -> tuple[str, int]:
    m, lines = x, [str(x)]
    while m % y:
        lines.append(f"{m}+{x}={m + x}")
        m += x
    return "\n".join([*lines, f"{m}/{y}={m // y}", f"so {m}"]), m


def _multiples(n: int, d: int) -> tuple[str, int]:
    lines, parts = long_division(n, d)
    q = sum(parts)
    lines.append(f"{parts[0]}+{parts[1]}={q}" if len(parts) > 1 else f"count {q}")
    return "\n".join(lines), q


def _divisors(n: int) -> tuple[str, int]:
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return f"{' '.join(map(str, divisors))}\ncount {len(divisors)}", len(divisors)


def _divisors_by_exponents(n: int) -> int:
    total = 1
    for p in range(2, n + 1):
        exponent = 0
        while n % p == 0:
            n //= p
            exponent += 1
        total *= exponent + 1
    return total


def _largest_prime(n: int) -> tuple[str, int]:
    steps, p = [], 2
    while n > 1:
        while n % p:
            p += 1
        steps.append(f"{n}/{p}={n // p}")
        n //= p
    lines = "\n".join(steps)
    return f"{lines}\nso {p}", p


def _largest_prime_by_sieve(n: int) -> int:
    sieve = [True] * (n + 1)
    largest = 0
    for p in range(2, n + 1):
        if sieve[p]:
            sieve[p * p :: p] = [False] * len(sieve[p * p :: p])
            largest = p if n % p == 0 else largest
    return largest


def _remainder(x: int, y: int) -> tuple[str, int]:
    return "\n".join(long_division(x, y)[0]), x % y


def _remainder_by_subtraction(x: int, y: int) -> int:
    while x >= y:
        x -= y
    return x


def _product_remainder(x: int, y: int, z: int) -> tuple[str, int]:
    a, b = x % z, y % z
    return (
        f"{x} mod {z}={a}\n{y} mod {z}={b}\n{a}*{b}={a * b}\n{a * b} mod {z}={a * b % z}",
        a * b % z,
    )


def _power_remainder(x: int, e: int, z: int) -> tuple[str, int]:
    r = x % z
    parts = [f"{x} mod {z}={r}"]
    for _ in range(e - 1):
        parts.append(f"{r}*{x % z}={r * (x % z)} mod {z}={r * (x % z) % z}")
        r = r * (x % z) % z
    return "\n".join(parts), r


def _dial(s: int, t: int, z: int) -> tuple[str, int]:
    return f"{s}+{t}={s + t}\n{s + t} mod {z}={(s + t) % z}", (s + t) % z


def _dial_by_walking(s: int, t: int, z: int) -> int:
    for _ in range(t):
        s = 0 if s == z - 1 else s + 1
    return s


def _digit_sum(x: int) -> tuple[str, int]:
    digits = [int(c) for c in str(x)]
    parts, total = [" ".join(str(x))], digits[0]
    for d in digits[1:]:
        parts.append(f"{total}+{d}={total + d}")
        total += d
    return "\n".join(parts), total


def _digit_sum_by_division(x: int) -> int:
    total = 0
    while x:
        x, d = divmod(x, 10)
        total += d
    return total


def _digit_product(x: int) -> tuple[str, int]:
    digits = [int(c) for c in str(x)]
    parts, total = [], digits[0]
    for d in digits[1:]:
        parts.append(f"{total}*{d}={total * d}")
        total *= d
    return "\n".join(parts), total


def _from_base(x: int, b: int) -> tuple[str, int]:
    digits = [int(c) for c in str(x)]
    parts, total = [], digits[0]
    for d in digits[1:]:
        parts.append(f"{total}*{b}={total * b}\n{total * b}+{d}={total * b + d}")
        total = total * b + d
    return "\n".join(parts), total


def _binary_ones(x: int) -> tuple[str, int]:
    parts, ones = [], 0
    while x:
        parts.append(f"{x}:{x % 2}")
        ones += x % 2
        x //= 2
    lines = "\n".join(parts)
    return f"{lines}\nones {ones}", ones


def _reversal(x: int) -> tuple[str, int]:
    digits = str(x)
    return f"{' '.join(digits)}\n{digits[::-1]}", int(digits[::-1])


def _reversal_by_division(x: int) -> int:
    result = 0
    while x:
        x, d = divmod(x, 10)
        result = 10 * result + d
    return result


NUMBER: tuple[Skill, ...] = (
    Skill(
        name="total cost",
        domain="arithmetic",
        slots={"a": (2, 9), "b": (2, 9), "c": (5, 60)},
        carrier="c",
        reach=(3, 99),
        wordings=wordings(
            "{name} buys {a} boxes at {b} dollars each and a bag for {c} dollars."
            "|the total cost in dollars|How many dollars does {name} pay in all?",
            "A shop sells {item} at {b} dollars each, and delivery costs {c} dollars."
            "|the price in dollars of {a} {item} with delivery",
            "{name} packs {a} crates of {b} {item} each and has {c} {item} left over."
            "|the number of {item} that {name} has|How many {item} does {name} have?",
            "the sum of {c} and the product of {a} and {b}",
        ),
        derive=_cost,
        check=lambda a, b, c: sum([b] * a, c),
        core=True,
    ),
    Skill(
        name="sum of two numbers",
        domain="arithmetic",
        slots={"x": (11, 99), "y": (11, 99)},
        carrier="x",
        reach=(5, 199),
        wordings=wordings(
            "{name} has {x} {item} and gets {y} more.|the number of {item} that {name} has then"
            "|How many {item} does {name} have then?",
            "the sum of {x} and {y}",
            "the number that is {y} more than {x}",
        ),
        derive=_sum,
        check=lambda x, y: len(range(-x, y)),
        symmetric=True,
    ),
    Skill(
        name="difference of two numbers",
        domain="arithmetic",
        slots={"x": (30, 150), "y": (11, 99)},
        carrier="x",
        reach=(20, 199),
        wordings=wordings(
            "{name} has {x} {item} and gives {y} away.|the number of {item} that {name} keeps"
            "|How many {item} does {name} keep?",
            "the difference when {y} is taken from {x}",
            "the number that is {y} less than {x}",
        ),
        derive=_difference,
        check=lambda x, y: len(range(y, x)),
        valid=lambda x, y: x > y,
    ),
    Skill(
        name="product of two numbers",
        domain="arithmetic",
        slots={"x": (11, 99), "y": (2, 9)},
        carrier="x",
        reach=(11, 99),
        wordings=wordings(
            "A hall has {y} rows of {x} chairs.|the number of chairs in the hall"
            "|How many chairs are in the hall?",
            "the product of {x} and {y}",
            "the number of {item} in {y} bags of {x} {item} each",
        ),
        derive=_product,
        check=lambda x, y: sum([x] * y),
        symmetric=True,
    ),
    Skill(
        name="equal sharing",
        domain="arithmetic",
        slots={"x": (12, 180), "y": (2, 9)},
        carrier="x",
        reach=(12, 180),
        wordings=wordings(
            "{name} shares {x} {item} equally among {y} friends."
            "|the number of {item} each friend gets|How many {item} does each friend get?",
            "the quotient of {x} and {y}",
            "the size of each part when {x} is split into {y} equal parts",
        ),
        derive=_quotient,
        check=lambda x, y: next(q for q in count(1) if q * y == x),
        valid=lambda x, y: y > 0 and x > 0 and x % y == 0,
        mild=lambda x, y: x // y <= 20,
    ),
    Skill(
        name="percentages",
        domain="arithmetic",
        slots={"p": (1, 99), "x": (20, 300)},
        carrier="x",
        reach=(20, 300),
        wordings=wordings(
            "{name} has {x} {item}, and {p} percent of them are new.|the number of new {item}"
            "|How many of the {item} are new?",
            "{p} percent of {x}",
            "A school has {x} pupils, and {p} percent of them walk to school."
            "|the number of pupils who walk",
        ),
        derive=_percentage,
        check=lambda p, x: p * x // 100,
        valid=lambda p, x: p % 10 == 0 and x % 10 == 0,
    ),
    Skill(
        name="greatest common divisor",
        domain="divisibility",
        slots={"x": (10, 144), "y": (6, 99)},
        carrier="x",
        reach=(8, 144),
        wordings=wordings(
            "the greatest common divisor of {x} and {y}",
            "the largest integer that divides both {x} and {y}",
            "Two ropes of {x} and {y} meters are cut into equal pieces with nothing left over."
            "|the greatest possible length of a piece in meters",
            "the greatest common factor of the numbers {x} and {y}",
        ),
        derive=_gcd,
        check=_gcd_search,
        valid=lambda x, y: x > 0 and y > 0 and x != y,
        mild=lambda x, y: len(_subtractions(x, y)) <= 5,
        symmetric=True,
        core=True,
    ),
    Skill(
        name="least common multiple",
        domain="divisibility",
        slots={"x": (6, 40), "y": (3, 40)},
        carrier="x",
        reach=(6, 60),
        wordings=wordings(
            "the least common multiple of {x} and {y}",
            "the smallest positive integer divisible by both {x} and {y}",
            "One bell rings every {x} minutes and another every {y} minutes, and both ring now."
            "|the number of minutes until both ring together again",
        ),
        derive=_lcm,
        check=math.lcm,
        valid=lambda x, y: x > 0 and y > 0,
        mild=lambda x, y: math.lcm(x, y) // x <= 6 and math.lcm(x, y) <= 300,
        symmetric=True,
    ),
    Skill(
        name="counting multiples",
        domain="divisibility",
        slots={"n": (20, 170), "d": (3, 12)},
        carrier="n",
        reach=(15, 170),
        wordings=wordings(
            "the number of multiples of {d} from 1 to {n}",
            "the number of positive integers up to {n} that are divisible by {d}",
            "{name} has {n} {item} and fills bags of {d} {item}.|the number of full bags"
            "|How many bags does {name} fill?",
            "the number of positive multiples of {d} that do not exceed {n}",
        ),
        derive=_multiples,
        check=lambda n, d: len(range(d, n + 1, d)),
        valid=lambda n, d: n > 0 and d > 0,
        core=True,
    ),
    Skill(
        name="divisor counting",
        domain="divisibility",
        slots={"n": (4, 200)},
        carrier="n",
        reach=(4, 200),
        wordings=wordings(
            "the number of positive divisors of {n}",
            "the number of positive integers that divide {n}",
            "{name} lays {n} {item} out in equal rows.|the number of possible row lengths",
        ),
        derive=_divisors,
        check=_divisors_by_exponents,
        valid=lambda n: n > 0,
    ),
    Skill(
        name="prime factors",
        domain="divisibility",
        slots={"n": (6, 300)},
        carrier="n",
        reach=(6, 300),
        wordings=wordings(
            "the largest prime factor of {n}",
            "the greatest prime that divides {n}",
            "the largest prime in the factorization of {n}",
        ),
        derive=_largest_prime,
        check=_largest_prime_by_sieve,
        valid=lambda n: n > 1,
    ),
    Skill(
        name="remainders",
        domain="modular arithmetic",
        slots={"x": (13, 165), "y": (3, 12)},
        carrier="x",
        reach=(13, 165),
        wordings=wordings(
            "the remainder when {x} is divided by {y}",
            "{name} puts {x} {item} into bags of {y}, as many as can be filled."
            "|the number of {item} left over|How many {item} are left over?",
            "the remainder of {x} on division by {y}",
            "the value of {x} modulo {y}",
        ),
        derive=_remainder,
        check=_remainder_by_subtraction,
        valid=lambda x, y: x >= 0 and y > 0,
        core=True,
    ),
    Skill(
        name="remainders of products",
        domain="modular arithmetic",
        slots={"x": (11, 60), "y": (11, 60), "z": (3, 12)},
        carrier="x",
        reach=(11, 99),
        wordings=wordings(
            "the remainder when the product of {x} and {y} is divided by {z}",
            "the value modulo {z} of {x} times {y}",
            "A field has {x} rows of {y} plants, sold in trays of {z}."
            "|the number of plants that do not fill a tray",
        ),
        derive=_product_remainder,
        check=lambda x, y, z: x * y - z * (x * y // z),
        valid=lambda x, y, z: min(x, y, z) > 0,
    ),
    Skill(
        name="remainders of powers",
        domain="modular arithmetic",
        slots={"x": (2, 30), "e": (2, 6), "z": (3, 13)},
        carrier="x",
        reach=(2, 60),
        wordings=wordings(
            "the remainder when {x} to the power {e} is divided by {z}",
            "the value modulo {z} of {x} raised to the power {e}",
            "the remainder on division by {z} of the power with base {x} and exponent {e}",
        ),
        derive=_power_remainder,
        check=lambda x, e, z: pow(x, e) - z * (pow(x, e) // z),
        valid=lambda x, e, z: x > 0 and e > 0 and z > 0,
    ),
    Skill(
        name="dials and clocks",
        domain="modular arithmetic",
        slots={"s": (0, 11), "t": (5, 90), "z": (5, 24)},
        carrier="t",
        reach=(5, 120),
        wordings=wordings(
            "A dial has the marks from 0 to one less than {z} and points at mark {s}."
            "|the mark it points at after {t} steps forward",
            "A track has {z} posts numbered from 0, and {name} stands at post {s}."
            "|the post that {name} reaches after passing on {t} posts",
            "A clock counts hours from 0 and starts again after {z} hours, and it shows {s}."
            "|the hour it shows {t} hours later",
        ),
        derive=_dial,
        check=_dial_by_walking,
        valid=lambda s, t, z: 0 <= s < z and t >= 0,
    ),
    Skill(
        name="digit sums",
        domain="digits and bases",
        slots={"x": (111, 9999)},
        carrier="x",
        reach=(11, 999),
        wordings=wordings(
            "the sum of the digits of {x}",
            "the digit sum of the number {x}",
            "{name} writes {x} on the board.|the sum of the digits that {name} wrote",
            "the total of all digits in {x}",
        ),
        derive=_digit_sum,
        check=_digit_sum_by_division,
        valid=lambda x: x > 9,
        core=True,
    ),
    Skill(
        name="digit products",
        domain="digits and bases",
        slots={"x": (112, 999)},
        carrier="x",
        reach=(11, 999),
        wordings=wordings(
            "the product of the digits of {x}",
            "the result of multiplying all digits of {x}",
            "{name} writes {x} on a card.|the product of the digits on the card",
        ),
        derive=_digit_product,
        check=lambda x: math.prod(x // 10**i % 10 for i in range(len(str(x)))),
        valid=lambda x: x > 9,
    ),
    Skill(
        name="numerals in other bases",
        domain="digits and bases",
        slots={"x": (11, 299), "b": (3, 9)},
        carrier="x",
        reach=(11, 199),
        wordings=wordings(
            "the number whose base {b} numeral is {x}",
            "the decimal value of the numeral {x} read in base {b}",
            "A machine counts in base {b} and shows {x}.|the decimal number it means",
        ),
        derive=_from_base,
        check=lambda x, b: int(str(x), b),
        valid=lambda x, b: x > 0 and 2 <= b <= 10 and all(int(c) < b for c in str(x)),
        mild=lambda x, b: x > 9,
    ),
    Skill(
        name="binary digits",
        domain="digits and bases",
        slots={"x": (5, 250)},
        carrier="x",
        reach=(5, 250),
        wordings=wordings(
            "the number of ones in the binary form of {x}",
            "the number of digits equal to 1 when {x} is written in base 2",
            "A set of weights has the powers of 2, one of each."
            "|the number of weights that balance {x} grams",
        ),
        derive=_binary_ones,
        check=int.bit_count,
        valid=lambda x: x >= 0,
    ),
    Skill(
        name="reversed numbers",
        domain="digits and bases",
        slots={"x": (112, 989)},
        carrier="x",
        reach=(12, 989),
        wordings=wordings(
            "the number obtained by reversing the digits of {x}",
            "the number that reads {x} from right to left",
            "{name} reads the number {x} in a mirror, digit by digit from the right."
            "|the number that {name} reads",
        ),
        derive=_reversal,
        check=_reversal_by_division,
        valid=lambda x: x > 9 and x % 10 != 0,
    ),
)
