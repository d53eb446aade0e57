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
length metre 1: m metre meter
length metre 1/100: cm centimetre centimeter
length metre 1/1000: mm millimetre millimeter
length metre 1/10: dm decimetre decimeter
length metre 1000: km kilometre kilometer
length metre 127/5000: in inch inche
length metre 381/1250: ft foot feet
length metre 1143/1250: yd yard
length metre 201168/125: mi mile
length metre 1/1000000000: nm nanometer
time second 1: s sec second
time second 1/1000: ms millisecond
time second 60: min minute
time second 3600: h hr hour
time second 86400: d day
time second 604800: wk week
time month 1: month mo
time month 12: yr year
time month 120: decade
mass gram 1: g gram gm gramme
mass gram 1000: kg kilogram kilo
mass gram 1/1000: mg milligram
mass gram 45359237/100000: lb pound
mass gram 45359237/1600000: oz ounce
mass gram 1000000: tonne
volume litre 1: l litre liter
volume litre 1/1000: ml millilitre milliliter
volume litre 473176473/125000000: gal gallon
volume litre 473176473/500000000: qt quart
volume litre 473176473/1000000000: pt pint
volume litre 473176473/2000000000: cup
area acre 1: acre
area hectare 1: ha hectare
money dollar 1: $ usd dollar buck
money dollar 1/100: ¢ cent penny pennie penny
money dollar 1/4: quarter
money euro 1: € eur euro
money sterling 1: £ gbp
money yen 1: ¥ yen
money rupee 1: ₹ rs rupee
angle degree 1: deg degree
angle radian 1: rad radian
share percent 1: % percent percentage pct
temperature celsius 1: celsius
temperature fahrenheit 1: fahrenheit
force newton 1: N newton
energy joule 1: J joule
power watt 1: W watt
charge volt 1: V volt
kelvin kelvin 1: K kelvin
pressure pascal 1: Pa pascal
frequency hertz 1: Hz hertz
current ampere 1: A amp ampere
resistance ohm 1: ohm
amount mole 1: mol mole
plain unit 1: unit
"""
_UNITS: dict[str, tuple[str, Fraction]] = {}
for _line in _TABLE.strip().splitlines():
    _head, _, _names = _line.partition(": ")
    _, _base, _scale = _head.split()
    for _name in _names.split():
        _UNITS[_name] = (_base, Fraction(_scale))
_SPEEDS = {"mph": ("mile", "hour"), "kmh": ("km", "hour"), "kph": ("km", "hour"),
           "kmph": ("km", "hour"), "fps": ("foot", "second"), "mps": ("m", "second")}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_FILLERS = {"of", "the", "a", "an", "total", "exactly", "only", "whole", "about"}
_SYMBOLS = set("mslgdhNJWVKA")  # a letter that is also a name of something else

# Words that change what a number before them says; with them it is no quantity.
_CHANGING = set(
    "or and more fewer less least most than not no minus plus times over factorial choose half"
    " halves third thirds fourths fifths dozen hundred thousand million billion trillion am pm"
    " noon midnight bc bce ad base mod modulo if when where for is are was be with without but"
    " unless otherwise impossible".split()
)
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9,
           "trillion": 10**12, "dozen": 12}  # fmt: skip
_LABELS = set(
    "the answer answers final result ans is are total value values solution solutions therefore"
    " thus hence so equals equal to our required correct option choice which gives we get have"
    " it be sum number probability area distance".split()
)


class Unit(NamedTuple):
    """A scale, and base units with their powers; `words` are those that are no known unit."""

    scale: Fraction
    bases: tuple[tuple[str, int], ...]
    words: frozenset[str] = frozenset()

    @classmethod
    def named(cls, name: str) -> Unit:
        """The unit of a name in the table, or of a currency's sign."""
        base, scale = _UNITS[name]
        return cls(scale, ((base, 1),))

    @property
    def changes(self) -> bool:
        """Whether it scales the number, as a million does, or turns its meaning."""
        return bool(self.words & _CHANGING)

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


