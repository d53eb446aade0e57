"""The CPU's kernels, each beside the plain form that it stands for."""

import fcntl
import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import within

from statewise.errors import ConfigError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.cpu import linear, mix, norm_residual, scan, scan_backward
from statewise.model.cpu import threads as threads_module
from statewise.model.cpu import vector as v
from statewise.model.cpu.scratch import GUARD, Scratch
from statewise.model.cpu.threads import kernel, run
from statewise.model.cpu.tile import product
from statewise.model.inside import Parts
from statewise.model.layout import Layout
from statewise.model.mamba2 import Mamba2Mixer, RMSNorm
from statewise.model.ops import DEFINITION, choose
from statewise.model.ssd import ssd_recurrent

SEEDS = st.integers(0, 2**31 - 1)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Sixteen numbers at once.


@kernel
def _functions(a):  # pragma: no cover (compiled)
    x, n = v.load1_i64(a, 2), v.load1_i64(a, 3)
    for i in range(0, n, 16):
        v.store(v.load1_i64(a, 4), i, v.exp(v.load(x, i)))
        v.store(v.load1_i64(a, 5), i, v.sigmoid(v.load(x, i)))
        v.store(v.load1_i64(a, 6), i, v.silu(v.load(x, i)))
        v.store(v.load1_i64(a, 7), i, v.softplus(v.load(x, i)))
        v.store_bf16(v.load1_i64(a, 8), i, v.load(x, i))
        v.store(v.load1_i64(a, 9), i, v.load_bf16(v.load1_i64(a, 8), i))
    v.transpose(x, 16, v.load1_i64(a, 10), 16)
    v.store1(v.load1_i64(a, 11), 0, v.total(v.load(x, 0)))


def functions(x):
    results = [torch.zeros_like(x) for _ in range(4)]
    half, back = torch.zeros(x.shape, dtype=torch.bfloat16), torch.zeros_like(x)
    turned, summed = torch.zeros(16, 16), torch.zeros(16)
    pointers = [t.data_ptr() for t in (*results, half, back, turned, summed)]
    run(_functions, np.array([0, 0, x.data_ptr(), len(x), *pointers], dtype=np.int64))
    return *results, half, back, turned, summed[0]


@kernel
def _through_null(a):  # pragma: no cover (compiled)
    v.store(0, v.load1_i64(a, 2), v.load(0, v.load1_i64(a, 3)))


