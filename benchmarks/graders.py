"""Checkers of answers side by side: which outputs each of them credits, and how fast.

    python -m benchmarks.graders --data WHERE_THE_FILES_ARE --out runs/graders \\
        --lm-eval LM_EVAL_ENV/bin/python --lighteval LIGHTEVAL_ENV/bin/python

Asked are the golden table of the tests (outputs with the outcome they should have), and of each
mathematical benchmark its own references in a box, right and with one digit changed; with `--pairs`
also generated answers that are unequal or equal by construction (`tests/eval/answer_pairs.py`). The
peers are asked as their own harness asks them: lm-evaluation-harness (its `aime` and `minerva_math`
tasks), Math-Verify with its defaults, lighteval (its `pass@k` for mathematics), and the published
script's rules but for the step that executes text. The harnesses ask for other versions of shared
libraries than Statewise and than each other, so each lives in an environment of its own
(`pip install 'lm_eval[math]'`, `pip install 'lighteval[math]'`); without one it is left out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statewise.compat.scoring import published_equal, published_extract
from statewise.errors import RunError, StatewiseError
from statewise.eval.answers import as_kind, grade
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.progress import task
from statewise.records import write_atomically, write_json

PEERS = Path(__file__).with_name("grader_peers.py")
GOLDEN = Path(__file__).parents[1] / "tests" / "eval" / "answers.jsonl"
SETS = ("math500", "aime2024", "aime2025", "olympiadbench", "gsm8k", "hmmt_feb_2025")


@dataclass(frozen=True, slots=True)
class Item:
    """An output, its reference, and whether it deserves credit."""

    group: str
    output: str
    reference: str
    kind: str
    right: bool
    unit: str = ""
    tolerance: float = 0.0


def golden() -> list[Item]:
    """The golden table; what is unscored in it deserves no credit."""
    rows = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    return [
        Item("golden table", r["output"], r["reference"], r["kind"], r["outcome"] == "correct")
        for r in rows
    ]


def references(name: str, data: Path) -> list[Item]:
    """A benchmark's references in a box, as they are and with the last digit changed."""
    items = []
    for p in load_benchmark(name, data):
        assert p.answer is not None
        kind = as_kind(p.checker, BENCHMARKS[name].checker)
        changed = re.sub(
            r"[0-9](?=[^0-9]*$)", lambda m: str((int(m[0]) + 3) % 10), p.answer, count=1
        )
        for answer, right in ((p.answer, True), (changed, False)):
            if right or changed != p.answer:
                text = f"So.\n</think>\nThe answer is $\\boxed{{{answer}}}$."
                items.append(Item(name, text, p.answer, kind, right, p.unit, p.tolerance))
    return items


