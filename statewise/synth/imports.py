"""Published problems with solutions, as training examples of the same form as our own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from statewise.errors import DataError
from statewise.eval.regrade import as_answer
from statewise.records import Example, iter_rows, write_json, write_jsonl
from statewise.synth.dedup import decontaminate, duplicates
from statewise.text import END_THINK, chat_prompt

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations: 48/2 = <<48/2=24>>24


def import_problems(
    file: Path,
    folder: Path,
    *,
    name: str,
    tests: Mapping[str, Sequence[str]],
    jaccard: float,
    containment: float,
) -> None:
    """Turn a file of published problems into `examples.jsonl` and `funnel.json`.

    Rows need `problem` or `question`, a `solution` and an `answer`, as text or as a number; those
    whose solution or answer is empty are left out and counted. Duplicates and near copies of
    evaluation problems go too.

    Args:
        file: the JSONL file.
        folder: where the results go.
        name: the set's name, the examples' source.
        tests: evaluation set -> statements that must not be given away.
        jaccard: likeness from which two statements are duplicates.
        containment: share of an evaluation statement from which a problem is dropped.

    Raises:
        DataError: the file is missing, or a row has neither `problem` nor `question`.
    """
    rows = list(iter_rows(file))
    usable: list[tuple[str, str, str]] = []
    for where, row in rows:
        statement = row.get("problem") or row.get("question")
        if not isinstance(statement, str):
            raise DataError(f"{where}: needs a field 'problem' or 'question'")
        solution, answer = row.get("solution"), _answer(row, where)
        if isinstance(solution, str) and solution.strip() and answer:
            usable.append((statement.strip(), _CALCULATOR.sub("", solution).strip(), answer))
    repeated = duplicates([s for s, _, _ in usable], jaccard=jaccard)
    unique = [u for i, u in enumerate(usable) if i not in repeated]
    contaminated = decontaminate([s for s, _, _ in unique], tests, containment=containment)
    clean = [u for i, u in enumerate(unique) if i not in contaminated.dropped]
    examples = [
        Example(
            chat_prompt(statement),
            f"{solution}\n{END_THINK}\n\\boxed{{{answer}}}",
            source=name,
        )
        for statement, solution, answer in clean
    ]
    write_jsonl(folder / "examples.jsonl", examples)
    steps = [
        ("rows read", len(rows)),
        ("with solution and answer", len(usable)),
        ("not duplicates", len(unique)),
        ("not near an evaluation problem", len(clean)),
    ]
    funnel = {
        "name": name,
        "kind": "math",
        "steps": steps,
        "ratings": {},
        "agreement": None,
        "ungraded": {},
        "nearest": {test: round(share, 3) for test, share in contaminated.highest.items()},
    }
    write_json(folder / "funnel.json", funnel)


def _answer(row: Mapping[str, Any], where: str) -> str:
    """The answer of a row; "" if it has none that is one."""
    try:
        return as_answer(row.get("answer"), "math", where)
    except DataError:
        return ""
