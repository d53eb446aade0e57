"""Problems from files: published benchmarks, and any file of `Problem` records.

A benchmark is declared once, in `BENCHMARKS`. Its file is taken only if its bytes are declared
ones, so a score always means the same problems.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from statewise.errors import ConfigError, DataError
from statewise.eval import hidden, rows
from statewise.eval.rows import Reader
from statewise.records import (
    Problem,
    TestsFile,
    as_text,
    file_sha256,
    iter_rows,
    read_jsonl,
    rows_of,
)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published set of problems, and where it comes from.

    Attributes:
        name: one lower-case token, the same in recipe, folder and report.
        checker: how an answer is compared (`answers.grade`), where the problem does not say; for
            programs it is of no meaning.
        file: its name in the data directory.
        count: of its problems; 0 where that depends on what was downloaded.
        forms: SHA-256 of each file that is taken under that name, and how its rows are read. Each
            form gives the same problems.
        url: where the first form is published.
        about: what else there is to know of the file.
        samples: how many the paper draws a problem.
        tests: the folder of hidden tests in the data directory, if its problems have such.
    """

    name: str
    checker: Literal["math", "integer"]
    file: str
    count: int
    forms: dict[str, Reader]
    url: str
    about: str = ""
    samples: int = 8
    tests: str = ""


def _github(repository: str, commit: str, path: str) -> str:
    """A file at a commit; follows Git LFS."""
    return f"https://github.com/{repository}/raw/{commit}/{path}"


_PROMPTCOT = ("Spencerx/PromptCoT", "884b95044ef3fd08c30e8a225b4c9df7ab32d029")
_AIME = _github(*_PROMPTCOT, "PromptCoT_Mamba/data/aime_test.jsonl")
_AIME_SHA = "6bd70e79ee829ccaaf6f582f2c215d41689001d4103c0cc626168b683f41d26b"
_ID = rows.answers("id", "problem")
_UNIQUE = rows.answers("unique_id", "problem")

BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark(
            name="math500",
            checker="math",
            file="math500.jsonl",
            count=500,
            forms={"35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132": _UNIQUE},
            url=_github(
                "openai/prm800k",
                "7ecc794703b2877f63226f2477a49b34f9b25163",
                "prm800k/math_splits/test.jsonl",
            ),
        ),
        Benchmark(
            name="aime2024",
            checker="integer",
            file="aime2024.jsonl",
            count=30,
            forms={
                _AIME_SHA: rows.promptcot("aime2024", "aime2024"),
                "cf1f16d9b5808a861eb21833b5680fa1eee9419b2c9b6b81502c0c98022214e5": _ID,
            },
            url=_AIME,
            samples=16,
        ),
        Benchmark(
            name="aime2025",
            checker="integer",
            file="aime2025.jsonl",
            count=30,
            forms={
                _AIME_SHA: rows.promptcot("aime2025", "aime2025"),
                "52008fd26bfc10272a8c9e6ea6140b96ee74f83254bdaee7c31a7c58b2fd60f3": _ID,
            },
            url=_AIME,
            samples=16,
        ),
        Benchmark(
            name="gsm8k",
            checker="integer",
            file="gsm8k_test.jsonl",
            count=1_319,
            forms={
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14": (
                    rows.grade_school_math
                ),
                "db4c1e6b2684e96c7cd5f79fa2286389a1ca559527b2b10c091a7a44b2828268": (
                    rows.answers("id", "question")
                ),
            },
            url=_github(
                "openai/grade-school-math",
                "3101c7d5072418e28b9008a6636bde82a006892c",
                "grade_school_math/data/test.jsonl",
            ),
            samples=1,
        ),
        Benchmark(
            name="hmmt_feb_2025",
            checker="math",
            file="hmmt_feb_2025.jsonl",
            count=30,
            forms={
                "9e13c19df3c034f1dd151320ae3c5dc76d577ee13d9f0193d3e8f34a393bf96f": (
                    rows.promptcot("hmmt_feb_2025", "hmmt25")
                ),
                "d9f9c27c51bd3654ced3260d625e22ecc9d27fda198031fe1c7c109398461c0d": _ID,
            },
            url=_github(*_PROMPTCOT, "data/promptcot2_hmmt25_test.jsonl"),
            samples=16,
        ),
        Benchmark(
            name="olympiadbench",
            checker="math",
            file="olympiadbench_oe_to_maths_en_comp.jsonl",
            count=675,
            forms={
                "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416": (
                    rows.olympiadbench
                )
            },
            url=_github(
                "QwenLM/Qwen2.5-Math",
                "a45202bd16f1ec06f433442dc1152d0074773465",
                "evaluation/data/olympiadbench/test.jsonl",
            ),
        ),
        Benchmark(
            name="humaneval",
            checker="math",
            file="humaneval.jsonl",
            count=164,
            forms={
                "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef": rows.humaneval,
                "621ff099e7d6a9b630619acd3568aef441dec51a8c84f881a9dd1f2d2ed15914": rows.humaneval,
            },
            url=_github(
                "openai/human-eval",
                "6d43fb980f9fee3c892a914eda09951f772ad10d",
                "data/HumanEval.jsonl.gz",
            ),
            about="packed or not",
        ),
        Benchmark(
            name="humaneval_plus",
            checker="math",
            file="humanevalplus.jsonl",
            count=164,
            forms={
                "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101": (
                    rows.humaneval_plus
                ),
                "228722cf9de946ab6134f0be7f441c5f3ef6867abd2ccf234dcfad33d1f08bd6": (
                    rows.humaneval_plus
                ),
            },
            url=_github(
                "evalplus/humanevalplus_release",
                "200defce9e3429d28ca215b6dd061c0f7f31c18b",
                "HumanEvalPlus.jsonl.gz",
            ),
            about="packed or not",
        ),
        Benchmark(
            name="livecodebench_v5",
            checker="math",
            file="promptcot_lcb_v5_prompts_279.jsonl",
            count=279,
            forms={
                "b9e1bd586ae06704415c34b382920225a76fe8ecf74e361e9096c20c894edbb4": (
                    rows.promptcot_livecodebench
                ),
                "3854cdab85f5148a8556fb21f64686d04fc77327a39a8734446952e114aaa336": (
                    rows.promptcot_livecodebench
                ),
            },
            url=_github(*_PROMPTCOT, "PromptCoT_Mamba/data/livecodebench_test.jsonl"),
            about="the paper's 279 problems of 2024-08 to 2025-01, with its prompts; the tests are "
            "LiveCodeBench's",
            tests="livecodebench_v5_tests",
        ),
        Benchmark(
            name="livecodebench",
            checker="math",
            file="livecodebench/problems.jsonl",
            count=0,
            forms={"": rows.livecodebench},
            url="https://huggingface.co/datasets/livecodebench/code_generation_lite",
            about="made from the release's files when they are there",
            tests="livecodebench",
        ),
        Benchmark(
            name="livecodebench_public",
            checker="math",
            file="livecodebench_v5_public.jsonl",
            count=880,
            forms={
                "3336f771fd530938f817349f5bcbc55561b39c99153da6d885b0cae6f1346d51": (
                    rows.livecodebench_public
                )
            },
            url="https://github.com/LiveCodeBench/submissions at "
            "4d04b02a01c81b0a7207bafdcda35efad9e39b8c, O1-Mini-2024-09-12 (N=1) and "
            "O1-Preview-2024-09-12 (N=1), Scenario.codegeneration_1_0.2_eval_all.json",
            about="made from it: all problems of release v5 with the sample tests of their "
            "statements, as JSONL; the hidden tests are not in it",
        ),
    )
}


