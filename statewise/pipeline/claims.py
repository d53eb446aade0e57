"""The paper's three claims, decided from the run's own figures; what fails is told as failed."""

from __future__ import annotations

from typing import Any

from statewise.baseline import num_params
from statewise.eval.metrics import Difference, paired_difference
from statewise.pipeline import matched
from statewise.pipeline.stage import Run
from statewise.pipeline.stages.compare import ASKED
from statewise.records import read_json

Json = dict[str, Any]
SOURCE = "arXiv 2505.22425"
ARCHITECTURE = (
    "A model of SSD layers alone solves more problems than a Transformer of the same parameter "
    f"count that was trained on the same tokens (after {SOURCE}, tables 1 and 2)."
)
CURRICULUM = (
    "Foundations first, then synthesised problems, solves more than foundations alone and, at "
    f"equal tokens, more than the synthesised problems alone (after {SOURCE}, table 3)."
)
EFFICIENCY = (
    "At long generations the model of SSD layers decodes more tokens a second and needs less "
    f"memory a sequence than the Transformer (after {SOURCE}, figure 2)."
)


def _results(run: Run) -> list[Json]:
    """`{seed, set, variant: result}` for every comparison on disk."""
    rows = []
    for seed in run.recipe.claims.seeds:
        base = run.path / "compare" / f"seed-{seed}" / "eval"
        for folder in sorted((base / ASKED[-1]).glob("*")):
            paths = {v: base / v / folder.name / "result.json" for v in ASKED}
            if all(p.exists() for p in paths.values()):
                found = {v: read_json(p) for v, p in paths.items()}
                rows.append({"seed": seed, "set": folder.name, **found})
    return rows


def _difference(rows: list[Json], a: str, b: str) -> Difference:
    """Mean of a's minus b's pass@1 over problems, each problem averaged over the seeds first."""
    sums: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        mine, theirs = row[a]["per_problem"], row[b]["per_problem"]
        for problem in mine.keys() & theirs.keys():
            pair = sums.setdefault(f"{row['set']}/{problem}", ([], []))
            pair[0].append(mine[problem])
            pair[1].append(theirs[problem])
    means = {p: (sum(x) / len(x), sum(y) / len(y)) for p, (x, y) in sums.items()}
    return paired_difference(
        {p: m for p, (m, _) in means.items()}, {p: m for p, (_, m) in means.items()}
    )


def _by_set(rows: list[Json], a: str, b: str) -> list[Json]:
    found = []
    for name in sorted({row["set"] for row in rows}):
        d = _difference([row for row in rows if row["set"] == name], a, b)
        found.append({"set": name, "mean": d.mean, "interval": list(d.interval)})
    return found


def _unmeasured(statement: str, reason: str) -> Json:
    return {
        "statement": statement,
        "held": None,
        "reason": reason,
        "seeds": [],
        "figures": {},
    }


def _uncompared(run: Run) -> str:
    if run.recipe.claims.seeds:
        return "The compare stage was not run to its end."
    return "The recipe's claims.seeds is empty: no comparison was trained in this run."


def _points(d: Difference) -> str:
    low, high = (100 * bound for bound in d.interval)
    return f"{100 * d.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def _extent(run: Run) -> str:
    """Seeds, samples and tokens of the comparison, and what its intervals do not cover."""
    c = run.recipe.claims
    tokens = run.recipe.shortened(c.token_share).tokens
    text = (
        f"{len(c.seeds)} seed(s), {c.samples} samples a problem, {tokens:,} tokens each "
        f"({100 * c.token_share:.0f} % of the recipe's)."
    )
    if len(c.seeds) == 1:
        text += " The intervals are over problems; one seed says nothing of how trainings differ."
    return text


def _above(d: Difference) -> bool:
    return d.interval[0] > 0


def architecture_claim(run: Run, *, measured: bool) -> Json:
    """Attention-free against Transformer at equal parameters and tokens.

    It held if the 95 % interval of the paired difference, all sets together, lies above 0.
    """
    rows = _results(run) if measured else []
    if not rows:
        return _unmeasured(ARCHITECTURE, _uncompared(run))
    r = run.recipe
    d = _difference(rows, "phase-1+2", "transformer")
    shape = matched.shape(r.model)
    verdict = (
        "The attention-free model is ahead"
        if _above(d)
        else "The Transformer is ahead"
        if d.interval[1] < 0
        else "No difference is shown"
    )
    return {
        "statement": ARCHITECTURE,
        "held": _above(d),
        "reason": f"{verdict}: {_points(d)} on {d.n_problems} problems, {_extent(run)}",
        "seeds": list(r.claims.seeds),
        "figures": {
            "parameters": {"statewise": r.model.num_params, "transformer": num_params(shape)},
            "tokens": r.shortened(r.claims.token_share).tokens,
            "pass_at_1": [
                {
                    "seed": row["seed"],
                    "set": row["set"],
                    "statewise": row["phase-1+2"]["pass_at_1"],
                    "transformer": row["transformer"]["pass_at_1"],
                }
                for row in rows
            ],
            "difference": _by_set(rows, "phase-1+2", "transformer"),
        },
    }


def curriculum_claim(run: Run, *, measured: bool) -> Json:
    """Phase 1 then 2, against phase 1 alone and against phase 2 alone at equal tokens.

    It held if both paired differences, all sets together, have 95 % intervals above 0.
    """
    rows = _results(run) if measured else []
    if not rows:
        return _unmeasured(CURRICULUM, _uncompared(run))
    r = run.recipe
    before = _difference(rows, "phase-1+2", "phase-1")
    alone = _difference(rows, "phase-1+2", "phase-2-alone")
    tokens = r.shortened(r.claims.token_share)
    return {
        "statement": CURRICULUM,
        "held": _above(before) and _above(alone),
        "reason": f"Phase 1+2 against phase 1: {_points(before)}; against phase 2 alone at equal "
        f"tokens: {_points(alone)}; on {alone.n_problems} problems, "
        f"{_extent(run)}",
        "seeds": list(r.claims.seeds),
        "figures": {
            "tokens": {
                "phase 1": tokens.phases[0].tokens,
                "phase 1+2": tokens.tokens,
                "phase 2 alone": tokens.tokens,
            },
            "pass_at_1": [
                {
                    "seed": row["seed"],
                    "set": row["set"],
                    "phase 1": row["phase-1"]["pass_at_1"],
                    "phase 1+2": row["phase-1+2"]["pass_at_1"],
                    "phase 2 alone": row["phase-2-alone"]["pass_at_1"],
                }
                for row in rows
            ],
            "difference": _by_set(rows, "phase-1+2", "phase-2-alone"),
        },
    }


def efficiency_claim(run: Run, *, measured: bool) -> Json:
    """Tokens a second and memory a sequence at the longest measured length."""
    if not measured:
        return _unmeasured(EFFICIENCY, "The bench stage was not run to its end.")
    found = read_json(run.path / "bench" / "bench.json")
    claim = found["claim"]
    return {
        "statement": EFFICIENCY,
        "held": claim["held"],
        "reason": claim["reason"],
        "seeds": [run.recipe.seed],
        "figures": {
            "rows": found["rows"],
            "memory_crossover_tokens": claim["memory_crossover_tokens"],
            "speed_crossover_tokens": claim["speed_crossover_tokens"],
        },
    }
