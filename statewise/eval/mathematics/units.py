"""What stands behind a number: units that convert into each other, and plain words that must agree.

A unit is a scale and a product of base units with their powers, so that 3 hours is 180 minutes and
no length is an area. A word that is no unit is a base unit of its own: apples are apples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from statewise.eval.mathematics.latex import Token, scan

_TABLE = """
metre 1: m metre meter
metre 1/100: cm centimetre centimeter
metre 1/1000: mm millimetre millimeter
metre 1/10: dm decimetre decimeter
metre 1000: km kilometre kilometer
metre 127/5000: in inch inche
metre 381/1250: ft foot feet
metre 1143/1250: yd yard
metre 201168/125: mi mile
metre 1/1000000000: nm nanometer
second 1: s sec second
second 1/1000: ms millisecond
second 60: min minute
second 3600: h hr hour
second 86400: d day
second 604800: wk week
month 1: month mo
month 12: yr year
month 120: decade
gram 1: g gram gm gramme
gram 1000: kg kilogram kilo
gram 1/1000: mg milligram
gram 45359237/100000: lb pound
gram 45359237/1600000: oz ounce
gram 1000000: tonne
metre^3 1/1000: l L litre liter
metre^3 1/1000000: ml mL millilitre milliliter cc
metre^3 473176473/125000000000: gal gallon
metre^3 473176473/500000000000: qt quart
metre^3 473176473/1000000000000: pt pint
metre^3 473176473/2000000000000: cup
metre^2 316160658/78125: acre
metre^2 10000: ha hectare
dollar 1: $ usd dollar buck
dollar 1/100: ¢ cent penny pennie penny
euro 1: € eur euro
sterling 1: £ gbp
yen 1: ¥ yen
rupee 1: ₹ rs rupee
degree 1: deg degree
radian 1: rad radian
percent 1: % percent percentage pct
celsius 1: celsius
fahrenheit 1: fahrenheit
newton 1: N newton
joule 1: J joule
joule 3600000: kWh
watt 1: W watt
volt 1: V volt
kelvin 1: kelvin
pascal 1: Pa pascal
hertz 1: Hz hertz
ampere 1: A amp ampere
ohm 1: ohm
mole 1: mol mole
unit 1: unit
"""


def _table() -> dict[str, tuple[str, int, Fraction]]:
    """Base unit, its power and the scale, by name."""
    found = {}
    for line in _TABLE.strip().splitlines():
        head, _, names = line.partition(": ")
        unit, scale = head.split()
        base, _, power = unit.partition("^")
        found.update({name: (base, int(power or 1), Fraction(scale)) for name in names.split()})
    return found


_UNITS = _table()
_SPEEDS = {"mph": ("mile", "hour"), "kmh": ("km", "hour"), "kph": ("km", "hour"),
           "kmph": ("km", "hour"), "fps": ("foot", "second"), "mps": ("m", "second")}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_FILLERS = {"of", "the", "a", "an", "total", "exactly", "only", "whole", "th", "st", "nd", "rd"}
_SYMBOLS = set("mslLgh")  # a letter that is also a name of something else

# Words that change what a number before them says; with them it is no quantity.
_CHANGING = set(
    "or and nor xor vs versus more fewer less greater smaller least most than not no never none"
    " neither minus plus times over under above below beyond between upwards downwards negative"
    " factorial choose half dozen score gross lakh crore hundred thousand million billion trillion"
    " am pm noon midnight bc bce ad base mod modulo remainder divided multiplied doubled tripled"
    " power root sqrt inverse reciprocal log ln sin cos tan exp pi infinity"
    " infinite undefined if when where for since because is was were be with without by from to"
    " into but unless otherwise impossible maybe perhaps possibly probably alternatively"
    " approximately roughly nearly almost around about up down point points loss debt deficit"
    " wrong false exclusive inclusive tens ones digits off short k m b bn"
    " january february march april may june july august september october november december"
    " zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
    " quarter quarters pair pairs couple".split()
)
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9,
           "trillion": 10**12, "dozen": 12, "score": 20, "gross": 144, "lakh": 10**5,
           "crore": 10**7}  # fmt: skip
_LABELS = set(
    "the answer answers final result ans is are total value values solution solutions therefore"
    " thus hence so equals equal to our required correct option choice which gives we get have"
    " it be sum number probability area distance he she they there has need needs will can must"
    " gets makes of a an all this that only exactly just".split()
)

_NAMES = set("area distance number probability sum".split())

_FRACTIONS = re.compile(
    r".*(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|teen|tie|hundred|thousand|llion)ths?"
    r"|thirds?|hal(?:f|ves)"
)


def _changes(word: str) -> bool:
    """Whether a word makes another number of the one before it."""
    return word in _CHANGING or _FRACTIONS.fullmatch(word) is not None


class Unit(NamedTuple):
    """A scale, and base units with their powers; `words` are those that are no known unit."""

    scale: Fraction
    bases: tuple[tuple[str, int], ...]
    words: frozenset[str] = frozenset()

    @classmethod
    def named(cls, name: str) -> Unit:
        """The unit of a name in the table, or of a currency's sign."""
        base, power, scale = _UNITS[name]
        return cls(scale, ((base, power),))

    @property
    def changes(self) -> bool:
        """Whether it scales the number, as a million does, or turns its meaning."""
        return any(map(_changes, self.words))

    @property
    def is_percent(self) -> bool:
        """Whether it is a percent sign and nothing else."""
        return self.bases == (("percent", 1),) and not self.words

    @property
    def is_angle(self) -> bool:
        """Whether it says degrees and nothing else."""
        return self.bases == (("degree", 1),) and not self.words

    @property
    def is_radian(self) -> bool:
        """Whether it says radians and nothing else."""
        return self.bases == (("radian", 1),) and not self.words

    @property
    def without_words(self) -> Unit | None:
        """The unit alone, None if there is none."""
        return self._replace(words=frozenset()) if self.bases else None

    @property
    def multiplier(self) -> int | None:
        """The number that its words stand for: a million; None where they are others."""
        if not self.words:
            return None
        scales = [_SCALES.get(w) for w in self.words]
        known = [s for s in scales if s is not None]
        return known[0] if len(known) == len(scales) == 1 else None


