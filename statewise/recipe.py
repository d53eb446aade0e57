"""A recipe: one file that describes a whole run, from the concepts to the report.

Each component owns its part of it; this module alone knows them all. The laptop recipe and the 7B
recipe are the same type with other numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from statewise import catalog
from statewise.bench import BenchConfig
from statewise.claims import ClaimsConfig
from statewise.config import render
from statewise.engine.config import EngineConfig
from statewise.errors import ConfigError
from statewise.eval.config import EvalConfig
from statewise.model.config import Mamba2Config
from statewise.sampler import SamplerConfig
from statewise.synth.config import SynthConfig
from statewise.text import PromptConfig, TokenizerConfig
from statewise.train.config import TrainConfig


class _File:
    """What every recipe is as a file."""

    __slots__ = ()
    name: str

    @property
    def toml(self) -> str:
        """The recipe with every default written out."""
        return render(self)

    @property
    def sha256(self) -> str:
        """The hash of that text: the identity of the recipe."""
        return hashlib.sha256(self.toml.encode()).hexdigest()

    @property
    def default_out(self) -> Path:
        """The run folder if none is named: one for each recipe, so that runs never collide."""
        return Path("runs") / f"{self.name}-{self.sha256[:8]}"


@dataclass(frozen=True, slots=True)
class Recipe(_File):
    """A whole run.

    Attributes:
        name: of the run's folder and report.
        seed: every random choice of the run follows from it.
        data_dir: folder of data files, relative to where the command is typed.
        init: folder or hub id of the checkpoint that training starts from; empty: from scratch.
        tokenizer: trained on the run's examples, or loaded.
        model: the attention-free model.
        engine: its engine in evaluation.
        synth: problems to write and to import.
        train: the curriculum.
        eval: what the trained model is asked.
        claims: the comparison trainings.
        bench: the speed and memory measurement.
    """

    name: str
    model: Mamba2Config
    train: TrainConfig
    seed: int = 0
    data_dir: str = "data"
    init: str = ""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    claims: ClaimsConfig = field(default_factory=ClaimsConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        """Check what no component can see alone. Raises `ConfigError` naming the keys."""
        named = {"name": self.name}
        for part in ("sets", "development", "held_out", "imports"):
            for i, entry in enumerate(getattr(self.synth, part)):
                named[f"synth.{part}.{i}.name"] = entry.name
        for i, phase in enumerate(self.train.phases):
            named[f"train.phases.{i}.name"] = phase.name
        for key, name in named.items():  # each becomes a file's or a folder's
            if not name or name[0] == "." or not all(c.isalnum() or c in "-_." for c in name):
                raise ConfigError(
                    f"{key}: letters, digits, '-', '_' and '.' only, no '.' first, found {name!r}"
                )
        for part in ("development", "held_out"):
            for i, wanted in enumerate(getattr(self.synth, part)):
                if wanted.name in self.eval.benchmarks:
                    raise ConfigError(
                        f"synth.{part}.{i}.name: {wanted.name!r} is also one of eval.benchmarks"
                    )
        if self.eval.samples < 1:
            raise ConfigError(f"eval.samples: must be at least 1, found {self.eval.samples}")
        if self.seed < 0:
            raise ConfigError(f"seed: must be 0 or more, found {self.seed}")
        if self.tokenizer.kind == "bpe" and self.tokenizer.vocab_size > self.model.vocab_size:
            raise ConfigError(
                f"tokenizer.vocab_size: {self.tokenizer.vocab_size} entries do not fit into "
                f"model.vocab_size = {self.model.vocab_size}"
            )
        if self.train.lora.rank and not self.init:
            raise ConfigError(
                "train.lora.rank: adapters need a model to adapt: init = a checkpoint's folder or "
                "hub id"
            )
        if self.init and self.tokenizer.kind == "bpe":
            raise ConfigError(
                "tokenizer.kind: a model that starts from a checkpoint (init) needs the tokenizer "
                'it was trained with: kind = "pretrained"'
            )
        if self.init and self.claims.seeds:
            raise ConfigError(
                "claims.seeds: a model that starts from a checkpoint (init) cannot be compared at "
                "equal tokens with a Transformer that starts from nothing; leave it empty"
            )
        if self.claims.seeds and self.claims.sweeps and not self.synth.development:
            raise ConfigError(
                "claims.rates: what is tried is chosen by the loss on development sets, and "
                "synth.development has none"
            )
        known = [s.name for s in self.synth.sets] + [i.name for i in self.synth.imports]
        for i, phase in enumerate(self.train.phases):
            for j, source in enumerate(phase.sources):
                if source.path.startswith("@") and source.path[1:] not in known:
                    raise ConfigError(
                        f"train.phases.{i}.sources.{j}.path: {source.path!r} names no set of "
                        f"synth.sets or synth.imports; there are {known}"
                    )


@dataclass(frozen=True, slots=True)
class EvalRecipe(_File):
    """Published benchmarks for a model that is there already.

    Attributes:
        name: of the folder and report.
        checkpoint: who answers.
        seed: of sampling.
        data_dir: folder of data files, relative to where the command is typed.
        engine: of a local model.
        prompt: how the model is asked.
        eval: what is asked; `phase_samples` is of no meaning here.
    """

    name: str
    checkpoint: SamplerConfig
    eval: EvalConfig
    seed: int = 0
    data_dir: str = "data"
    engine: EngineConfig = field(default_factory=EngineConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        """Refuse a recipe that asks nothing. Raises `ConfigError`."""
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"name: letters, digits, '-' and '_' only, found {self.name!r}")
        if not self.eval.benchmarks:
            raise ConfigError("eval.benchmarks: names no benchmark, so there is nothing to ask")
        if self.checkpoint.source == "workbook":
            raise ConfigError(
                "checkpoint.kind: the workbook plays roles of the synthesis and is no model"
            )


def load_recipe(recipe: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe, of the package or a file, and apply `dotted.key=value` assignments to it.

    Raises:
        ConfigError: naming the file, and the key that is unknown, missing or mistyped.
    """
    settings = catalog.read(recipe).set(assignments)
    if "checkpoint" in settings.tree:
        raise ConfigError(
            f"{settings.file}: checkpoint: is of a model that is there already; "
            "`statewise eval` takes this recipe, and no other command"
        )
    return settings.build(Recipe)


def load_eval_recipe(recipe: str | Path, assignments: Sequence[str] = ()) -> EvalRecipe | None:
    """Read a recipe that names a checkpoint to be asked; None if this one trains a model.

    Raises:
        ConfigError: naming the file, and the key that is unknown, missing or mistyped.
    """
    settings = catalog.read(recipe).set(assignments)
    return settings.build(EvalRecipe) if "checkpoint" in settings.tree else None
