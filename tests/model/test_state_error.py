"""The error of a long decode levels off: the figure of docs/numerics.md, in small."""

import sys
from pathlib import Path

import torch
from tolerances import within

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from state_error import Sizes, measure

# States that forget within some twenty steps, so that 2,000 are as long as they will ever be.
SIZES = Sizes(heads=8, headdim=2, d_state=8, dt_min=0.02)


def test_the_error_of_a_float32_state_does_not_grow_with_the_number_of_steps():
    growth = measure(2000, [0, 1], SIZES, [200, 650, 1100, 1550, 2000])
    assert growth.memory.max() < 30
    for bins in growth.error["float32"]:
        within(bins, torch.zeros_like(bins), "state-float32")
    for form in ("float32", "bfloat16"):
        error = growth.typical(form)
        assert error[-1] < 1.5 * error[1], f"{form}: {error.tolist()}"


def test_rounding_a_bfloat16_state_more_rarely_costs_less():
    growth = measure(400, [0], SIZES, [400])
    assert growth.typical("float32") < growth.typical("bfloat16-every-16")
    assert growth.typical("bfloat16-every-16") < growth.typical("bfloat16")
