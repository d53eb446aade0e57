"""Completions that lie in a file, graded without a model: any JSONL with `completion` and `answer`.

A row keeps all it has and gains `outcome`, `extracted` and `rule`. The published files have the
reference inside `reference_solution`, behind `####` or in its last box. What other tools write is
understood where it can only mean one thing: numbers as text, a text in a list of one, their words
for why a completion ended.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from statewise.errors import DataError
from statewise.eval.answers import Checker, Kind
from statewise.eval.grading import grade_completion
from statewise.eval.mathematics.workers import MathChecker
from statewise.log import Log
from statewise.records import (
    AT_THE_LIMIT,
    Completion,
    FinishReason,
    Outcome,
    Problem,
    Verdict,
    finish_reason,
    iter_rows,
)
from statewise.text import END_THINK, THINK, last_boxed

Row = dict[str, Any]
ADDED = ("outcome", "extracted", "rule")
AT_ONCE = 512  # rows in flight


def reference_of(row: Row, where: str, kind: Kind = "math") -> str:
    """The reference answer of a row: text, a number, a list of one, or of several for that kind.

    Raises:
        DataError: there is none.
    """
    reference: str | None = None
    if row.get("answer") is not None:
        reference = as_answer(row["answer"], kind, where)
    elif isinstance(row.get("reference_solution"), str):
        solution = row["reference_solution"]
        behind = solution.rpartition("####")[2].strip() if "####" in solution else ""
        reference = behind or last_boxed(solution)
    elif "answer" not in row and "reference_solution" not in row:
        raise DataError(f"{where}: needs the field 'answer' or 'reference_solution'")
    if not reference or not reference.strip():
        raise DataError(f"{where}: holds no reference answer")
    return reference


def as_answer(answer: Any, kind: Kind, where: str) -> str:
    """An answer as it stands in JSON, as text: text, a number, a list of one or of several.

    Raises:
        DataError: it is none, or several where the kind is not "several".
    """
    if isinstance(answer, str):
        return answer
    if isinstance(answer, list) and (len(answer) == 1 or (answer and kind == "several")):
        return ", ".join(as_answer(part, kind, where) for part in answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        return str(answer)
    if isinstance(answer, float) and math.isfinite(answer):
        return str(int(answer)) if answer.is_integer() else f"{Decimal(repr(answer)):f}"
    told = f"{len(answer)} answers" if isinstance(answer, list) else repr(answer)
    several = "; several answers are of kind 'several'" if isinstance(answer, list) else ""
    raise DataError(f"{where}: holds no reference answer: field 'answer' is {told}{several}")


def completion_of(row: Row, where: str) -> str:
    """The text of a row: `completion`, or `completions`; a text, or a list of one.

    Raises:
        DataError: there is none.
    """
    text = row.get("completion", row.get("completions"))
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise DataError(f"{where}: field 'completion' must be text")
    return text


def count_of(row: Row, field: str, where: str, otherwise: int = 0) -> int:
    """A whole number from 0 on in a row, perhaps written as text or as 3.0.

    Raises:
        DataError: it is anything else.
    """
    value = row.get(field)
    if value is None:
        return otherwise
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value) if len(value) < 20 else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{where}: field {field!r} must be a whole number, found {value!r}")
    return value


def finish_of(row: Row, where: str) -> FinishReason:
    """Why a row's text ended.

    Raises:
        DataError: its `finish_reason` is no word for that which is known.
    """
    try:
        return finish_reason(row.get("finish_reason"))
    except ValueError as e:
        raise DataError(f"{where}: {e}") from None


def naming_the_end(verdict: Verdict, row: Row) -> Verdict:
    """The verdict on a row's text; where that was interrupted, by what is the rule."""
    said = row.get("finish_reason")
    if (
        verdict.outcome is not Outcome.TRUNCATED
        or verdict.finish_reason != FinishReason.LENGTH
        or str(said).lower() in AT_THE_LIMIT
    ):
        return verdict
    return replace(verdict, rule=f"finish_reason {said}")


def opens_thinking(path: Path) -> bool:
    """Whether the answers of a file were given to prompts that opened a think block.

    That is so where any row has a think tag: a model that was trained on them closes the block that
    its prompt opened. Where none has, a text is all answer.
    """
    return any(
        tag in str(row.get("completion", row.get("completions")))
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
    text, reason = completion_of(row, where), finish_of(row, where)
    verdict = grade_completion(
        Problem(where, "math", "", reference_of(row, where, kind)),
        Completion(where, 0, text, reason, 0, 0, 0),
        kind=kind,
        opened=opened,
        checker=checker,
    )
    return naming_the_end(verdict, row)


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
