"""Triton's kernels against their definitions: interpreted on a CPU, compiled where there is a GPU.

Shapes are small, for the interpreter runs a program at a time; lengths are odd on purpose.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny_models import moved, random_state, tiny_model
from tolerances import within

pytest.importorskip("triton", reason="no triton: pip install 'statewise[gpu]'")

from statewise.errors import ConfigError
from statewise.model import Mamba2Config, ssd_recurrent, ssd_step
from statewise.model import triton as kernels
from statewise.model.conv import causal_conv_silu
from statewise.model.layout import Layout
from statewise.model.norm import skip_gate_norm
from statewise.model.ssd import ChunkTable
from statewise.model.triton.scan import ssd_triton
from statewise.model.triton.step import step_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).parents[2]
few = settings(max_examples=4, deadline=None, phases=[Phase.generate])


@pytest.fixture(scope="module", autouse=True)
def _short_spans():
    """Gradients of weights add up over several programs: let a few tokens be several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("statewise.model.triton.conv.SPAN", 32)
        patch.setattr("statewise.model.triton.norm.TOKENS", 4)
        yield


def normal(seed):
    rng = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=rng).to(DEVICE)


def documents(seed, b, l, share=0.1):
    rng = torch.Generator().manual_seed(seed)
    return torch.cumsum((torch.rand(b, l, generator=rng) < share).long(), 1).to(DEVICE)


def layout_of(b, l, seq_idx):
    return Layout.whole(b, l) if seq_idx is None else Layout.numbered(seq_idx)


@st.composite
def scans(draw):
    """The arguments of a scan, its documents, their chunks, and the gradients of what comes out."""
    g, r = draw(st.sampled_from([(1, 2), (2, 2), (8, 1)]))
    q = draw(st.sampled_from([7, 16, 17, 40, 80]))  # one tile, and several
    b, l = draw(st.integers(1, 2 if g < 8 else 1)), draw(st.integers(1, min(3 * q, 70)))
    p, n = draw(st.sampled_from([(4, 8), (5, 7), (24, 32)]))
    seed, h = draw(st.integers(0, 2**31 - 1)), g * r
    new = normal(seed)
    dt = torch.nn.functional.softplus(2 * new(b, l, h) - 2)
    A = -torch.exp(new(h))
    case = [new(b, l, h, p), dt, A, new(b, l, g, n), new(b, l, g, n)]
    seq_idx = documents(seed, b, l, 2 / l) if draw(st.booleans()) else None
    case.append(new(b, h, p, n) if draw(st.booleans()) else None)
    position = torch.randint(0, 100, (b,)) if case[5] is not None and draw(st.booleans()) else None
    layout = layout_of(b, l, seq_idx).continuing(position)
    return case, seq_idx, (layout, q), (new(b, l, h, p), new(b, h, p, n))


def scanned(case, chunks, grads, operands):
    """(outputs, states, gradient of every input) of the kernels."""
    *inputs, state = [t if t is None else t.clone().requires_grad_() for t in case]
    layout, q = chunks
    found = kernels.ssd(*inputs, chunk_size=q, state=state, layout=layout, operands=operands)
    wanted = inputs if state is None else [*inputs, state]
    given = [g.to(t.dtype) for g, t in zip(grads, found, strict=True)]
    return found.y, found.state, torch.autograd.grad(found, wanted, given)


def recurrence(case, seq_idx, grads):
    """(outputs and states, gradient of every input) of the definition, in float64."""
    *exact, S = [t if t is None else t.double().requires_grad_() for t in case]
    expected = ssd_recurrent(*exact, state=S, seq_idx=seq_idx)
    wanted, given = exact if S is None else [*exact, S], [g.double() for g in grads]
    return expected, torch.autograd.grad(expected, wanted, given, materialize_grads=True)


@few
@given(scans())
def test_the_scan_and_its_gradients_are_the_recurrences(drawn):
    case, seq_idx, chunks, grads = drawn
    y, state, gradients = scanned(case, chunks, grads, torch.float32)
    expected, truth = recurrence(case, seq_idx, grads)
    within(y, expected.y, "ssd-float32", "outputs")
    within(state, expected.state, "ssd-float32", "state")
    for name, a, b in zip(("x", "dt", "A", "B", "C", "S"), gradients, truth, strict=False):
        within(a, b, "ssd-float32-gradient", name)


@settings(few, max_examples=3)
@given(scans())
def test_with_operands_of_16_bits_they_are_nearly_the_recurrences(drawn):
    case, seq_idx, chunks, grads = drawn
    y, state, gradients = scanned(case, chunks, grads, torch.bfloat16)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    expected, truth = recurrence(case, seq_idx, grads)
    within(y, expected.y, "model-bfloat16", "outputs")
    within(state, expected.state, "model-bfloat16", "state")
    for name, a, b in zip(("x", "dt", "A", "B", "C", "S"), gradients, truth, strict=False):
        within(a, b, "model-bfloat16", name)


