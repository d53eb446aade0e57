"""The table of backends: who is chosen, who is refused, and every scan against the recurrence."""

import importlib
import sys
import types
from functools import partial
from typing import get_args

import pytest
import torch
from tiny_models import tiny_model
from tolerances import within

pytest.importorskip("triton", reason="no triton: pip install 'statewise[gpu]'")

from statewise.cli import build_parser
from statewise.errors import ConfigError
from statewise.model import Mamba2Config, ssd_recurrent
from statewise.model.layout import Layout
from statewise.model.ops import DEFINITION, ON_GPUS, Backend, choose, parts_of, place
from statewise.model.ssd import ssd_chunked
from statewise.model.triton import launch

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LARGE = Mamba2Config(d_model=128, d_state=256, headdim=128)
CONFIG = Mamba2Config(d_model=16, n_layer=2, d_state=8, headdim=8, ngroups=2, vocab_size=11)


def simple_gla(q, k, v, g, *, scale, initial_state, output_final_state, cu_seqlens):
    """What `fla` documents of `chunk_simple_gla`: one row, documents behind each other."""
    assert q.shape[0] == 1
    assert output_final_state
    y, after = torch.empty_like(v), []
    for i in range(len(cu_seqlens) - 1):
        S = initial_state[i]
        for t in range(int(cu_seqlens[i]), int(cu_seqlens[i + 1])):
            kv = k[0, t].float()[:, :, None] * v[0, t].float()[:, None, :]
            S = S * torch.exp(g[0, t])[:, None, None] + kv
            y[0, t] = (scale * torch.einsum("hk,hkv->hv", q[0, t].float(), S)).to(v.dtype)
        after.append(S)
    return y, torch.stack(after)


def mamba_chunk_scan(x, dt, A, B, C, chunk_size, *, initial_states, seq_idx, return_final_states):
    """What `mamba_ssm` does: a row's first state goes to its document number 0."""
    assert return_final_states
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        initial_states = initial_states * (seq_idx[:, 0] == 0)[:, None, None, None]
    found = ssd_recurrent(
        *(t.float() for t in (x, dt, A, B, C)), state=initial_states, seq_idx=seq_idx
    )
    return found.y.to(x.dtype), found.state


