"""Whom a table of a recipe names, opened as a Sampler: the one place that knows all there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from statewise.endpoint import EndpointSampler
from statewise.engine import Engine
from statewise.engine.config import EngineConfig
from statewise.engine.slots import Weights
from statewise.errors import ConfigError
from statewise.model import Mamba2LM, checkpoint
from statewise.model.ops import place
from statewise.offline import VLLMSampler
from statewise.recipe import Recipe
from statewise.sampler import Sampler, SamplerConfig
from statewise.synth.config import Novelty
from statewise.synth.line import Roles
from statewise.synth.workbook import Workbook
from statewise.synth.workbook.book import Partition
from statewise.text import BPETokenizer, Tokenizer

OpenRoles = Callable[[Partition, Novelty], Roles]


def open_sampler(config: SamplerConfig, engine: EngineConfig, *, max_tokens: int) -> Sampler:
    """The sampler that a table names; the workbook is no model and only plays roles.

    Args:
        config: the table.
        engine: how a checkpoint is run by our own engine.
        max_tokens: the most that will be asked for.

    Raises:
        CheckpointError: the checkpoint cannot be had, or the tokenizer does not fit it.
        ConfigError: a package is missing, or what is named cannot be asked.
        DataError: there is no tokenizer.
    """
    if config.source == "endpoint":
        return EndpointSampler(config.path, config.served_as)
    if config.source == "workbook":
        raise ConfigError("kind: the workbook plays roles of the synthesis and answers nobody else")
    folder, tokenizer = _located(config)
    if config.source == "vllm":
        return VLLMSampler(
            folder,
            tokenizer,
            max_tokens=max_tokens,
            dtype=config.dtype,
            tensor_parallel_size=config.tensor_parallel_size,
        )
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    return open_engine((checkpoint.load_model(folder, dtype), tokenizer), engine, config.weights)


def _located(config: SamplerConfig) -> tuple[Path, BPETokenizer]:
    """The folder of the weights, and the tokenizer, which fits them."""
    folder = checkpoint.locate(config.path)
    beside = checkpoint.locate(config.tokenizer) if config.tokenizer else folder
    tokenizer = BPETokenizer.load(beside, model=folder)
    checkpoint.check_tokenizer(
        tokenizer, checkpoint.read_config(folder), str(beside / "tokenizer.json")
    )
    return folder, tokenizer


def open_engine(
    loaded: tuple[Mamba2LM, Tokenizer], engine: EngineConfig, weights: Weights = "model"
) -> Engine:
    """The engine that a recipe asks for, over a loaded checkpoint."""
    model, tokenizer = loaded
    model = model.to(place(engine.device))
    model.use(engine.backend)
    return Engine(model, tokenizer, slots=engine.slots, weights=weights, state=engine.state)


def open_roles(recipe: Recipe) -> OpenRoles:
    """Who plays the roles of a recipe's synthesis, by the partition and the novelty of a set.

    A model is opened once, however many roles it plays; roles are asked one after another.

    Raises:
        StatewiseError: as `open_sampler`.
    """
    synth = recipe.synth
    roles = [synth.author, *synth.judges, synth.verifier, synth.teacher]
    most: dict[SamplerConfig, int] = {}
    for role in roles:
        if role.source != "workbook":
            most[role.model] = max(most.get(role.model, 0), role.max_tokens)
    models = {model: open_sampler(model, recipe.engine, max_tokens=n) for model, n in most.items()}

    def opened(partition: Partition, novelty: Novelty) -> Roles:
        author, *judges, verifier, teacher = (
            models[role.model]
            if role.source != "workbook"
            else Workbook(
                seed=recipe.seed * 100 + i,
                partition=partition,
                novelty=novelty,
                author_error=role.error,
                judge_error=role.error,
                teacher_error=role.error,
            )
            for i, role in enumerate(roles)
        )
        return Roles(author, tuple(judges), verifier, teacher)

    return opened
