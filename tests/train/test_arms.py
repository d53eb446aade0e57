"""A curriculum changed in one respect, and in no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import ConfigError
from statewise.train import arms
from statewise.train.config import Phase, Source, TrainConfig

FIRST = Phase("first", (Source("@a"), Source("@p", 0.1)), tokens=800_000, lr=5e-3, warmup_steps=100)
LAST = Phase(
    "last",
    (Source("@b", 0.7), Source("@a", 0.2), Source("@p", 0.1)),
    4_400_000,
    4e-3,
    decay="linear",
)
WHOLE = TrainConfig(phases=(FIRST, LAST), batch_tokens=1024)


@given(share=st.floats(0.001, 1.5))
def test_a_shortened_curriculum_keeps_its_shape(share: float) -> None:
    short = arms.shortened(WHOLE, share)
    assert share * WHOLE.tokens - 2 <= short.tokens <= share * WHOLE.tokens + 2
    for before, after in zip(WHOLE.phases, short.phases, strict=True):
        kept = replace(after, tokens=before.tokens, warmup_steps=before.warmup_steps)
        assert kept == before
    assert short.phases[0].warmup_steps == int(100 * share)
    assert arms.shortened(WHOLE, 1.0) == WHOLE


@pytest.mark.parametrize("phase", [0, -1])
def test_the_data_of_one_phase_fills_all_of_them_at_the_same_tokens_and_rates(phase: int) -> None:
    for before, after in zip(WHOLE.phases, arms.only(WHOLE, phase).phases, strict=True):
        assert after == replace(before, sources=WHOLE.phases[phase].sources)


def test_a_source_that_is_left_out_leaves_tokens_and_rates_as_they_are() -> None:
    for before, after in zip(WHOLE.phases, arms.without(WHOLE, ["@p"]).phases, strict=True):
        assert [s.path for s in after.sources] == [s.path for s in before.sources if s.path != "@p"]
        assert after == replace(before, sources=after.sources)


@pytest.mark.parametrize(
    ("paths", "message"), [(["@a", "@p"], "'first' has no source but"), (["@x"], "no phase reads")]
)
def test_nothing_to_leave_out_and_nothing_left_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arms.without(WHOLE, paths)


def test_another_pace_is_another_rate_in_every_phase_and_another_warm_up() -> None:
    faster = arms.paced(WHOLE, rate=2.0, warmup=0.5)
    assert [p.lr for p in faster.phases] == [1e-2, 8e-3]
    assert [p.warmup_steps for p in faster.phases] == [50, 0]
    assert arms.paced(faster, rate=0.5, warmup=2.0) == WHOLE