def unit_of(text: str) -> Unit | None:
    """The unit that LaTeX names, with or without `\\text`; None where it names none."""
    tokens = scan(text)
    return find_unit([t._replace(kind="word") if t.kind == "letter" else t for t in _runs(tokens)])


def _runs(tokens: Sequence[Token]) -> list[Token]:
    made: list[Token] = []
    for t in tokens:
        if t.kind == "letter" and made and made[-1].kind == "letter" and not t.gap:
            made[-1] = made[-1]._replace(text=made[-1].text + t.text)
        else:
            made.append(t)
    return made


def without_labels(words: str) -> str:
    """Words without those before the last that only announce it."""
    parts = words.split()
    while len(parts) > 1 and parts[0] in _LABELS:
        parts = parts[1:]
    return " ".join(parts)


def changes_meaning(words: Sequence[str]) -> bool:
    """Whether there is a word among these that makes another answer of the one behind them."""
    return any(_changes(w.lower().strip(".")) for w in words)


def is_announcement(words: Sequence[str]) -> bool:
    """Whether words announce an answer without naming it: "the answer", and not "the area"."""
    return is_label(words) and not {w.lower().strip(".") for w in words} & _NAMES


def is_label(words: Sequence[str]) -> bool:
    """Whether words only announce an answer."""
    return all(w.lower().strip(".") in _LABELS for w in words)


def find_unit(tokens: Sequence[Token], behind: str = "number") -> Unit | None:
    """The unit that these tokens are, all of them; None where they are none.

    Args:
        tokens: what stands behind an answer.
        behind: the kind of the token before them; a bare letter is no unit behind a letter.
    """
    words = _pieces(tokens)
    if not words or not any(w.isalnum() or w in "$€£¥₹¢%" for w, _ in words):
        return None
    first, bare = words[0]
    while first in ("-", "*", "/") and len(words) > 1:
        if first != "/":
            words = words[1:]
            first, also = words[0]
        else:
            first, also = words[1]
        bare = bare or also
        if first == "/":
            return None
        if words[0][0] == "/":
            if bare and (len(first) < 2 or _known(first) is None):
                return None
            break
    if bare and not _may_stand_bare(first, tokens, behind):
        return None
    return _combined([w for w, _ in words])


def _pieces(tokens: Sequence[Token]) -> list[tuple[str, bool]] | None:
    """Words, powers "^n" and signs, each with whether it was written as bare letters."""
    out: list[tuple[str, bool]] = []
    i = 0
    while i < len(tokens):
        t = tokens[i]
        if t.kind == "word":
            out.append((t.text, False))
        elif t.kind == "letter":
            run = t.text
            while i + 1 < len(tokens) and tokens[i + 1].kind == "letter" and not tokens[i + 1].gap:
                i += 1
                run += tokens[i].text
            out.append((run, True))
        elif t.kind == "mark" and t.text == "^":
            power = [n.text for n in tokens[i + 1 : i + 5]]
            match = re.match(r"\{?(-?[0-9]|\\?circ)\}?", "".join(power))
            if match is None:
                return None
            out.append(("deg" if "circ" in match[1] else "^" + match[1], False))
            size, j = len(match[0]), i + 1
            while size > 0:
                size -= len(tokens[j].text)
                j += 1
            i = j - 1
        elif t.kind == "command" and t.text == "circ":
            out.append(("deg", False))
        elif t.kind == "command" and t.text == "frac":
            inner = _fraction_of_units(tokens[i + 1 :])
            if inner is None:
                return None
            pieces, length = inner
            out += pieces
            i += length
        elif t.kind == "command" and t.text == "Omega":
            out.append(("ohm", False))
        elif t.kind == "command" and t.text == "mu" and i + 1 < len(tokens):
            out.append(("micro", False))
        elif t.kind == "mark" and t.text in ("/", "-", "*", "$", "€", "£", "¥", "₹", "¢", "%"):
            out.append((t.text, False))
        elif t.text == "(" and [n.text for n in tokens[i + 1 : i + 3]] == ["s", ")"]:
            i += 2  # unit(s)
        elif t.kind == "mark" and t.text in ("(", ")", ".", "'", "{", "}"):
            pass
        else:
            return None
        i += 1
    return out


