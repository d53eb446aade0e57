"""What a recipe says about training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from statewise.config import LATER
from statewise.errors import ConfigError
from statewise.model.ops import Backend

Dtype = Literal["auto", "float32", "bfloat16"]
EngineName = Literal["ddp", "fsdp2", "zero2", "zero3"]
Long = Literal["drop", "refuse", "cut"]
Packing = Literal["in-order", "best-fit", "none"]
PROJECTIONS = ("in_proj", "out_proj")  # of a layer, by upstream's names
HUB = "hub:"  # begins the path of a source that is a data set of the hub
# Keys that make no other model: how often it is saved, who is told; nor does how it is spread, but
# for rounding. What was begun one way may be finished another way.
INDIFFERENT = ("checkpoint_every_s", "checkpoint_every_steps", "keep", "parallel", "trackers")
MOST_SKIPPED = 10  # steps in a row: what goes on longer is no accident of the data


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a source hold the pairs.

    Attributes:
        prompt: what no loss is taken on. "a.0.b" is the entry `b` of the first of the list `a`.
        completion: what is learnt.
        pass_rate: a number of each pair, the share of attempts at it that were right or any other
            measure by which a higher one is easier; "": there is none. Phases may read by it.
        chosen: in a phase that learns preferences, the better of two completions.
        rejected: and the other one.
    """

    prompt: str = "prompt"
    completion: str = "completion"
    pass_rate: str = field(default="", metadata=LATER)
    chosen: str = field(default="chosen", metadata=LATER)
    rejected: str = field(default="rejected", metadata=LATER)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a phase's examples come from, and how often.

    Attributes:
        path: a JSONL or Parquet file (below `data_dir` unless absolute); `@name` for the examples
            that this run's synth stage wrote under that name; or `hub:name`, a data set of the
            Hugging Face hub, which is read row by row.
        weight: share of the phase's documents, relative to the other sources'.
        hold_out: so many of its documents are not trained on: their loss is measured. A source
            that occurs twice says the same each time.
        columns: where its pairs stand.
        form: "math" or "code" puts a bare problem into the prompt that the published models have;
            "none": the column holds a whole prompt.
        revision: of a data set of the hub: a commit, so that it stays what it is.
        subset: of a data set of the hub.
        split: of a data set of the hub.
        decontaminate: documents that give away a problem of the recipe's evaluation sets are left
            out and counted (`docs/decisions/0012-decontamination.md`). What the synth stage wrote
            was held against them there.
    """

    path: str
    weight: float = 1.0
    hold_out: int = field(default=0, metadata=LATER)
    columns: Columns = field(default=Columns(), metadata=LATER)
    form: Literal["none", "math", "code"] = field(default="none", metadata=LATER)
    revision: str = field(default="", metadata=LATER)
    subset: str = field(default="", metadata=LATER)
    split: str = field(default="train", metadata=LATER)
    decontaminate: bool = field(default=True, metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse a source that is none. Raises `ConfigError` naming the key."""
        if not self.weight > 0:
            raise ConfigError(f"weight: must be above 0, found {self.weight}")
        if self.hold_out < 0:
            raise ConfigError(f"hold_out: must be at least 0, found {self.hold_out}")
        if self.path.startswith("@") and not self.decontaminate:
            raise ConfigError(
                f"decontaminate: {self.path} was held against the evaluation sets when it was "
                "written; leave the key out"
            )
        if self.path.startswith(HUB):
            if not self.revision:
                raise ConfigError(
                    f"revision: {self.path} may change any day; give the commit that is meant"
                )
            return
        for name in ("revision", "subset"):
            if getattr(self, name):
                raise ConfigError(f"{name}: only data sets of the hub have one, not {self.path!r}")

    @property
    def name(self) -> str:
        """What tells it from every other source, in messages and figures."""
        if not self.path.startswith(HUB):
            return self.path
        parts = [self.path, self.subset, self.split]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the curriculum.

    Attributes:
        name: its name in files and figures.
        sources: what it trains on.
        tokens: how many tokens it reads, prompts included; it may end within one step above.
        lr: peak learning rate.
        warmup_steps: steps of warm-up from 0 at its start.
        warmup: its shape: "linear", or "log", which DeepSpeed's WarmupLR is unless it is told
            otherwise: two steps at a rate of 0, and half the peak after the root of its steps.
        decay: what follows the warm-up: "constant"; "linear" or "cosine" down to `floor` at the
            phase's end; or "wsd" (warm-up, stable, decay): constant, and linear over the last
            `decay_share` of the phase's tokens.
        decay_share: of the phase's tokens, for "wsd".
        floor: the share of `lr` that a decay ends at.
        optimiser: what the optimiser remembers is carried over from the phase before, or "reset".
        patience: the phase ends before its tokens where the loss on the development sets has not
            fallen for so many measurements (`train.measure_every`); 0: it never does.
        order: each pass over a source is "shuffled", or goes "easy-to-hard": from the highest
            pass rate (`columns.pass_rate`) to the lowest, shuffled where they are equal. A phase
            that is shorter than a pass does not come to the hardest.
        loss: "cross_entropy" of completions; or "dpo": preferences, learnt from pairs of them
            (`statewise.train.preference`), the columns `chosen` and `rejected` of its sources.
        beta: of "dpo": how dear it is to leave the model that the phase began with.
    """

    name: str
    sources: tuple[Source, ...]
    tokens: int
    lr: float
    warmup_steps: int = 0
    decay: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup: Literal["linear", "log"] = field(default="linear", metadata=LATER)
    decay_share: float = field(default=0.1, metadata=LATER)
    floor: float = field(default=0.0, metadata=LATER)
    optimiser: Literal["carry", "reset"] = field(default="carry", metadata=LATER)
    patience: int = field(default=0, metadata=LATER)
    order: Literal["shuffled", "easy-to-hard"] = field(default="shuffled", metadata=LATER)
    loss: Literal["cross_entropy", "dpo"] = field(default="cross_entropy", metadata=LATER)
    beta: float = field(default=0.1, metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse a phase that cannot run. Raises `ConfigError` naming the key."""
        if self.tokens < 1:
            raise ConfigError(f"tokens: must be at least 1, found {self.tokens}")
        if not self.sources:
            raise ConfigError("sources: a phase needs at least one")
        if not self.lr > 0:
            raise ConfigError(f"lr: must be above 0, found {self.lr}")
        if not 0 < self.decay_share <= 1:
            raise ConfigError(f"decay_share: must be above 0, at most 1, found {self.decay_share}")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor: must be between 0 and 1, found {self.floor}")
        unrated = [s.name for s in self.sources if not s.columns.pass_rate]
        if self.order == "easy-to-hard" and unrated:
            raise ConfigError(
                f"order: easy-to-hard goes by `columns.pass_rate`, and {unrated[0]!r} names none"
            )
        if not self.beta > 0:
            raise ConfigError(f"beta: must be above 0, found {self.beta}")
        held_out = [s.name for s in self.sources if s.hold_out]
        if self.loss == "dpo" and held_out:
            raise ConfigError(
                f"sources: hold_out: pairs are not measured, but {held_out[0]!r} holds some out"
            )


