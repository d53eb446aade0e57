"""Two checkouts of Statewise side by side: every row of the CPU benchmark, asked in turn.

    git worktree add ../before HEAD~5
    python -m benchmarks.before_after ../before            this checkout against that one
    python -m benchmarks.before_after ../before --quick    a small shape: that it works

Each lives in a process of its own, with the same weights; who is asked first in one round is asked
last in the next. Logits, decoded logits and gradients are compared to the bit before anything is
timed. A figure is the median of the rounds; the ratio is of times, below 1 where this checkout is
faster: the median of the rounds' ratios, and their middle half. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu import FULL, PAUSE_S, QUICK, Plan, machine, say
from benchmarks.shapes import SHAPES, random_model, random_tokens, save_checkpoint
from benchmarks.worker import Worker

HERE = Path(__file__).parents[1]
DTYPES = {"decode": ("fp32", "bf16", "int8"), "prefill": ("fp32", "bf16"), "step": ("fp32", "bf16")}

Ask = Callable[[Worker], float]


def revision(root: Path) -> str:
    """The commit of a checkout, with "+" where something differs from it."""
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def rows(plan: Plan) -> list[tuple[str, str, str, int, Ask]]:
    """(work, kind of worker, dtype, tokens, how it is asked)."""
    listed: list[tuple[str, str, str, int, Ask]] = []
    for dtype in DTYPES["prefill"]:
        listed.append(
            (
                f"prefill of {plan.prefill:,}",
                "statewise",
                dtype,
                plan.prefill,
                lambda w: w.ask("prefill", tokens=plan.prefill),
            )
        )
    for batch in plan.batches:
        for dtype in DTYPES["decode"]:
            listed.append(
                (
                    f"decoding, {batch}",
                    "statewise",
                    dtype,
                    batch * plan.decode_steps,
                    lambda w, b=batch: w.ask("decode", batch=b, steps=plan.decode_steps),
                )
            )
    for r, l in plan.training:
        for dtype in DTYPES["step"]:
            listed.append(
                (
                    f"training step, {r} x {l:,}",
                    "training statewise",
                    dtype,
                    r * l,
                    lambda w, r=r, l=l: w.ask("step", rows=r, length=l)["seconds"],
                )
            )
    return listed


def differences(plan: Plan, pair: Sequence[Worker]) -> list[str]:
    """What two contestants compute differently, in any bit."""
    first, second = pair
    config = SHAPES[plan.shape]
    if first.kind == "statewise":
        steps, text = random_tokens(config, 3, 24, seed=2), random_tokens(config, 200, seed=1)
        questions: list[tuple[str, dict[str, Any]]] = [("stepped", {"tokens": steps})]
        if first.dtype != "int8":
            questions.append(("logits", {"tokens": text}))
    else:
        questions = [("gradient", {"rows": 2, "length": 100})]
    unequal = []
    for do, arguments in questions:
        one, other = (w.ask(do, **arguments) for w in (first, second))
        parts = one if isinstance(one, dict) else {"": one}
        others = other if isinstance(other, dict) else {"": other}
        unequal += [
            f"{first.name}: {do} {name}".strip()
            for name in parts
            if not np.array_equal(parts[name], others[name])
        ]
    return unequal


def measure(plan: Plan, before: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Every row, in turn; prints them as they come."""
    result: dict[str, Any] = {
        "before": revision(before),
        "after": revision(HERE),
        "machine": machine(threads),
        "rounds": rounds,
        "rows": [],
        "unequal": [],
    }
    say(f"before {result['before']}, after {result['after']}; {rounds} rounds, medians")
    say(f"{'work':28} {'weights':7} {'before':>9} {'after':>9} tokens/s  time, after / before")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_checkpoint(random_model(SHAPES[plan.shape], seed=0), folder)
        compared: set[tuple[str, str]] = set()
        for work, kind, dtype, tokens, ask in rows(plan):
            with ExitStack() as stack:
                pair = [
                    stack.enter_context(Worker(kind, dtype, folder, threads, tuned=True, root=root))
                    for root in (before, HERE)
                ]
                if (kind, dtype) not in compared:
                    compared.add((kind, dtype))
                    result["unequal"] += differences(plan, pair)
                seconds: list[list[float]] = [[], []]
                for turn in range(-1, rounds):  # the first is to warm up
                    for i in (0, 1) if turn % 2 else (1, 0):
                        time.sleep(PAUSE_S)
                        taken = ask(pair[i])
                        if turn >= 0:
                            seconds[i].append(taken)
            ratios = [after / before_s for before_s, after in zip(*seconds, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            rates = [tokens / statistics.median(s) for s in seconds]
            result["rows"].append(
                {
                    "work": work,
                    "weights": dtype,
                    "seconds": {"before": seconds[0], "after": seconds[1]},
                    "ratio": middle,
                    "middle_half": [low, high],
                }
            )
            say(
                f"{work:28} {dtype:7} {rates[0]:9,.0f} {rates[1]:9,.0f}            "
                f"{middle:.3f}  ({low:.3f} to {high:.3f})"
            )
    say("computed alike to the bit" if not result["unequal"] else "\n".join(result["unequal"]))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=__doc__)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    plan = QUICK if options.quick else FULL
    result = measure(plan, options.before.resolve(), options.rounds, options.threads)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
