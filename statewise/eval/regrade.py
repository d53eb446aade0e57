"""Completions that lie in a file, graded without a model: any JSONL with `completion` and `answer`.

A row keeps all it has and gains `outcome`, `extracted` and `rule`. The published files have the
reference inside `reference_solution`, behind `####` or in its last box.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from statewise.errors import DataError
from statewise.eval.answers import Grade, Kind, grade
from statewise.eval.workers import MathChecker
from statewise.records import FinishReason, JsonlAppender, iter_rows
from statewise.text import as_opened, last_boxed

Row = dict[str, Any]
ADDED = ("outcome", "extracted", "rule")
AT_ONCE = 512  # rows in flight


def reference_of(row: Row, where: str) -> str:
    """The reference answer of a row.

    Raises:
        DataError: there is none, or it is no text.
    """
    if "answer" in row:
        found = row["answer"]
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
    elif isinstance(row.get("reference_solution"), str):
        solution = row["reference_solution"]
        found = solution.rpartition("####")[2].strip() if "####" in solution else None
        found = found or last_boxed(solution)
    else:
        raise DataError(f"{where}: needs the field 'answer' or 'reference_solution'")
    if not isinstance(found, str) or not found.strip():
        raise DataError(f"{where}: holds no reference answer")
    return found


def grade_row(
    row: Row,
    where: str,
    kind: Kind,
    checker: Callable[[str, str], bool | str],
    *,
    opened: bool = True,
) -> Grade:
    """The grade of a row. `opened`: its prompt had opened the think block.

    Raises:
        DataError: a field is missing or not what it should be.
    """
    completion, reason = row.get("completion"), row.get("finish_reason") or "stop"
    if not isinstance(completion, str):
        raise DataError(f"{where}: field 'completion' must be text")
    known = [r.value for r in FinishReason]
    if reason not in known:
        raise DataError(f"{where}: field 'finish_reason' must be one of {known}, found {reason!r}")
    answer = reference_of(row, where)
    finish = FinishReason(reason)
    completion = completion if opened else as_opened(completion)
    return grade(completion, answer, kind=kind, finish_reason=finish, checker=checker)


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
    counts: Counter[str] = Counter()
    workers = os.cpu_count() or 1
    checker = MathChecker(workers)
    with JsonlAppender(out) as file, ThreadPoolExecutor(workers) as pool:
        done = _already(out, rows, counts)
        pending: list[Future[Grade]] = []
        todo: Iterator[tuple[str, Row]] = iter(rows[done:])
        try:
            for _, row in rows[done:]:
                for where, next_row in islice(todo, AT_ONCE - len(pending)):
                    pending.append(
                        pool.submit(
                            grade_row, next_row, where, kind, checker.compare, opened=opened
                        )
                    )
                found = pending.pop(0).result()
                counts[found.outcome.value] += 1
                added = (found.outcome.value, found.extracted, found.rule)
                file.append(row | dict(zip(ADDED, added, strict=True)))
                done += 1
                if progress is not None:
                    progress(done)
        finally:
            for future in pending:
                future.cancel()
            checker.close()
    return counts


def _already(out: Path, rows: list[tuple[str, Row]], counts: Counter[str]) -> int:
    """How many rows of `out` are there; they must be the first of the file."""
    done = 0
    for where, graded in iter_rows(out):
        plain = {k: v for k, v in graded.items() if k not in ADDED}
        same = done < len(rows) and plain == {
            k: v for k, v in rows[done][1].items() if k not in ADDED
        }
        if not same or "outcome" not in graded:
            raise DataError(
                f"{where}: is not a grade of row {done + 1}; {out} holds something else, choose "
                "another name"
            )
        counts[str(graded["outcome"])] += 1
        done += 1
    return done
