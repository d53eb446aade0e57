"""A curriculum changed in one respect: what the arms of a comparison are trained on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from statewise.errors import ConfigError
from statewise.train.config import Phase, TrainConfig


def shortened(config: TrainConfig, share: float) -> TrainConfig:
    """The curriculum with another number of tokens; warm-ups are shortened, or grow, alike."""
    return replace(config, phases=tuple(_scaled(p, share) for p in config.phases))


def only(config: TrainConfig, phase: int) -> TrainConfig:
    """The same tokens and rates, but every phase reads one phase's data."""
    sources = config.phases[phase].sources
    return replace(config, phases=tuple(replace(p, sources=sources) for p in config.phases))


def without(config: TrainConfig, paths: Collection[str]) -> TrainConfig:
    """The same tokens and rates without some sources, whose share the others take.

    Raises:
        ConfigError: a phase is left with none, or none of the sources is there.
    """
    phases = []
    for phase in config.phases:
        sources = tuple(s for s in phase.sources if s.path not in paths)
        if not sources:
            raise ConfigError(f"train.phases: {phase.name!r} has no source but {sorted(paths)}")
        phases.append(replace(phase, sources=sources))
    if tuple(phases) == config.phases:
        raise ConfigError(f"train.phases: no phase reads any of {sorted(paths)}")
    return replace(config, phases=tuple(phases))


def paced(config: TrainConfig, *, rate: float, warmup: float) -> TrainConfig:
    """The curriculum at another learning rate and with longer or shorter warm-ups."""
    return replace(
        config,
        phases=tuple(
            replace(p, lr=p.lr * rate, warmup_steps=round(p.warmup_steps * warmup))
            for p in config.phases
        ),
    )


def _scaled(phase: Phase, share: float) -> Phase:
    return replace(
        phase,
        tokens=max(int(phase.tokens * share), 1),
        warmup_steps=int(phase.warmup_steps * share),
    )
