"""Two evaluations of the same problems, compared problem by problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statewise.errors import DataError
from statewise.eval.metrics import paired_difference
from statewise.records import from_json, read_json


def paired(a: Path, b: Path) -> list[dict[str, Any]]:
    """The difference on each set that both folders hold, with its error and interval.

    Args:
        a, b: folders with a folder a set, as `statewise eval` leaves them: what it wrote for a
            recipe with a checkpoint, or a run's `eval/after-PHASE`.

    Returns:
        For each set `set`, `a`, `b`, `difference`, `stderr`, `interval` (all shares) and
        `n_problems`.

    Raises:
        DataError: they share no set, or a set's problems differ.
    """
    sets = [{p.parent.name for p in folder.glob("*/result.json")} for folder in (a, b)]
    shared = sorted(sets[0] & sets[1])
    if not shared:
        raise DataError(
            f"{a} and {b} share no evaluated set: the first has {sorted(sets[0]) or 'none'}, the "
            f"second {sorted(sets[1]) or 'none'}"
        )
    return [_one(a / name, b / name) for name in shared]


def _one(a: Path, b: Path) -> dict[str, Any]:
    problems = [read_json(folder / "settings.json").get("problems") for folder in (a, b)]
    if problems[0] != problems[1]:
        raise DataError(f"{a} and {b}: other problems, so there is nothing to pair")
    scores = [_scores(folder / "result.json") for folder in (a, b)]
    difference = paired_difference(*scores)
    kept = scores[0].keys() & scores[1].keys()
    means = [sum(s[p] for p in kept) / len(kept) for s in scores]
    return {
        "set": a.name,
        "a": means[0],
        "b": means[1],
        "difference": difference.mean,
        "stderr": difference.stderr,
        "interval": list(difference.interval),
        "n_problems": difference.n_problems,
    }


@dataclass(frozen=True, slots=True)
class _Scores:
    """What is read of a result."""

    per_problem: dict[str, float]


def _scores(path: Path) -> dict[str, float]:
    row = {"per_problem": read_json(path).get("per_problem")}
    return from_json(_Scores, row, str(path)).per_problem


def as_table(rows: list[dict[str, Any]]) -> str:
    """The same as a Markdown table, in percent."""
    lines = [
        "| set | A, % | B, % | A − B | 95 % interval | problems |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        spread = "" if r["stderr"] is None else f" ± {100 * r['stderr']:.1f}"
        low, high = r["interval"]
        lines.append(
            f"| {r['set']} | {100 * r['a']:.1f} | {100 * r['b']:.1f} "
            f"| {100 * r['difference']:+.1f}{spread} | {100 * low:+.1f} to {100 * high:+.1f} "
            f"| {r['n_problems']:,} |"
        )
    return "\n".join(lines)
