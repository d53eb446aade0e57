"""The language model: one forward for training, prefill and decoding, whatever the cut."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    BACKENDS,
    SEEDS,
    configs,
    copied,
    generator,
    random_state,
    row,
    tiny_model,
    tokens,
)
from tolerances import within

from statewise.errors import ConfigError
from statewise.model import LMOutput, Mamba2Config, Mamba2LM, State
from statewise.model.layout import Layout

FEW = settings(max_examples=settings().max_examples // 2)  # a model costs more than a sum
LENGTHS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65]))
both = pytest.mark.parametrize("backend", BACKENDS)

# Every size that is published for the 7B model (Codestral Mamba, PromptCoT-Mamba).
SEVEN_B = Mamba2Config(
    d_model=4096,
    n_layer=64,
    d_state=128,
    headdim=64,
    ngroups=8,
    vocab_size=32_768,
    tie_embeddings=False,
)


def same(found: LMOutput, expected: LMOutput, name="model"):
    within(found.logits, expected.logits, name, "logits")
    same_state(found.state, expected.state, name)


def same_state(found: State, expected: State, name="model"):
    within(found.conv, expected.conv, name, "convolution window")
    within(found.ssm, expected.ssm, name, "recurrent state")
    assert torch.equal(found.position, expected.position)


def small(**sizes):
    """Sizes that both backends take."""
    usual = {"d_model": 16, "n_layer": 2, "d_state": 16, "headdim": 16, "chunk_size": 4}
    return Mamba2Config(**{**usual, "vocab_size": 20, **sizes})


def drawn(data, backend, rows=2, lengths=LENGTHS):
    """A model, a text, and the state that some earlier text has left."""
    config, seed = data.draw(configs(backend=backend)), data.draw(SEEDS)
    text = tokens(config, rows, data.draw(lengths), seed)
    return tiny_model(config, seed, backend), text, random_state(config, rows, seed)


@both
@FEW
@given(data=st.data())
def test_prefill_and_steps_are_one_forward(backend, data):
    model, text, start = drawn(data, backend)
    l = text.shape[1]
    with torch.no_grad():
        expected = model(text, start)
        prompt = data.draw(st.integers(0, l - 1))
        state, logits = copied(start), []
        if prompt:
            prefilled = model(text[:, :prompt], start)
            state, logits = prefilled.state, [prefilled.logits]
        for t in range(prompt, l):
            logits.append(model.step_(text[:, t], state)[:, None])
    same(LMOutput(torch.cat(logits, dim=1), state), expected)


@both
@FEW
@given(data=st.data())
def test_a_text_may_be_cut_anywhere_and_resumed(backend, data):
    model, text, start = drawn(data, backend)
    l = text.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, l), max_size=3)) | {l})
    weights = weights_like(text, model, start)

    def pieces(state):
        logits, begin = [], 0
        for stop in cuts:
            out = model(text[:, begin:stop], state)
            logits.append(out.logits)
            state, begin = out.state, stop
        return LMOutput(torch.cat(logits, dim=1), state)

    def whole(state):
        return model(text, state)

    same_with_gradients(*(differentiated(form, model, start, weights) for form in (pieces, whole)))


@FEW
@given(data=st.data())
def test_the_kernels_are_the_definition_in_outputs_gradients_and_state(data):
    model, text, start = drawn(data, "cpu", rows=3, lengths=st.integers(1, 130))
    layout = data.draw(layouts(*text.shape))
    weights = weights_like(text, model, start)
    results = []
    for backend in ("cpu", "torch"):
        model.use(backend)
        run = differentiated(lambda s: model(text, s, layout=layout), model, start, weights)
        results.append(run)
    same_with_gradients(*results)


@both
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 500])
def test_lengths_around_a_chunk_and_long_ones_are_not_special(length, groups, backend):
    config = small(d_model=64, ngroups=groups, headdim=16, n_layer=1, chunk_size=64)
    model, text = tiny_model(config, length, backend), tokens(config, 2, length)
    start = random_state(config, 2)
    with torch.no_grad():
        state = copied(start)
        logits = [model.step_(t, state) for t in text.T]
        same(model(text, start), LMOutput(torch.stack(logits, dim=1), state))


def weights_like(text, model, state):
    """Weights of a scalar that depends on every number that a forward returns."""
    rng = generator(1)
    shapes = [(*text.shape, model.config.vocab_size), state.conv.shape, state.ssm.shape]
    return [torch.randn(shape, generator=rng) for shape in shapes]


def differentiated(form, model, start, weights):
    """What `form` makes of a state, and the gradients of the parameters and of that state."""
    leaves = {} if start is None else {"conv": start.conv.clone(), "ssm": start.ssm.clone()}
    state = None
    if start is not None:
        state = State(*(t.requires_grad_() for t in leaves.values()), start.position)
    out = form(state)
    returned = (out.logits, out.state.conv, out.state.ssm)
    scalar = sum((t * w).sum() for t, w in zip(returned, weights, strict=True))
    leaves |= dict(model.named_parameters())
    gradients = torch.autograd.grad(scalar, leaves.values())
    return out, dict(zip(leaves, gradients, strict=True))


def same_with_gradients(found, expected):
    same(found[0], expected[0])
    for name, gradient in expected[1].items():
        within(found[1][name], gradient, "model-gradient", name)


def cut_up(draw, l, least=1, most=6):
    """Lengths of documents that make a row of l tokens."""
    inner = st.just(0) if l == 1 else st.integers(1, l - 1)
    sizes = {"min_size": least - 1, "max_size": 0 if l == 1 else most - 1}
    ends = [*sorted(draw(st.sets(inner, **sizes))), l]
    return [stop - start for start, stop in zip([0, *ends], ends, strict=False)]


def numbered(rows):
    """Document numbers that only promise to change from one document to the next."""
    return torch.tensor([[i % 3 for i, n in enumerate(row) for _ in range(n)] for row in rows])


@st.composite
def layouts(draw, b, l):
    """Rows of documents, or None."""
    rows = [cut_up(draw, l) for _ in range(b)]
    return draw(st.sampled_from([Layout.of(rows), None]))


@both
@FEW
@given(data=st.data())
def test_packed_documents_are_separate_documents_through_the_whole_model(backend, data):
    model, text, start = drawn(data, backend, rows=data.draw(st.integers(1, 3)))
    rows = [cut_up(data.draw, text.shape[1]) for _ in text]
    weights = weights_like(text, model, start)
    start = data.draw(st.sampled_from([start, None]))
    layout = data.draw(st.sampled_from([Layout.of(rows), Layout.numbered(numbered(rows))]))

    def packed(state):
        return model(text, state, layout=layout)

    def separate(carried):
        logits, states = [], []
        for i, lengths in enumerate(rows):
            state, begin = (None if carried is None else row(carried, i)), 0
            for length in lengths:
                out = model(text[i : i + 1, begin : begin + length], state)
                logits.append(out.logits[0])
                state, begin = None, begin + length
            states.append(out.state)
        conv, ssm, position = zip(*map(parts, states), strict=True)
        after = State(torch.cat(conv, dim=1), torch.cat(ssm, dim=1), torch.cat(position))
        return LMOutput(torch.cat(logits).view(*text.shape, -1), after)

    forms = (packed, separate)
    same_with_gradients(*(differentiated(form, model, start, weights) for form in forms))


def parts(state):
    return state.conv, state.ssm, state.position


@both
@FEW
@given(data=st.data())
def test_a_document_that_is_no_number_leaves_its_neighbours_alone(backend, data):
    model, text, _ = drawn(data, backend, rows=1, lengths=st.integers(3, 100))
    first, _, *_ = lengths = cut_up(data.draw, text.shape[1], least=3)
    text[:, :first] = text[:, first + lengths[1] :] = 1
    text[:, first] = 2
    layout = Layout.of([lengths])
    expected = model(text, layout=layout)
    broken = torch.arange(text.shape[1])
    broken = (broken >= first) & (broken < first + lengths[1])
    with torch.no_grad():
        model.backbone.embeddings.weight[2] = torch.inf
    found = model(text, layout=layout)
    assert torch.isnan(found.logits[:, first]).all()
    if not model.config.tie_embeddings:  # else the head is broken, too
        assert torch.equal(found.logits[:, ~broken], expected.logits[:, ~broken])
    same_state(found.state, expected.state)


def as_numbered(numbers):
    return Layout.numbered(torch.tensor(numbers))


@both
def test_a_document_number_may_recur_in_a_row(backend):
    config = small()
    model, text = tiny_model(config, backend=backend), tokens(config, 2, 5)
    start = random_state(config, 2)
    found = model(text, start, layout=as_numbered([[0, 1, 0, 1, 0], [0, 0, 1, 2, 0]]))
    expected = model(text, start, layout=Layout.of([[1] * 5, [2, 1, 1, 1]]))
    for got, wanted in zip(parts(found.state), parts(expected.state), strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(found.logits, expected.logits)


@both
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("gradients", [False, True])
def test_forward_does_not_modify_the_state_it_is_given(length, gradients, backend):
    config = small()
    model, given_state = tiny_model(config, backend=backend), random_state(config, 3)
    before = copied(given_state)
    with torch.set_grad_enabled(gradients):
        after = model(tokens(config, 3, length), given_state).state
    assert all(map(torch.equal, parts(given_state), parts(before)))
    with torch.no_grad():
        model.step_(tokens(config, 3, 1)[:, 0], after)  # nor does it share memory with the result
    assert all(map(torch.equal, parts(given_state), parts(before)))


@both
@FEW
@given(data=st.data())
def test_forward_with_one_token_is_the_step(backend, data):
    model, text, start = drawn(data, backend, lengths=st.just(1))
    trained = model(text, start)
    with torch.no_grad():
        decoded = model(text, start)
        stepped = copied(start)
        logits = model.step_(text[:, 0], stepped)
    assert torch.equal(stepped.position, start.position + 1)
    same(trained, LMOutput(logits[:, None], stepped))
    same(decoded, trained)
    if backend == "torch":  # the kernels keep to the bits of a longer text instead
        assert torch.equal(decoded.logits[:, 0], logits)
        assert all(map(torch.equal, parts(decoded.state), parts(stepped)))


@FEW
@given(configs(), SEEDS, st.integers(1, 20), st.integers(1, 64))
def test_the_chunk_size_changes_nothing_but_rounding(config, seed, l, chunk_size):
    model, text = tiny_model(config, seed, "torch"), tokens(config, 2, l, seed)
    other = Mamba2LM(replace(config, chunk_size=chunk_size))
    other.load_state_dict(model.state_dict())
    same(other(text), model(text))


@both
@FEW
@given(data=st.data())
def test_a_row_knows_nothing_of_its_neighbours(backend, data):
    model, text, start = drawn(data, backend, rows=3)
    together = model(text, start)
    for i in range(3):
        alone = model(text[i : i + 1], row(start, i))
        within(together.logits[i : i + 1], alone.logits, "model")
        same_state(row(together.state, i), alone.state)


@both
def test_finite_limits_of_dt_hold_in_prefill_and_in_decode_alike(backend):
    config, free = small(ngroups=2, dt_limit_low=0.05, dt_limit_high=0.1), small(ngroups=2)
    model, text = tiny_model(config, backend=backend), tokens(config, 2, 11)
    unlimited = Mamba2LM(free)
    unlimited.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(text)
        state, logits = model.zero_state(2), []
        for t in range(11):
            logits.append(model.step_(text[:, t], state))
        assert (unlimited(text).logits - expected.logits).abs().max() > 0.01  # the limits bite
    same(LMOutput(torch.stack(logits, dim=1), state), expected)


def test_logits_to_keep_leaves_out_all_but_the_last_positions():
    config = Mamba2Config(d_model=16, n_layer=1, d_state=4, headdim=4, chunk_size=4, vocab_size=20)
    model, text = tiny_model(config), tokens(config, 2, 9)
    every = model(text)
    last = model(text, logits_to_keep=2)
    assert last.logits.shape == (2, 2, 20)
    same(last, LMOutput(every.logits[:, -2:], every.state))


@both
def test_a_bfloat16_model_keeps_its_recurrent_state_and_logits_in_float32(backend):
    config = small(d_model=32, ngroups=2, vocab_size=40)
    model, text = tiny_model(config, backend=backend), tokens(config, 2, 20)
    exact = model(text)
    model.to(torch.bfloat16)
    with torch.no_grad():
        out = model(text[:, :12])
        logits, state = [out.logits], out.state
        for t in range(12, 20):
            logits.append(model.step_(text[:, t], state)[:, None])
    assert (state.ssm.dtype, state.conv.dtype) == (torch.float32, torch.bfloat16)
    assert out.logits.dtype == torch.float32
    within(torch.cat(logits, dim=1), exact.logits, "model-bfloat16")


EXACT = ("dt_bias", "A_log", "D")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_sets_the_decays_stays_float32_to_the_bit_through_every_cast(dtype):
    model = tiny_model(small())
    model(tokens(small(), 1, 5)).logits.sum().backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
    model.to(dtype).to(torch.float32).to(dtype)
    for name, p in model.named_parameters():
        if name.rpartition(".")[2] in EXACT:
            assert torch.equal(p, before[name][0])
            assert torch.equal(p.grad, before[name][1])
        else:
            assert p.dtype == p.grad.dtype == dtype
    assert {p.dtype for p in model.double().parameters()} == {torch.float64}


@pytest.mark.parametrize("assign", [False, True])
def test_what_sets_the_decays_is_float32_also_when_it_is_loaded_from_half_precision(assign):
    stored = {k: v.bfloat16() for k, v in tiny_model(small()).state_dict().items()}
    given_dtypes = {k: v.dtype for k, v in stored.items()}
    model = Mamba2LM(small())
    model.load_state_dict(stored, assign=assign)
    for name, value in model.state_dict().items():
        exact = name.rpartition(".")[2] in EXACT
        assert value.dtype == (torch.bfloat16 if assign and not exact else torch.float32)
        assert torch.equal(value, stored[name].to(value.dtype))
    assert {k: v.dtype for k, v in stored.items()} == given_dtypes  # the caller's are as they were


@given(configs())
def test_num_params_is_what_the_model_has(config):
    with torch.device("meta"):
        model = Mamba2LM(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_params


@given(configs(), st.integers(1, 5), st.sampled_from([torch.float32, torch.bfloat16]))
def test_state_bytes_is_what_a_state_takes(config, batch, dtype):
    state = State.zeros(config, batch, dtype=dtype)
    assert config.state_bytes(conv_bytes=dtype.itemsize) == state.nbytes / batch
    assert state.batch == batch


def test_the_7b_model_has_its_published_number_of_parameters():
    assert SEVEN_B.num_params == 7_285_403_648
    assert SEVEN_B.state_bytes() == 64 * (10_240 * 3 + 128 * 64 * 128) * 4


def test_flops_hold_at_least_two_for_every_weight_of_a_matrix():
    layer = SEVEN_B.d_model * (SEVEN_B.d_in_proj + SEVEN_B.d_inner)
    assert SEVEN_B.flops_per_token() > 2 * (64 * layer + SEVEN_B.d_model * SEVEN_B.vocab_size)
    assert SEVEN_B.flops_per_token() < 2.2 * SEVEN_B.num_params


def test_states_are_gathered_and_scattered_by_slot():
    config = Mamba2Config(d_model=8, n_layer=2, d_state=3, headdim=4, vocab_size=10)
    pool, rows = random_state(config, 5, seed=1), random_state(config, 2, seed=2)
    before = copied(pool)
    slots = torch.tensor([3, 0])
    pool.write_(slots, rows)
    for found, expected in zip(parts(pool.select(slots)), parts(rows), strict=True):
        assert torch.equal(found, expected)
    untouched = torch.tensor([1, 2, 4])
    for found, expected in zip(
        parts(pool.select(untouched)), parts(before.select(untouched)), strict=True
    ):
        assert torch.equal(found, expected)
    forked = rows.select(torch.tensor([1, 1, 1]))
    assert torch.equal(forked.ssm, rows.ssm[:, [1, 1, 1]])


def test_a_fresh_model_is_drawn_from_the_seed_and_starts_with_the_stated_step_sizes():
    config = Mamba2Config(d_model=64, n_layer=2, d_state=8, headdim=8, vocab_size=50)
    torch.manual_seed(7)
    first = Mamba2LM(config).state_dict()
    torch.manual_seed(7)
    second = Mamba2LM(config).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    for i in range(2):
        mixer = f"backbone.layers.{i}.mixer"
        dt = torch.nn.functional.softplus(first[f"{mixer}.dt_bias"])
        assert config.dt_min * 0.99 < dt.min() < dt.max() < config.dt_max * 1.01
        A = first[f"{mixer}.A_log"].exp()
        assert A.min() >= 1
        assert A.max() <= 16


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 0}, "d_model: must be at least 1, found 0"),
        ({"n_layer": -1}, "n_layer: must be at least 1, found -1"),
        ({"d_conv": 1}, "d_conv: must be at least 2, found 1"),
        ({"headdim": 48}, "headdim: 48 does not divide expand * d_model = 512"),
        ({"ngroups": 3}, "ngroups: 3 does not divide the 16 heads"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_by_name(sizes, message):
    with pytest.raises(ConfigError) as e:
        Mamba2Config(**sizes)
    assert str(e.value) == message
