"""What Triton's interpreter cannot show: real sizes, real cards, and repetition to the bit."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tolerances import within

pytest.importorskip("triton", reason="no triton: pip install 'statewise[gpu]'")

from statewise.engine.slots.triton import RING, Decoder
from statewise.model import Mamba2Config, ssd_step
from statewise.model import triton as kernels
from statewise.model.conv import causal_conv_silu
from statewise.model.layout import Layout
from statewise.model.ssd import ssd_chunked
from statewise.model.triton.step import step_triton

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LAYER = {"h": 128, "p": 64, "g": 8, "n": 128}  # of the 7B
BF16 = torch.bfloat16


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, device="cuda", dtype=dtype)


def layer(l, dtype):
    h, p, g, n = LAYER.values()
    dt = torch.nn.functional.softplus(normal(1, l, h) - 4)
    A = -1 - 15 * torch.rand(h, device="cuda")
    x, B, C = normal(1, l, h, p), normal(1, l, g, n), normal(1, l, g, n)
    return [x.to(dtype), dt, A, B.to(dtype), C.to(dtype)]


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_of_the_7b_and_its_gradients_are_the_definitions(dtype, packed):
    torch.manual_seed(0)
    l = 1500
    inputs = [t.requires_grad_() for t in layer(l, dtype)]
    state = normal(1, 128, 64, 128).requires_grad_()
    layout = Layout.whole(1, l)
    if packed:
        layout = Layout.numbered(torch.cumsum(torch.rand(1, l, device="cuda") < 0.01, 1))
    how = {"state": state, "layout": layout}
    exact = ssd_chunked(*(t.float() for t in inputs), chunk_size=64, **how)
    found = kernels.ssd(*inputs, chunk_size=kernels.CHUNK, operands=dtype, **how)
    narrow = dtype == BF16
    within(found.y, exact.y, "model-bfloat16" if narrow else "ssd-float32", "outputs")
    within(found.state, exact.state, "model-bfloat16" if narrow else "ssd-float32", "state")
    slopes = [torch.randn_like(t) for t in exact]
    wanted = [*inputs, state]
    truth = torch.autograd.grad(exact, wanted, slopes)
    given = [s.to(t.dtype) for s, t in zip(slopes, found, strict=True)]
    for a, b in zip(torch.autograd.grad(found, wanted, given), truth, strict=True):
        within(a, b, "model-bfloat16" if narrow else "ssd-float32-gradient")


def test_the_same_call_gives_the_same_bits():
    torch.manual_seed(1)
    inputs = [t.requires_grad_() for t in layer(2000, BF16)]
    state, layout = normal(1, 128, 64, 128), Layout.whole(1, 2000)
    how = {"chunk_size": kernels.CHUNK, "state": state, "layout": layout}
    slope = normal(1, 2000, 128, 64, dtype=BF16)
    found = []
    for _ in range(3):
        out = kernels.ssd(*inputs, operands=BF16, **how)
        found.append((out.y, out.state, *torch.autograd.grad(out.y, inputs, slope)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


def test_offsets_beyond_two_to_the_31_are_read_and_written_where_they_should_be():
    """131,072 tokens of a projection of the 7B are 2.4e9 numbers."""
    l, width, m = 131_072, 18_560, 10_240
    wide = torch.empty(1, l, width, device="cuda", dtype=BF16)
    wide[:, -300:].normal_()
    taps, bias = normal(m, 4), normal(m)
    x = wide[..., 8192 : 8192 + m]
    found = kernels.conv_silu(
        x, wide.new_zeros(1, 3, m), taps, bias, dtype=BF16, layout=Layout.whole(1, l)
    )
    before = x[:, -300:-297]
    expected = causal_conv_silu(x[:, -297:], before, taps, bias, layout=Layout.whole(1, 297))
    within(found[:, -297:], expected, "model-bfloat16")


def test_a_slot_beyond_two_to_the_31_elements_is_the_one_that_is_stepped():
    h, p, g, n = LAYER.values()
    slots = 2**31 // (h * p * n) + 4
    table = torch.zeros(slots, h, p, n, device="cuda")
    last = torch.tensor([slots - 1], device="cuda")
    own = normal(1, h, p, n)
    table[-1] = own[0]
    x, dt, A = normal(1, h, p), normal(1, h).abs(), -torch.rand(h, device="cuda")
    B, C = normal(1, g, n), normal(1, g, n)
    expected = ssd_step(own, x, dt, A, B, C)
    within(step_triton(table, last, x, dt, A, B, C), expected, "ssd-float32")
    within(table[-1], own[0], "ssd-float32")
    assert not table[:-1].any()


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_replayed_graph_is_the_step_itself(dtype):
    config = Mamba2Config(
        d_model=256, n_layer=3, d_state=128, headdim=64, ngroups=4, vocab_size=512
    )
    model = tiny_model(config, 0, "torch").cuda().to(dtype)
    graphed, eager = Decoder(model, 5), Decoder(model, 5)
    eager.replay = lambda: eager._run() or eager._logits
    rng = np.random.default_rng(0)
    for _ in range(2 * RING + 3):
        slots = rng.permutation(5)[: int(rng.integers(1, 6))]
        tokens = rng.integers(0, 512, len(slots))
        assert torch.equal(graphed.step_(tokens, slots), eager.step_(tokens, slots))
    assert torch.equal(graphed.read(np.arange(5)).ssm, eager.read(np.arange(5)).ssm)
