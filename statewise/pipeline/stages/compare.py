"""The stage behind the claims on architecture and curriculum: trainings at equal tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statewise.pipeline.stage import Run, Stage

if TYPE_CHECKING:
    from statewise.model.language_model import LanguageModel
    from statewise.recipe import Recipe
    from statewise.records import Problem
    from statewise.sampler import Sampler, SamplingParams
    from statewise.text import BPETokenizer
    from statewise.train.config import TrainConfig


def _first_model(r: Recipe, seed: int) -> LanguageModel[Any]:
    from statewise.pipeline.training import first_model

    return first_model(r, seed)


def _transformer(r: Recipe, seed: int) -> LanguageModel[Any]:
    from statewise.pipeline import matched

    return matched.transformer(r.model, seed)


def _open_model(run: Run, folder: Path, tokenizer: BPETokenizer) -> Sampler:
    from statewise.pipeline.samplers import open_engine
    from statewise.pipeline.training import load_trained

    return open_engine(load_trained(run, folder), run.recipe.engine)


def _open_transformer(run: Run, folder: Path, tokenizer: BPETokenizer) -> Sampler:
    from statewise.baseline import TransformerLM, TransformerSampler
    from statewise.pipeline.training import trained_by

    with trained_by(run, folder):
        model = TransformerLM.load(folder)
    return TransformerSampler(model, tokenizer, batch=run.recipe.engine.slots)


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the trainings that are compared, and what of it is asked.

    Attributes:
        folder: where it is trained, below the seed's folder.
        label: what the progress line calls it.
        first_model: the model that training starts with, from a seed.
        training: its configuration.
        evaluations: by the name of an evaluation, the index of the phase whose end is asked.
        open: the sampler over what was trained.
        is_main: with the run's seed and all of its tokens it is the run's own training, and is
            not trained twice.
        keeps_answers: whether the answers of an interrupted evaluation are kept. Not where
            rounding depends on the company that a sample runs in: the rest alone could differ.
    """

    folder: str
    label: str
    first_model: Callable[[Recipe, int], LanguageModel[Any]]
    training: Callable[[Recipe], TrainConfig]
    evaluations: Mapping[str, int]
    open: Callable[[Run, Path, BPETokenizer], Sampler] = _open_model
    is_main: bool = False
    keeps_answers: bool = True


def _curriculum(r: Recipe) -> TrainConfig:
    return r.train.shortened(r.claims.token_share)


VARIANTS = (
    Variant(
        folder="curriculum",
        label="curriculum",
        first_model=_first_model,
        training=_curriculum,
        evaluations={"phase-1": 0, "phase-1+2": -1},
        is_main=True,
    ),
    Variant(
        folder="alone",
        label="last phase alone",
        first_model=_first_model,
        training=lambda r: r.train.last_phase_alone(r.claims.token_share),
        evaluations={"phase-2-alone": -1},
    ),
    Variant(
        folder="transformer",
        label="Transformer",
        first_model=_transformer,
        training=_curriculum,
        evaluations={"transformer": -1},
        open=_open_transformer,
        keeps_answers=False,
    ),
)
EVALUATIONS = tuple(name for variant in VARIANTS for name in variant.evaluations)


def _params(r: Recipe, seed: int) -> SamplingParams:
    return r.eval.params(seed=seed, n=r.claims.samples)


def _made_from(run: Run) -> tuple[object, ...]:
    r = run.recipe
    return (r.claims, _params(r, 0), r.engine)


def _check(run: Run) -> None:
    from statewise.pipeline import matched

    if run.recipe.claims.seeds:
        matched.shape(run.recipe.model)


def _work(run: Run, folder: Path) -> None:
    from statewise.pipeline.asking import written
    from statewise.pipeline.training import get_tokenizer

    tokenizer = get_tokenizer(run)
    sets = {
        name: problems[: run.recipe.claims.problems]
        for name, problems in written(run).items()
        if problems and problems[0].kind == "math"
    }
    for seed in run.recipe.claims.seeds:
        trained = [_train(run, v, seed, folder / f"seed-{seed}", tokenizer) for v in VARIANTS]
        for variant, training in zip(VARIANTS, trained, strict=True):
            _ask(run, variant, seed, training, folder / f"seed-{seed}" / "eval", sets, tokenizer)


def _train(run: Run, variant: Variant, seed: int, folder: Path, tokenizer: BPETokenizer) -> Path:
    """Train one variant from one seed; returns the folder of the training."""
    from statewise.pipeline.training import fit

    r = run.recipe
    if variant.is_main and r.claims.token_share == 1.0 and seed == r.seed:
        return run.path / "train"
    target, label = folder / variant.folder, f"seed {seed}: {variant.label}"
    model = variant.first_model(r, seed)
    fit(run, model, variant.training(r), target, tokenizer, seed, label)
    return target


def _ask(
    run: Run,
    variant: Variant,
    seed: int,
    training: Path,
    folder: Path,
    sets: Mapping[str, list[Problem]],
    tokenizer: BPETokenizer,
) -> None:
    """Ask what was trained of one variant, at the end of each phase that is compared."""
    from statewise.pipeline.asking import ask_model
    from statewise.pipeline.training import phase_folder

    r = run.recipe
    for name, phase in variant.evaluations.items():
        sampler = variant.open(run, phase_folder(training, r.train.phases[phase]), tokenizer)
        for set_name, problems in sets.items():
            answers = folder / name / set_name
            if not variant.keeps_answers and not (answers / "result.json").exists():
                shutil.rmtree(answers, ignore_errors=True)
            ask_model(run, sampler, problems, _params(r, seed), answers, set_name)


STAGE = Stage(
    name="compare",
    summary="train and ask the models that the claims are held against",
    needs=("train",),
    made_from=_made_from,
    check=_check,
    work=_work,
)
