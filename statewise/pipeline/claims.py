"""The paper's three claims, decided from the run's own figures; what fails is told as failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from statewise import speed, verdict
from statewise.claims import Arm
from statewise.eval import comparison
from statewise.pipeline.stage import Run
from statewise.pipeline.sweep import trials
from statewise.records import from_json, read_json, read_record
from statewise.report.results import (
    ArmFigures,
    ClaimResult,
    Comparison,
    Contrast,
    ScoreRow,
    SetDifference,
    SetResult,
)
from statewise.report.wording import points, points_interval, set_phrase
from statewise.speed import Bench
from statewise.verdict import Evidence, Word

SOURCE = "arXiv 2505.22425"
ARCHITECTURE = (
    "A model of SSD layers alone matches or beats a Transformer of its size that was trained on "
    f"the same tokens (after {SOURCE}, tables 1 and 2)."
)
CURRICULUM = (
    "Foundations first, then synthesised problems, solves more than either alone, at equal tokens "
    f"(after {SOURCE}, table 3)."
)
EFFICIENCY = (
    "At long generations the model of SSD layers decodes more tokens a second, within a budget of "
    f"memory, than the Transformer (after {SOURCE}, figure 2)."
)
# What decides a claim, and what is set beside it without deciding.
ARCHITECTURE_DECIDES: tuple[Arm, ...] = ("transformer",)
ARCHITECTURE_BESIDE: tuple[Arm, ...] = ("transformer-compute", "transformer-window")
CURRICULUM_DECIDES: tuple[Arm, ...] = ("mixture", "foundation")
CURRICULUM_BESIDE: tuple[Arm, ...] = ("no-programs",)

Results = Mapping[str, Mapping[int, Mapping[str, SetResult]]]


def _read(base: Path, seeds: Sequence[int], arms: Sequence[Arm], sets: Sequence[str]) -> Results:
    """Arm -> seed -> set -> result."""
    return {
        arm: {
            seed: {
                name: read_record(
                    base / f"seed-{seed}" / "eval" / arm / name / "result.json", SetResult
                )
                for name in sets
            }
            for seed in seeds
        }
        for arm in arms
    }


def _unmeasured(run: Run, arms: Sequence[Arm]) -> str:
    if not run.recipe.claims.seeds:
        return "Not compared in this run: its recipe names no claims.seeds; the recipe claims does."
    missing = [arm for arm in arms if arm not in run.recipe.claims.arms]
    if missing:
        return f"The recipe's claims.arms leaves out {', '.join(missing)}."
    return "The compare stage was not run to its end."


def architecture_claim(run: Run, *, measured: bool) -> ClaimResult[Comparison]:
    """Attention-free against Transformer, at equal parameters and tokens."""
    return _claim(
        run,
        ARCHITECTURE,
        ARCHITECTURE_DECIDES,
        ARCHITECTURE_BESIDE,
        measured=measured,
    )


def curriculum_claim(run: Run, *, measured: bool) -> ClaimResult[Comparison]:
    """The curriculum against each of its parts, at equal tokens; it must beat both."""
    return _claim(run, CURRICULUM, CURRICULUM_DECIDES, CURRICULUM_BESIDE, measured=measured)


def _claim(
    run: Run,
    statement: str,
    deciding: Sequence[Arm],
    beside: Sequence[Arm],
    *,
    measured: bool,
) -> ClaimResult[Comparison]:
    c = run.recipe.claims
    if not measured or not c.seeds or not set(deciding) <= set(c.arms):
        return ClaimResult(statement, None, "", _unmeasured(run, deciding))
    written = getattr(run.recipe.synth, run.recipe.eval.on)
    others = [arm for arm in (*deciding, *beside) if arm in c.arms]
    arms: list[Arm] = ["curriculum", *others]
    folder = run.path / "compare"
    results = _read(folder, c.seeds, arms, [s.name for s in written])
    decides = tuple(s.name for s in written if s.novelty == "none")
    contrasts = tuple(
        _contrast(
            results,
            "curriculum",
            other,
            decides,
            arms[: 1 + len(deciding)],
            c.reach,
            decisive=other in deciding,
        )
        for other in others
    )
    judged = [contrast for contrast in contrasts if contrast.decides]
    word = verdict.of_parts([contrast.word for contrast in judged])
    worst = min(judged, key=lambda k: verdict.rank(k.word))
    described = read_json(folder / "arms.json")
    figures = Comparison(
        arms={arm: from_json(ArmFigures, described[arm], f"arms.json: {arm}") for arm in arms},
        scores=tuple(
            ScoreRow(seed, s.name, {arm: results[arm][seed][s.name].pass_at_1 for arm in arms})
            for seed in c.seeds
            for s in written
        ),
        decides=decides,
        contrasts=contrasts,
        trials=trials(folder / "sweep"),
        problems=c.problems,
        samples=c.samples,
        reach=c.reach,
    )
    return ClaimResult(
        statement=statement,
        word=word,
        headline=_headline(word, worst, figures.arms[worst.second].label),
        reason=" ".join(_told(k, figures) for k in judged),
        seeds=c.seeds,
        figures=figures,
    )


def _contrast(
    results: Results,
    first: Arm,
    second: Arm,
    decides: Sequence[str],
    compared: Sequence[Arm],
    reach: float,
    *,
    decisive: bool,
) -> Contrast:
    """One arm against another.

    Args:
        results: of all arms.
        first, second: the two; the claim is for the first.
        decides: the sets that decide.
        compared: the arms that a set must not be beyond, to say anything.
        reach: as in `Comparison`.
        decisive: the claim's word rests on it.
    """
    seeds = list(results[first])
    models = list(dict.fromkeys((first, second, *compared)))

    def difference(names: Sequence[str]) -> tuple[comparison.Contrast, Evidence]:
        scores = {
            arm: [
                {f"{n}/{p}": x for n in names for p, x in results[arm][seed][n].per_problem.items()}
                for seed in seeds
            ]
            for arm in models
        }
        rows = [row for arm in models for row in scores[arm]]
        scored = set.intersection(*map(set, rows))  # what no checker failed on
        kept = {arm: [{p: row[p] for p in scored} for row in scores[arm]] for arm in models}
        k = comparison.contrast(kept[first], kept[second])
        means: dict[str, float] = {
            arm: _mean([x for row in kept[arm] for x in row.values()]) for arm in models
        }
        return k, Evidence(k.mean, k.interval, means)

    every = list(results[first][seeds[0]])
    found = {name: difference([name]) for name in every}
    together, evidence = difference(decides)
    decision = verdict.over_sets(
        {name: found[name][1] for name in decides}, evidence, seeds=len(seeds), reach=reach
    )

    def row(name: str, k: comparison.Contrast, e: Evidence, word: Word) -> SetDifference:
        return SetDifference(
            set=name,
            first=e.scores[first],
            second=e.scores[second],
            mean=k.mean,
            interval=(*k.interval,),
            detectable=k.detectable,
            word=word,
        )

    return Contrast(
        first=first,
        second=second,
        decides=decisive,
        word=decision.word,
        worst=decision.worst,
        together=row("", together, evidence, decision.word),
        sets=tuple(row(name, *found[name], decision.sets[name]) for name in decides),
        beside=tuple(
            row(name, k, e, verdict.of_set(e, seeds=len(seeds), reach=reach))
            for name, (k, e) in found.items()
            if name not in decides
        ),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _points(row: SetDifference) -> str:
    return f"{points(row.mean)} points ({points_interval(row.interval)})"


def _headline(word: Word, worst: Contrast, against: str) -> str:
    """The word, and the set that speaks most against the claim."""
    row = next(d for d in worst.sets if d.set == worst.worst)
    own = "" if row.word is word else f"{row.word}, "
    return f"{word}; least favourable: {set_phrase(row.set)} against {against}, {own}{_points(row)}"


def _told(contrast: Contrast, figures: Comparison) -> str:
    """A contrast in a sentence, set by set."""
    sets = "; ".join(f"{set_phrase(d.set)} {_points(d)}, {d.word}" for d in contrast.sets)
    return (
        f"{figures.arms[contrast.first].label} against {figures.arms[contrast.second].label}: "
        f"{contrast.word}. Over all sets {_points(contrast.together)}; {sets}."
    )


def efficiency_claim(run: Run, *, measured: bool) -> ClaimResult[Bench]:
    """Tokens a second and memory a sequence, at the longest length."""
    if not measured:
        return ClaimResult(EFFICIENCY, None, "", "The bench stage was not run to its end.")
    bench = speed.read(run.path / "bench" / "bench.json")
    decision = speed.decide(bench)
    return ClaimResult(
        statement=EFFICIENCY,
        word=decision.word,
        headline=f"{decision.word.capitalize()}, {decision.scope}" if decision.scope else "",
        reason=decision.reason,
        seeds=(run.recipe.seed,),
        figures=bench,
    )
