"""What is called a loss spike, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.train.spikes import LEAST, RISE, Spikes


def found(losses, phase="a", watch=None):
    watch = watch or Spikes()
    return [i for i, loss in enumerate(losses) if watch.take(phase, loss) is not None]


def noise(count, level, spread, seed=0):
    return list(level + spread * np.random.default_rng(seed).standard_normal(count))


def test_a_jump_is_told_once_with_what_was_before_it():
    watch = Spikes()
    losses = noise(100, 2.0, 0.02)
    assert found(losses, watch=watch) == []
    assert watch.take("a", 3.5) == pytest.approx(2.0, abs=0.02)
    assert watch.take("a", 3.4) is None  # the same one
    assert found(losses, watch=watch) == []
    assert watch.take("a", 3.5) is not None  # another


def test_what_a_noisy_loss_does_every_day_is_none():
    assert found(noise(2000, 5.0, 0.4)) == []


@given(st.integers(0, 50), st.floats(0.05, 0.9))
def test_a_rise_of_a_small_loss_by_its_own_size_is_none(seed, share):
    losses = noise(200, 0.05, 0.01, seed)
    losses[100] += share * RISE
    assert found(losses) == []


def test_another_phase_is_another_level():
    watch = Spikes()
    assert found(noise(100, 1.0, 0.02), watch=watch) == []
    assert found(noise(100, 4.0, 0.02), "b", watch) == []


def test_the_first_steps_are_compared_with_nothing():
    assert found([5.0, *[2.0] * (LEAST - 2), 5.0]) == []
    assert found([2.0] * LEAST + [5.0]) == [LEAST]


def test_a_level_that_stays_is_one_spike():
    assert found([2.0] * 40 + [4.0] * 100) == [40]