def test_an_access_by_null_and_an_index_is_not_optimised_away():
    there, source = torch.zeros(16), torch.arange(16.0)
    elements = [t.data_ptr() // 4 for t in (there, source)]
    run(_through_null, np.array([0, 0, *elements], dtype=np.int64))
    assert torch.equal(there, source)


@given(SEEDS, st.sampled_from([1e-3, 1.0, 30.0, 1000.0]))
def test_elementary_functions_are_right_to_a_few_units_in_the_last_place(seed, scale):
    x = torch.randn(256, generator=torch.Generator().manual_seed(seed)) * scale
    x[:4] = torch.tensor([0.0, 20.0, -20.0, 87.0])
    exp, sigmoid, silu, softplus, *_ = functions(x)
    wide = x.double()
    below = wide < 87
    for found, expected in (
        (exp[below], wide.exp()[below]),
        (sigmoid, torch.sigmoid(wide)),
        (silu, wide * torch.sigmoid(wide)),
        (softplus, F.softplus(wide)),
    ):
        normal = expected.abs() > 1e-30  # below, 0 stands for what float32 hardly tells from it
        relative = ((found.double() - expected) / expected)[normal]
        within(relative, torch.zeros_like(relative), "elementary")
        assert (found[~normal].abs() <= 1e-30).all()


@given(st.lists(st.floats(width=32), min_size=16, max_size=16))
def test_bfloat16_is_rounded_as_torch_rounds_it(numbers):
    x = torch.tensor(numbers * 16, dtype=torch.float32)
    *_, half, back, _, _ = functions(x)
    expected = x.bfloat16()
    assert torch.equal(half.isnan(), expected.isnan())
    finite = ~expected.isnan()
    assert torch.equal(half[finite], expected[finite])
    assert torch.equal(back[finite], expected.float()[finite])


@given(SEEDS)
def test_a_block_is_transposed_and_a_vector_summed(seed):
    x = torch.randn(256, generator=torch.Generator().manual_seed(seed))
    *_, turned, summed = functions(x)
    assert torch.equal(turned, x.view(16, 16).T)
    within(summed, x[:16].double().sum(), "ssd-float32")


@kernel
def _product(a):  # pragma: no cover (compiled)
    product(
        v.load1_i64(a, 2), v.load1_i64(a, 3), v.load1_i64(a, 4), v.load1_i64(a, 5),
        v.load1_i64(a, 6), v.load1_i64(a, 7), v.load1_i64(a, 8), v.load1_i64(a, 9),
        v.load1_i64(a, 10), v.load1_i64(a, 11), v.load1_i64(a, 12),
        v.load1(v.load1_i64(a, 13), 0),
    )  # fmt: skip


@given(
    SEEDS,
    st.sampled_from([8, 16, 40]),
    st.sampled_from([16, 32, 48, 80]),
    st.integers(1, 33),
    st.booleans(),
    st.sampled_from([None, 1.0, -0.5]),
    st.booleans(),
)
def test_the_tile_product_is_a_matrix_product(seed, rows, columns, K, turned, beta, scaled):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(K, rows, generator=g).T if turned else torch.randn(rows, K, generator=g)
    B, C = torch.randn(K, columns + 5, generator=g), torch.randn(rows, columns + 3, generator=g)
    alpha = torch.randn(rows, generator=g)
    expected = (A @ B[:, :columns]).double() * (alpha[:, None] if scaled else 1)
    if beta is None:
        C[:, :columns] = torch.nan  # not to be read
    else:
        expected = expected + beta * C[:, :columns]
    beside = C[:, columns:].clone()
    factor = torch.tensor([beta or 0.0])
    numbers = [
        0, 0, A.data_ptr(), *A.stride(), B.data_ptr(), columns + 5, K, C.data_ptr(), columns + 3,
        rows, columns, alpha.data_ptr() if scaled else 0, factor.data_ptr(),
    ]  # fmt: skip
    run(_product, np.array(numbers, dtype=np.int64))
    within(C[:, :columns], expected, "ssd-float32")
    assert torch.equal(C[:, columns:], beside)


# Projections and norms.


@given(SEEDS, st.integers(1, 40), st.booleans(), st.booleans())
def test_the_float32_product_and_its_gradients_are_those_of_torch(seed, rows, biased, mkl):
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(2, rows, 24, generator=g), torch.randn(33, 24, generator=g)
    bias = torch.randn(33, generator=g) if biased else None
    leaves = [t.requires_grad_() for t in (x, w, bias) if t is not None]
    weight = torch.randn(2, rows, 33, generator=g)
    found, expected = linear(x, w, bias), F.linear(x, w, bias)
    within(found, expected, "ssd-float32")
    with pytest.MonkeyPatch.context() as patch:  # each processor takes one of the two
        module = sys.modules["statewise.model.cpu.linear"]
        patch.setattr(module, "_MKL_IS_FAST", mkl)
        grads = [torch.autograd.grad((y * weight).sum(), leaves) for y in (found, expected)]
    for a, b in zip(*grads, strict=True):
        within(a, b, "ssd-float32-gradient")


@given(SEEDS, st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_row_of_a_product_does_not_depend_on_the_rows_beside_it(seed, rows, dtype):
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(100, 48, generator=g).to(dtype), torch.randn(64, 48, generator=g).to(dtype)
    assert torch.equal(linear(x[:rows], w), linear(x, w)[:rows])


@given(SEEDS, st.booleans(), st.integers(1, 70))
def test_norming_and_passing_the_stream_through_has_both_gradients(seed, passed, tokens):
    g = torch.Generator().manual_seed(seed)
    residual = torch.randn(1, tokens, 32, generator=g).requires_grad_()
    norm = RMSNorm(32, 1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(32, generator=g))
    expected = (residual, norm(residual))
    found = norm_residual(residual, norm.weight, 1e-5, torch.float32)
    leaves = [residual, norm.weight]
    weights = [torch.randn(1, tokens, 32, generator=g) for _ in range(2)]
    grads = []
    for pair in (found, expected):
        loss = sum((y * w).sum() for y, w in zip(pair[passed:], weights, strict=False))
        grads.append(torch.autograd.grad(loss, leaves))
    assert torch.equal(found[0], residual)
    within(found[1], expected[1], "ssd-float32")
    for a, b in zip(*grads, strict=True):
        within(a, b, "ssd-float32-gradient")


# The inside of a mixer.


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 2, 8]))
    config = Mamba2Config(
        d_model=8 * groups * draw(st.sampled_from([1, 3])),
        n_layer=1,
        d_state=draw(st.sampled_from([16, 48])),
        headdim=16,
        ngroups=groups,
        d_conv=draw(st.sampled_from([2, 4, 5])),
        conv_bias=draw(st.booleans()),
        dt_limit_low=draw(st.sampled_from([0.0, 0.2])),
        dt_limit_high=draw(st.sampled_from([0.0, 0.9])),
    )
    rows = draw(st.integers(1, 3))
    length = draw(st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 150, 500]))
    ends = draw(st.lists(st.integers(0, length), max_size=4))
    return config, rows, length, ends, draw(SEEDS)


