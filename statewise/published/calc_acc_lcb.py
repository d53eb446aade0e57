"""`calc_acc_lcb.py`: the accuracy of a file of LiveCodeBench completions, run in the sandbox.

Tests are the release's own files, `{global_id}.json` in the folder that LIVECODEBENCH_TESTS names,
checked by their md5. A problem whose file is missing or another one is unscored, and told; nothing
is deleted: verdicts are appended to `--cache_path`, and those that are there are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from statewise import progress
from statewise.errors import DataError, StatewiseError
from statewise.eval.benchmarks import LEETCODE_HEADER, call
from statewise.eval.codetests import grade_program
from statewise.eval.metrics import summarise
from statewise.records import (
    Completion,
    FinishReason,
    Function,
    JsonlAppender,
    Outcome,
    Problem,
    TestCase,
    Verdict,
    iter_rows,
    read_jsonl,
    to_json,
)
from statewise.sandbox import Limits

TEST_S = 6.0  # of one test, as the official harness has it
FOLDER = "LIVECODEBENCH_TESTS"
DEFAULT_FOLDER = "data/livecodebench_v5_tests"
Row = dict[str, Any]


def load_tests(path: Path, md5: str, problem: Problem) -> Problem | str:
    """The problem with the tests of a release file, or why they cannot be had."""
    try:
        data = path.read_bytes()
    except OSError as e:
        return f"{path}: {e.strerror or e}"
    try:
        stored = json.loads(data)
        found = hashlib.md5(json.dumps(stored).encode(), usedforsecurity=False).hexdigest()
        if md5 not in (found, hashlib.md5(data, usedforsecurity=False).hexdigest()):
            return f"{path}: its md5 is {found}, expected {md5}"
        return with_tests(problem, json.loads(stored["input_output"]))
    except (ValueError, KeyError, TypeError) as e:
        return f"{path}: not a file of tests ({type(e).__name__}: {e})"


def with_tests(problem: Problem, stored: Row) -> Problem:
    """The problem with tests in the release's form: inputs, outputs and perhaps fn_name."""
    name, pairs = stored.get("fn_name"), zip(stored["inputs"], stored["outputs"], strict=True)
    if name:
        tests = tuple(call(i, o) for i, o in pairs)
        function = Function(f"Solution.{name}", header=LEETCODE_HEADER)
        return Problem(problem.id, "code", problem.statement, tests=tests, function=function)
    return Problem(
        problem.id, "code", problem.statement, tests=tuple(TestCase(i, o) for i, o in pairs)
    )


def completion_of(row: Row, where: str) -> str:
    """The text of a row: `completion`, or `completions` of one.

    Raises:
        DataError: there is none.
    """
    found = row.get("completion", row.get("completions"))
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, str):
        raise DataError(f"{where}: field 'completion' must be text")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    parser = argparse.ArgumentParser(
        prog="calc_acc_lcb.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--input_path", type=Path, required=True)
    parser.add_argument("--cache_path", type=Path, required=True, help="verdicts; appended to")
    asked = parser.parse_args(argv)
    try:
        return _score(asked.input_path, asked.cache_path)
    except StatewiseError as e:
        print(f"calc_acc_lcb.py: error: {e}", file=sys.stderr)
        return 1


def _score(path: Path, cache: Path) -> int:
    if cache.is_dir():
        raise DataError(f"{cache}: is a folder; name a file, nothing is deleted")
    folder = Path(os.environ.get(FOLDER, DEFAULT_FOLDER))
    problems: dict[str, Problem | str] = {}
    runs: dict[str, int] = {}
    work = []
    for where, row in iter_rows(path):
        text = completion_of(row, where)
        try:
            identity, tests = str(row["question_id"]), row["tests"]
            if identity not in problems:
                bare = Problem(identity, "code", str(row.get("prompt", "")))
                problems[identity] = load_tests(folder / tests["fname"], tests["md5"], bare)
        except (KeyError, TypeError) as e:
            raise DataError(
                f"{where}: needs question_id and tests with fname and md5 ({e})"
            ) from None
        run = int(row.get("run", runs.get(identity, 0)))
        runs[identity] = runs.get(identity, 0) + 1
        reason = FinishReason.LENGTH if row.get("finish_reason") == "length" else FinishReason.STOP
        tokens = int(row.get("completion_tokens") or 0)
        work.append(Completion(identity, run, text, reason, 0, tokens, 0))
    missing = sorted({p for p in problems.values() if isinstance(p, str)})
    for told in missing[:5]:
        print(f"unscored: {told}", file=sys.stderr)
    with JsonlAppender(cache) as file:
        done = {(v.problem_id, v.sample): v for v in read_jsonl(cache, Verdict)}
        todo = [c for c in work if (c.prompt_id, c.sample) not in done]
        with (
            progress.task("calc_acc_lcb", len(work), "programs") as shown,
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        ):
            shown.start_at(len(work) - len(todo))
            for verdict in pool.map(lambda c: _verdict(c, problems[c.prompt_id]), todo):
                file.append(verdict)
                done[verdict.problem_id, verdict.sample] = verdict
                shown.advance()
    every = [p if isinstance(p, Problem) else Problem(k, "code", "") for k, p in problems.items()]
    wanted = [done[c.prompt_id, c.sample] for c in work]
    result = summarise(every, work, wanted)
    score = "unscored" if result.pass_at_1 is None else f"{100 * result.pass_at_1:.1f}"
    spread = "" if result.stderr is None else f" +/- {100 * result.stderr:.1f}"
    counts = ", ".join(f"{n} {name}" for name, n in result.outcomes.items() if n)
    sizes = f"{result.n_problems} problems, {result.n_samples} samples"
    print(f"livecodebench: {score}{spread}, {sizes}: {counts}")
    print(json.dumps(to_json(result)))
    return 0


def _verdict(completion: Completion, problem: Problem | str) -> Verdict:
    if isinstance(problem, str):
        return Verdict(
            completion.prompt_id, completion.sample, Outcome.UNSCORED, None, f"no tests: {problem}"
        )
    wall = TEST_S if problem.function is None else TEST_S * len(problem.tests)
    limits = Limits(wall_s=wall, cpu_s=wall, memory_bytes=1 << 30, output_bytes=64 << 20)
    found = grade_program(
        completion.text, problem, finish_reason=completion.finish_reason, limits=limits
    )
    return Verdict(
        completion.prompt_id, completion.sample, found.outcome, found.extracted, found.rule
    )