def generated(data: Path, count: int) -> list[Item]:
    """So many unequal and so many equal answers, made from all references at seed 0."""
    sys.path.insert(0, str(GOLDEN.parent))
    from answer_pairs import EQUAL, UNEQUAL, pairs

    problems = [p for name in SETS for p in load_benchmark(name, data)]
    distinct = sorted({p.answer for p in problems if p.answer and p.checker != "several"})
    return [
        Item(
            group, f"So.\n</think>\nThe answer is $\\boxed{{{answer}}}$.", reference, "math", right
        )
        for group, rules, right in (("unequal", UNEQUAL, False), ("equal", EQUAL, True))
        for _, reference, answer in pairs(distinct, rules, count, 0)
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """What a checker says of an item; `credited` is None where it failed."""

    who: str
    item: Item
    credited: bool | None
    wall_s: float


def statewise_grade(item: Item) -> bool | None:
    """This package's checker; what it leaves unscored has failed."""
    verdict = grade(
        item.output,
        item.reference,
        kind=as_kind(item.kind, "math"),
        unit=item.unit,
        tolerance=item.tolerance,
    )
    return None if verdict.outcome == "unscored" else verdict.outcome == "correct"


def published_rules(item: Item) -> bool | None:
    """The published script's rules."""
    return published_equal(published_extract(item.output), item.reference)


OURS: dict[str, Callable[[Item], bool | None]] = {
    "Statewise": statewise_grade,
    "published rules": published_rules,
}


def asked_here(name: str, items: Sequence[Item]) -> Iterator[Row]:
    """One of `OURS` on every item."""
    for item in items:
        began = time.perf_counter()
        credited = OURS[name](item)
        yield Row(name, item, credited, time.perf_counter() - began)


def asked_there(python: str, peer: str, items: Sequence[Item]) -> Iterator[Row]:
    """A peer of `grader_peers.py` on every item, in its own environment.

    Raises:
        RunError: it cannot be started, or ends before it has answered.
    """
    command = [python, str(PEERS), peer]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def line() -> dict[str, Any]:
            assert process.stdout is not None
            answer = process.stdout.readline()
            if not answer:
                raise RunError(f"{' '.join(command)}: ended early; is the peer installed there?")
            record: dict[str, Any] = json.loads(answer)
            return record

        name = f"{peer} {line()['version']}"
        for item in items:
            question = {"output": item.output, "reference": item.reference}
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            answer = line()
            yield Row(name, item, answer["credited"], answer["wall_s"])


def table(rows: Sequence[Row]) -> str:
    """By group and contestant: wrong credit, right answers refused, failures, milliseconds."""
    lines = [
        "| outputs | checker | credited, of those that deserve it "
        "| credited, of those that do not | failed | ms an answer |",
        "|---|---|---|---|---|---|",
    ]
    groups = list(dict.fromkeys(r.item.group for r in rows))
    names = list(dict.fromkeys(r.who for r in rows))
    for group in groups:
        for name in names:
            answers = [r for r in rows if r.item.group == group and r.who == name]
            good = [r.credited for r in answers if r.item.right]
            bad = [r.credited for r in answers if not r.item.right]
            failed = sum(r.credited is None for r in answers)
            mean = 1000 * sum(r.wall_s for r in answers) / len(answers)
            lines.append(
                f"| {group} | {name} | {good.count(True):,} of {len(good):,} "
                f"| {bad.count(True):,} of {len(bad):,} | {failed} | {mean:.2f} |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit code is 0, or 1 for an error that was told."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the benchmarks' files")
    parser.add_argument("--pairs", type=int, default=0, help="generated ones of either kind")
    parser.add_argument("--lm-eval", metavar="PYTHON", help="of an environment with lm_eval")
    parser.add_argument("--lighteval", metavar="PYTHON", help="of an environment with lighteval")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        items = golden()
        if arguments.data is not None:
            for name in SETS:
                items += references(name, arguments.data)
            items += generated(arguments.data, arguments.pairs)
    except StatewiseError as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    statewise_grade(Item("", "</think>\\boxed{x+1}", "1+x", "math", True))  # its worker starts
    peers = [(arguments.lm_eval, "lm_eval_aime"), (arguments.lm_eval, "lm_eval_minerva"),
             (arguments.lm_eval, "math_verify"),
             (arguments.lighteval, "lighteval_math")]  # fmt: skip
    runs = {name: asked_here(name, items) for name in OURS}
    runs |= {peer: asked_there(python, peer, items) for python, peer in peers if python}
    rows: list[Row] = []
    for name, answers in runs.items():
        try:
            with task(name, len(items), "answers") as shown:
                for row in answers:
                    rows.append(row)
                    shown.advance()
        except StatewiseError as e:  # what the others said is worth keeping
            sys.stderr.write(f"left out: {e}\n")
    page = table(rows)
    sys.stdout.write(page + "\n")
    write_atomically(arguments.out / "graders.md", (page + "\n").encode())
    write_json(
        arguments.out / "graders.json",
        [
            {
                "checker": r.who,
                "group": r.item.group,
                "output": r.item.output,
                "reference": r.item.reference,
                "right": r.item.right,
                "credited": r.credited,
            }
            for r in rows
            if r.credited is not r.item.right
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
