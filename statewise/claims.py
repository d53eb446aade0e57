"""What a recipe says about the trainings that the paper's claims are held against."""

from __future__ import annotations

from dataclasses import dataclass

from statewise.errors import ConfigError


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
