"""Problems from files: published benchmarks, and any file of `Problem` records.

A benchmark is declared once, in `BENCHMARKS`. Its file is taken only if its bytes are the declared
ones, so a score always means the same problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from statewise.errors import ConfigError, DataError
from statewise.records import Problem, file_sha256, iter_rows, read_jsonl


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published set of problems, and where it comes from.

    Attributes:
        name: one lower-case token, the same in recipe, folder and report.
        kind: what `Problem.kind` becomes.
        checker: how an answer is compared: "math" or "integer" (`answers.grade`).
        file: its name in the data directory.
        count, sha256: what that file must hold.
        source: the repository, commit and path of the original.
        made: what was done to the original, as far as it was.
        fields: the names of identity, statement and answer in a row.
    """

    name: str
    kind: Literal["math"]
    checker: Literal["math", "integer"]
    file: str
    count: int
    sha256: str
    source: str
    made: str
    fields: tuple[str, str, str]


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
            kind="math",
            checker="math",
            file="math500.jsonl",
            count=500,
            sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
            source="github.com/openai/prm800k at 7ecc794703b2877f63226f2477a49b34f9b25163, "
            "prm800k/math_splits/test.jsonl (by Git LFS)",
            made="unchanged",
            fields=("unique_id", "problem", "answer"),
        ),
        Benchmark(
            name="aime2024",
            kind="math",
            checker="integer",
            file="aime2024.jsonl",
            count=30,
            sha256="cf1f16d9b5808a861eb21833b5680fa1eee9419b2c9b6b81502c0c98022214e5",
            source=_PROMPTCOT,
            made=_AIME,
            fields=("id", "problem", "answer"),
        ),
        Benchmark(
            name="aime2025",
            kind="math",
            checker="integer",
            file="aime2025.jsonl",
            count=30,
            sha256="52008fd26bfc10272a8c9e6ea6140b96ee74f83254bdaee7c31a7c58b2fd60f3",
            source=_PROMPTCOT,
            made=_AIME,
            fields=("id", "problem", "answer"),
        ),
        Benchmark(
            name="gsm8k",
            kind="math",
            checker="integer",
            file="gsm8k_test.jsonl",
            count=1_319,
            sha256="db4c1e6b2684e96c7cd5f79fa2286389a1ca559527b2b10c091a7a44b2828268",
            source="github.com/openai/grade-school-math at "
            "3101c7d5072418e28b9008a6636bde82a006892c, grade_school_math/data/test.jsonl",
            made="`answer` is split at `####` into `solution` and `answer`, the latter without "
            "commas",
            fields=("id", "question", "answer"),
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
    problems = [_problem(benchmark, row, where) for where, row in iter_rows(path)]
    if len(problems) != benchmark.count:
        raise DataError(f"{path}: {len(problems)} problems, expected {benchmark.count}")
    return problems


def _problem(benchmark: Benchmark, row: dict[str, Any], where: str) -> Problem:
    identity, statement, answer = benchmark.fields
    for field in benchmark.fields:
        if not isinstance(row.get(field), str):
            raise DataError(f"{where}: field {field!r} must be text")
    return Problem(
        id=row[identity],
        kind=benchmark.kind,
        statement=row[statement],
        answer=row[answer],
        level=str(row.get("level", "")),
        source=benchmark.name,
    )


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
