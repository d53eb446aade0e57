"""Problems from files: published benchmarks, and any file of `Problem` records.

A benchmark is declared once, in `BENCHMARKS`. Its file is taken only if its bytes are the declared
ones, so a score always means the same problems.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from statewise.errors import ConfigError, DataError
from statewise.eval.values import encode
from statewise.records import Function, Problem, TestCase, file_sha256, iter_rows, read_jsonl

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published set of problems, and where it comes from.

    Attributes:
        name: one lower-case token, the same in recipe, folder and report.
        checker: how an answer is compared (`answers.grade`), where the problem does not say; for
            programs it is of no meaning.
        file: its name in the data directory.
        count, sha256: what that file must hold.
        source: the repository, commit and path of the original.
        made: what was done to the original, as far as it was.
        read: a problem from a row; raises `KeyError` or `TypeError` where a field is not as it
            should be.
        samples: how many the paper draws a problem.
    """

    name: str
    checker: Literal["math", "integer"]
    file: str
    count: int
    sha256: str
    source: str
    made: str
    read: Callable[[Row], Problem]
    samples: int = 8


def _text(row: Row, field: str) -> str:
    if not isinstance(row[field], str):
        raise TypeError(f"field {field!r} must be text")
    return str(row[field])


def _answer(identity: str, statement: str) -> Callable[[Row], Problem]:
    """Rows with a reference under "answer"."""

    def read(row: Row) -> Problem:
        return Problem(
            id=_text(row, identity),
            kind="math",
            statement=_text(row, statement),
            answer=_text(row, "answer"),
            level=str(row.get("level", "")),
        )

    return read


def _olympiad(row: Row) -> Problem:
    """OlympiadBench: one text that may hold several answers, sometimes a unit or a tolerance."""
    (answer,) = row["final_answer"]
    return Problem(
        id=str(row["id"]),
        kind="math",
        statement=_text(row, "question"),
        answer=answer.strip().removeprefix("$").removesuffix("$")
        if answer.count("$") == 2
        else answer,
        level=str(row["subfield"]),
        checker="several" if row["is_multiple_answer"] else "math",
        unit=row["unit"] or "",
        tolerance=float(row["error"] or 0),
    )


def _humaneval(row: Row) -> Problem:
    """HumanEval: the official assertions decide."""
    function = Function(
        entry=_text(row, "entry_point"),
        header=_text(row, "prompt"),
        solution=_text(row, "canonical_solution"),
        check=_text(row, "test"),
    )
    statement = f"```python\n{function.header}```"
    return Problem(_text(row, "task_id"), "code", statement, function=function)


_ROOT_CHECK = """
def check(candidate):
    import copy
    for arguments in {inputs!r}:
        assert abs(poly(*copy.deepcopy(arguments), candidate(*arguments))) <= {tolerance!r}
"""


def _humaneval_plus(row: Row) -> Problem:
    """HumanEval+: what the reference returns on many inputs decides.

    One task (find_zero) has many right answers: there the value of the polynomial decides.
    """
    entry, inputs = _text(row, "entry_point"), [*row["base_input"], *row["plus_input"]]
    tolerance, tests, check = float(row["atol"]), tuple(TestCase(encode(i), "") for i in inputs), ""
    if entry == "find_zero":
        tests, check = (), _ROOT_CHECK.format(inputs=inputs, tolerance=tolerance)
    function = Function(entry, _text(row, "prompt"), _text(row, "canonical_solution"), check)
    return Problem(
        id=_text(row, "task_id"),
        kind="code",
        statement=f"```python\n{function.header}```",
        tests=tests,
        tolerance=tolerance,
        function=function,
    )


