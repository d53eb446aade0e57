"""What a recipe says about the trainings that the paper's claims are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from statewise.errors import ConfigError

Arm = Literal[
    "curriculum",
    "mixture",
    "foundation",
    "no-programs",
    "transformer",
    "transformer-compute",
    "transformer-window",
]
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True, slots=True)
class ClaimsConfig:
    """The paper's claims on architecture and curriculum, measured beside the main training.

    For each seed one model is trained for each arm, on the same number of tokens but where it says
    otherwise. Attention-free are "curriculum" (the recipe's), "mixture" (the last phase's data from
    the start), "foundation" (the first phase's data to the end: no composed problems) and
    "no-programs" (the curriculum without its programs). "transformer" goes through the curriculum
    at the same parameter count; "transformer-compute" at the same compute of training, and
    "transformer-window" sees so many tokens back that its memory is as large as the state. Before
    that, rates, warm-ups and the Transformer's shape are chosen for each architecture by the loss
    on the development sets.

    Attributes:
        seeds: one comparison each; none leaves the two claims unmeasured.
        arms: what is trained.
        token_share: of the recipe's training tokens, how many each of the models reads.
        problems: of each held-out set, the first so many are asked.
        samples: completions a problem.
        rates: learning rates that are tried for each architecture, as multiples of the recipe's;
            with one, nothing is chosen.
        warmups: lengths of the warm-up that are tried at the best rate, as multiples.
        sweep_share: of the recipe's training tokens, how many a trial reads.
        reach: the pass@1 from which on a model counts as having learned what a set asks; where
            fewer than two models of a comparison have, the set is too weak to say anything.
        workers: trainings at a time, in processes that share the cores.
    """

    seeds: tuple[int, ...] = ()
    arms: tuple[Arm, ...] = ("curriculum", "mixture", "foundation", "transformer")
    token_share: float = 1.0
    problems: int = 100
    samples: int = 4
    rates: tuple[float, ...] = (1.0,)
    warmups: tuple[float, ...] = (1.0,)
    sweep_share: float = 0.2
    reach: float = 0.2
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse senseless shares and comparisons. Raises `ConfigError` naming the key."""
        for name in ("token_share", "sweep_share", "reach"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name}: must be in (0, 1], found {getattr(self, name)}")
        for name in ("seeds", "arms", "rates", "warmups"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"{name}: one occurs twice: {values}")
        for name in ("rates", "warmups"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ConfigError(f"{name}: needs multiples above 0, found {getattr(self, name)}")
        if "curriculum" not in self.arms:
            raise ConfigError(f"arms: everything is compared with 'curriculum', found {self.arms}")
        for name in ("problems", "samples", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, found {getattr(self, name)}")

    @property
    def sweeps(self) -> bool:
        """Whether anything is chosen before the comparison."""
        return len(self.rates) > 1 or len(self.warmups) > 1