def test_inputs_are_read_where_they_lie_in_a_wider_tensor():
    new, table = normal(3), ChunkTable.of(Layout.whole(2, 19), 16, torch.device(DEVICE))
    wide, dt, A = new(2, 19, 2 * 4 + 2 * 8), new(2, 19, 2).abs(), -torch.ones(2, device=DEVICE)
    parts = [t.unflatten(-1, (k, -1)) for t, k in zip(wide.split(8, -1), (2, 1, 1), strict=True)]
    x, B, C = parts
    found = ssd_triton(x, dt, A, B, C, table=table)
    x, B, C = (t.contiguous() for t in parts)
    apart = ssd_triton(x, dt, A, B, C, table=table)
    assert torch.equal(found.y, apart.y)
    assert torch.equal(found.state, apart.state)


def test_rows_of_one_token_are_read_by_whatever_stride_they_have():
    new, table = normal(4), ChunkTable.of(Layout.whole(3, 1), 16, torch.device(DEVICE))
    x, B, C = (new(1, 3, *s).transpose(0, 1) for s in ((2, 4), (1, 8), (1, 8)))
    dt, A = new(3, 1, 2).abs(), -torch.ones(2, device=DEVICE)
    found = ssd_triton(x, dt, A, B, C, table=table)
    plain = [t.clone(memory_format=torch.contiguous_format) for t in (x, B, C)]
    assert torch.equal(found.y, ssd_triton(plain[0], dt, A, *plain[1:], table=table).y)
    wide, before, taps = new(1, 3, 5).transpose(0, 1), new(3, 3, 5), new(5, 4)
    layout = Layout.whole(3, 1)
    expected = causal_conv_silu(wide, before, taps, None, layout=layout)
    within(kernels.conv_silu(wide, before, taps, None, layout=layout), expected, "ssd-float32")


def test_a_document_that_is_no_number_leaves_its_neighbours_alone():
    new, l = normal(0), 40
    table = ChunkTable.of(Layout.of([[13, l - 13]]), 16, torch.device(DEVICE))
    x, dt, B, C = new(1, l, 2, 4), new(1, l, 2).abs(), new(1, l, 1, 8), new(1, l, 1, 8)
    A = -torch.ones(2, device=DEVICE)
    clean = ssd_triton(x, dt, A, B, C, table=table)
    for poisoned in (x, B, C):
        poisoned[:, :13] = torch.nan
    found = ssd_triton(x, dt, A, B, C, table=table)
    assert torch.equal(found.y[:, 13:], clean.y[:, 13:])
    assert torch.equal(found.state, clean.state)


@few
@given(st.data())
def test_the_convolution_and_its_gradients_are_the_definitions(data):
    b, l = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 40))
    m, K = data.draw(st.sampled_from([5, 16, 130])), data.draw(st.integers(2, 4))
    seed = data.draw(st.integers(0, 2**31 - 1))
    new = normal(seed)
    x = new(b, l, m + 7)[..., 3 : 3 + m]  # a part of a projection
    before, taps = new(b, K - 1, m), new(m, K)
    bias = new(m) if data.draw(st.booleans()) else None
    layout = layout_of(b, l, documents(seed, b, l, 0.3) if data.draw(st.booleans()) else None)
    inputs = [t if t is None else t.detach().requires_grad_() for t in (x, before, taps, bias)]
    wanted, slope = [t for t in inputs if t is not None], new(b, l, m)
    found = kernels.conv_silu(*inputs, layout=layout)
    expected = causal_conv_silu(*inputs, layout=layout)
    within(found, expected, "ssd-float32", "outputs")
    gradients = torch.autograd.grad(found, wanted, slope)
    for a, b in zip(gradients, torch.autograd.grad(expected, wanted, slope), strict=True):
        within(a, b, "ssd-float32-gradient")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("h", "p", "groups"), [(4, 16, 1), (8, 5, 2), (6, 8, 3), (8, 4, 8)])
def test_skip_gate_and_norm_and_their_gradients_are_the_definitions(h, p, groups, dtype):
    new = normal(h)
    y, z = new(2, 5, h, p), new(2, 5, h * p + 3)[..., 3:]
    x = new(2, 5, h * p + 20)[..., : h * p].unflatten(-1, (h, p))
    inputs = [t.detach().requires_grad_() for t in (y, x, new(h), z, new(h * p).to(dtype))]
    slope = new(2, 5, h * p).to(dtype)
    found = kernels.gated_norm(*inputs, groups=groups, eps=1e-5)
    expected = skip_gate_norm(*inputs, groups=groups, eps=1e-5)
    assert found.dtype == dtype
    exact = dtype == torch.float32
    within(found, expected, "ssd-float32" if exact else "model-bfloat16")
    truth = torch.autograd.grad(expected, inputs, slope)
    for a, b in zip(torch.autograd.grad(found, inputs, slope), truth, strict=True):
        assert a.dtype == b.dtype
        within(a, b, "ssd-float32-gradient" if exact else "model-bfloat16")


