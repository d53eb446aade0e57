"""Problems from the rows of published files.

A reader takes the row's number in its file and the row; it returns None for a row of another set in
the same file, and raises `KeyError`, `TypeError` or `ValueError` where a field is not as it should
be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from statewise.eval.values import encode
from statewise.records import Function, Problem, TestCase, TestsFile
from statewise.text import IM_END, IM_START, INSTRUCTIONS

Row = dict[str, Any]
Reader = Callable[[int, Row], Problem | None]
TEST_S = 6.0  # of one test of LiveCodeBench, as its harness has it


def text(row: Row, field: str) -> str:
    """A field that must be text."""
    if not isinstance(row[field], str):
        raise TypeError(f"field {field!r} must be text")
    return str(row[field])


def answers(identity: str, statement: str) -> Reader:
    """Rows with a reference under "answer"."""

    def read(number: int, row: Row) -> Problem:
        return Problem(
            id=text(row, identity),
            kind="math",
            statement=text(row, statement),
            answer=text(row, "answer"),
            level=str(row.get("level", "")),
        )

    return read


def olympiadbench(number: int, row: Row) -> Problem:
    """OlympiadBench: one text that may hold several answers, sometimes a unit or a tolerance."""
    (answer,) = row["final_answer"]
    return Problem(
        id=str(row["id"]),
        kind="math",
        statement=text(row, "question"),
        answer=answer.strip().removesuffix(".").removeprefix("$").removesuffix("$")
        if answer.count("$") == 2
        else answer,
        level=str(row["subfield"]),
        checker="several" if row["is_multiple_answer"] else "math",
        unit=row["unit"] or "",
        tolerance=float(row["error"] or 0),
    )


def humaneval(number: int, row: Row) -> Problem:
    """HumanEval: the official assertions decide."""
    function = Function(
        entry=text(row, "entry_point"),
        header=text(row, "prompt"),
        solution=text(row, "canonical_solution"),
        check=text(row, "test"),
    )
    statement = f"```python\n{function.header}```"
    return Problem(text(row, "task_id"), "code", statement, function=function)


_ROOT_CHECK = """
def check(candidate):
    import copy
    for arguments in {inputs!r}:
        assert abs(poly(*copy.deepcopy(arguments), candidate(*arguments))) <= {tolerance!r}
"""


def humaneval_plus(number: int, row: Row) -> Problem:
    """HumanEval+: what the reference returns on many inputs decides.

    One task (find_zero) has many right answers: there the value of the polynomial decides.
    """
    entry, inputs = text(row, "entry_point"), [*row["base_input"], *row["plus_input"]]
    tolerance, tests, check = float(row["atol"]), tuple(TestCase(encode(i), "") for i in inputs), ""
    if entry == "find_zero":
        tests, check = (), _ROOT_CHECK.format(inputs=inputs, tolerance=tolerance)
    function = Function(entry, text(row, "prompt"), text(row, "canonical_solution"), check)
    return Problem(
        id=text(row, "task_id"),
        kind="code",
        statement=f"```python\n{function.header}```",
        tests=tests,
        tolerance=tolerance,
        function=function,
    )


def _with_starter(statement: str, starter: str) -> str:
    """A statement, and the class that it wants completed, if it does."""
    if not starter:
        return statement
    return f"{statement}\n\nComplete this class:\n\n```python\n{starter}\n```"


def livecodebench_public(number: int, row: Row) -> Problem:
    """LiveCodeBench problems with the tests that their statements show."""
    function = None
    tests = tuple(TestCase(t["input"], t["output"]) for t in row["public_tests"])
    if row["func_name"]:
        function = Function(f"Solution.{row['func_name']}", header=LEETCODE_HEADER)
        tests = tuple(call(test.input, test.output) for test in tests)
    return Problem(
        id=text(row, "question_id"),
        kind="code",
        statement=_with_starter(text(row, "content"), text(row, "starter_code")),
        tests=tests,
        level=text(row, "difficulty"),
        function=function,
        test_s=TEST_S,
        date=str(row["contest_date"])[:10],
    )


# What the judge of LeetCode has imported already; solutions written for it rely on that.
LEETCODE_HEADER = """
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from operator import *
from typing import *
from builtins import *
import bisect, collections, copy, functools, heapq, itertools, math, random, re, string, sys
"""


def call(arguments: str, value: str) -> TestCase:
    """A call as LiveCodeBench writes it: one argument in JSON a line, and the value in JSON."""
    given = tuple(json.loads(line) for line in arguments.split("\n") if line.strip())
    return TestCase(encode(given), encode(json.loads(value)))


def grade_school_math(number: int, row: Row) -> Problem:
    """GSM8K as published: the worked solution, `####`, the answer."""
    answer = text(row, "answer").rpartition("####")[2].strip().replace(",", "")
    return Problem(f"gsm8k-test-{number}", "math", text(row, "question"), answer)


def promptcot(source: str, identity: str) -> Reader:
    """PromptCoT's files: a whole ChatML prompt, and the answer after `####`."""

    def read(number: int, row: Row) -> Problem | None:
        if row["source"] != source:
            return None
        statement = _users_turn(row).removesuffix("\n" + INSTRUCTIONS["math"])
        answer = text(row, "reference_solution").rpartition("####")[2].strip()
        first = 30 if source == "aime2025" else 0  # the second half of the file
        return Problem(
            id=f"{identity}-{row['idx'] - first:02}",
            kind="math",
            statement=statement,
            answer=re.sub(r"\^\{?\\circ\}?$", "", answer) if "aime" in source else answer,
        )

    return read


def _users_turn(row: Row) -> str:
    """What stands in the user's turn of a ChatML prompt."""
    turn = re.match(
        rf"{re.escape(IM_START)}user\n(.*?){re.escape(IM_END)}", text(row, "prompt"), re.DOTALL
    )
    if turn is None:
        raise ValueError("field 'prompt' has no user's turn in ChatML")
    return turn.group(1)


def promptcot_livecodebench(number: int, row: Row) -> Problem:
    """PromptCoT's LiveCodeBench set: prompts as they are, tests by file name and md5."""
    return Problem(
        id=text(row, "question_id"),
        kind="code",
        statement=_users_turn(row),
        hidden=TestsFile(text(row["tests"], "fname"), text(row["tests"], "md5")),
        function=_method(text(row, "prompt")),
        test_s=TEST_S,
        date=text(row, "contest_date")[:10],
        instructed=True,
    )


def _method(prompt: str) -> Function | None:
    """The method that a starter class asks for; its name is in the tests."""
    return Function("Solution", header=LEETCODE_HEADER) if "class Solution:" in prompt else None


def livecodebench(number: int, row: Row) -> Problem:
    """LiveCodeBench as `hidden.unpack` leaves it: no tests in it, but where they are."""
    starter = text(row, "starter_code")
    return Problem(
        id=text(row, "question_id"),
        kind="code",
        statement=_with_starter(text(row, "question_content"), starter),
        level=text(row, "difficulty"),
        hidden=TestsFile(text(row["tests"], "fname"), text(row["tests"], "md5")),
        function=Function("Solution", header=LEETCODE_HEADER) if starter else None,
        test_s=TEST_S,
        date=text(row, "contest_date")[:10],
    )