@dataclass(frozen=True, slots=True)
class ParallelConfig:
    """How a model is spread over processes and memory (`statewise.train.parallel`).

    Attributes:
        engine: "ddp": whole in every process; "fsdp2", "zero3": weights, gradients and moments in
            pieces; "zero2": gradients and moments in pieces.
        offload: what the optimiser holds lies in the host's memory.
        recompute: "block": blocks keep their input only, and the backward pass computes the rest
            again; "scan": so do mixers between their two projections, which saves less memory and
            less than that of the time (attention keeps nothing there in any case).
        context: so many processes share one row, each of which reads a part of it
            (`statewise.train.context`). It divides the number of processes.
    """

    engine: EngineName = "ddp"
    offload: bool = False
    recompute: Literal["none", "scan", "block"] = "none"
    context: int = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse what cannot go together. Raises `ConfigError` naming the key."""
        if self.context < 1:
            raise ConfigError(f"context: must be at least 1, found {self.context}")
        if self.context > 1 and self.engine == "zero3":
            raise ConfigError(
                "context: 'zero3' makes each layer whole in all processes at once, but those that "
                "share a row are in different layers; use the engine 'fsdp2', 'zero2' or 'ddp'"
            )


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Adapters, which are then all that is trained (`statewise.train.lora`).

    Attributes:
        rank: of an adapter; 0: there are none, and every weight is trained.
        alpha: what an adapter adds is multiplied by alpha / rank.
        targets: the projections of every layer that have one: "in_proj", "out_proj". The model
            at a phase's end has them summed up; who wants to read adapters by themselves into the
            `Mamba2ForCausalLM` of transformers leaves out "out_proj", which peft refuses there.
        base: what is adapted lies "whole", or its projections in 4 bits ("nf4", by bitsandbytes;
            QLoRA): a quarter of bfloat16, and a little of what the model knew.
    """

    rank: int = 0
    alpha: int = 32
    targets: tuple[str, ...] = PROJECTIONS
    base: Literal["whole", "nf4"] = field(default="whole", metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse adapters of nothing. Raises `ConfigError` naming the key."""
        if self.rank < 0:
            raise ConfigError(f"rank: must be at least 0, found {self.rank}")
        if self.base != "whole" and not self.rank:
            raise ConfigError(f"base: {self.base!r} is for adapters; give them a rank")
        if self.alpha < 1:
            raise ConfigError(f"alpha: must be at least 1, found {self.alpha}")
        if not self.targets or set(self.targets) - set(PROJECTIONS):
            raise ConfigError(
                f"targets: names of projections, {' and '.join(PROJECTIONS)}, found "
                f"{list(self.targets)}"
            )


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The curriculum and the optimiser.

    Attributes:
        phases: read in order; weights and optimiser state carry over.
        batch_tokens: tokens an optimiser step reads at most, over all processes; at least one row
            a process, or for those that share one.
        row_tokens: tokens a packed row holds at most: one row is one micro-batch.
        long: what becomes of a document longer than a row: "drop" leaves it out, "refuse" stops
            before anything is trained, "cut" takes its first tokens, so that it loses its end.
            Whatever is left out or cut is counted.
        packing: rows take documents "in-order", and end where the next one does not fit; or by
            "best-fit" within a window of documents that come next, which leaves less room empty;
            or "none": every document is a row of its own, so that a step of `batch_tokens` is as
            many documents as rows.
        optimiser: "adamw", or "muon": the blocks' projections are stepped along their momentum
            made orthogonal, as large as AdamW's steps are in the mean, so that rates carry over
            (torch's Muon, "match_rms_adamw"); everything else by AdamW.
        weight_decay: on matrices only; A_log, D, dt_bias, biases and norms are not decayed.
        beta1: AdamW.
        beta2: AdamW.
        eps: AdamW.
        clip: largest gradient norm.
        dtype: "bfloat16" runs the linear layers in bfloat16 under float32 master weights; "auto"
            does so where it is the faster of the two (`statewise.train.trainer.in_bfloat16`), so
            that another processor may train to other numbers.
        backend: who computes (`statewise.model.ops`).
        checkpoint_every_s: seconds between checkpoints (one is always written at a phase's end).
        checkpoint_every_steps: steps between checkpoints, beside those by the clock; 0: by the
            clock alone.
        keep: how many of the newest checkpoints stay.
        measure_every: tokens between two measurements of the loss on the development sets; it is
            always measured at a phase's end, and with 0 only there.
        nonfinite: where a step's loss or gradient is no finite number: "stop", or "skip" the step,
            up to `MOST_SKIPPED` in a row. Either is told.
        trackers: who else is told of every step and measurement, by accelerate's names:
            "tensorboard" (its files lie in the training's folder), "wandb" and others.
        parallel: how the model is spread over processes and memory.
        lora: adapters; with a rank above 0 nothing else is trained, and the other weights need no
            float32 masters: where products are in bfloat16, these are too.
    """

    phases: tuple[Phase, ...]
    batch_tokens: int = 4096
    row_tokens: int = 1024
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    dtype: Dtype = "float32"
    backend: Backend = "auto"
    checkpoint_every_s: float = 30.0
    keep: int = 2
    measure_every: int = field(default=0, metadata=LATER)
    long: Long = field(default="drop", metadata=LATER)
    packing: Packing = field(default="in-order", metadata=LATER)
    nonfinite: Literal["stop", "skip"] = field(default="stop", metadata=LATER)
    optimiser: Literal["adamw", "muon"] = field(default="adamw", metadata=LATER)
    checkpoint_every_steps: int = field(default=0, metadata=LATER)
    trackers: tuple[str, ...] = field(default=(), metadata=LATER)
    parallel: ParallelConfig = field(default=ParallelConfig(), metadata=LATER)
    lora: LoraConfig = field(default=LoraConfig(), metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse an inconsistent curriculum. Raises `ConfigError` naming the key."""
        if not self.phases:
            raise ConfigError("phases: training needs at least one phase")
        names = [p.name for p in self.phases]
        if len(set(names)) < len(names):
            raise ConfigError(f"phases: two phases share a name: {names}")
        if not 1 <= self.row_tokens <= self.batch_tokens:
            raise ConfigError(
                f"row_tokens: must be between 1 and batch_tokens = {self.batch_tokens}, "
                f"found {self.row_tokens}"
            )
        sources = {replace(s, weight=1.0) for p in self.phases for s in p.sources}
        names = [s.name for s in sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"phases: the source {twice[0]!r} occurs with different keys; only its weight may "
                "change from phase to phase"
            )
        if self.optimiser == "muon" and self.parallel.engine in ("zero2", "zero3"):
            raise ConfigError(
                f"optimiser: Muon steps whole matrices, and {self.parallel.engine} has pieces of "
                'rows behind one another; parallel.engine "ddp" and "fsdp2" have them'
            )
        if self.checkpoint_every_steps < 0:
            raise ConfigError(
                f"checkpoint_every_steps: must be at least 0, found {self.checkpoint_every_steps}"
            )
        if self.optimiser == "muon" and self.lora.rank:
            raise ConfigError("optimiser: adapters (lora.rank) are stepped by adamw")
        if self.lora.rank and self.parallel.engine in ("zero2", "zero3"):
            raise ConfigError(
                f"parallel.engine: {self.parallel.engine!r} trains no adapters (lora.rank), whose "
                'moments are small; "ddp" does, and "fsdp2", under which what is adapted is in '
                "pieces"
            )
        if self.lora.base != "whole" and self.parallel.engine != "ddp":
            raise ConfigError(
                f"lora.base: {self.lora.base!r} lies whole in every process; parallel.engine must "
                f'be "ddp", not {self.parallel.engine!r}'
            )
        completed = {s.name for p in self.phases if p.loss != "dpo" for s in p.sources}
        both = self.preferences & completed
        if both:
            raise ConfigError(
                f"phases: the source {min(both)!r} has pairs in one phase, completions in another"
            )
        if self.preferences and self.parallel.context > 1:
            raise ConfigError(
                'parallel.context: a row of pairs (loss = "dpo") is not shared among processes'
            )
        if self.preferences and self.long == "cut":
            raise ConfigError(
                "long: a pair that is cut says nothing of which completion is better; with loss = "
                '"dpo" in a phase it is "drop" or "refuse"'
            )
        if self.keep < 1:
            raise ConfigError(f"keep: must be at least 1, found {self.keep}")

    @property
    def preferences(self) -> set[str]:
        """The names of sources that are read as pairs of a better and a worse completion."""
        return {s.name for p in self.phases if p.loss == "dpo" for s in p.sources}

    @property
    def tokens(self) -> int:
        """Tokens of all phases together."""
        return sum(p.tokens for p in self.phases)
