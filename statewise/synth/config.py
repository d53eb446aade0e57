"""What a recipe says about synthesis."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from statewise.config import LATER
from statewise.errors import ConfigError
from statewise.sampler import SamplerConfig


@dataclass(frozen=True, slots=True)
class Role(SamplerConfig):
    """Who plays a role: the workbook, or a model of any kind.

    Attributes:
        error: how often the workbook errs on purpose, so that judging and checking have work.
        temperature: sampling temperature of a model.
        max_tokens: limit of a model's answer.
    """

    kind: Literal["auto", "checkpoint", "endpoint", "vllm", "workbook"] = "workbook"
    error: float = 0.0
    temperature: float = 0.6
    max_tokens: int = 4096

    def __post_init__(self) -> None:
        """Refuse a role nobody can play. Raises `ConfigError` naming the key."""
        SamplerConfig.__post_init__(self)  # super() does not know a class with slots
        if not 0 <= self.error < 1:
            raise ConfigError(f"error: must be in [0, 1), found {self.error}")

    @property
    def model(self) -> SamplerConfig:
        """Who is asked, whatever the role: roles with equal ones share a model."""
        return SamplerConfig(**{f.name: getattr(self, f.name) for f in fields(SamplerConfig)})


Novelty = Literal["none", "pairs", "numbers", "wording"]


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """A set of problems to write.

    Attributes:
        name: training phases name it `@name`; an evaluation set is called by it.
        sizes: how many concepts a problem composes; drawn evenly.
        count: drafts to ask for (training sets) or problems wanted (held-out sets).
        kind: "math" or "code".
        novelty: of an evaluation set, what its problems have that no training problem has: "pairs"
            of concepts that are never composed in training; and, where the workbook is the author,
            "numbers" beyond the trained range in the first step, or "wording" that is reserved.
        levels: names of difficulty levels, drawn evenly: any that the author knows; by default the
            levels whose problems compose so many concepts.
    """

    name: str
    sizes: tuple[int, ...]
    count: int
    kind: Literal["math", "code"] = "math"
    novelty: Novelty = "none"
    levels: tuple[str, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse an empty set. Raises `ConfigError` naming the key."""
        if self.count < 1:
            raise ConfigError(f"count: must be at least 1, found {self.count}")
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(f"sizes: needs concept counts of at least 1, found {self.sizes}")
        if self.novelty == "pairs" and min(self.sizes) < 2:
            raise ConfigError(f"sizes: a pair takes two concepts at least, found {self.sizes}")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which concepts go into one problem.

    Attributes:
        seeds: JSONL below `data_dir` with the `concepts` of seed problems, which then stand in the
            place of `synth.concepts`: sets are drawn by what goes together there
            (`statewise.synth.selection`). "": sets are drawn evenly from `synth.concepts`.
        embeddings: JSONL below `data_dir` with `sentence` and `embedding` of every concept: what is
            alike goes together, too.
        temperature: of these draws; the higher, the more even.
    """

    seeds: str = ""
    embeddings: str = ""
    temperature: float = 0.2

    def __post_init__(self) -> None:
        """Refuse a selection from nothing. Raises `ConfigError` naming the key."""
        if not self.temperature > 0:
            raise ConfigError(f"temperature: must be above 0, found {self.temperature}")
        if self.embeddings and not self.seeds:
            raise ConfigError("embeddings: of the concepts of which seed problems? give seeds too")

    @property
    def files(self) -> tuple[str, ...]:
        """What is read, by the key that names it."""
        return tuple(name for name in (self.seeds, self.embeddings) if name)


@dataclass(frozen=True, slots=True)
class Import:
    """A file of published problems with solutions, to be used as training examples.

    Attributes:
        name: training phases name it `@name`.
        file: JSONL below `data_dir` with `problem` or `question`, `solution` and `answer`.
    """

    name: str
    file: str


@dataclass(frozen=True, slots=True)
class SynthConfig:
    """The synthesis line.

    Attributes:
        concepts: names of concepts to draw from; "core" and "all" stand for the workbook's lists.
            An author that is a model takes any name.
        selection: how concepts are put together.
        sets: training problems to write.
        development: evaluation problems to choose settings by (`eval.on`). They are written, as
            `held_out` is, before any training set; the workbook's share no step, which is a concept
            with its numbers, with training problems or held-out ones.
        held_out: evaluation problems for the end, of which no training set has a near copy.
        imports: published problems to train on as well.
        author: writes rationale and problem.
        judges: each rates every draft; only drafts that all call perfect are kept.
        verifier: answers math problems by another method and writes tests for code problems.
        teacher: writes the solutions to train on; kept where they agree with the verifier.
        teacher_samples: solutions asked for per problem; the first right one is kept.
        duplicate_jaccard: two statements with word 3-shingles this alike are duplicates.
        contamination: a training statement that contains this share of an evaluation statement's
            8-grams, weighted by rarity, is dropped.
    """

    concepts: tuple[str, ...] = ("core",)
    sets: tuple[ProblemSet, ...] = ()
    development: tuple[ProblemSet, ...] = ()
    held_out: tuple[ProblemSet, ...] = ()
    imports: tuple[Import, ...] = ()
    author: Role = Role(error=0.05)
    judges: tuple[Role, ...] = (Role(error=0.02), Role(error=0.02))
    verifier: Role = Role()
    teacher: Role = Role(error=0.03)
    teacher_samples: int = 1
    duplicate_jaccard: float = 0.9
    contamination: float = 0.6
    selection: Selection = field(default=Selection(), metadata=LATER)

    def __post_init__(self) -> None:
        """Refuse colliding names. Raises `ConfigError` naming the key."""
        written = (*self.sets, *self.development, *self.held_out)
        names = [s.name for s in written] + [i.name for i in self.imports]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError(f"sets: the name {twice[0]!r} is used twice")
        if not self.judges:
            raise ConfigError("judges: at least one judge is needed")
        for i, wanted in enumerate(self.sets):
            if wanted.novelty != "none":
                raise ConfigError(
                    f"sets.{i}.novelty: what is trained on is not new, found {wanted.novelty!r}"
                )
        for part in ("development", "held_out"):
            for i, wanted in enumerate(getattr(self, part)):
                if wanted.novelty in ("numbers", "wording") and self.author.source != "workbook":
                    raise ConfigError(
                        f"{part}.{i}.novelty: only the workbook writes {wanted.novelty!r}; the "
                        f"author is of kind {self.author.source!r}"
                    )

    @property
    def keeps_pairs_apart(self) -> bool:
        """Whether a set asks for pairs of concepts that no training problem may compose."""
        return any(s.novelty == "pairs" for s in (*self.development, *self.held_out))