@pytest.fixture
def packages(monkeypatch):
    """The two packages, or doubles that do what they document where one is not installed."""
    doubles = {
        "fla.ops.simple_gla": ("chunk_simple_gla", simple_gla),
        "mamba_ssm.ops.triton.ssd_combined": ("mamba_chunk_scan_combined", mamba_chunk_scan),
    }
    for name, (function, double) in doubles.items():
        try:
            assert DEVICE.type == "cuda"
            importlib.import_module(name)
        except (ImportError, AssertionError):
            module = types.ModuleType(name)
            setattr(module, function, double)
            parts = name.split(".")
            for i in range(1, len(parts)):
                package = ".".join(parts[:i])
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
            monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("packed", [False, True], ids=["one document a row", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", [*ON_GPUS, "torch"])
def test_every_backends_scan_is_the_recurrence(backend, dtype, packed, packages):
    rng = torch.Generator().manual_seed(0)
    new = partial(torch.randn, generator=rng)
    b, l, g, h, p, n, q = 2, 21, 2, 4, 8, 16, 16
    x, B, C = new(b, l, h, p), new(b, l, g, n), new(b, l, g, n)
    dt, A, state = new(b, l, h).sigmoid(), -torch.exp(new(h)), new(b, h, p, n)
    numbers = torch.cumsum((torch.rand(b, l, generator=rng) < 0.1).long(), 1) + 3
    numbers[1, 18:] = numbers[1, 0]  # a number met earlier is another document's all the same
    seq_idx = numbers.to(DEVICE) if packed else None
    x, dt, A, B, C, state = (t.to(DEVICE) for t in (x, dt, A, B, C, state))
    layout = Layout.numbered(seq_idx) if packed else Layout.whole(b, l)
    inputs = [t.requires_grad_() for t in (x, dt, A, B, C, state)]
    expected = ssd_recurrent(x, dt, A, B, C, state=state, seq_idx=seq_idx)
    scan = parts_of(backend, CONFIG, DEVICE, dtype).scan
    found = scan(x, dt, A, B, C, chunk_size=q, state=state, layout=layout)
    # Those of other packages multiply float32 by tensor cores in one part.
    ours = backend in ("triton", "torch") and (dtype == torch.float32 or backend == "torch")
    within(found.y, expected.y, "ssd-float32" if ours else "model-bfloat16", "outputs")
    within(found.state, expected.state, "ssd-float32" if ours else "model-bfloat16", "states")
    slopes = [torch.randn(t.shape, generator=rng).to(DEVICE) for t in expected]
    truth = torch.autograd.grad(expected, inputs, slopes)
    given = [s.to(t.dtype) for s, t in zip(slopes, found, strict=True)]
    for a, b in zip(torch.autograd.grad(found, inputs, given), truth, strict=True):
        within(a, b, "ssd-float32-gradient" if ours else "model-bfloat16")


@pytest.mark.parametrize("backend", ON_GPUS)
def test_every_backends_model_is_the_definitions(backend, packages, monkeypatch):
    monkeypatch.setattr("statewise.model.triton.CHUNK", 16)
    model = tiny_model(CONFIG, 0, "torch").to(DEVICE)
    text = torch.randint(0, 11, (2, 19), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    with torch.inference_mode():
        expected = model(text)
        model.use(backend)
        found = model(text)
    name = "model" if backend == "triton" else "model-bfloat16"
    within(found.logits, expected.logits, name)
    within(found.state.ssm, expected.state.ssm, name)


@pytest.fixture
def card(monkeypatch):
    """A GPU as far as the choice goes; nothing is put there."""
    monkeypatch.setattr("statewise.model.triton.failure", lambda device: "")
    return torch.device("cuda")


def test_where_no_kernel_can_be_launched_it_is_said_why_and_auto_goes_on(monkeypatch):
    reason = "RuntimeError: Failed to find C compiler"
    monkeypatch.setattr("statewise.model.triton.failure", lambda device: reason)
    with pytest.raises(ConfigError, match=r"Failed to find C compiler.*Python's headers"):
        choose("triton", CONFIG, DEVICE, torch.float32)
    assert choose("auto", CONFIG, torch.device("cuda"), torch.float32) is DEFINITION


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a GPU")
def test_a_card_that_is_not_there_is_told_and_an_old_triton_too(monkeypatch):
    launch.failure.cache_clear()
    assert launch.failure(CPU) == ""
    assert launch.failure(torch.device("cuda:7"))
    launch.failure.cache_clear()
    monkeypatch.setattr(launch.triton, "__version__", "3.3.1")
    assert launch.failure(CPU) == "triton 3.3.1 is too old: 3.6 or newer is needed"
    launch.failure.cache_clear()


def test_numbers_of_warps_are_powers_of_two():
    for width in range(1, 20_000):
        assert launch.warps_of(width) in (4, 8, 16)


def test_states_without_tiles_are_refused_and_auto_goes_on(card):
    with pytest.raises(ConfigError, match="no tiles for headdim 128 with d_state 256"):
        choose("triton", LARGE, DEVICE, torch.float32)
    assert choose("auto", LARGE, card, torch.float32) is DEFINITION
    assert choose("auto", LARGE, card, torch.bfloat16).decoder == "triton"
    # Autocast's dtype is what products have.
    assert choose("auto", LARGE, card, torch.float32, torch.bfloat16).decoder == "triton"


def test_a_model_gives_the_kernels_chunks_of_their_own_size(monkeypatch):
    seen = []

    def ssd(*args, chunk_size, operands, **how):
        seen.append(chunk_size)
        return ssd_chunked(*args, chunk_size=chunk_size, **how)

    monkeypatch.setattr("statewise.model.triton.ssd", ssd)
    model = tiny_model(CONFIG, 0, "triton").to(DEVICE)
    with torch.inference_mode():
        model(torch.zeros(1, 3, dtype=torch.long, device=DEVICE))
    assert seen == [256] * CONFIG.n_layer
    assert CONFIG.chunk_size != 256


def test_without_a_gpu_auto_is_the_definition():
    assert choose("auto", CONFIG, CPU, torch.float32) is DEFINITION  # 8 is no multiple of 16
    assert choose("torch", CONFIG, DEVICE, torch.float32) is DEFINITION


def test_on_a_gpu_auto_is_the_first_that_works(card, monkeypatch, packages):
    def scan():
        return choose("auto", CONFIG, card, torch.bfloat16).mix.__self__.scan.func

    assert scan().__module__.endswith("scan_backward")
    assert choose("auto", CONFIG, card, torch.float16) is DEFINITION
    monkeypatch.setattr(sys.modules["statewise.model.ops"], "ON_GPUS", ("fla",))
    assert scan().__name__ == "scan_fla"


@pytest.mark.parametrize(("backend", "module"), [("mamba_ssm", "mamba_ssm"), ("fla", "fla")])
def test_a_package_that_is_not_there_is_named(backend, module, monkeypatch):
    for name in list(sys.modules):
        if name == module or name.startswith(module + "."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"'{backend}' cannot be imported here"):
        choose(backend, CONFIG, DEVICE, torch.float32)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told():
    assert place("auto") == place("cpu") == CPU
    with pytest.raises(ConfigError, match="torch sees no GPU here; use 'auto'"):
        place("cuda")


def test_the_commands_know_every_backend():
    parsed = build_parser().parse_args(["chat", "c", "--backend", "torch"])
    assert parsed.backend == "torch"
    for backend in get_args(Backend):
        build_parser().parse_args(["generate", "c", "x", "--backend", backend])
