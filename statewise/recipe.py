"""A recipe: one file that describes a whole run, from the concepts to the report.

Each component owns its part of it; this module alone knows them all. The laptop recipe and the 7B
recipe are the same type with other numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from statewise.bench import BenchConfig
from statewise.config import build, override, read_toml, render
from statewise.errors import ConfigError
from statewise.eval.benchmarks import BENCHMARKS
from statewise.model.config import Mamba2Config
from statewise.model.ops import Backend, Device
from statewise.model.state import StateDtype
from statewise.sampler import SamplerConfig, SamplingParams
from statewise.synth.config import SynthConfig
from statewise.text import PromptConfig, TokenizerConfig
from statewise.train.config import Phase, Source, TrainConfig


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine of evaluation.

    Attributes:
        slots: sequences that run at once; their states are all the memory that decoding takes. In
            plain torch 1 or a multiple of 32 keeps every completion the same to the last bit in any
            company; the kernels, on a CPU and on a GPU, keep it with any number.
        device: "auto" is a GPU if there is one.
        backend: whose kernels compute (`Mamba2LM.backend`).
        state: dtype in which recurrent states are kept; 16 bits on a GPU, with Triton's kernels.
    """

    slots: int = 32
    device: Device = "auto"
    backend: Backend = "auto"
    state: StateDtype = "float32"

    def __post_init__(self) -> None:
        """Refuse an engine without slots. Raises `ConfigError`."""
        if self.slots < 1:
            raise ConfigError(f"slots: must be at least 1, found {self.slots}")


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """What the trained model is asked.

    Attributes:
        benchmarks: published benchmarks, from files in `data_dir`; the held-out sets that the
            recipe's synth part writes are always asked.
        problems: of each benchmark, the first so many; 0 means all. Held-out sets are taken whole.
        samples: completions a problem; 0, where a checkpoint is asked, as many as the paper draws.
        phase_samples: completions a problem when an earlier phase's model is asked.
        temperature: of sampling; 0 is greedy.
        top_p: share of the probability that is drawn from.
        repetition_penalty: 1 is off.
        max_tokens: where a completion is cut.
        retries: of a sample whose think block is not well formed; what is drawn last stays.
        since, until: YYYY-MM-DD; where problems have dates, only those in this window are asked.
    """

    benchmarks: tuple[str, ...] = ()
    problems: int = 0
    samples: int = 16
    phase_samples: int = 4
    temperature: float = 0.8
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    max_tokens: int = 512
    retries: int = 0
    since: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        """Refuse unknown benchmarks and senseless sampling. Raises `ConfigError`."""
        for i, name in enumerate(self.benchmarks):
            if name not in BENCHMARKS:
                known = ", ".join(sorted(BENCHMARKS))
                raise ConfigError(f"benchmarks.{i}: unknown benchmark {name!r}; known are {known}")
        if self.phase_samples < 1:
            raise ConfigError(f"phase_samples: must be at least 1, found {self.phase_samples}")
        if self.retries < 0:
            raise ConfigError(f"retries: must be 0 or more, found {self.retries}")
        for name in ("since", "until"):
            day = getattr(self, name)
            if day and not _is_day(day):
                raise ConfigError(f"{name}: must be a day as 2024-08-01, found {day!r}")
        if self.samples < 0:
            raise ConfigError(f"samples: must be 0 or more, found {self.samples}")
        self.params(seed=0, n=max(self.samples, 1))

    def params(self, *, seed: int, n: int) -> SamplingParams:
        """How the model is sampled, `n` completions a problem."""
        return SamplingParams(
            n=n,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=seed,
        )


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ClaimsConfig:
    """The paper's claims on architecture and curriculum, measured beside the main training.

    For each seed three models are trained on the same number of tokens: the attention-free model
    through the curriculum, the same model on the last phase's data alone, and a Transformer of the
    same parameter count through the curriculum.

    Attributes:
        seeds: one comparison each; none leaves the two claims unmeasured.
        token_share: of the recipe's training tokens, how many each of the models reads.
        problems: of each mathematical held-out set, the first so many are asked.
        samples: completions a problem.
    """

    seeds: tuple[int, ...] = ()
    token_share: float = 1.0
    problems: int = 100
    samples: int = 4

    def __post_init__(self) -> None:
        """Refuse senseless shares. Raises `ConfigError`."""
        if not 0 < self.token_share <= 1:
            raise ConfigError(f"token_share: must be in (0, 1], found {self.token_share}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds: a seed occurs twice: {self.seeds}")
        for name in ("problems", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, found {getattr(self, name)}")


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
        for part in ("sets", "held_out", "imports"):
            for i, entry in enumerate(getattr(self.synth, part)):
                named[f"synth.{part}.{i}.name"] = entry.name
        for i, phase in enumerate(self.train.phases):
            named[f"train.phases.{i}.name"] = phase.name
        for key, name in named.items():  # each becomes a file's or a folder's
            if not name or name[0] == "." or not all(c.isalnum() or c in "-_." for c in name):
                raise ConfigError(
                    f"{key}: letters, digits, '-', '_' and '.' only, no '.' first, found {name!r}"
                )
        for i, wanted in enumerate(self.synth.held_out):
            if wanted.name in self.eval.benchmarks:
                raise ConfigError(
                    f"synth.held_out.{i}.name: {wanted.name!r} is also one of eval.benchmarks"
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
        known = [s.name for s in self.synth.sets] + [i.name for i in self.synth.imports]
        for i, phase in enumerate(self.train.phases):
            for j, source in enumerate(phase.sources):
                if source.path.startswith("@") and source.path[1:] not in known:
                    raise ConfigError(
                        f"train.phases.{i}.sources.{j}.path: {source.path!r} names no set of "
                        f"synth.sets or synth.imports; there are {known}"
                    )

    def shortened(self, share: float) -> TrainConfig:
        """The curriculum with only a share of its tokens (warm-ups shortened alike)."""
        return _with_phases(self.train, [_scaled(p, share) for p in self.train.phases])

    def last_phase_alone(self, share: float) -> TrainConfig:
        """The same budget and learning rates, but every phase reads the last phase's data."""
        last = self.train.phases[-1].sources
        phases = [_scaled(p, share, sources=last) for p in self.train.phases]
        return _with_phases(self.train, phases)


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


def _scaled(phase: Phase, share: float, sources: tuple[Source, ...] | None = None) -> Phase:
    return replace(
        phase,
        tokens=max(int(phase.tokens * share), 1),
        warmup_steps=int(phase.warmup_steps * share),
        sources=phase.sources if sources is None else sources,
    )


def _with_phases(train: TrainConfig, phases: Sequence[Phase]) -> TrainConfig:
    return replace(train, phases=tuple(phases))


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `dotted.key=value` assignments to it.

    Raises:
        ConfigError: naming the file, or the key that is unknown, missing or mistyped.
    """
    tree = read_toml(path)
    for assignment in assignments:
        override(tree, assignment)
    return build(Recipe, tree)


def load_eval_recipe(path: Path, assignments: Sequence[str] = ()) -> EvalRecipe | None:
    """Read a recipe that names a checkpoint to be asked; None if this one trains a model.

    Raises:
        ConfigError: naming the file, or the key that is unknown, missing or mistyped.
    """
    tree = read_toml(path)
    for assignment in assignments:
        override(tree, assignment)
    return build(EvalRecipe, tree) if "checkpoint" in tree else None
