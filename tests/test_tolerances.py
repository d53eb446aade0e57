"""The table of `docs/numerics.md` is the only place where a tolerance of the model is written."""

import pytest
import torch
from tolerances import BOUNDS, MEASURED, NUMERICS, error, within


def test_the_table_is_read_whole():
    rows = [line for line in NUMERICS.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(BOUNDS) > 0


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_lies_above_what_was_measured_but_within_reach_of_it(name):
    assert MEASURED[name] < BOUNDS[name] < 100 * MEASURED[name]


@pytest.mark.parametrize("name", BOUNDS)
def test_every_tolerance_is_used_by_some_test(name):
    tests = [p.read_text() for p in NUMERICS.parents[1].glob("tests/*/test_*.py")]
    assert any(f'"{name}"' in text for text in tests)


def test_the_error_is_measured_in_units_of_the_expected_scale():
    assert error(torch.tensor([101.0, 0.0]), torch.tensor([100.0, 0.0])) == pytest.approx(0.01)
    assert error(torch.tensor([0.25]), torch.tensor([0.0])) == 0.25


def test_a_comparison_fails_beyond_its_bound_and_on_what_is_no_number(monkeypatch):
    monkeypatch.setattr("tolerances.WORST", {})
    for found in (1 + 1e-3, torch.nan, torch.inf):
        with pytest.raises(AssertionError):
            within(torch.tensor([found]), torch.tensor([1.0]), "transformers")
    with pytest.raises(AssertionError):
        within(torch.ones(2), torch.ones(1), "transformers")
