"""What autograd keeps of a block is what the memory model says, under each of the kernels."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.layout import Layout
from statewise.train import memory

TOKENS = 256
CONFIG = Mamba2Config(
    d_model=64, n_layer=3, d_state=32, headdim=32, ngroups=2, chunk_size=64, vocab_size=64
)
NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def kept_of_the_middle_block(kernels, half):
    """Bytes of all that its backward pass will read, but for weights as they are."""
    torch.manual_seed(0)
    model = Mamba2LM(CONFIG, backend=kernels)
    seen = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}
    alive, block = [], -1

    def keep(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen[place] = tensor.untyped_storage().nbytes() if block == 1 else 0
            alive.append(tensor)  # no other tensor may come to lie there
        return tensor

    def begin(number):
        def hook(module, arguments):
            nonlocal block
            block = number

        return hook

    for number, module in enumerate(model.blocks):
        module.register_forward_pre_hook(begin(number))
    tokens = torch.randint(CONFIG.vocab_size, (1, TOKENS))
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model.hidden(tokens, layout=Layout.whole(1, TOKENS))
    return sum(seen.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kernels", ["torch", "cpu", pytest.param("triton", marks=NEEDS_TRITON)])
def test_what_autograd_keeps_of_a_block_is_what_the_memory_model_says(kernels, half):
    wide = 2 if half else 4
    cast = memory.cast_weights(CONFIG, wide)
    predicted = memory.BLOCKS[kernels](CONFIG, TOKENS, wide, 1, cast).kept
    assert kept_of_the_middle_block(kernels, half) == pytest.approx(predicted, rel=0.01)
