"""The bounds of `docs/numerics.md`, and the one comparison that uses them.

No test states a tolerance of its own: `within(actual, expected, "name")` reads it from the table.
The worst error met under each name is printed at the end of the test run.
"""

import re
from pathlib import Path

import torch

NUMERICS = Path(__file__).parents[1] / "docs" / "numerics.md"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|.*\| ([0-9.e-]+) \| ([0-9.e-]+) \|$", re.M)

BOUNDS = {name: float(bound) for name, bound, _ in _ROW.findall(NUMERICS.read_text())}
MEASURED = {name: float(worst) for name, _, worst in _ROW.findall(NUMERICS.read_text())}
WORST = {}


def error(actual, expected):
    """The largest difference, in units of the larger of 1 and the largest expected magnitude."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    if not expected.numel():
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.isfinite(expected).all(), "the expected values are not finite"
    scale = max(1.0, expected.abs().max().item())
    return (actual - expected).abs().max().item() / scale


def within(actual, expected, name, what=""):
    """Assert that two tensors agree within the bound of that name."""
    found = error(actual, expected)
    WORST[name] = max(WORST.get(name, 0.0), found)
    assert found <= BOUNDS[name], f"{what or name}: error {found:.2e}, bound {BOUNDS[name]:.0e}"
