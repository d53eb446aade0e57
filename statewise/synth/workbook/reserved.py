"""What training never sees of the workbook, so that more than memory can be asked.

Three things are reserved, each for held-out sets of its own:

* a wording of every mathematical concept, in words that mostly occur in its other wordings;
* one pair of concepts in ten, which no training problem composes;
* numbers beyond the ranges that a concept is trained with (`Skill.beyond`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from zlib import crc32

from statewise.synth.workbook.skill import Wording

_PAIRS = 10  # one in so many


def reserved_pair(a: str, b: str) -> bool:
    """Whether training keeps these two concepts apart."""
    return crc32("+".join(sorted((a, b))).encode()) % _PAIRS == 0


def reserved_pairs(concepts: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs among these concepts that training keeps apart."""
    return [pair for pair in combinations(concepts, 2) if reserved_pair(*pair)]


WORDINGS: dict[str, Wording] = {
    name: Wording(source)
    for name, source in {
        # arithmetic, divisibility
        "total cost": "{name} pays {c} dollars for a bag and {b} dollars for each of {a} {item}."
        "|the price of it all in dollars",
        "sum of two numbers": "the number obtained when {y} is added to {x}",
        "difference of two numbers": "the number that is left when {x} is decreased by {y}",
        "product of two numbers": "{x} multiplied by {y}",
        "equal sharing": "the number of {item} in each of {y} equal bags that hold {x} {item} "
        "in all",
        "percentages": "the number of {item} in {p} percent of a box of {x} {item}",
        "greatest common divisor": "the greatest integer by which {x} and {y} are both divisible",
        "least common multiple": "the smallest number that is a multiple of {x} and of {y}",
        "counting multiples": "the number of integers from 1 to {n} that {d} divides",
        "divisor counting": "the number of integers by which {n} is divisible",
        "prime factors": "the largest of the primes that divide {n}",
        # modular arithmetic, digits and bases
        "remainders": "the number left over when {x} is divided into parts of {y}",
        "remainders of products": "the remainder of {x} times {y} on division by {z}",
        "remainders of powers": "the remainder modulo {z} of {x} raised to the power {e}",
        "dials and clocks": "A clock with {z} hours numbered from 0 points at hour {s}."
        "|the hour it points at {t} steps later",
        "digit sums": "the number obtained by adding all the digits of {x}",
        "digit products": "the number obtained by multiplying the digits of {x} together",
        "numerals in other bases": "the value in base 10 of {x} written in base {b}",
        "binary digits": "the number of ones among the digits of {x} in base 2",
        "reversed numbers": "the number with the digits of {x} from right to left",
        # sequences, equations, rates
        "arithmetic sequences": "{name} starts with {a} {item} and gets {d} more at each step."
        "|the number of {item} at step {n}, where the start is step 1",
        "arithmetic series": "the total of {n} terms that begin at {a} and grow by {d} at each "
        "step",
        "geometric sequences": "term number {n} of the sequence that begins at {a} and is "
        "multiplied by {q} at each step",
        "sums of consecutive integers": "the total of the integers from {x} up to {y}",
        "additive recurrences": "term number {n} of the sequence with first terms {x} and {y} in "
        "which each later term is the sum of the two before",
        "linear equations": "the number x for which {a} times x and {b} have the sum {c}",
        "sum and difference": "Of two numbers with the sum {s}, one is {d} more than the other."
        "|the larger number",
        "working backwards": "the number that gives {c} when it is increased by {a} and then "
        "multiplied by {b}",
        "factor pairs": "the smaller of two positive numbers with difference {b} and product {c}",
        "proportions": "the price in dollars of {c} {item} when {a} of them cost {b} dollars",
        "speed and distance": "{name} is {d} meters from home and walks on at {v} meters a "
        "minute.|the distance from home in meters after {t} minutes",
        "hours and minutes": "the length in minutes of a film of {h} hours and {m} minutes",
        "filling and draining": "the number of minutes to fill a tank of {x} liters that gains "
        "{a} and loses {b} liters a minute",
        # counting, geometry
        "overlapping groups": "{a} people like soups, {b} people like desserts and {c} of them "
        "like both.|the number of people who like one or the other",
        "choosing pairs": "the number of pairs that {n} people can form",
        "multiplication principle": "the number of ways to choose one of {a} hats, one of {b} "
        "shirts and one of {c} scarves",
        "arrangements": "the number of ordered rows of {r} people out of {n}",
        "grid paths": "the number of routes with {a} steps east and {b} steps north",
        "rectangle perimeters": "the length of a fence around a rectangle of {x} by {y} meters",
        "triangle angles": "the measure in degrees of the last angle of a triangle whose other "
        "angles are {x} and {y} degrees",
        "rectangle areas": "the area of a floor of {x} by {y} feet",
        "triangle areas": "A triangle is {y} high over a base of {x}.|its area",
        "box volumes": "the volume of a box that is {a} long, {b} wide and {c} high",
        "polygon diagonals": "the number of diagonals when a convex polygon has {n} corners",
        "grid distances": "the least number of blocks from ({a}, {b}) to ({c}, {d}) along the "
        "streets of a grid",
        # probability, statistics
        "drawing a ball": "A box has {a} red and {b} blue cards, and one is drawn."
        "|the numerator plus the denominator of the reduced probability that it is red",
        "drawing a multiple": "the numerator plus the denominator of the reduced chance that a "
        "card from 1 to {n} shows a multiple of {d}",
        "expected counts": "the expected number of hits in {n} shots that each hit with "
        "probability {a}/{b}",
        "means": "{x}, {y} and {z} are three numbers.|their mean",
        "medians": "the middle number when {a}, {b}, {c}, {d} and {e} are put in order",
        "ranges": "the largest minus the smallest of {a}, {b}, {c}, {d} and {e}",
        "missing values": "the third of three numbers with mean {m} when the others are {x} and "
        "{y}",
    }.items()
}
