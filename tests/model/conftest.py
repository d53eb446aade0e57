"""For the model's tests: memory that was never written holds NaN, so that reading it shows."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _uninitialised_memory_is_nan():
    before = torch.are_deterministic_algorithms_enabled()
    # On a GPU torch has operations (cumsum) that it cannot promise to repeat to the bit.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