def inputs(config, rows, length, ends, seed):
    """A mixer, what comes into it, packed documents and positions: all random and asymmetric."""
    g = torch.Generator().manual_seed(seed)
    c = config

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    mixer = Mamba2Mixer(c)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(draw(*parameter.shape) * 0.5)
    seq_idx = torch.zeros(rows, length, dtype=torch.int64)
    for i, end in enumerate(ends):
        seq_idx[i % rows, end:] += 1
    position = torch.randint(0, 70, (rows,), generator=g)
    zxbcdt = draw(rows, length, c.d_in_proj)
    before, ssm = draw(rows, c.d_conv - 1, c.conv_dim), draw(rows, c.nheads, c.headdim, c.d_state)
    return mixer, zxbcdt, before, ssm, Layout.numbered(seq_idx).continuing(position)


def recurrent(x, dt, A, B, C, *, chunk_size, state, layout):
    return ssd_recurrent(x, dt, A, B, C, state=state, seq_idx=layout.numbers(x.device))


def plain(mixer, zxbcdt, before, ssm, layout):
    """What the kernels stand for, with the recurrence as it is defined."""
    window = before.transpose(1, 2)
    out, _, after = Parts(scan=recurrent).mix(zxbcdt, window, ssm, mixer.inside(), layout)
    return out, after


def compiled(mixer, zxbcdt, before, ssm, layout):
    window = None if before is None else before.transpose(1, 2)
    out, _, after = mix(zxbcdt, window, ssm, mixer.inside(), layout)
    return out, after


@settings(max_examples=40)
@given(cases())
def test_outputs_states_and_all_gradients_are_those_of_the_definition(case):
    mixer, zxbcdt, before, ssm, layout = inputs(*case)
    leaves = [t.requires_grad_() for t in (zxbcdt, before, ssm)]
    parameters = [p for n, p in mixer.named_parameters() if not n.startswith(("in_", "out_"))]
    expected = plain(mixer, *leaves, layout)
    found = compiled(mixer, *leaves, layout)
    for a, b in zip(found, expected, strict=True):
        within(a, b, "model")
    g = torch.Generator().manual_seed(case[-1])
    weights = [torch.randn(t.shape, generator=g) for t in expected]
    grads = []
    for outputs in (found, expected):
        loss = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
        grads.append(torch.autograd.grad(loss, leaves + parameters))
    for a, b in zip(*grads, strict=True):
        within(a, b, "model-gradient")


