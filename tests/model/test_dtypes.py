"""What stays float32 when the weights are bfloat16: everything but products, gathers and moves."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import BACKENDS, tiny_model, tokens
from torch.utils._python_dispatch import TorchDispatchMode

from statewise.model import Mamba2Config
from statewise.model.layout import Layout
from statewise.train.loss import SummedLoss
from statewise.train.packing import Row

HALF = (torch.bfloat16, torch.float16)

# What may return 16-bit numbers: products, which sum in float32 inside, the gather of the
# embedding, and what only moves or converts numbers.
PRODUCTS = {"mm", "addmm", "embedding", "embedding_dense_backward", "mkldnn_linear"}
MOVES = {
    "_to_copy", "_unsafe_view", "alias", "as_strided", "cat", "clone", "copy_", "detach", "empty",
    "empty_like", "expand", "fill_", "index", "index_select", "masked_fill", "new_zeros", "permute",
    "select", "slice", "split_with_sizes", "squeeze", "stack", "t", "transpose", "unsqueeze",
    "view", "zeros",
}  # fmt: skip


# Gradients have the dtype of what they are of: that of a bias is a sum over tokens, that of the
# tied embedding the sum of two, that of a gather a scatter.
SUMS = {"add", "index_put", "select_backward", "sum"}

both = pytest.mark.parametrize("backend", BACKENDS)


class NarrowOperations(TorchDispatchMode):
    """The names of all operations that returned a 16-bit number."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = torch.utils._pytree.tree_leaves(out)
        if any(isinstance(t, torch.Tensor) and t.dtype in HALF for t in made):
            self.names.add(func._schema.name.partition("::")[2])
        return out


def small():
    return Mamba2Config(
        d_model=32, n_layer=2, d_state=16, headdim=16, ngroups=2, bias=True, vocab_size=40
    )


@both
@pytest.mark.parametrize("autocast", [False, True])
def test_under_bfloat16_only_products_are_computed_narrower_than_float32(autocast, backend):
    model, text = tiny_model(small(), backend=backend), tokens(small(), 2, 20)
    if not autocast:
        model.to(torch.bfloat16)
    with NarrowOperations() as seen:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with torch.no_grad():
                state = model(text).state
                model.step_(text[:, 0], state)
            logits = model(text).logits
            loss = SummedLoss(model)(Row(text[:1], Layout.whole(1, 20), text[:1]))
        assert logits.dtype == state.ssm.dtype == loss.dtype == torch.float32
        assert seen.names & PRODUCTS
        assert not (strange := seen.names - PRODUCTS - MOVES), strange
        loss.backward()
        assert not (strange := seen.names - PRODUCTS - MOVES - SUMS), strange


@both
def test_the_residual_stream_keeps_what_bfloat16_would_lose(backend):
    model, text = tiny_model(small(), backend=backend).to(torch.bfloat16), tokens(small(), 1, 9)
    small_numbers = torch.arange(32) / 64
    first, last = (block.mixer.out_proj for block in model.backbone.layers)
    with torch.no_grad():
        model.backbone.embeddings.weight.fill_(256.0)
        for out_proj in (first, last):
            out_proj.weight.zero_()
        first.bias.copy_(small_numbers)  # bfloat16 knows 256 and 258
        last.bias.fill_(-256.0)
        model.backbone.norm_f.weight.fill_(1.0)
        found = model.hidden(text)[0]
    normed = F.rms_norm(small_numbers, (32,), eps=small().norm_eps)
    assert torch.equal(found, normed.bfloat16().expand_as(found))