def _fraction_of_units(tokens: Sequence[Token]) -> tuple[list[tuple[str, bool]], int] | None:
    """The pieces of \\frac{km}{h} behind its command, and how many tokens they take."""
    groups: list[list[tuple[str, bool]]] = []
    at = 0
    for _ in range(2):
        if at >= len(tokens) or tokens[at].text != "{":
            return None
        end = at + 1
        while end < len(tokens) and tokens[end].text != "}":
            end += 1
        pieces = _pieces(tokens[at + 1 : end])
        if not pieces or any(_known(w) is None for w, _ in pieces if not w.startswith("^")):
            return None
        groups.append([(w, False) for w, _ in pieces])
        at = end + 1
    return [*groups[0], ("/", False), *groups[1]], at


def _may_stand_bare(run: str, tokens: Sequence[Token], behind: str) -> bool:
    """Whether bare letters are a unit and not factors: 60 m, 60cm, 18 dollars; not 33x, 5 abc."""
    if behind not in ("number", "mark", "word", "command"):
        return False
    if behind == "command" and not (tokens[0].gap and len(run) > 2):
        return False
    gap = tokens[0].gap or tokens[0].text == "-"
    known = _known(run) is not None or run.lower() in _SPEEDS or run.lower() in _POWERS
    if len(run) == 1:
        return known and run in _SYMBOLS and gap
    if known or run in _FILLERS:
        return run.lower() not in ("ms", "in", "rs", "mo", "pt", "mi", "ha", "a", "of") or gap
    return len(run) >= 4 and run.isascii() and run.islower() and run.endswith("s")


def _known(word: str) -> tuple[str, int, Fraction] | None:
    if word in _UNITS:
        return _UNITS[word]
    mixed = word not in (word.lower(), word.upper(), word.capitalize())
    if len(word) < 2 or (len(word) < 4 and (mixed or word in ("Mm", "Mg", "Ms", "MM", "MG"))):
        return None
    plain = word.lower().rstrip(".")
    for form in (plain, plain.removesuffix("s"), plain.removesuffix("es")):
        if form in _UNITS and len(form) > 1:
            return _UNITS[form]
    return None


def _combined(words: Sequence[str]) -> Unit | None:
    scale, bases, nouns = Fraction(1), dict[str, int](), set[str]()
    sign, square, last = 1, 1, ""

    def add(name: str, power: int) -> None:
        nonlocal scale
        base, own, by = _known(name) or (name, 1, Fraction(1))
        scale *= by**power
        bases[base] = bases.get(base, 0) + own * power

    for word in words:
        low = re.sub(r"\.", "", word.lower())
        if low in ("/", "per"):
            sign, last = -1, ""
        elif word in ("-", "*") or low in _FILLERS:
            pass
        elif word.startswith("^"):
            if not last:
                return None
            add(last, sign * (int(word[1:]) - 1))
        elif low in _POWERS and last and low in ("squared", "cubed"):
            add(last, sign * (_POWERS[low] - 1))
        elif low in _POWERS:
            square = _POWERS[low]
        elif low in _SPEEDS:
            over, under = _SPEEDS[low]
            add(over, 1)
            add(under, -1)
        elif _known(word) is not None:
            add(word, sign * square)
            last, square = word, 1
        elif low.isalpha() and (len(low) > 3 or low == word or word.isupper()) and (
            len(low) > 1 or not low.isascii()
        ):  # fmt: skip
            noun = low if _changes(low) else low.removesuffix("s")
            noun = word if word.isupper() and len(word) < 4 else noun
            nouns.add(noun if sign > 0 else "/" + noun)
            last = ""
        else:
            return None
    if square > 1:
        return None
    return Unit(scale, tuple(sorted((b, p) for b, p in bases.items() if p)), frozenset(nouns))


def agree(reference: Unit, answer: Unit) -> Fraction | None:
    """By what an answer's number is multiplied to be in the reference's unit; None if they differ.

    Words must be the same, or one side's among the other's: apples and red apples.
    """
    mine, theirs = reference.words, answer.words
    if set(filter(_changes, mine)) != set(filter(_changes, theirs)):
        return None
    if mine and theirs and not (mine <= theirs or theirs <= mine):
        return None
    measured = [bool(u.bases) or u.scale != 1 for u in (reference, answer)]
    if all(measured):
        return answer.scale / reference.scale if reference.bases == answer.bases else None
    if any(measured):  # 5 cm for 5 apples, 5 apples a day for 5 apples
        named = (mine and theirs) or (mine and measured[1]) or (theirs and measured[0])
        return None if named else Fraction(1)
    return Fraction(1)


def number_word(words: Iterable[str]) -> int | None:
    """The number that one word is; None for any other."""
    names = "zero one two three four five six seven eight nine ten eleven twelve".split()
    given = list(words)
    return names.index(given[0]) if len(given) == 1 and given[0] in names else None