@settings(max_examples=10)
@given(cases(), st.integers(2, 5))
def test_the_number_of_threads_does_not_change_a_bit_of_outputs_and_states(case, count):
    arguments = inputs(*case)
    before = torch.get_num_threads()
    found = []
    with torch.no_grad():
        for threads in (1, count):
            torch.set_num_threads(threads)
            found.append(compiled(*arguments))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@settings(max_examples=10)
@given(cases())
def test_without_states_the_rows_begin_from_nothing(case):
    mixer, zxbcdt, before, ssm, layout = inputs(*case)
    with torch.no_grad():
        zeros = compiled(mixer, zxbcdt, before * 0, ssm * 0, layout)
        none = compiled(mixer, zxbcdt, None, None, layout)
    assert all(torch.equal(a, b) for a, b in zip(zeros, none, strict=True))


@settings(max_examples=10)
@given(cases())
def test_bfloat16_is_read_and_written_and_everything_between_is_float32(case):
    mixer, zxbcdt, before, ssm, layout = inputs(*case)
    half = zxbcdt.bfloat16()
    with torch.no_grad():
        found, after = compiled(mixer, half, before, ssm, layout)
        expected, after32 = compiled(mixer, half.float(), before, ssm, layout)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    assert torch.equal(after, after32)


def test_training_in_several_threads_gives_the_gradients_of_one(threads):
    case = (Mamba2Config(d_model=48, n_layer=1, d_state=16, headdim=16), 2, 150, [40, 90], 0)
    mixer, zxbcdt, before, ssm, layout = inputs(*case)
    zxbcdt.requires_grad_()
    grads = []
    for count in (1, 3):
        threads(count)
        out, after = compiled(mixer, zxbcdt, before, ssm, layout)
        grads.append(torch.autograd.grad(out.sum() + after.sum(), (zxbcdt, mixer.A_log)))
    for a, b in zip(*grads, strict=True):
        within(a, b, "model-gradient")


# Scratch memory. A slip there would write into a neighbour's numbers and raise nothing.

CANARY = 0x7FC0BEEF  # a NaN that no arithmetic makes: what reads it shows it

DECLARATIONS = [(scan, "SCRATCH"), (scan_backward, "SCRATCH"), (scan_backward, "CONV_SCRATCH")]

SCRATCH_SHAPES = [
    {"headdim": 16, "d_state": 48, "d_conv": 2, "ngroups": 2},
    {"headdim": 48, "d_state": 16, "d_conv": 5, "ngroups": 1},
    {"headdim": 80, "d_state": 112, "d_conv": 4, "ngroups": 1},
]


@pytest.fixture
def memories(monkeypatch):
    """What kernels allocate from here on, filled with canaries: (declaration, sizes, memory)."""
    allocated = []

    class Filled(Scratch):
        def allocate(self, threads, **sizes):
            memory = super().allocate(threads, **sizes)
            memory.floats.view(torch.int32).fill_(CANARY)
            allocated.append((self, sizes, memory))
            return memory

    for module, name in DECLARATIONS:
        monkeypatch.setattr(module, name, Filled(getattr(module, name).shapes))
    return allocated


