"""How names and quantities are written, the same in figures, Markdown and HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from statewise.verdict import Word

ABSENT = "–"
NBSP = "\u00a0"  # keeps a number and its unit on one line
NOT_MEASURED = "Not measured in this run."

OUTCOMES = {
    "correct": "correct",
    "incorrect": "incorrect",
    "no_answer": "no answer",
    "truncated": "truncated",
    "unscored": "unscored",
}

_SETS = {
    "workbook-1": "Single concepts",
    "workbook-2": "Two composed",
    "workbook-3": "Three composed",
    "workbook-code": "Programs",
    "development-1": "Single concepts, development",
    "development-2": "Two composed, development",
    "development-3": "Three composed, development",
    "development-code": "Programs, development",
    "math500": "MATH-500",
    "gsm8k": "GSM8K",
    "aime2024": "AIME 2024",
    "aime2025": "AIME 2025",
    "olympiadbench": "OlympiadBench",
    "humaneval": "HumanEval",
    "humaneval_plus": "HumanEval+",
    "livecodebench": "LiveCodeBench",
}
# Sets whose problems have what no training problem has, by how their names begin.
_NOVEL = {
    "workbook-pairs": "Pairs never trained together",
    "workbook-numbers": "Numbers beyond training",
    "workbook-wording": "Reserved wordings",
}
_WHAT_IS_NEW = {
    "workbook-pairs": "two concepts that no training problem composes",
    "workbook-numbers": "numbers of the first step beyond the trained range",
    "workbook-wording": "statements in wordings that no training problem has",
}


def set_label(name: str) -> str:
    """An evaluation set's name as people say it; an unknown one keeps its own."""
    prefix = _novel_prefix(name)
    if prefix:
        rest = name.removeprefix(prefix).strip("-")
        return _NOVEL[prefix] + (f", {rest}" if rest else "")
    return _SETS.get(name, name)


def set_phrase(name: str) -> str:
    """The same inside a sentence: common nouns in lower case, proper names as they are."""
    label = set_label(name)
    if not name.startswith("workbook-"):
        return label
    return label.lower() + (" concepts" if label.endswith("composed") else "")


def is_novel(name: str) -> bool:
    """Whether a set is, by its name, of problems that have what no training problem has."""
    return bool(_novel_prefix(name))


def novelties(names: Iterable[str]) -> list[str]:
    """What is new in each of some sets, said once for every kind."""
    kinds = dict.fromkeys(prefix for name in names if (prefix := _novel_prefix(name)))
    return [f"{_NOVEL[kind]}: {_WHAT_IS_NEW[kind]}." for kind in kinds]


def has_reserved_wording(name: str) -> bool:
    """Whether a set's statements are, by its name, in wordings that training never had."""
    return _novel_prefix(name) == "workbook-wording"


def _novel_prefix(name: str) -> str:
    return next((p for p in _NOVEL if name == p or name.startswith(f"{p}-")), "")


def word_label(word: Word | None) -> str:
    """What came of a claim; None is said to be unmeasured."""
    return "not measured" if word is None else str(word)


def sentence(text: str) -> str:
    """A text with a capital letter at its beginning, all else as it is."""
    return text[:1].upper() + text[1:]


def shortened(text: str, limit: int = 26) -> str:
    """A text cut to `limit` characters, on one line, for a place with little room."""
    line = _printable(text)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def wrapped(text: str, width: int = 19) -> str:
    """A text on two lines at most, for a place with little room beside it; the rest is cut."""
    first, *rest = textwrap.wrap(_printable(text), width) or [""]
    return "\n".join([first, shortened(" ".join(rest), width)] if rest else [first])


def _printable(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def percent(share: float | None, digits: int = 1) -> str:
    """A share in 0..1 as a percentage."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}{NBSP}%"


def bare(share: float | None) -> str:
    """The same without the sign, for a column whose head says per cent."""
    return percent(share).removesuffix(f"{NBSP}%")


def interval(bounds: Sequence[float] | None) -> str:
    """A 95 % interval of shares, in per cent without the sign."""
    if not bounds or len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        return ABSENT
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, always signed."""
    return ABSENT if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def points_interval(bounds: Sequence[float] | None) -> str:
    """A 95 % interval of a difference, in percentage points."""
    if not bounds or len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
        return ABSENT
    return f"{points(bounds[0])} to {points(bounds[1])}"


def count(n: float | None) -> str:
    """A whole number with its thousands set apart."""
    return ABSENT if n is None else f"{round(n):,}"


def large(n: float | None) -> str:
    """A count to three figures: 942, 12.3 k, 1.29 M, 7.29 B."""
    if n is None:
        return ABSENT
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= size * 0.9995:
            return f"{_three(n / size)}{NBSP}{unit}"
    return f"{n:g}"


def power_of_ten(n: float | None) -> str:
    """A very large count to three figures: 2.31 × 10¹³."""
    if n is None:
        return ABSENT
    mantissa, exponent = f"{n:.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}{NBSP}×{NBSP}10{raised}"


def multiple(factor: float | None) -> str:
    """A factor: 0.5×."""
    return ABSENT if factor is None else f"{factor:g}×"


def size(n_bytes: float | None) -> str:
    """Bytes to three figures in binary units."""
    if n_bytes is None:
        return ABSENT
    value, units = float(n_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.5 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:g}{NBSP}B" if units[0] == "B" else f"{_three(value)}{NBSP}{units[0]}"


def _three(value: float) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """A time as people read it: 0.4 s, 48 s, 9 min 48 s, 2 h 05 min."""
    if seconds is None:
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def plain(value: Any) -> str:
    """Any JSON value in a few characters, for lists of facts whose keys are not known here."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{spaced(str(k))} {plain(v)}" for k, v in value.items()) or ABSENT
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or ABSENT
    return str(value)


def spaced(key: str) -> str:
    """A JSON key as words."""
    return key.replace("_", " ")


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence joined by commas and an "and"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
