"""The paper's efficiency figure: tokens a second against generation length, in a memory budget.

From measured times of a step, and a stated model of scheduling. Prefill is left out on both sides.

- reserve: a fixed batch, small enough that every row has room for prompt and generation to their
  end; all rows start and end together.
- continuous: rows that end make room at once; a row holds prompt + half a generation in the mean,
  and the batch is what fits of that. It is the better of the two for a Transformer, and takes a
  scheduler that never has to put a row out.

An attention-free row takes the same memory and time at any length, so for it both are one. No more
than `most_rows` rows run at once on either side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.card import GB, Card, Plan
from benchmarks.gpu.decoding import (
    STATES,
    generate,
    one,
    sequence_bytes,
    started,
    step_bytes,
    step_flops,
    weight_bytes,
)
from benchmarks.gpu.transformer import Decoding
from statewise.model import Mamba2LM

BLOCK = 256  # tokens of context that share a graph where a Transformer's generation is checked


class StepTimes:
    """Seconds of a Transformer's step at any rows and context, from measured ones.

    Between measured points, and beyond them, linear in rows, in context and in their product: that
    is what reading weights and cache is.
    """

    def __init__(self, measured: Mapping[tuple[int, int], float]) -> None:
        self._measured = measured
        counts = Counter(rows for rows, _ in measured)
        # One context says nothing of what another costs: such rows are left to their neighbours.
        enough = min(2, max(counts.values()))
        self._rows = sorted(rows for rows, count in counts.items() if count >= enough)

    @staticmethod
    def enough(measured: Mapping[tuple[int, int], float]) -> bool:
        """Whether two numbers of rows were measured at two contexts each, or more."""
        counts = Counter(rows for rows, _ in measured)
        return sum(count >= 2 for count in counts.values()) >= 2

    def __call__(self, rows: float, context: float) -> float:
        """Seconds of a step of `rows` sequences that have `context` tokens each."""
        low, high = _around(self._rows, rows)
        a, b = self._at(low, context), self._at(high, context)
        return a if low == high else a + (b - a) * (rows - low) / (high - low)

    def _at(self, rows: int, context: float) -> float:
        contexts = sorted(c for r, c in self._measured if r == rows)
        low, high = _around(contexts, context)
        a, b = self._measured[rows, low], self._measured[rows, high]
        return a if low == high else a + (b - a) * (context - low) / (high - low)


def _around(known: list[int], wanted: float) -> tuple[int, int]:
    """The two known points between which, or beyond which, a value lies."""
    if len(known) == 1:
        return known[0], known[0]
    i = int(np.clip(np.searchsorted(known, wanted), 1, len(known) - 1))
    return known[i - 1], known[i]


def measure(card: Card, model: Mamba2LM) -> dict[str, Any]:
    """Both models' step times, the curves, and the check of the scheduling model."""
    plan = card.plan
    weights = sum(p.nbytes for p in model.parameters())
    result: dict[str, Any] = {
        "prompt": plan.prompt, "generations": plan.generations, "most_rows": plan.most_rows,
        "overhead_gb": plan.overhead / GB, "attention_free": [], "transformer": [], "checks": [],
    }  # fmt: skip
    for budget in plan.budgets:
        for state in STATES:
            each = started(card, model, 1, state).nbytes
            rows = min(plan.most_rows, int((budget - weights - plan.overhead) / each))
            if rows < 1:
                continue
            row = card.attempt(lambda r=rows, s=state: one(card, model, r, s))
            result["attention_free"].append(
                {"budget_gb": budget / GB, "state": state, "rows": rows, **row}
            )
    first = next(f for f in result["attention_free"] if f["state"] == "float16")
    if "failed" not in first:
        decoder = started(card, model, first["rows"], "float16")
        took = generate(card, decoder, plan.checked)
        result["checks"].append(_check(
            "attention-free, float16 states, smaller budget", first["rows"], plan.checked,
            took, plan.checked * first["rows"] / first["tokens_per_s"],
        ))  # fmt: skip
        del decoder
    card.free()
    return result