def overrun(declaration, sizes, memory):
    """The parts of any thread behind which a canary is gone."""
    numbers = memory.floats.view(torch.int32).numpy()
    found = set()
    for thread in memory.table:
        ends = [*(thread[1:, 0] - memory.floats.data_ptr()) // 4]
        for (name, shape), (address, _), end in zip(
            declaration.shapes(**sizes).items(), thread, [*ends, None], strict=True
        ):
            begin = (address - memory.floats.data_ptr()) // 4 + math.prod(shape)
            behind = numbers[begin : begin + GUARD if end is None else end]
            assert len(behind) >= GUARD
            if (behind != np.int32(CANARY)).any():
                found.add(name)
    return found


def train(shape, rows=2, length=150, ends=(33, 90)):
    """Outputs, states and gradients of a mixer of three heads a group, in two threads."""
    config = Mamba2Config(d_model=3 * shape["ngroups"] * shape["headdim"] // 2, n_layer=1, **shape)
    mixer, zxbcdt, before, ssm, layout = inputs(config, rows, length, ends, 0)
    leaves = [t.requires_grad_() for t in (zxbcdt, before, ssm)]
    out, after = compiled(mixer, *leaves, layout)
    return out, after, *torch.autograd.grad(out.sum() + after.sum(), leaves)


@pytest.mark.parametrize("shape", SCRATCH_SHAPES, ids=str)
def test_kernels_write_only_to_the_parts_of_their_scratch_and_read_only_what_they_wrote(
    shape, memories, threads, monkeypatch
):
    threads(2)
    found = train(shape)
    assert [overrun(*memory) for memory in memories] == [set()] * 3
    monkeypatch.undo()
    for a, b in zip(found, train(shape), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("module", "name", "part"),
    [
        (module, name, part)
        for module, name in DECLARATIONS
        for part in getattr(module, name).parts._fields
    ],
)
def test_a_part_that_is_declared_too_small_is_seen(module, name, part, memories, monkeypatch):
    declaration = getattr(module, name)

    def wrong(**sizes):
        shapes = declaration.shapes(**sizes)
        *before, last = shapes[part]
        return shapes | {part: (*before, last // 2), "behind": (2**16,)}  # for what is overrun

    wrong.__signature__ = inspect.signature(declaration.shapes)
    monkeypatch.setattr(module, name, type(declaration)(wrong))
    for shape in SCRATCH_SHAPES:
        train(shape)
    assert any(part in overrun(*memory) for memory in memories)


# Compiling.


@pytest.mark.parametrize("place", ["kernels", "a file/kernels"])
def test_of_several_processes_one_compiles_at_a_time_where_a_lock_can_be_had(
    place, tmp_path, monkeypatch
):
    (tmp_path / "a file").touch()
    lock = tmp_path / place / ".lock"
    locked = []

    def cfunc(*_, **__):
        return lambda function: locked.append(is_locked()) or function

    def is_locked():
        if not lock.exists():
            return None
        with lock.open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    monkeypatch.setattr(threads_module, "_cache_dir", lambda _: str(tmp_path / place))
    monkeypatch.setattr(threads_module, "cfunc", cfunc)
    assert threads_module.kernel(is_locked) is is_locked
    assert (locked, is_locked()) == (([True], False) if place == "kernels" else ([None], None))


def test_what_one_process_has_compiled_no_other_compiles_again():
    program = (
        "from numba.core import event\n"
        "with event.install_recorder('numba:compile') as found:\n"
        "    import statewise.model.cpu.mixer\n"
        "print(len(found.buffer))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


# The choice.


def test_kernels_are_taken_where_they_can_work_and_the_definition_elsewhere():
    fits = {"d_model": 32, "headdim": 16, "d_state": 16, "n_layer": 1, "vocab_size": 8}
    model = Mamba2LM(Mamba2Config(**fits))
    assert model.decoder == "cpu"
    assert Mamba2LM(Mamba2Config(**fits | {"d_state": 12})).ops is DEFINITION
    assert choose("auto", model.config, torch.device("meta"), torch.float32) is DEFINITION
    with torch.autocast("cpu", torch.float16):
        assert model.ops is DEFINITION
    assert model.decoder == "cpu"
    assert model.double().ops is DEFINITION  # chosen again after a cast


def test_kernels_that_cannot_work_are_refused_by_name_and_what_was_used_stays():
    model = Mamba2LM(Mamba2Config(d_model=32, headdim=8, d_state=16, n_layer=1, vocab_size=8))
    with pytest.raises(ConfigError, match="headdim is 8, not a multiple of 16"):
        model.use("cpu")
    assert model.backend == "auto"
    model = Mamba2LM(model.config, backend="cpu")
    with pytest.raises(ConfigError, match="headdim is 8, not a multiple of 16"):
        model(torch.zeros(1, 3, dtype=torch.int64))
