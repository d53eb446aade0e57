import pytest
import torch
from engine_doubles import Letters

from statewise.model import Mamba2Config, Mamba2LM


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Matrices this small gain nothing from threads, and on a busy machine threads wait idly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def _uninitialised_memory_is_nan():
    """Memory that was never written holds NaN, so that reading it shows."""
    before = torch.are_deterministic_algorithms_enabled()
    # On a GPU torch has operations (cumsum) that it cannot promise to repeat to the bit.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def letters():
    return Letters()


@pytest.fixture(scope="session", params=["cpu", "torch"])
def model(request):
    """A tiny model with opinions: its logits differ by several units and depend on the past."""
    torch.manual_seed(11)
    config = Mamba2Config(
        d_model=64,
        n_layer=2,
        d_state=16,
        headdim=16,
        ngroups=1,
        vocab_size=72,
        chunk_size=16,
        tie_embeddings=False,
    )
    model = Mamba2LM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(15)
    model.use(request.param)
    return model