def _may_stand_bare(run: str, tokens: Sequence[Token], behind: str) -> bool:
    """Whether bare letters are a unit and not factors: 60 m, 60cm, 18 dollars; not 33x."""
    if behind not in ("number", "mark", "word"):
        return False
    gap = tokens[0].gap or tokens[0].text == "-"
    known = _known(run) is not None or run.lower() in _SPEEDS or run.lower() in _POWERS
    if len(run) == 1:
        return known and run in _SYMBOLS and gap
    if tokens[0].text == "-" and not known and len(run) < 4:
        return False
    if known:
        return run.lower() not in ("ms", "in", "rs", "mo", "pt", "mi") or gap
    vowels = sum(c in "aeiouyAEIOUY" for c in run)
    return gap and len(run) >= 3 and 0 < vowels < len(run)


def _known(word: str) -> tuple[str, Fraction] | None:
    if word in _UNITS:
        return _UNITS[word]
    plain = word.lower().rstrip(".") if len(word) > 1 else word
    for form in (plain, plain.removesuffix("s"), plain.removesuffix("es")):
        if form in _UNITS and len(form) > 1:
            return _UNITS[form]
    return None


def _combined(words: Sequence[str]) -> Unit | None:
    scale, bases, nouns = Fraction(1), dict[str, int](), set[str]()
    sign, pending, last = 1, 0, ""
    for word in words:
        low = re.sub(r"\.", "", word.lower())
        if low in ("/", "per"):
            sign, last = -1, ""
        elif word in ("-", "*") or low in _FILLERS:
            pass
        elif word.startswith("^"):
            if not last:
                return None
            extra = int(word[1:]) - 1
            scale *= _scale_of(last) ** (sign * extra)
            bases[_base_of(last)] = bases.get(_base_of(last), 0) + sign * extra
        elif low in _POWERS and last and low in ("squared", "cubed"):
            extra = _POWERS[low] - 1
            scale *= _scale_of(last) ** (sign * extra)
            bases[_base_of(last)] += sign * extra
        elif low in _POWERS:
            pending = _POWERS[low] - 1
        elif low in _SPEEDS:
            over, under = _SPEEDS[low]
            for name, power in ((over, 1), (under, -1)):
                base, by = _known(name) or ("", Fraction(1))
                scale *= by**power
                bases[base] = bases.get(base, 0) + power
        elif (known := _known(word)) is not None:
            base, by = known
            power = sign * (1 + pending)
            scale *= by**power
            bases[base] = bases.get(base, 0) + power
            last, pending = word, 0
        elif low.isalpha():
            noun = low if low in _CHANGING else low.removesuffix("s")
            nouns.add(noun)
            last = ""
        else:
            return None
    if pending:
        return None
    return Unit(scale, tuple(sorted((b, p) for b, p in bases.items() if p)), frozenset(nouns))


def _scale_of(word: str) -> Fraction:
    return (_known(word) or ("", Fraction(1)))[1]


def _base_of(word: str) -> str:
    return (_known(word) or (word, Fraction(1)))[0]


def agree(reference: Unit, answer: Unit) -> Fraction | None:
    """By what an answer's number is multiplied to be in the reference's unit; None if they differ.

    Words must be the same, or one side's among the other's: apples and red apples.
    """
    if reference.words & _CHANGING != answer.words & _CHANGING:
        return None
    if reference.bases and answer.bases and reference.bases != answer.bases:
        return None
    mine, theirs = reference.words, answer.words
    if mine and theirs and not (mine <= theirs or theirs <= mine):
        return None
    if not mine and not reference.bases:
        return Fraction(1)
    if not theirs and not answer.bases:
        return Fraction(1)
    if bool(reference.bases) != bool(answer.bases):
        return None if not (mine and theirs) else Fraction(1)
    return answer.scale / reference.scale


def numeral(words: Iterable[str]) -> int | None:
    """The number that one word is; None for any other."""
    names = "zero one two three four five six seven eight nine ten eleven twelve".split()
    given = list(words)
    return names.index(given[0]) if len(given) == 1 and given[0] in names else None
