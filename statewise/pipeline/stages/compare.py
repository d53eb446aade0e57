"""The stage behind the claims on architecture and curriculum: trainings beside the main one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from statewise.errors import ConfigError
from statewise.pipeline.stage import Run, Stage

if TYPE_CHECKING:
    from statewise.claims import Arm
    from statewise.recipe import Recipe
    from statewise.report.results import Choice
    from statewise.sampler import SamplingParams
    from statewise.text import BPETokenizer


def _params(r: Recipe, seed: int) -> SamplingParams:
    return r.eval.params(seed=seed, n=r.claims.samples)


def _made_from(run: Run) -> tuple[object, ...]:
    r = run.recipe
    return (r.claims, _params(r, 0), r.engine)


def _check(run: Run) -> None:
    from statewise.pipeline import arms, processes

    if run.recipe.claims.seeds:
        if processes.count() > 1:
            raise ConfigError(
                "claims.seeds: a comparison trains small models side by side on one machine; start "
                "it as one process, without a launcher"
            )
        arms.check(run.recipe)


def _work(run: Run, folder: Path) -> None:
    from statewise.pipeline.arms import ARCHITECTURES, TRAININGS, figures
    from statewise.pipeline.asking import tell_isolation, written
    from statewise.pipeline.project import project
    from statewise.pipeline.sweep import choices
    from statewise.pipeline.training import get_tokenizer, mean_length
    from statewise.pipeline.workers import side_by_side
    from statewise.records import to_json, write_json

    c = run.recipe.claims
    if not c.seeds:
        run.say("  claims.seeds is empty: architecture and curriculum are left to `claims`")
        return
    sets = written(run)
    tell_isolation((p for problems in sets.values() for p in problems), run.say)
    tokenizer = get_tokenizer(run)
    length = mean_length(run, tokenizer)
    run.say(f"  {project(run, folder, tokenizer, length)}")
    chosen = choices(run, folder / "sweep")
    described = {}
    for arm in c.arms:
        name = TRAININGS[arm].architecture
        fresh = ARCHITECTURES[name].first(run.recipe, chosen[name].shape, c.seeds[0])
        described[arm] = figures(run.recipe, arm, chosen[name], length, fresh.num_params)
    write_json(folder / "arms.json", {arm: to_json(f) for arm, f in described.items()})
    jobs = [
        (arm, chosen[TRAININGS[arm].architecture], seed, length, folder)
        for seed in c.seeds
        for arm in c.arms
    ]
    for _ in side_by_side(run, train_and_ask, jobs, c.workers):
        pass


def train_and_ask(
    run: Run, arm: Arm, choice: Choice, seed: int, length: float, folder: Path
) -> None:
    """One arm from one seed: its training, and its answers to the evaluation sets.

    Args:
        run: the run.
        arm: of its `claims.arms`.
        choice: of the arm's architecture.
        seed: one of its `claims.seeds`.
        length: tokens of a document, in the mean.
        folder: the comparison's.
    """
    from statewise.pipeline.arms import ARCHITECTURES, TRAININGS
    from statewise.pipeline.asking import ask_model, written
    from statewise.pipeline.training import get_tokenizer, phase_folder

    r = run.recipe
    answers = folder / f"seed-{seed}" / "eval" / arm
    sets = {name: problems[: r.claims.problems] for name, problems in written(run).items()}
    if all((answers / name / "result.json").exists() for name in sets):
        return
    tokenizer = get_tokenizer(run)
    target = folder / f"seed-{seed}" / arm
    trained = _train(run, arm, choice, seed, length, target, tokenizer)
    architecture = ARCHITECTURES[TRAININGS[arm].architecture]
    sampler = architecture.open(run, phase_folder(trained, r.train.phases[-1]), tokenizer)
    for name, problems in sets.items():
        begun = answers / name
        if not architecture.keeps_answers and not (begun / "result.json").exists():
            shutil.rmtree(begun, ignore_errors=True)
        ask_model(run, sampler, problems, _params(r, seed), begun, name, f"seed {seed}: {arm}")


def _train(
    run: Run,
    arm: Arm,
    choice: Choice,
    seed: int,
    length: float,
    folder: Path,
    tokenizer: BPETokenizer,
) -> Path:
    """Train one arm from one seed; returns the folder of the training."""
    from statewise.pipeline.arms import ARCHITECTURES, TRAININGS, curriculum
    from statewise.pipeline.training import fit

    r = run.recipe
    config = curriculum(r, arm, choice, length)
    if arm == "curriculum" and config == r.train and seed == r.seed:
        return run.path / "train"  # the run's own training is not repeated
    training = TRAININGS[arm]
    model = ARCHITECTURES[training.architecture].first(r, choice.shape, seed)
    fit(run, model, config, folder, tokenizer, seed, f"seed {seed}: {training.label}")
    return folder


STAGE = Stage(
    name="compare",
    summary="train and ask the models that the claims are held against",
    needs=("train",),
    made_from=_made_from,
    check=_check,
    work=_work,
)