def load_benchmark(name: str, data_dir: Path, *, since: str = "", until: str = "") -> list[Problem]:
    """The problems of a published benchmark, from its file in a data directory.

    Args:
        name: of the benchmark.
        data_dir: where its file lies, as published or as converted.
        since, until: YYYY-MM-DD; of problems with a date only those in this window, both days
            included. Problems without a date are all taken.

    Raises:
        ConfigError: no benchmark has this name.
        DataError: the file is missing or not a declared one (the message says where to get it), or
            no problem lies in the window.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}; there are {', '.join(sorted(BENCHMARKS))}")
    benchmark = BENCHMARKS[name]
    path = data_dir / benchmark.file
    if benchmark.tests:
        hidden.unpack_if_there(data_dir)
    problems = [replace(p, source=name) for p in _problems(benchmark, path)]
    if benchmark.count and len(problems) != benchmark.count:
        raise DataError(f"{path}: {len(problems)} problems, expected {benchmark.count}")
    if benchmark.tests:
        problems = _with_tests(problems, data_dir / benchmark.tests, data_dir)
    inside = [p for p in problems if not p.date or (since or p.date) <= p.date <= (until or p.date)]
    if not inside:
        raise DataError(f"{path}: no problem from {since or 'the first'} to {until or 'the last'}")
    return inside


def _problems(benchmark: Benchmark, path: Path) -> Iterable[Problem]:
    about = f" ({benchmark.about})" if benchmark.about else ""
    fetch = f"curl -L -o {path} {benchmark.url}"
    if not benchmark.count:
        fetch = hidden.fetch(path.parents[1])
    elif " at " in benchmark.url:
        fetch = benchmark.url
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; benchmark {benchmark.name!r} needs it{about}. Get it: {fetch}"
        )
    read = benchmark.forms.get("") or benchmark.forms.get(sha256 := file_sha256(path))
    if read is None:
        raise DataError(
            f"{path}: not the file that benchmark {benchmark.name!r} means{about}: SHA-256 "
            f"{sha256}, expected {' or '.join(benchmark.forms)}. Get it: {fetch}"
        )
    for number, (where, row) in enumerate(_rows(path)):
        try:
            problem = read(number, row)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            told = f"has no field {e}" if isinstance(e, KeyError) else str(e)
            raise DataError(f"{where}: {told}") from None
        if problem is not None:
            yield problem


def _rows(path: Path) -> Iterable[tuple[str, rows.Row]]:
    """The rows of a file, which may be packed with gzip."""
    with path.open("rb") as f:
        packed = f.read(2) == b"\x1f\x8b"
    if not packed:
        return iter_rows(path)
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path}: cannot be unpacked ({e})") from None
    return rows_of(as_text(data, path), path)


def _with_tests(problems: list[Problem], folder: Path, data_dir: Path) -> list[Problem]:
    """The problems with the paths of their tests; falls back on those of the unpacked release."""
    placed = []
    for problem in problems:
        assert problem.hidden is not None
        path = folder / problem.hidden.path
        if not path.is_file():
            path = data_dir / hidden.FOLDER / f"{problem.id}.json"
        if not path.is_file():
            raise DataError(
                f"{folder / problem.hidden.path}: no such file; the tests of {problem.id!r} are in "
                f"it. Get the release: {hidden.fetch(data_dir)}"
            )
        placed.append(replace(problem, hidden=TestsFile(str(path), problem.hidden.md5)))
    return placed


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
