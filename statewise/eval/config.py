"""What a recipe says about evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from statewise.config import LATER
from statewise.errors import ConfigError
from statewise.eval.benchmarks import BENCHMARKS
from statewise.sampler import SamplingParams


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """What the trained model is asked.

    Attributes:
        benchmarks: published benchmarks, from files in `data_dir`; a set that the recipe's synth
            part writes for evaluation is always asked.
        on: which of those: "held_out", or "development" as long as settings are being chosen.
        problems: of each benchmark, the first so many; 0 means all. Held-out sets are taken whole.
        samples: completions a problem; 0, where a checkpoint is asked, as many as the paper draws.
        phase_samples: completions a problem when an earlier phase's model is asked.
        phase_benchmarks: an earlier phase's model is asked the benchmarks too, not only the sets
            that the recipe's synth part writes.
        temperature: of sampling; 0 is greedy.
        top_p: share of the probability that is drawn from.
        repetition_penalty: 1 is off.
        max_tokens: where a completion is cut.
        retries: of a sample whose think block is not well formed; what is drawn last stays.
        rules: by which programs are graded, "official" where none are named; what they give by the
            other rules is told beside it.
        since, until: YYYY-MM-DD; where problems have dates, only those in this window are asked.
    """

    benchmarks: tuple[str, ...] = ()
    on: Literal["held_out", "development"] = "held_out"
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
    phase_benchmarks: bool = field(default=False, metadata=LATER)
    rules: Literal["official", "strict"] | None = None  # unnamed, it is no part of a recipe's hash

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
