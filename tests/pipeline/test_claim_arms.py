"""What each arm of a comparison is trained on, and which trial is the best."""

from __future__ import annotations

import pytest

from statewise.claims import ARMS
from statewise.errors import ConfigError
from statewise.pipeline import arms
from statewise.pipeline.sweep import _best
from statewise.recipe import load_recipe
from statewise.report.results import Choice, Trial

R = load_recipe("claims")
OURS, THEIRS = Choice("recipe", 0.5, 2.0), Choice("wide", 0.5, 2.0)


def trial(rate: float, loss: float | None) -> Trial:
    return Trial("transformer", Choice("wide", rate, 1.0), (rate,), 1, 1, loss)


def test_the_best_trial_has_the_lowest_development_loss_and_did_not_diverge() -> None:
    tried = [trial(0.5, 0.4), trial(1.0, 0.3), trial(2.0, None), trial(4.0, 0.5)]
    assert _best(tried).rate == 1.0
    assert _best(tried[2:]).rate == 4.0


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_reads_as_many_tokens_at_its_architectures_own_pace(arm) -> None:
    choice = OURS if arms.TRAININGS[arm].architecture == arms.OURS else THEIRS
    config = arms.curriculum(R, arm, choice, 200.0)
    assert [p.lr for p in config.phases] == [0.5 * p.lr for p in R.train.phases]
    if arm != "transformer-compute":
        assert config.tokens == R.train.tokens
        assert config.phases[0].warmup_steps == 2 * R.train.phases[0].warmup_steps
    paths = {s.path for p in config.phases for s in p.sources}
    assert ("@programs" in paths) == (arm != "no-programs")
    assert ("@composed" in paths) == (arm != "foundation")
    assert ({s.path for s in config.phases[0].sources} == paths) == (
        arm in ("mixture", "foundation")
    )


def test_at_equal_compute_the_transformer_costs_what_the_curriculum_costs() -> None:
    ours = arms.figures(R, "curriculum", OURS, 200.0, 1)
    theirs = arms.figures(R, "transformer-compute", THEIRS, 200.0, 1)
    assert theirs.flops == pytest.approx(ours.flops, rel=1e-4)
    assert theirs.tokens > ours.tokens


def test_the_window_is_as_large_as_the_state_allows_at_every_length() -> None:
    state = arms.figures(R, "curriculum", OURS, 200.0, 1).memory_bytes
    window = arms.figures(R, "transformer-window", THEIRS, 200.0, 1).memory_bytes
    assert 0.9 * state < arms.ARCHITECTURES["window"].memory(R, "wide", 100_000) <= state
    assert window <= state


def test_an_arm_that_cannot_be_trained_is_named() -> None:
    without = ['synth.sets=[{name="foundation", sizes=[1], count=9}, {name="composed", sizes=[2], '
               'count=9}, {name="programs", sizes=[1], count=9}]']  # fmt: skip
    with pytest.raises(ConfigError, match="'no-programs' cannot be trained"):
        arms.check(load_recipe("claims", without))
