"""The one value the report is made from: what each stage hands to it, typed.

Shares are in 0..1, times in seconds, memory in bytes; an interval is always a 95 % interval. None
stands for what was not measured, or is not defined, and the report then says so. As JSON each of
these is an object of its fields, but for the few that say otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from statewise.errors import DataError
from statewise.eval import metrics
from statewise.sampler import SamplingParams
from statewise.speed import Bench
from statewise.verdict import Word

Json = dict[str, Any]
Interval = tuple[float, float]
F = TypeVar("F")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Device:
    """The machine. `gpu`: its name, None without one."""

    cpu: str
    cores: int | None
    threads: int
    memory_bytes: int
    gpu: str | None


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long a stage took when it last ran."""

    wall_s: float


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """The model's size and the configuration it follows from."""

    parameters: int
    state_bytes_per_sequence: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """How many problems of each kind were left after a step of the synthesis."""

    stage: str
    math: int
    code: int

    @property
    def total(self) -> int:
        """Of both kinds."""
        return self.math + self.code


@dataclass(frozen=True, slots=True)
class SampleProblem:
    """A problem that the model was trained on. `answer`: None where test cases decide."""

    concepts: tuple[str, ...]
    level: str
    rationale: str
    statement: str
    trace: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of one evaluation set, what training problems solve on their way, by the workbook's reading.

    Attributes:
        problems_trained: those whose every step, a concept with its numbers, training solves.
    """

    problems: int
    problems_trained: int
    steps: int
    steps_trained: int


@dataclass(frozen=True, slots=True)
class Role:
    """Who played a role of the synthesis.

    Attributes:
        source: "workbook", or which kind of model was asked.
        model: its folder, hub id, or name at an endpoint; "" for the workbook.
        error: the share of its answers that the workbook gets wrong on purpose; None for a model.
    """

    source: str
    model: str
    error: float | None


@dataclass(frozen=True, slots=True)
class SynthFigures:
    """What synthesis made.

    Attributes:
        roles: who played the author, the judges and so on, by role; none where nothing was written.
        funnel: what was left after each step, all sets together.
        judges: agreement, and what was imported; shown key by key.
        held_out: problems of each held-out set.
        contamination: of each evaluation set, the largest share of a problem's 8-grams, weighted by
            rarity, that a training statement holds.
        overlap: by evaluation set.
        examples: some of the problems.
    """

    roles: dict[str, Role]
    funnel: tuple[FunnelStep, ...]
    judges: dict[str, float | str | None]
    held_out: dict[str, int]
    contamination: dict[str, float]
    overlap: dict[str, Overlap]
    examples: tuple[SampleProblem, ...]


@dataclass(frozen=True, slots=True)
class TrainPhase:
    """One phase of the training. `final_loss`: None if it was no number."""

    name: str
    tokens: int
    steps: int
    wall_s: float
    tokens_per_s: float
    final_loss: float | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One step of the training. `tokens`: from its beginning. `loss`: None if it was no number."""

    step: int
    tokens: int
    loss: float | None
    lr: float
    phase: str
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Spike:
    """A step whose loss stood far above the median of those before it."""

    phase: str
    step: int
    tokens: int
    loss: float
    before: float


@dataclass(frozen=True, slots=True)
class DevelopmentPoint:
    """The loss on documents of a source that are not trained on, in nats a target."""

    phase: str
    step: int
    tokens: int
    source: str
    loss: float
    targets: int


@dataclass(frozen=True, slots=True)
class SourceRead:
    """What a phase read of one source.

    Attributes:
        samples: documents, those of all passes.
        tokens: theirs.
        documents: different ones.
        passes: samples for each document that there is to train on.
        left_out: how many of the source's are not trained on, by why.
        cut: how many of those that there are were cut to a row's length, and so lost their end.
        held_out: whose loss is measured instead.
    """

    source: str
    samples: int
    tokens: int
    documents: int
    passes: float
    left_out: dict[str, int]
    cut: int
    held_out: int


@dataclass(frozen=True, slots=True)
class PhaseRead:
    """What a phase read, as it stands in `sources.json` by the phase's name.

    Attributes:
        packing: how rows were filled.
        rows: how many.
        row_tokens: the places of a row.
        filled: the share of all rows' places that carry a document's token.
        sources: in the recipe's order.
    """

    packing: str
    rows: int
    row_tokens: int
    filled: float
    sources: tuple[SourceRead, ...]


