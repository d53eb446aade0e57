"""The models that a comparison trains: which architecture, in which shape, on which curriculum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import Qwen2Config

from statewise.baseline import (
    TransformerLM,
    TransformerSampler,
    kv_cache_bytes,
    train_flops_per_token,
)
from statewise.claims import Arm
from statewise.engine.config import EngineConfig
from statewise.errors import ConfigError
from statewise.model.language_model import LanguageModel
from statewise.pipeline import matched
from statewise.pipeline.samplers import open_engine
from statewise.pipeline.stage import Run
from statewise.pipeline.training import first_model, load_trained, trained_by
from statewise.recipe import Recipe
from statewise.report.results import ArmFigures, Choice
from statewise.sampler import Sampler
from statewise.text import BPETokenizer
from statewise.train import arms
from statewise.train.config import TrainConfig

OURS = "attention-free"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of model, and how it is trained and asked.

    Attributes:
        label: what progress lines and the report call it.
        shapes: of a recipe, by name, the shapes it may have. Where a comparison sweeps, the best is
            taken; where it does not, the first.
        first: a fresh model of a shape, from a seed.
        open: the sampler over what was trained.
        flops: of a recipe, a shape and the mean length of documents, those of training on a token.
        memory: of a recipe, a shape and a length, the bytes of one running sequence.
        keeps_answers: whether the answers of an interrupted evaluation are kept. Not where
            rounding depends on the company that a sample runs in: the rest alone could differ.
        follows: the architecture whose chosen shape it has.
    """

    label: str
    shapes: Callable[[Recipe], Mapping[str, Any]]
    first: Callable[[Recipe, str, int], LanguageModel[Any]]
    open: Callable[[Run, Path, BPETokenizer], Sampler]
    flops: Callable[[Recipe, str, float], float]
    memory: Callable[[Recipe, str, int], int]
    keeps_answers: bool = True
    follows: str = ""


def _open_model(run: Run, folder: Path, tokenizer: BPETokenizer) -> Sampler:
    return open_engine(load_trained(run, folder), run.recipe.engine)


def _open_transformer(run: Run, folder: Path, tokenizer: BPETokenizer) -> Sampler:
    engine: EngineConfig = run.recipe.engine
    with trained_by(run, folder):
        model = TransformerLM.load(folder)
    return TransformerSampler(model, tokenizer, batch=engine.slots)


def _windowed(r: Recipe) -> dict[str, Qwen2Config]:
    return {name: matched.windowed(r.model, c) for name, c in matched.shapes(r.model).items()}


def _transformer(label: str, shapes: Callable[[Recipe], dict[str, Qwen2Config]]) -> Architecture:
    """A Transformer of some shapes."""
    return Architecture(
        label=label,
        shapes=shapes,
        first=lambda r, shape, seed: matched.fresh(shapes(r)[shape], seed),
        open=_open_transformer,
        flops=lambda r, shape, length: train_flops_per_token(shapes(r)[shape], length),
        memory=lambda r, shape, length: kv_cache_bytes(shapes(r)[shape], length),
        keeps_answers=False,
    )


ARCHITECTURES: dict[str, Architecture] = {
    OURS: Architecture(
        label="attention-free",
        shapes=lambda r: {"recipe": r.model},
        first=lambda r, shape, seed: first_model(r, seed),
        open=_open_model,
        flops=lambda r, shape, length: r.model.train_flops_per_token(),
        memory=lambda r, shape, length: r.model.state_bytes(),
    ),
    "transformer": _transformer("Transformer", lambda r: matched.shapes(r.model)),
    "window": replace(_transformer("sliding-window Transformer", _windowed), follows="transformer"),
}


@dataclass(frozen=True, slots=True)
class Training:
    """One arm of the comparison.

    Attributes:
        label: what the report calls it.
        architecture: a key of `ARCHITECTURES`.
        curriculum: the recipe's, changed in the one respect that the arm is about. Besides them it
            gets the chosen shape and the mean length of documents.
    """

    label: str
    architecture: str
    curriculum: Callable[[Recipe, TrainConfig, str, float], TrainConfig]


def programs(r: Recipe) -> list[str]:
    """The sources of a recipe's training that hold programs."""
    return [f"@{s.name}" for s in r.synth.sets if s.kind == "code"]


def _at_equal_compute(r: Recipe, config: TrainConfig, shape: str, length: float) -> TrainConfig:
    """As many tokens as cost the Transformer what the curriculum costs the attention-free model."""
    ours, theirs = ARCHITECTURES[OURS], ARCHITECTURES["transformer"]
    ratio = ours.flops(r, "recipe", length) / theirs.flops(r, shape, length)
    return arms.shortened(config, ratio)


TRAININGS: dict[Arm, Training] = {
    "curriculum": Training("curriculum", OURS, lambda r, c, *_: c),
    "mixture": Training(
        "last phase's mixture from the start", OURS, lambda r, c, *_: arms.only(c, -1)
    ),
    "foundation": Training("first phase's data to the end", OURS, lambda r, c, *_: arms.only(c, 0)),
    "no-programs": Training(
        "curriculum without programs", OURS, lambda r, c, *_: arms.without(c, programs(r))
    ),
    "transformer": Training("Transformer", "transformer", lambda r, c, *_: c),
    "transformer-compute": Training(
        "Transformer at equal training compute", "transformer", _at_equal_compute
    ),
    "transformer-window": Training("sliding-window Transformer", "window", lambda r, c, *_: c),
}


def curriculum(r: Recipe, arm: Arm, choice: Choice, length: float) -> TrainConfig:
    """What an arm is trained on, at the rate and warm-up that its architecture was given.

    Args:
        r: the recipe.
        arm: one of its `claims.arms`.
        choice: of the arm's architecture.
        length: tokens of a document, in the mean.
    """
    training = TRAININGS[arm]
    config = arms.shortened(r.train, r.claims.token_share)
    config = training.curriculum(r, config, choice.shape, length)
    return arms.paced(config, rate=choice.rate, warmup=choice.warmup)


def figures(r: Recipe, arm: Arm, choice: Choice, length: float, parameters: int) -> ArmFigures:
    """What the report says of an arm; arguments as for `curriculum`."""
    training = TRAININGS[arm]
    architecture = ARCHITECTURES[training.architecture]
    tokens = curriculum(r, arm, choice, length).tokens
    return ArmFigures(
        label=training.label,
        architecture=training.architecture,
        choice=choice,
        parameters=parameters,
        tokens=tokens,
        flops=tokens * architecture.flops(r, choice.shape, length),
        memory_bytes=architecture.memory(r, choice.shape, r.eval.max_tokens),
    )


def check(r: Recipe) -> None:
    """Raise `ConfigError` if an arm of a recipe cannot be trained."""
    for arm in r.claims.arms:
        architecture = ARCHITECTURES[TRAININGS[arm].architecture]
        shape = next(iter(architecture.shapes(r)))
        try:
            curriculum(r, arm, Choice(shape, 1.0, 1.0), r.train.row_tokens)
        except ConfigError as e:
            raise ConfigError(f"claims.arms: {arm!r} cannot be trained: {e}") from None
