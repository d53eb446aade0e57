"""Completions that lie in a file, graded without a model: any JSONL with `completion` and `answer`.

A row keeps all it has and gains `outcome`, `extracted` and `rule`. The published files have the
reference inside `reference_solution`, behind `####` or in its last box.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from statewise.errors import DataError
from statewise.eval.answers import Checker, Kind
from statewise.eval.grading import grade_completion
from statewise.eval.mathematics.workers import MathChecker
from statewise.log import Log
from statewise.records import Completion, FinishReason, Problem, Verdict, iter_rows
from statewise.text import END_THINK, THINK, last_boxed

Row = dict[str, Any]
ADDED = ("outcome", "extracted", "rule")
AT_ONCE = 512  # rows in flight


def reference_of(row: Row, where: str) -> str:
    """The reference answer of a row.

    Raises:
        DataError: there is none, or it is no text.
    """
    if "answer" in row:
        reference = row["answer"]
        if isinstance(reference, int) and not isinstance(reference, bool):
            return str(reference)
    elif isinstance(row.get("reference_solution"), str):
        solution = row["reference_solution"]
        reference = solution.rpartition("####")[2].strip() if "####" in solution else None
        reference = reference or last_boxed(solution)
    else:
        raise DataError(f"{where}: needs the field 'answer' or 'reference_solution'")
    if not isinstance(reference, str) or not reference.strip():
        raise DataError(f"{where}: holds no reference answer")
    return reference


def opens_thinking(path: Path) -> bool:
    """Whether the answers of a file were given to prompts that opened a think block.

    That is so where any row has a think tag: a model that was trained on them closes the block that
    its prompt opened. Where none has, a text is all answer.
    """
    return any(
        tag in str(row.get("completion"))
        for _, row in iter_rows(path)
        for tag in (THINK, END_THINK)
    )


def grade_row(
    row: Row,
    where: str,
    kind: Kind,
    checker: Checker,
    *,
    opened: bool = True,
) -> Verdict:
    """The verdict on a row, whose place stands for its problem.

    Args:
        row: with `completion` and a reference; perhaps with `finish_reason`.
        where: it stands, "path:line".
        kind: how answers are compared.
        checker: the last resort (`answers.grade`).
        opened: the prompt had opened the think block.

    Raises:
        DataError: a field is missing or not what it should be.
    """
    completion, reason = row.get("completion"), row.get("finish_reason") or "stop"
    if not isinstance(completion, str):
        raise DataError(f"{where}: field 'completion' must be text")
    known = [r.value for r in FinishReason]
    if reason not in known:
        raise DataError(f"{where}: field 'finish_reason' must be one of {known}, found {reason!r}")
    return grade_completion(
        Problem(where, "math", "", reference_of(row, where)),
        Completion(where, 0, completion, FinishReason(reason), 0, 0, 0),
        kind=kind,
        opened=opened,
        checker=checker,
    )


def grade_file(
    path: Path,
    out: Path,
    *,
    kind: Kind = "math",
    opened: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Grade every row of a file into another, in order, several at once.

    Killed and started again it goes on where it stopped.

    Args:
        path: rows with `completion`, and `answer` or `reference_solution`; if known also
            `finish_reason`.
        out: the same rows and their grades; holds the beginning of that already, or nothing.
        kind: how answers are compared.
        opened: the prompts had opened the think block; otherwise a text without one is all answer.
        progress: called with the number of rows done.

    Returns:
        How many rows there are of each outcome.

    Raises:
        DataError: a row is not as it should be, or `out` holds something else.
    """
    rows = list(iter_rows(path))
    workers = os.cpu_count() or 1
    checker = MathChecker(workers)
    place = itertools.count()
    with (
        Log(out, dict, key=lambda _: next(place)) as log,
        ThreadPoolExecutor(workers) as pool,
    ):
        _check_beginning(out, list(log.values()), rows)
        pending: list[Future[Verdict]] = []
        todo = log.missing(range(len(rows)))
        ungraded = iter(todo)
        try:
            for i in todo:
                for j in itertools.islice(ungraded, AT_ONCE - len(pending)):
                    where, row = rows[j]
                    pending.append(
                        pool.submit(grade_row, row, where, kind, checker.compare, opened=opened)
                    )
                verdict = pending.pop(0).result()
                added = (verdict.outcome.value, verdict.extracted, verdict.rule)
                log.append(rows[i][1] | dict(zip(ADDED, added, strict=True)))
                if progress is not None:
                    progress(len(log))
        finally:
            for future in pending:
                future.cancel()
            checker.close()
        return Counter(str(graded["outcome"]) for graded in log.values())


def _check_beginning(out: Path, graded: list[Row], rows: list[tuple[str, Row]]) -> None:
    """What `out` holds must be the grades of the first rows of the file."""
    for i, row in enumerate(graded):
        plain = {k: v for k, v in row.items() if k not in ADDED}
        same = i < len(rows) and plain == {k: v for k, v in rows[i][1].items() if k not in ADDED}
        if not same or "outcome" not in row:
            raise DataError(
                f"{out}:{i + 1}: is not a grade of row {i + 1}; {out} holds something else, choose "
                "another name"
            )