@dataclass(frozen=True, slots=True)
class TrainFigures:
    """The training: its phases, and points of its loss curve.

    Attributes:
        phases: in order.
        curve: of the loss on what is trained on.
        read: by phase, what was read.
        spikes: steps where that loss jumped.
        development: every measurement of the loss on what is not trained on.
        skipped: steps that were left out, their loss or gradient being no finite number.
    """

    phases: tuple[TrainPhase, ...]
    curve: tuple[CurvePoint, ...]
    read: dict[str, PhaseRead] = field(default_factory=dict)
    spikes: tuple[Spike, ...] = ()
    development: tuple[DevelopmentPoint, ...] = ()
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class SetResult(metrics.SetResult):
    """`result.json`: what came of one set, and how the model was sampled.

    In a run's `report.json` what came of each problem is left out.
    """

    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Choice:
    """What a comparison chose for one architecture: a shape by its name, and two multiples.

    Attributes:
        rate, warmup: multiples of the recipe's own learning rates and warm-ups.
    """

    shape: str
    rate: float
    warmup: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One short training by which a choice was made.

    Attributes:
        peak_rates: the peak learning rate of each phase.
        loss: in nats a target, on the development sets; None: the training diverged.
    """

    architecture: str
    choice: Choice
    peak_rates: tuple[float, ...]
    parameters: int
    tokens: int
    loss: float | None


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What was trained for one arm, once a seed.

    Attributes:
        label: what it is.
        choice: its architecture's.
        tokens: that each training read.
        flops: of training, forward and backward, all tokens together.
        memory_bytes: of one sequence that is being continued: the state; or the keys and values at
            the length of the longest sequence that is asked for, or of the window.
    """

    label: str
    architecture: str
    choice: Choice
    parameters: int
    tokens: int
    flops: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """pass@1 of every arm, by its name, on one set from one seed; flat in JSON."""

    seed: int
    set: str
    scores: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class SetDifference:
    """How far one arm lies above another on one set, and what that comes to.

    Attributes:
        set: "" for all that decide, together.
        first, second: pass@1 of the two over seeds and over the problems that all arms are scored
            on; `mean` is their difference.
        detectable: the smallest true difference that as many seeds and problems would have told
            from zero four times in five.
    """

    set: str
    first: float
    second: float
    mean: float
    interval: Interval
    detectable: float
    word: Word


@dataclass(frozen=True, slots=True)
class Contrast:
    """One arm minus another: on each set that decides, over all of them, and on the others.

    Attributes:
        sets: that decide.
        beside: the sets on what training never had, which decide nothing.
        decides: whether the claim's word rests on it, or it is set beside.
        worst: the set that speaks most against the first arm.
    """

    first: str
    second: str
    decides: bool
    word: Word
    worst: str
    together: SetDifference
    sets: tuple[SetDifference, ...]
    beside: tuple[SetDifference, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was trained and asked to decide a claim.

    Attributes:
        arms: by name.
        scores: of every arm on every set, also those that decide nothing.
        decides: the sets that decide.
        contrasts: those that decide the claim come first.
        trials: what the choices were made by; none where nothing was chosen.
        reach: the pass@1 from which on a model counts as having learned what a set asks.
    """

    arms: dict[str, ArmFigures]
    scores: tuple[ScoreRow, ...]
    decides: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    trials: tuple[Trial, ...]
    problems: int
    samples: int
    reach: float


@dataclass(frozen=True, slots=True)
class ClaimResult(Generic[F]):
    """What a claim came to. `word`: None if it was not measured, and then `figures` is None too.

    Attributes:
        headline: the word with the set that speaks most against the claim, in a line.
    """

    statement: str
    word: Word | None
    headline: str
    reason: str
    seeds: tuple[int, ...] = ()
    figures: F | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """The paper's three claims."""

    architecture: ClaimResult[Comparison]
    curriculum: ClaimResult[Comparison]
    efficiency: ClaimResult[Bench]

    def by_name(self) -> dict[str, ClaimResult[Any]]:
        """All three."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """One completion of the model, with what became of it."""

    set: str
    prompt: str
    completion: str
    outcome: str
    reference: str


@dataclass(frozen=True, slots=True)
class RunResults:
    """Everything a report may say about one run; what no stage has made is absent.

    Attributes:
        name: the recipe's name.
        recipe_toml: the resolved recipe, every default written out.
        recipe_sha256: the hash of that text.
        seed: the run's seed.
        wall_s: the whole run, from nothing to the report.
        commit: the source revision, if known.
        versions: of Python and of packages.
        stages: times of the stages, by name.
        eval: by set, for the model at the end of its training.
        eval_by_phase: by phase, in their order, and by set.
        samples: some answers.
    """

    name: str
    recipe_toml: str
    recipe_sha256: str
    seed: int
    wall_s: float | None = None
    commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: Device | None = None
    stages: dict[str, StageTime] = field(default_factory=dict)
    model: ModelFigures | None = None
    synth: SynthFigures | None = None
    train: TrainFigures | None = None
    eval: dict[str, SetResult] = field(default_factory=dict)
    eval_by_phase: dict[str, dict[str, SetResult]] = field(default_factory=dict)
    claims: Claims | None = None
    samples: tuple[SampleAnswer, ...] = ()


def as_json(value: Any) -> Any:
    """A part of the results as plain JSON values."""
    if isinstance(value, ScoreRow):
        return {"seed": value.seed, "set": value.set, **value.scores}
    if dataclasses.is_dataclass(value):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return value


def finite(results: T) -> tuple[T, tuple[str, ...]]:
    """The results with every NaN and infinity replaced by None, and the keys where they stood.

    JSON has no such numbers, and a page that shows `nan` has said nothing. The keys are reported,
    so that a diverged training does not look like one that was never measured.

    Raises:
        DataError: a value is not JSON at all; the message names its key.
    """
    lost: list[str] = []

    def clean(value: Any, key: str) -> Any:
        if isinstance(value, Word):
            return value
        if isinstance(value, str):
            return value.encode(errors="replace").decode()  # half a surrogate pair has no bytes
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            if math.isfinite(value):
                return value
            lost.append(key)
            return None
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in dataclasses.fields(value)]
            inner = {n: clean(getattr(value, n), f"{key}.{n}" if key else n) for n in names}
            return dataclasses.replace(value, **inner)
        if isinstance(value, dict):
            return {clean(str(k), key): clean(v, f"{key}.{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            return tuple(clean(v, f"{key}[{i}]") for i, v in enumerate(value))
        raise DataError(f"report: {key} is a {type(value).__name__}, which JSON cannot hold")

    return clean(results, ""), tuple(lost)
