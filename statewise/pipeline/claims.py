"""The paper's three claims, decided from the run's own figures; what fails is told as failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from statewise import speed
from statewise.baseline import num_params
from statewise.eval.metrics import Difference, paired_difference
from statewise.pipeline import matched
from statewise.pipeline.stage import Run
from statewise.pipeline.stages.compare import EVALUATIONS
from statewise.records import read_record
from statewise.report.results import (
    ArchitectureFigures,
    ClaimResult,
    CurriculumFigures,
    ScoreRow,
    SetDifference,
    SetResult,
)
from statewise.speed import Bench
from statewise.verdict import Word

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


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of every model that is compared, on one set from one seed."""

    seed: int
    set: str
    results: dict[str, SetResult]

    def scores(self, names: Mapping[str, str]) -> ScoreRow:
        """pass@1 of some of them, each under the name that the report has for it."""
        scores = {label: self.results[name].pass_at_1 for name, label in names.items()}
        return ScoreRow(self.seed, self.set, scores)


def _comparisons(run: Run) -> list[Comparison]:
    """Every comparison that is whole on disk."""
    comparisons = []
    for seed in run.recipe.claims.seeds:
        base = run.path / "compare" / f"seed-{seed}" / "eval"
        for folder in sorted((base / EVALUATIONS[-1]).glob("*")):
            paths = {name: base / name / folder.name / "result.json" for name in EVALUATIONS}
            if all(p.exists() for p in paths.values()):
                results = {name: read_record(p, SetResult) for name, p in paths.items()}
                comparisons.append(Comparison(seed, folder.name, results))
    return comparisons


def _difference(rows: Sequence[Comparison], a: str, b: str) -> Difference:
    """Mean of a's minus b's pass@1 over problems, each problem averaged over the seeds first."""
    sums: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        mine, theirs = row.results[a].per_problem, row.results[b].per_problem
        for problem in mine.keys() & theirs.keys():
            pair = sums.setdefault(f"{row.set}/{problem}", ([], []))
            pair[0].append(mine[problem])
            pair[1].append(theirs[problem])
    means = {p: (sum(x) / len(x), sum(y) / len(y)) for p, (x, y) in sums.items()}
    return paired_difference(
        {p: m for p, (m, _) in means.items()}, {p: m for p, (_, m) in means.items()}
    )


def _by_set(rows: Sequence[Comparison], a: str, b: str) -> tuple[SetDifference, ...]:
    differences = []
    for name in sorted({row.set for row in rows}):
        d = _difference([row for row in rows if row.set == name], a, b)
        differences.append(SetDifference(name, d.mean, (d.interval.low, d.interval.high)))
    return tuple(differences)


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
    tokens = run.recipe.train.shortened(c.token_share).tokens
    text = (
        f"{len(c.seeds)} seed(s), {c.samples} samples a problem, {tokens:,} tokens each "
        f"({100 * c.token_share:.0f} % of the recipe's)."
    )
    if len(c.seeds) == 1:
        text += " The intervals are over problems; one seed says nothing of how trainings differ."
    return text


def _above(d: Difference) -> bool:
    return d.interval[0] > 0


def architecture_claim(run: Run, *, measured: bool) -> ClaimResult[ArchitectureFigures]:
    """Attention-free against Transformer at equal parameters and tokens.

    It held if the 95 % interval of the paired difference, all sets together, lies above 0.
    """
    rows = _comparisons(run) if measured else []
    if not rows:
        return ClaimResult(ARCHITECTURE, None, _uncompared(run))
    r = run.recipe
    d = _difference(rows, "phase-1+2", "transformer")
    verdict = (
        "The attention-free model is ahead"
        if _above(d)
        else "The Transformer is ahead"
        if d.interval[1] < 0
        else "No difference is shown"
    )
    names = {"phase-1+2": "statewise", "transformer": "transformer"}
    return ClaimResult(
        statement=ARCHITECTURE,
        held=_above(d),
        reason=f"{verdict}: {_points(d)} on {d.n_problems} problems, {_extent(run)}",
        seeds=r.claims.seeds,
        figures=ArchitectureFigures(
            parameters={
                "statewise": r.model.num_params,
                "transformer": num_params(matched.shape(r.model)),
            },
            tokens=r.train.shortened(r.claims.token_share).tokens,
            pass_at_1=tuple(row.scores(names) for row in rows),
            difference=_by_set(rows, "phase-1+2", "transformer"),
        ),
    )


def curriculum_claim(run: Run, *, measured: bool) -> ClaimResult[CurriculumFigures]:
    """Phase 1 then 2, against phase 1 alone and against phase 2 alone at equal tokens.

    It held if both paired differences, all sets together, have 95 % intervals above 0.
    """
    rows = _comparisons(run) if measured else []
    if not rows:
        return ClaimResult(CURRICULUM, None, _uncompared(run))
    r = run.recipe
    before = _difference(rows, "phase-1+2", "phase-1")
    alone = _difference(rows, "phase-1+2", "phase-2-alone")
    tokens = r.train.shortened(r.claims.token_share)
    names = {"phase-1": "phase 1", "phase-1+2": "phase 1+2", "phase-2-alone": "phase 2 alone"}
    return ClaimResult(
        statement=CURRICULUM,
        held=_above(before) and _above(alone),
        reason=f"Phase 1+2 against phase 1: {_points(before)}; against phase 2 alone at equal "
        f"tokens: {_points(alone)}; on {alone.n_problems} problems, "
        f"{_extent(run)}",
        seeds=r.claims.seeds,
        figures=CurriculumFigures(
            tokens={
                "phase 1": tokens.phases[0].tokens,
                "phase 1+2": tokens.tokens,
                "phase 2 alone": tokens.tokens,
            },
            pass_at_1=tuple(row.scores(names) for row in rows),
            difference=_by_set(rows, "phase-1+2", "phase-2-alone"),
        ),
    )


def efficiency_claim(run: Run, *, measured: bool) -> ClaimResult[Bench]:
    """Tokens a second and memory a sequence at the longest measured length."""
    if not measured:
        return ClaimResult(EFFICIENCY, None, "The bench stage was not run to its end.")
    bench = speed.read(run.path / "bench" / "bench.json")
    decision = speed.decide(bench)
    scope = f" ({decision.scope})" if decision.scope else ""
    return ClaimResult(
        statement=EFFICIENCY,
        held=decision.word is Word.HELD,
        reason=f"{decision.word.capitalize()}{scope}. {decision.reason}",
        seeds=(run.recipe.seed,),
        figures=bench,
    )
