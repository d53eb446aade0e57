"""The two sets of rules by which programs are graded.

"official" is what LiveCodeBench's harness credits: a program may use what the harness has imported,
recurse as deep as it allows, use numpy, and end by `sys.exit` with whatever code; a line of output
may be the expected one as exact decimals; a function need not stand in its class. "strict" is what
a judge would credit: the program as it was written, ending well, its output the expected one line
by line. What passes strictly passes officially, so both figures come from one grading: the rule in
a verdict says which allowances were needed.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Literal

from statewise import sandbox
from statewise.records import Outcome, Verdict

Rules = Literal["official", "strict"]
PACKAGES = ("numpy",)  # what the official harness has installed and solutions use
STRICT = ("lines", "values", "assertions")  # rules of verdicts that needed no allowance
NOT_STRICTLY = "official rules only: "  # opens the rule where the strict ones decided

_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json",
)  # fmt: skip
# The order is the harness's: a later module's names hide an earlier one's, the built-in ones all.
PRELUDE = (
    "".join(f"from {name} import *\n" for name in (*_MODULES, "builtins", "typing"))
    + f"import {', '.join(_MODULES)}\n"
    + "sys.setrecursionlimit(50_000)\nsys.set_int_max_str_digits(50_000)\n"
)
_FINDER = """
class _Shown:
    places = {places!r}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in cls.places:
            from importlib.util import spec_from_file_location
            return spec_from_file_location(name, cls.places[name])

import sys
sys.meta_path.insert(0, _Shown)
del _Shown
"""


def shown_packages() -> str:
    """Source that lets a program import `PACKAGES`, where they are installed and shown to it."""
    found = {name: p.init for name in PACKAGES if (p := sandbox.package(name)) is not None}
    return _FINDER.format(places=found) if found else ""


def official_form(program: str) -> str:
    """A program on standard input as the official rules run it: with the prelude, exits caught."""
    return (
        f"{shown_packages()}{PRELUDE}\ntry:\n    exec(compile({program!r}, 'program', 'exec'))\n"
        "except SystemExit:\n    pass\n"
    )


def matching_rule(expected: str, output: bytes) -> str | None:
    """The strictest rule by which an output is the expected one; None if none is.

    "lines" ignores white space at the ends of lines and empty lines at the end. "decimals" ignores
    it at their beginnings too, and takes a line whose tokens are all equal as exact decimals.
    """
    try:
        text = output.decode()
    except UnicodeDecodeError:
        return None
    if _lines(expected) == _lines(text):
        return "lines"
    wanted, got = expected.strip().split("\n"), text.strip().split("\n")
    return "decimals" if len(wanted) == len(got) and all(map(_same_line, wanted, got)) else None


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_line(wanted: str, got: str) -> bool:
    if wanted.strip() == got.strip():
        return True
    try:
        return [Decimal(t) for t in wanted.split()] == [Decimal(t) for t in got.split()]
    except InvalidOperation:
        return False


def passed(verdict: Verdict, rules: Rules) -> bool:
    """Whether a program passed by a set of rules, whichever set its verdict was made by."""
    if rules == "strict":
        return verdict.outcome is Outcome.CORRECT and verdict.rule in STRICT
    return verdict.outcome is Outcome.CORRECT or verdict.rule.startswith(NOT_STRICTLY)
