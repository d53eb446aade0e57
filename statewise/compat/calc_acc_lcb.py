"""`calc_acc_lcb.py`: the accuracy of a file of LiveCodeBench completions, run in the sandbox.

Tests are the release's own files, `{global_id}.json` in the folder that LIVECODEBENCH_TESTS names,
checked by their md5. A problem whose file is missing or another one is unscored, and told; nothing
is deleted: verdicts are appended to `--cache_path`, and those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from statewise import progress
from statewise.compat.scoring import published_passes
from statewise.errors import DataError, StatewiseError
from statewise.eval.grading import grade_completion
from statewise.eval.metrics import summarise
from statewise.eval.regrade import Row, completion_of, count_of, finish_of, naming_the_end
from statewise.eval.rows import TEST_S
from statewise.log import Log
from statewise.records import (
    Completion,
    Outcome,
    Problem,
    TestsFile,
    Verdict,
    iter_rows,
    to_json,
)
from statewise.report.context import by_rules

FOLDER = "LIVECODEBENCH_TESTS"
DEFAULT_FOLDER = "data/livecodebench_v5_tests"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    parser = argparse.ArgumentParser(
        prog="calc_acc_lcb.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--input_path", type=Path, required=True)
    parser.add_argument("--cache_path", type=Path, required=True, help="verdicts; appended to")
    parser.add_argument(
        "--published-scoring",
        action="store_true",
        help="also print what the original's rules give, programs still in the sandbox "
        "(not published)",
    )
    arguments = parser.parse_args(argv)
    try:
        return _score(arguments.input_path, arguments.cache_path, arguments.published_scoring)
    except (StatewiseError, OSError) as e:
        print(f"calc_acc_lcb.py: error: {e}", file=sys.stderr)
        return 1


def _score(path: Path, cache: Path, as_published: bool) -> int:
    if cache.is_dir():
        raise DataError(f"{cache}: is a folder; name a file, nothing is deleted")
    folder = Path(os.environ.get(FOLDER, DEFAULT_FOLDER))
    problems: dict[str, Problem] = {}
    runs: dict[str, int] = {}
    of_sample: dict[tuple[str, int], Row] = {}
    work = []
    for where, row in iter_rows(path):
        text = completion_of(row, where)
        try:
            identity, tests = str(row["question_id"]), row["tests"]
            if identity not in problems:
                problems[identity] = Problem(
                    identity,
                    "code",
                    str(row.get("prompt", "")),
                    hidden=TestsFile(str(folder / tests["fname"]), str(tests["md5"])),
                    test_s=TEST_S,
                )
        except (KeyError, TypeError) as e:
            raise DataError(
                f"{where}: needs question_id and tests with fname and md5 ({e})"
            ) from None
        run = count_of(row, "run", where, runs.get(identity, 0))
        runs[identity] = runs.get(identity, 0) + 1
        tokens = count_of(row, "completion_tokens", where)
        work.append(Completion(identity, run, text, finish_of(row, where), 0, tokens, 0))
        of_sample[identity, run] = row
    for problem in problems.values():
        assert problem.hidden is not None
        if not os.path.isfile(problem.hidden.path):
            print(f"unscored: {problem.hidden.path}: no such file", file=sys.stderr)
    with Log(cache, Verdict, key=lambda v: (v.problem_id, v.sample)) as log:
        todo = [c for c in work if (c.prompt_id, c.sample) not in log]
        with (
            progress.task("calc_acc_lcb", len(work), "programs") as shown,
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        ):
            shown.start_at(len(work) - len(todo))
            for verdict in pool.map(lambda c: grade_completion(problems[c.prompt_id], c), todo):
                row = of_sample[verdict.problem_id, verdict.sample]
                log.append(naming_the_end(verdict, row))
                shown.advance()
        verdicts = [log[c.prompt_id, c.sample] for c in work]
    result = summarise(list(problems.values()), work, verdicts)
    score = "unscored" if result.pass_at_1 is None else f"{100 * result.pass_at_1:.1f}"
    spread = "" if result.stderr is None else f" +/- {100 * result.stderr:.1f}"
    counts = ", ".join(f"{n} {name}" for name, n in result.outcomes.items() if n)
    sizes = f"{result.n_problems} problems, {result.n_samples} samples"
    print(f"livecodebench: {score}{spread}, {sizes}: {counts}{by_rules(result)}")
    for told in sorted({v.rule for v in verdicts if v.outcome is Outcome.UNSCORED})[:5]:
        print(f"unscored: {told}", file=sys.stderr)
    if as_published:
        print(_by_the_original(work, problems))
    print(json.dumps(to_json(result)))
    return 0


def _by_the_original(work: Sequence[Completion], problems: dict[str, Problem]) -> str:
    """The original's line: one mean over all samples; it stops where tests are missing."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        passed = list(pool.map(lambda c: published_passes(c.text, problems[c.prompt_id]), work))
    return f"livecodebench, by the original's rules: {100 * sum(passed) / len(passed):.1f}"
