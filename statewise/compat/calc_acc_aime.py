"""`calc_acc_aime.py`: the accuracy of a file of completions, by source.

Rows are grouped by `source` and prompt; the run is `run`, or where there is none the order of
appearance, so that files ordered by run and by prompt are read alike. The error is the standard
error over problems. A prompt with fewer runs than expected is an error of the file, and is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from statewise.errors import DataError, StatewiseError
from statewise.eval.answers import Kind
from statewise.eval.mathematics.workers import compare
from statewise.eval.metrics import SetResult, summarise
from statewise.eval.regrade import completion_of, count_of, grade_row
from statewise.records import (
    Completion,
    FinishReason,
    Problem,
    content_id,
    iter_rows,
    to_json,
)

KINDS: dict[str, Kind] = {"aime2024": "integer", "aime2025": "integer", "gsm8k": "integer"}
Row = dict[str, Any]


def grouped(path: Path, expected_runs: int) -> dict[str, dict[str, list[tuple[str, Row]]]]:
    """source -> prompt -> its rows in the order of runs, with where each stands.

    Raises:
        DataError: a field is missing, or a prompt has more or fewer runs than expected.
    """
    groups: dict[str, dict[str, list[tuple[str, Row]]]] = {}
    for where, row in iter_rows(path):
        for name in ("prompt", "source"):
            if not isinstance(row.get(name), str):
                raise DataError(f"{where}: field {name!r} must be text")
        groups.setdefault(row["source"], {}).setdefault(row["prompt"], []).append((where, row))
    for source, prompts in groups.items():
        for rows in prompts.values():
            if len(rows) != expected_runs:
                raise DataError(
                    f"{rows[0][0]}: {source}: this prompt has {len(rows)} runs, expected "
                    f"{expected_runs}; a score over the rest would mean something else"
                )
            # Stable: where no run is named, as they appear.
            rows.sort(key=lambda entry: count_of(entry[1], "run", entry[0]))
    return groups


def scored(
    prompts: dict[str, list[tuple[str, Row]]],
    kind: Kind,
) -> SetResult:
    """The figures of one source, whose answers are compared as those of a kind."""
    problems, completions, verdicts = [], [], []
    for prompt, rows in prompts.items():
        identity = content_id(prompt)
        problems.append(Problem(identity, "math", prompt))
        for run, (where, row) in enumerate(rows):
            verdict = grade_row(row, where, kind, compare)
            verdicts.append(replace(verdict, problem_id=identity, sample=run))
            tokens = count_of(row, "completion_tokens", where)
            text = completion_of(row, where)
            completions.append(Completion(identity, run, text, FinishReason.STOP, 0, tokens, 0))
    return summarise(problems, completions, verdicts)


def table(results: dict[str, SetResult]) -> str:
    """Lines for people."""
    lines = []
    for source, r in results.items():
        spread = "" if r.stderr is None else f" +/- {100 * r.stderr:.1f}"
        inside = (
            r.interval and f" (95 %: {100 * r.interval.low:.1f} to {100 * r.interval.high:.1f})"
        )
        score = "unscored" if r.pass_at_1 is None else f"{100 * r.pass_at_1:.1f}"
        lines.append(
            f"{source}: {score}{spread}{inside or ''}, {r.n_problems} "
            f"problems, {r.n_samples} samples: "
            + ", ".join(f"{n} {name}" for name, n in r.outcomes.items() if n)
        )
    return "\n".join(lines)


def _printable(text: str) -> str:
    """The text with escapes for what is no character: a terminal takes nothing else."""
    return text.encode(errors="backslashreplace").decode()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    parser = argparse.ArgumentParser(
        prog="calc_acc_aime.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--input_path", type=Path, required=True)
    parser.add_argument("--expected_runs", type=int, default=8)
    parser.add_argument(
        "--published-scoring",
        action="store_true",
        help="the original's rules, whose faults are known, beside ours",
    )
    arguments = parser.parse_args(argv)
    try:
        groups = grouped(arguments.input_path, arguments.expected_runs)
        results = {s: scored(p, KINDS.get(s, "math")) for s, p in groups.items()}
        print(_printable(table(results)))
        if arguments.published_scoring:
            from statewise.compat.scoring import published_line

            for source, prompts in groups.items():
                line = published_line(source, prompts, arguments.expected_runs)
                print(_printable(line))
    except (StatewiseError, OSError) as e:
        print(f"calc_acc_aime.py: error: {e}", file=sys.stderr)
        return 1
    print(json.dumps({source: to_json(r) for source, r in results.items()}))
    return 0
