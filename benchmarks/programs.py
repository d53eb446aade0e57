"""Graders of programs side by side: which of the same programs each credits, and how fast.

    python -m benchmarks.programs --data WHERE_THE_FILES_ARE --lcb CHECKOUT --out runs/programs

Asked are published programs of LiveCodeBench (two models on a seeded choice of problems), on the
sample tests that the statements show: this package by both of its sets of rules, from one grading,
and LiveCodeBench's own harness from a checkout of its repository, one program after the other. The
harness runs programs with the user's rights. Without a checkout it is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statewise.errors import RunError, StatewiseError
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.eval.grading import grade_completion
from statewise.eval.rules import passed
from statewise.progress import task
from statewise.records import (
    Completion,
    FinishReason,
    Problem,
    iter_rows,
    write_atomically,
    write_json,
)

PEER = Path(__file__).with_name("program_peers.py")
NAME = "livecodebench_public"
THEIRS = "LiveCodeBench's harness"
OFFICIAL, STRICT = "Statewise, official rules", "Statewise, strict rules"


@dataclass(frozen=True, slots=True)
class Item:
    """A program, the problem that it is to solve, and that problem's tests as published."""

    problem: Problem
    model: str
    code: str
    tests: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What a grader says of an item, and why."""

    who: str
    item: Item
    credited: bool
    why: str
    wall_s: float


def published(data: Path, problems: int, seed: int) -> list[Item]:
    """The published programs on some of the problems; 0 is all."""
    rows = {r["question_id"]: r for _, r in iter_rows(data / BENCHMARKS[NAME].file)}
    chosen = [p for p in load_benchmark(NAME, data) if p.tests]
    if problems:
        chosen = random.Random(seed).sample(chosen, min(problems, len(chosen)))
    items = []
    for p in chosen:
        row = rows[p.id]
        tests = {
            "inputs": [t["input"] for t in row["public_tests"]],
            "outputs": [t["output"] for t in row["public_tests"]],
            "fn_name": row["func_name"],
        }
        items += [Item(p, o["model"], o["code"], tests) for o in row["official"]]
    return items


def asked_here(items: Sequence[Item]) -> Iterator[Row]:
    """This package, by both sets of rules: two rows an item, which share their time."""
    for item in items:
        text = f"so\n</think>\n```python\n{item.code}\n```"
        completion = Completion(item.problem.id, 0, text, FinishReason.STOP, 0, 0, 0)
        began = time.perf_counter()
        verdict = grade_completion(item.problem, completion)
        wall_s = time.perf_counter() - began
        yield Row(OFFICIAL, item, passed(verdict, "official"), verdict.rule, wall_s)
        yield Row(STRICT, item, passed(verdict, "strict"), verdict.rule, wall_s)


def asked_there(python: str, checkout: Path, items: Sequence[Item]) -> Iterator[Row]:
    """The official harness.

    Raises:
        RunError: it cannot be started, or ends before it has answered.
    """
    command = [python, str(PEER), str(checkout)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for item in items:
            try:
                process.stdin.write(json.dumps({**item.tests, "code": item.code}) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass
            answer = process.stdout.readline()
            if not answer:
                raise RunError(
                    f"{' '.join(command)}: ended early; is it a checkout of the harness?"
                )
            told = json.loads(answer)
            yield Row(THEIRS, item, told["credited"], told["error"], told["wall_s"])


def table(rows: Sequence[Row]) -> str:
    """By grader: how many programs it credits, and how many it grades in a second."""
    lines = ["| grader | credited | not credited | programs a second |", "|---|---|---|---|"]
    for name in dict.fromkeys(r.who for r in rows):
        mine = [r for r in rows if r.who == name]
        credited = sum(r.credited for r in mine)
        rate = len(mine) / sum(r.wall_s for r in mine)
        lines.append(f"| {name} | {credited:,} | {len(mine) - credited:,} | {rate:.1f} |")
    return "\n".join(lines)


def disagreements(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where the official rules, here and there, come to different verdicts."""
    theirs = {id(r.item): r for r in rows if r.who == THEIRS}
    found = []
    for ours in rows:
        other = theirs.get(id(ours.item))
        if ours.who == OFFICIAL and other is not None and other.credited != ours.credited:
            who = {"problem": ours.item.problem.id, "model": ours.item.model}
            found.append({**who, "here": ours.credited, "rule": ours.why, "there": other.why})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit code is 0, or 1 for an error that was told."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmarks' files")
    parser.add_argument("--lcb", type=Path, metavar="FOLDER", help="checkout of LiveCodeBench")
    parser.add_argument("--python", default=sys.executable, help="that has what the harness needs")
    parser.add_argument("--problems", type=int, default=0, help="so many, by chance; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        items = published(arguments.data, arguments.problems, arguments.seed)
        runs = {"Statewise": asked_here(items)}
        if arguments.lcb is not None:
            runs[THEIRS] = asked_there(arguments.python, arguments.lcb, items)
        rows: list[Row] = []
        for name, answers in runs.items():
            with task(name, len(items), "programs") as shown:
                for row in answers:
                    rows.append(row)
                    if row.who != STRICT:
                        shown.advance()
    except StatewiseError as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    differing = disagreements(rows)
    sys.stdout.write(f"{table(rows)}\n\n{len(differing)} of {len(items)} differ\n")
    write_atomically(arguments.out / "programs.md", (table(rows) + "\n").encode())
    write_json(arguments.out / "programs.json", differing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