def _check(name: str, rows: int, tokens: int, took: float, told: float) -> dict[str, Any]:
    return {
        "name": name, "rows": rows, "tokens": tokens, "seconds": took, "predicted": told,
        "measured_over_predicted": took / told,
    }  # fmt: skip


def measure_transformer(card: Card, result: dict[str, Any], time_left: Callable[[], float]) -> None:
    """Adds the Transformer's step times, the curves of both, and two checks, to `result`."""
    plan, shape = card.plan, card.plan.transformer
    room = [int((b - shape.weight_bytes - plan.overhead) / shape.kv_bytes) for b in plan.budgets]
    decoding = Decoding(shape, card, max(room))
    times: dict[tuple[int, int], float] = {}
    result["left_out"] = []
    for rows in sorted(plan.batches, key=lambda r: (r not in (1, max(plan.batches)), -r)):
        for context in plan.contexts:
            if rows * context > max(room):
                continue
            point = {"rows": rows, "context": context}
            if time_left() < 60:
                result["left_out"].append(point)
                continue
            took = card.attempt(lambda r=rows, n=context: decoding.seconds(r, n))
            if isinstance(took, dict):
                result["transformer"].append({**point, **took})
                continue
            times[rows, context], kernel = took
            floor = card.against(
                took[0], shape.step_bytes(rows, context), shape.step_flops(rows, context)
            )
            result["transformer"].append({**point, **floor, "attention": kernel})
    if not StepTimes.enough(times):
        raise RuntimeError("too few steps of the Transformer could be timed for a curve")
    step = StepTimes(times)
    result["curves"] = curves(plan, result["attention_free"], step, room)
    for budget, tokens in zip(room, plan.budgets, strict=True):
        if time_left() < 45:
            break
        length = plan.prompt + plan.checked
        rows = min(plan.most_rows, budget // length)
        took = _generate(card, decoding, rows)
        told = sum(step(rows, plan.prompt + t + 1) for t in range(plan.checked))
        name = f"Transformer, reserve, {tokens / GB:g} GB"
        result["checks"].append(_check(name, rows, plan.checked, took, told))


def _generate(card: Card, decoding: Decoding, rows: int) -> float:
    """Seconds of a fixed batch from the prompt's end on; a graph serves a block of contexts."""
    plan = card.plan
    decoding.seconds(rows, plan.prompt + plan.checked // 2)  # chooses the attention
    block = BLOCK if card.is_gpu else plan.checked
    seconds = 0.0
    for begin in range(0, plan.checked, block):
        count = min(block, plan.checked - begin)
        replay = decoding.record(rows, plan.prompt + begin + (count + 1) // 2)

        def loop(replay: Any = replay, count: int = count) -> None:
            for _ in range(count):
                replay()

        replay()
        seconds += card.once(loop)
    return seconds


def curves(
    plan: Plan, attention_free: list[dict[str, Any]], step: StepTimes, room: list[int]
) -> list[dict[str, Any]]:
    """Tokens a second at each generation length, of each budget and policy."""
    lines: list[dict[str, Any]] = []
    for budget, tokens in zip(plan.budgets, room, strict=True):
        of_budget = [f for f in attention_free if f["budget_gb"] == budget / GB]
        for f in of_budget:
            if "failed" not in f:
                lines.append(
                    {
                        "budget_gb": budget / GB, "who": "attention-free", "state": f["state"],
                        "tokens_per_s": [f["tokens_per_s"]] * len(plan.generations),
                        "rows": [f["rows"]] * len(plan.generations),
                    }
                )  # fmt: skip
        for policy in ("reserve", "continuous"):
            rates, batches = [], []
            for length in plan.generations:
                context = plan.prompt + (length if policy == "reserve" else length / 2)
                rows = min(plan.most_rows, int(tokens // context))
                batches.append(rows)
                rates.append(_rate(plan, step, policy, rows, length) if rows else 0.0)
            lines.append(
                {
                    "budget_gb": budget / GB, "who": "Transformer", "policy": policy,
                    "tokens_per_s": rates, "rows": batches,
                }
            )  # fmt: skip
    for f in lines:
        if f["who"] == "attention-free":
            for policy in ("reserve", "continuous"):
                against = next(
                    o for o in lines
                    if o["budget_gb"] == f["budget_gb"] and o.get("policy") == policy
                )  # fmt: skip
                ratios = [
                    a / b if b else None
                    for a, b in zip(f["tokens_per_s"], against["tokens_per_s"], strict=True)
                ]
                f[f"over_{policy}"] = ratios
                f[f"break_even_{policy}"] = _break_even(plan.generations, ratios)
    return lines


def _rate(plan: Plan, step: StepTimes, policy: str, rows: int, length: int) -> float:
    if policy == "continuous":
        return rows / step(rows, plan.prompt + length / 2)
    contexts = np.linspace(plan.prompt + 1, plan.prompt + length, 65)
    return rows / float(np.mean([step(rows, c) for c in contexts]))


def _break_even(lengths: tuple[int, ...], ratios: list[float | None]) -> float | None:
    """The generation length from which on the attention-free model is faster; None: never."""
    known = [(g, r) for g, r in zip(lengths, ratios, strict=True) if r is not None]
    if known and known[0][1] >= 1:
        return known[0][0]
    for (a, low), (b, high) in pairwise(known):
        if low < 1 <= high:
            return a + (b - a) * (1 - low) / (high - low)
    return None


def limit(plan: Plan, bytes_per_s: float, flops: float) -> dict[str, Any]:
    """The figure as bytes and operations alone would have it: nothing of it is measured."""
    c, shape = plan.model, plan.transformer
    weights = weight_bytes(c)
    result: dict[str, Any] = {
        "prompt": plan.prompt, "generations": plan.generations, "most_rows": plan.most_rows,
        "overhead_gb": plan.overhead / GB, "attention_free": [], "transformer": [], "checks": [],
        "bytes_per_s": bytes_per_s, "flops": flops,
    }  # fmt: skip
    for budget in plan.budgets:
        for state in STATES:
            element = 4 if state == "float32" else 2
            room_for = (budget - weights - plan.overhead) / sequence_bytes(c, element)
            rows = min(plan.most_rows, int(room_for))
            took = max(step_bytes(c, rows, element) / bytes_per_s, step_flops(c, rows) / flops)
            result["attention_free"].append(
                {"budget_gb": budget / GB, "state": state, "rows": rows, "ms": took * 1e3,
                 "tokens_per_s": rows / took, "share_of_floor": 1.0}
            )  # fmt: skip
    times = {
        (r, n): max(shape.step_bytes(r, n) / bytes_per_s, shape.step_flops(r, n) / flops)
        for r in plan.batches
        for n in plan.contexts
    }
    room = [int((b - shape.weight_bytes - plan.overhead) / shape.kv_bytes) for b in plan.budgets]
    result["curves"] = curves(plan, result["attention_free"], StepTimes(times), room)
    return result


def draw(result: dict[str, Any], path: Path, title: str = "") -> None:
    """The figure: a panel for each budget."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    budgets = sorted({f["budget_gb"] for f in result["curves"]})
    figure, panels = plt.subplots(
        1, len(budgets), figsize=(4.6 * len(budgets), 3.8), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    styles = {
        "float32": ("#2166ac", "-"), "float16": ("#4d9a6a", "-"), "bfloat16": ("#4d9a6a", ":"),
        "reserve": ("#b5432f", "-"), "continuous": ("#b5432f", "--"),
    }  # fmt: skip
    for axes, budget in zip(panels[0], budgets, strict=True):
        for f in result["curves"]:
            if f["budget_gb"] == budget:
                kind = f.get("state") or f["policy"]
                colour, line = styles[kind]
                label = f"{f['who']}, {kind}" + (" states" if "state" in f else "")
                axes.plot(
                    result["generations"], f["tokens_per_s"], color=colour, linestyle=line,
                    marker="o", markersize=3, label=label,
                )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(result["generations"], [f"{g / 1024:g}k" for g in result["generations"]])
        axes.minorticks_off()
        axes.set_title(f"{budget:g} GB", fontsize=10)
        axes.set_xlabel("tokens generated a sequence")
        axes.grid(which="major", color="#dfe3e7")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("tokens/s")
    panels[0][0].legend(frameon=False, fontsize=7.5)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
