"""Blocks that one can take hold of: recomputation and hooks attached from outside."""

import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_models import BACKENDS, random_state, tiny_model, tokens
from torch.utils.checkpoint import checkpoint

from statewise.model import Mamba2Config, State
from statewise.model.layout import Layout

CONFIG = Mamba2Config(
    d_model=32, n_layer=3, d_state=16, headdim=16, ngroups=2, chunk_size=8, vocab_size=40
)
both = pytest.mark.parametrize("backend", BACKENDS)
dtypes = pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])


def recomputed(model):
    """Attach recomputation to every block, as a trainer would that knows nothing of its inside.

    Returns a list that has the number of a block for each time that its forward is run.
    """
    runs = []
    for i, block in enumerate(model.backbone.layers):
        inner = block.forward

        def counted(*args, _i=i, _inner=inner):
            runs.append(_i)
            return _inner(*args)

        def forward(*args, _counted=counted):
            return checkpoint(_counted, *args, use_reentrant=False)

        block.forward = forward
    return runs


def train(model, autocast, steps=3):
    """Losses, and the gradients of the last step, of packed rows that continue a state."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    layout = Layout.of([[5, 17, 28], [20, 29, 1]])
    losses, gradients = [], {}
    for step in range(steps):
        text, start = tokens(CONFIG, 2, 50, seed=step), random_state(CONFIG, 2, seed=step)
        start = State(start.conv.requires_grad_(), start.ssm.requires_grad_(), start.position)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(text, start, layout=layout)
            loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
            loss = loss + 1e-3 * (out.state.ssm.square().mean() + out.state.conv.float().mean())
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        gradients |= {"conv": start.conv.grad, "ssm": start.ssm.grad}
        optimizer.step()
        losses.append(loss.detach())
    return losses, gradients


@both
@dtypes
def test_training_with_every_block_recomputed_is_training_to_the_bit(backend, autocast):
    expected = train(tiny_model(CONFIG, 1, backend), autocast)
    model = tiny_model(CONFIG, 1, backend)
    runs = recomputed(model)
    losses, gradients = train(model, autocast)
    # Each step: all blocks forward, then each once more, from the last, in the backward pass.
    assert runs == [0, 1, 2, 2, 1, 0] * 3
    assert all(map(torch.equal, losses, expected[0]))
    for name, gradient in expected[1].items():
        assert torch.equal(gradients[name], gradient), name


@both
def test_recomputation_keeps_less_between_forward_and_backward(backend):
    kept = []
    for attach in (False, True):
        model, seen = tiny_model(CONFIG, 1, backend), set()
        if attach:
            recomputed(model)

        def pack(t, _seen=seen):
            _seen.add((t.data_ptr(), t.nbytes))
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model.hidden(tokens(CONFIG, 2, 50))
        weights = {(p.data_ptr(), p.nbytes) for p in model.parameters()}
        kept.append(sum(n for _, n in seen - weights))
    assert kept[1] < 0.5 * kept[0]


@both
def test_hooks_on_blocks_see_and_may_change_the_residual_stream(backend):
    model, text = tiny_model(CONFIG, 2, backend), tokens(CONFIG, 2, 9)
    expected, streams = model(text).logits, []
    handles = [
        block.register_forward_hook(lambda _, given, out: streams.append((given[0], out[0])))
        for block in model.backbone.layers
    ]
    assert torch.equal(model(text).logits, expected)
    assert len(streams) == CONFIG.n_layer
    for (_, after), (before, _) in pairwise(streams):
        assert after is before
    for handle in handles:
        handle.remove()
    last = model.backbone.layers[-1]
    last.register_forward_hook(lambda _, given, out: (given[0], *out[1:]))  # as if it were not
    shorter = tiny_model(CONFIG, 2, backend)
    del shorter.backbone.layers[-1]
    assert torch.equal(model(text).logits, shorter(text).logits)


@both
def test_gradients_pass_through_the_hooks_of_blocks(backend):
    """What sharded training waits for before it lets go of a block's weights."""
    model, order = tiny_model(CONFIG, 3, backend), []
    for i, block in enumerate(model.backbone.layers):
        block.register_full_backward_hook(lambda *_, i=i: order.append(i))
    model(tokens(CONFIG, 1, 9)).logits.sum().backward()
    assert order == [2, 1, 0]


@both
def test_a_block_called_alone_is_its_part_of_the_model(backend):
    model, text = tiny_model(CONFIG, 4, backend), tokens(CONFIG, 2, 9)
    start, layout = random_state(CONFIG, 2, 1), Layout.of([[4, 5], [9]])
    residual = model.backbone.embeddings(text)
    later = layout.continuing(start.position)
    for i, block in enumerate(model.backbone.layers):
        before = [t.clone() for t in (residual, start.conv[i], start.ssm[i])]
        given = (residual, start.conv[i], start.ssm[i])
        after, conv, ssm = block(*given, later, model.ops)
        assert all(map(torch.equal, given, before))
        out = model(text, start, layout=layout).state
        assert torch.equal(conv, out.conv[i])
        assert torch.equal(ssm, out.ssm[i])
        residual = after
    normed = model.ops.norm(model.backbone.norm_f, residual)[1]
    assert torch.equal(normed, model.hidden(text, start, layout=layout)[0])


SHARDED = """
import copy
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from test_blocks import CONFIG
from tiny_models import tiny_model, tokens
from statewise.model.layout import Layout

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1,))
for backend in ("cpu", "torch"):
    whole = tiny_model(CONFIG, 0, backend)
    sharded = copy.deepcopy(whole)
    for block in sharded.backbone.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    text, layout = tokens(CONFIG, 1, 50), Layout.of([[20, 30]])
    logits = [model(text, layout=layout).logits for model in (whole, sharded)]
    for each in logits:
        each.square().mean().backward()
    assert torch.equal(*logits)
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad.to_local())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_fsdp2_attached_to_every_block_has_the_same_gradients():
    here = Path(__file__).parent
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.pathsep.join([str(here.parents[1]), str(here), str(here.parent)])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | shared | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