@few
@given(st.integers(0, 2**31 - 1), st.sampled_from([(1, 4, 4, 8), (2, 2, 16, 16), (8, 1, 5, 7)]))
def test_a_step_writes_the_slots_of_its_rows_and_no_other(seed, sizes):
    g, r, p, n = sizes
    h, new = g * r, normal(seed)
    table = new(5, h, p, n)
    slots = torch.tensor([3, -1, 0], device=DEVICE)
    x, dt, A = new(3, h, p), new(3, h).abs(), -torch.exp(new(h))
    B, C = new(3, g, n), new(3, g, n)
    own = table[[3, 0]].contiguous()
    rows = [0, 2]
    expected = ssd_step(own, x[rows], dt[rows], A, B[rows], C[rows])
    before = table.clone()
    found = step_triton(table, slots, x, dt, A, B, C)
    within(found[rows], expected, "ssd-float32", "outputs")
    within(table[[3, 0]], own, "ssd-float32", "states")
    assert torch.equal(table[[1, 2, 4]], before[[1, 2, 4]])
    assert not found[1].any()


@pytest.fixture
def short_chunks(monkeypatch):
    """Several chunks in a few tokens; the interpreter goes through all of a long one."""
    monkeypatch.setattr(kernels, "CHUNK", 8)


CONFIGS = [
    Mamba2Config(d_model=d, n_layer=1, d_state=8, headdim=8, ngroups=g, vocab_size=32, chunk_size=q)
    for d, g, q in ((16, 1, 16), (16, 2, 8), (32, 8, 32))
]


@pytest.mark.parametrize(
    ("config", "packed"),
    [(CONFIGS[0], True), (CONFIGS[1], False), (CONFIGS[2], True)],
    ids=["1 group, packed", "2 groups", "8 groups, packed"],
)
def test_a_whole_model_and_its_gradients_are_the_definitions(config, packed, short_chunks):
    model = tiny_model(config, 0, "torch").to(DEVICE)
    text = torch.randint(0, 32, (2, 11), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    state = moved(random_state(config, 2, 0), DEVICE)
    layout = Layout.numbered(documents(0, 2, 11)) if packed else None
    found = {}
    for backend in ("torch", "triton"):
        model.use(backend)
        model.zero_grad()
        out = model(text, state, layout=layout)
        out.logits.square().mean().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        found[backend] = (out.logits, out.state.ssm, out.state.conv, *gradients)
    for i, (a, b) in enumerate(zip(found["triton"], found["torch"], strict=True)):
        within(a, b, "model" if i < 3 else "model-gradient")


@pytest.mark.parametrize("autocast", [False, True], ids=["cast", "autocast"])
def test_in_bfloat16_a_model_and_its_gradients_are_nearly_those_of_float32(autocast, short_chunks):
    config = replace(CONFIGS[1], d_model=32)  # where rounding averages out
    text = torch.randint(0, 32, (2, 21), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = {}
    for narrow in (False, True):
        model = tiny_model(config, 0, "triton" if narrow else "torch").to(DEVICE)
        if narrow and not autocast:
            model = model.bfloat16()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=narrow and autocast):
            out = model(text, layout=Layout.numbered(documents(0, 2, 21)))
        out.logits.square().mean().backward()
        gradient = torch.cat([p.grad.float().flatten() for p in model.parameters()])
        found[narrow] = (out.logits, out.state.ssm, gradient)
    for a, b in zip(found[True][:2], found[False][:2], strict=True):
        within(a, b, "model-bfloat16")
    exact = found[False][2]
    off = (found[True][2] - exact).norm() / exact.norm()
    within(off, torch.zeros_like(off), "model-bfloat16-gradient")


def test_decoding_is_the_definitions(short_chunks):
    config = CONFIGS[1]
    model = tiny_model(config, 0, "torch").to(DEVICE)
    text = torch.randint(0, 32, (3, 9), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = {}
    for backend in ("torch", "triton"):
        model.use(backend)
        with torch.no_grad():
            state = model(text[:, :5]).state
            logits = [model.step_(text[:, t], state) for t in range(5, 9)]
        found[backend] = (torch.stack(logits), state.ssm, state.conv)
    for a, b in zip(found["triton"], found["torch"], strict=True):
        within(a, b, "model")


def test_a_backend_that_cannot_work_is_refused_with_the_reason(monkeypatch):
    model = tiny_model(CONFIGS[0], 0, "triton").to(DEVICE)
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    with pytest.raises(ConfigError, match="'triton' needs tensors on a GPU, these are on cpu"):
        model.cpu()(torch.zeros(1, 3, dtype=torch.long))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"no kernels for weights of torch\.float16"):
        model.half().to(DEVICE)(torch.zeros(1, 3, dtype=torch.long, device=DEVICE))
    monkeypatch.setitem(sys.modules, "statewise.model.triton", None)
    monkeypatch.delattr("statewise.model.triton")
    with pytest.raises(ConfigError, match=r"pip install 'statewise\[gpu\]'"):
        model.float().to(DEVICE)(torch.zeros(1, 3, dtype=torch.long, device=DEVICE))


def test_the_kernels_compile_for_cards_that_are_not_here():
    """The small ones; `python -m benchmarks.ptx` compiles all of them and takes a minute."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.ptx", "--only", "decays", "step", "--cards", "90"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]] == [
        "decays", "steps", "step"
    ]  # fmt: skip
