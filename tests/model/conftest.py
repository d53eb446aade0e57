"""For the model's tests: memory that was never written holds NaN, so that reading it shows."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _uninitialised_memory_is_nan():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
