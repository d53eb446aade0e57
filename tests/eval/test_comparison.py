"""Seeds and problems are both samples: how far a difference would vary if both were drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.eval.comparison import contrast
from statewise.eval.metrics import paired_difference


def sides(table: np.ndarray) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Two sides whose differences are the table's rows of seeds by columns of problems."""
    a = [{f"p{j}": float(x) for j, x in enumerate(row)} for row in table]
    return a, [dict.fromkeys(row, 0.0) for row in a]


def simulated(rng: np.random.Generator, shape: tuple[int, int], *deviations: float) -> np.ndarray:
    seed, problem, rest = deviations
    return (
        rng.normal(0, seed, (shape[0], 1))
        + rng.normal(0, problem, (1, shape[1]))
        + rng.normal(0, rest, shape)
    )


@pytest.mark.parametrize("deviations", [(0.05, 0.3, 0.3), (0.0, 0.3, 0.3), (0.1, 0.0, 0.2)])
def test_the_interval_covers_the_truth_as_often_as_it_says(deviations) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(800):
        low, high = contrast(*sides(simulated(rng, (3, 60), *deviations))).interval
        covered += low <= 0 <= high
    # Satterthwaite's degrees of freedom are approximate: 0.93 to 0.98 in long simulations.
    assert covered / 800 > 0.915


def test_what_is_detectable_is_told_apart_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    told = 0
    detectable = float(
        np.median(
            [
                contrast(*sides(simulated(rng, (3, 80), 0.02, 0.3, 0.3))).detectable
                for _ in range(200)
            ]
        )
    )
    for _ in range(600):
        table = simulated(rng, (3, 80), 0.02, 0.3, 0.3) + detectable
        told += contrast(*sides(table)).interval.low > 0
    assert 0.65 < told / 600 < 0.95


def test_the_components_are_those_that_were_put_in() -> None:
    rng = np.random.default_rng(2)
    found = [contrast(*sides(simulated(rng, (8, 200), 0.1, 0.3, 0.2))) for _ in range(60)]
    assert np.mean([k.between_seeds for k in found]) == pytest.approx(0.1, rel=0.15)
    assert np.mean([k.between_problems for k in found]) == pytest.approx(0.3, rel=0.05)


def test_of_one_seed_the_interval_is_that_over_problems() -> None:
    rng = np.random.default_rng(3)
    a, b = sides(rng.normal(0.05, 0.3, (1, 400)))
    found, bootstrap = contrast(a, b), paired_difference(a[0], b[0])
    assert found.mean == pytest.approx(bootstrap.mean)
    assert tuple(found.interval) == pytest.approx(tuple(bootstrap.interval), abs=0.003)
    assert found.between_seeds is None


def test_a_disagreement_of_seeds_widens_what_problems_alone_would_say() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(0.0, 0.1, (3, 200))
    calm = contrast(*sides(table + 0.05))
    torn = contrast(*sides(table + np.array([[-0.1], [0.05], [0.2]])))
    assert calm.interval.low > 0
    assert torn.interval.low < -0.2
    # Student's quantile at two degrees of freedom, 4.303, times 0.15 / sqrt(3).
    assert torn.interval.high - torn.mean == pytest.approx(4.303 * 0.15 / 3**0.5, rel=0.1)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=n, max_size=n
        )
    )
)
def test_exchanging_the_sides_turns_the_sign_and_nothing_else(rows) -> None:
    a, b = sides(np.array(rows))
    one, other = contrast(a, b), contrast(b, a)
    assert one.mean == -other.mean
    assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-12)
    assert one.detectable == pytest.approx(other.detectable, abs=1e-12)
    assert one.interval.low <= one.mean <= one.interval.high


def test_no_difference_at_all_is_an_interval_of_zero_width() -> None:
    a, _ = sides(np.ones((3, 5)))
    assert tuple(contrast(a, a).interval) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([{}], [{}]),
        ([{"p": 1.0}], [{"p": 0.0}]),
        ([{"p": 1.0, "q": 0.0}], [{"p": 0.0, "r": 1.0}]),
        ([{"p": 1.0, "q": 0.0}], []),
        ([{"p": 1.0, "q": 0.0}, {"p": 1.0}], [{"p": 1.0, "q": 0.0}] * 2),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b) -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        contrast(a, b)