def _livecodebench(row: Row) -> Problem:
    """LiveCodeBench problems with the tests that their statements show."""
    function, starter = None, _text(row, "starter_code")
    tests = tuple(TestCase(t["input"], t["output"]) for t in row["public_tests"])
    if row["func_name"]:
        function = Function(f"Solution.{row['func_name']}", header=LEETCODE_HEADER)
        tests = tuple(call(test.input, test.output) for test in tests)
    statement = _text(row, "content")
    if starter:
        statement += f"\n\nComplete this class:\n\n```python\n{starter}\n```"
    return Problem(
        id=_text(row, "question_id"),
        kind="code",
        statement=statement,
        tests=tests,
        level=_text(row, "difficulty"),
        function=function,
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
import bisect, collections, copy, functools, heapq, itertools, math, random, re, string, sys
"""


def call(arguments: str, value: str) -> TestCase:
    """A call as LiveCodeBench writes it: one argument in JSON a line, and the value in JSON."""
    given = tuple(json.loads(line) for line in arguments.split("\n") if line.strip())
    return TestCase(encode(given), encode(json.loads(value)))


_PROMPTCOT = (
    "github.com/Spencerx/PromptCoT at 884b95044ef3fd08c30e8a225b4c9df7ab32d029, "
    "PromptCoT_Mamba/data/aime_test.jsonl"
)
_AIME = (
    "its 60 rows are split by `source`; `problem` is cut out of the ChatML `prompt`, `answer` is "
    "the integer after `####`"
)

BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark(
            name="math500",
            checker="math",
            file="math500.jsonl",
            count=500,
            sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
            source="github.com/openai/prm800k at 7ecc794703b2877f63226f2477a49b34f9b25163, "
            "prm800k/math_splits/test.jsonl (by Git LFS)",
            made="unchanged",
            read=_answer("unique_id", "problem"),
        ),
        Benchmark(
            name="aime2024",
            checker="integer",
            file="aime2024.jsonl",
            count=30,
            sha256="cf1f16d9b5808a861eb21833b5680fa1eee9419b2c9b6b81502c0c98022214e5",
            source=_PROMPTCOT,
            made=_AIME,
            read=_answer("id", "problem"),
            samples=16,
        ),
        Benchmark(
            name="aime2025",
            checker="integer",
            file="aime2025.jsonl",
            count=30,
            sha256="52008fd26bfc10272a8c9e6ea6140b96ee74f83254bdaee7c31a7c58b2fd60f3",
            source=_PROMPTCOT,
            made=_AIME,
            read=_answer("id", "problem"),
            samples=16,
        ),
        Benchmark(
            name="gsm8k",
            checker="integer",
            file="gsm8k_test.jsonl",
            count=1_319,
            sha256="db4c1e6b2684e96c7cd5f79fa2286389a1ca559527b2b10c091a7a44b2828268",
            source="github.com/openai/grade-school-math at "
            "3101c7d5072418e28b9008a6636bde82a006892c, grade_school_math/data/test.jsonl",
            made="`answer` is split at `####` into `solution` and `answer`, the latter without "
            "commas",
            read=_answer("id", "question"),
            samples=1,
        ),
        Benchmark(
            name="hmmt_feb_2025",
            checker="math",
            file="hmmt_feb_2025.jsonl",
            count=30,
            sha256="d9f9c27c51bd3654ced3260d625e22ecc9d27fda198031fe1c7c109398461c0d",
            source="github.com/Spencerx/PromptCoT at 884b95044ef3fd08c30e8a225b4c9df7ab32d029, "
            "data/promptcot2_hmmt25_test.jsonl",
            made="`problem` is cut out of the prompt, `answer` is the text after `####`",
            read=_answer("id", "problem"),
            samples=16,
        ),
        Benchmark(
            name="olympiadbench",
            checker="math",
            file="olympiadbench_oe_to_maths_en_comp.jsonl",
            count=675,
            sha256="bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416",
            source="github.com/QwenLM/Qwen2.5-Math at a45202bd16f1ec06f433442dc1152d0074773465, "
            "evaluation/data/olympiadbench/test.jsonl",
            made="unchanged",
            read=_olympiad,
        ),
        Benchmark(
            name="humaneval",
            checker="math",
            file="humaneval.jsonl",
            count=164,
            sha256="621ff099e7d6a9b630619acd3568aef441dec51a8c84f881a9dd1f2d2ed15914",
            source="github.com/openai/human-eval at 6d43fb980f9fee3c892a914eda09951f772ad10d, "
            "data/HumanEval.jsonl.gz",
            made="unpacked, characters beyond ASCII written as UTF-8",
            read=_humaneval,
        ),
        Benchmark(
            name="humaneval_plus",
            checker="math",
            file="humanevalplus.jsonl",
            count=164,
            sha256="228722cf9de946ab6134f0be7f441c5f3ef6867abd2ccf234dcfad33d1f08bd6",
            source="github.com/evalplus/humanevalplus_release at "
            "200defce9e3429d28ca215b6dd061c0f7f31c18b, HumanEvalPlus.jsonl.gz",
            made="unpacked, characters beyond ASCII written as UTF-8",
            read=_humaneval_plus,
        ),
        Benchmark(
            name="livecodebench_public",
            checker="math",
            file="livecodebench_v5_public.jsonl",
            count=880,
            sha256="3336f771fd530938f817349f5bcbc55561b39c99153da6d885b0cae6f1346d51",
            source="github.com/LiveCodeBench/submissions at "
            "4d04b02a01c81b0a7207bafdcda35efad9e39b8c, O1-Mini-2024-09-12 (N=1) and "
            "O1-Preview-2024-09-12 (N=1), Scenario.codegeneration_1_0.2_eval_all.json",
            made="all problems of release v5 with the sample tests of their statements; the hidden "
            "tests are not in it",
            read=_livecodebench,
        ),
    )
}


def load_benchmark(name: str, data_dir: Path) -> list[Problem]:
    """The problems of a published benchmark, from its file in a data directory.

    Raises:
        ConfigError: no benchmark has this name.
        DataError: the file is missing or not the declared one; the message says where to get it.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}; there are {', '.join(sorted(BENCHMARKS))}")
    benchmark = BENCHMARKS[name]
    path = data_dir / benchmark.file
    origin = f"{benchmark.source} (made from it: {benchmark.made})"
    if not path.is_file():
        raise DataError(f"{path}: no such file; benchmark {name!r} needs it. Get {origin}")
    if (found := file_sha256(path)) != benchmark.sha256:
        raise DataError(
            f"{path}: not the file that benchmark {name!r} means: SHA-256 {found}, expected "
            f"{benchmark.sha256}. Get {origin}"
        )
    problems = []
    for where, row in iter_rows(path):
        try:
            problems.append(replace(benchmark.read(row), source=name))
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            told = f"has no field {e}" if isinstance(e, KeyError) else str(e)
            raise DataError(f"{where}: {told}") from None
    if len(problems) != benchmark.count:
        raise DataError(f"{path}: {len(problems)} problems, expected {benchmark.count}")
    return problems


def load_problems(path: Path) -> list[Problem]:
    """Problems from a file of `Problem` records, one JSON object a line.

    Raises:
        DataError: missing or malformed, or two problems share an id; names file and line.
    """
    problems = read_jsonl(path, Problem)
    seen: set[str] = set()
    for p in problems:
        if p.id in seen:
            raise DataError(f"{path}: two problems have the id {p.id!r}")
        seen.add(p.id)
    return problems
