"""The language model: one forward for training, prefill and decoding, whatever the cut."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SEEDS, configs, copied, generator, random_state, row, tiny_model, tokens
from tolerances import within

from statewise.errors import ConfigError
from statewise.model import LMOutput, Mamba2Config, Mamba2LM, State

FEW = settings(max_examples=settings().max_examples // 2)  # a model costs more than a sum
LENGTHS = st.integers(1, 40)

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


@FEW
@given(configs(), SEEDS, LENGTHS, st.data())
def test_prefill_and_steps_are_one_forward(config, seed, l, data):
    model, text = tiny_model(config, seed), tokens(config, 2, l, seed)
    start = random_state(config, 2, seed)
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


@FEW
@given(configs(), SEEDS, LENGTHS, st.data())
def test_a_text_may_be_cut_anywhere_and_resumed(config, seed, l, data):
    model, text = tiny_model(config, seed), tokens(config, 2, l, seed)
    cuts = sorted(data.draw(st.sets(st.integers(1, l), max_size=3)) | {l})
    expected = model(text)
    state, logits, start = None, [], 0
    for stop in cuts:
        out = model(text[:, start:stop], state)
        logits.append(out.logits)
        state, start = out.state, stop
    same(LMOutput(torch.cat(logits, dim=1), state), expected)


@st.composite
def packings(draw):
    """Rows of equal length, each given by the lengths of its documents."""
    l = draw(st.integers(1, 40))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        ends = sorted(draw(st.sets(st.integers(1, l), max_size=5)) | {l})
        rows.append([stop - start for start, stop in zip([0, *ends], ends, strict=False)])
    return rows


@FEW
@given(configs(), SEEDS, packings(), st.booleans())
def test_packed_documents_are_separate_documents_through_the_whole_model(
    config, seed, rows, has_state
):
    model = tiny_model(config, seed)
    text = tokens(config, len(rows), sum(rows[0]), seed)
    weight = torch.randn(*text.shape, config.vocab_size, generator=generator(seed))
    seq_idx = torch.tensor([[i % 3 for i, n in enumerate(row) for _ in range(n)] for row in rows])
    start = random_state(config, len(rows), seed) if has_state else None
    packed = model(text, start, seq_idx=seq_idx)
    packed_gradients = torch.autograd.grad((packed.logits * weight).sum(), model.parameters())

    logits, states, scalar = [], [], 0.0
    for i, lengths in enumerate(rows):
        state, begin = (None if start is None else row(start, i)), 0
        for length in lengths:
            out = model(text[i : i + 1, begin : begin + length], state)
            scalar = scalar + (out.logits[0] * weight[i, begin : begin + length]).sum()
            logits.append(out.logits[0])
            state, begin = None, begin + length
        states.append(out.state)
    whole = torch.cat(logits).view_as(packed.logits)
    conv, ssm, position = zip(*map(parts, states), strict=True)
    after = State(torch.cat(conv, dim=1), torch.cat(ssm, dim=1), torch.cat(position))
    same(packed, LMOutput(whole, after))
    gradients = torch.autograd.grad(scalar, model.parameters())
    names = [name for name, _ in model.named_parameters()]
    for name, found, expected in zip(names, packed_gradients, gradients, strict=True):
        within(found, expected, "model-gradient", name)


def parts(state):
    return state.conv, state.ssm, state.position


def test_a_document_number_may_recur_in_a_row():
    config = Mamba2Config(d_model=16, n_layer=2, d_state=4, headdim=4, chunk_size=4, vocab_size=20)
    model, text = tiny_model(config), tokens(config, 2, 5)
    start = random_state(config, 2)
    found = model(text, start, seq_idx=torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 2, 0]]))
    expected = model(text, start, seq_idx=torch.tensor([[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]))
    for got, wanted in zip(parts(found.state), parts(expected.state), strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("gradients", [False, True])
def test_forward_does_not_modify_the_state_it_is_given(length, gradients):
    config = Mamba2Config(d_model=16, n_layer=2, d_state=4, headdim=4, chunk_size=4, vocab_size=20)
    model, given_state = tiny_model(config), random_state(config, 3)
    before = copied(given_state)
    with torch.set_grad_enabled(gradients):
        after = model(tokens(config, 3, length), given_state).state
    assert torch.equal(given_state.conv, before.conv)
    assert torch.equal(given_state.ssm, before.ssm)
    with torch.no_grad():
        model.step_(tokens(config, 3, 1)[:, 0], after)  # nor does it share memory with the result
    assert torch.equal(given_state.conv, before.conv)
    assert torch.equal(given_state.ssm, before.ssm)


@FEW
@given(configs(), SEEDS)
def test_forward_with_one_token_is_the_step(config, seed):
    model, text = tiny_model(config, seed), tokens(config, 2, 1, seed)
    start = random_state(config, 2, seed)
    trained = model(text, start)
    with torch.no_grad():
        decoded = model(text, start)
        stepped = copied(start)
        logits = model.step_(text[:, 0], stepped)
    assert torch.equal(decoded.logits[:, 0], logits)
    assert torch.equal(decoded.state.ssm, stepped.ssm)
    assert torch.equal(decoded.state.conv, stepped.conv)
    same(trained, decoded)


@FEW
@given(configs(), SEEDS, st.integers(1, 20), st.integers(1, 64))
def test_the_chunk_size_changes_nothing_but_rounding(config, seed, l, chunk_size):
    model, text = tiny_model(config, seed), tokens(config, 2, l, seed)
    other = Mamba2LM(replace(config, chunk_size=chunk_size))
    other.load_state_dict(model.state_dict())
    same(other(text), model(text))


@FEW
@given(configs(), SEEDS, st.integers(1, 20))
def test_a_row_knows_nothing_of_its_neighbours(config, seed, l):
    model, text = tiny_model(config, seed), tokens(config, 3, l, seed)
    start = random_state(config, 3, seed)
    together = model(text, start)
    for i in range(3):
        alone = model(text[i : i + 1], row(start, i))
        within(together.logits[i : i + 1], alone.logits, "model")
        same_state(row(together.state, i), alone.state)


def test_finite_limits_of_dt_hold_in_prefill_and_in_decode_alike():
    config = Mamba2Config(
        d_model=16, n_layer=2, d_state=4, headdim=4, ngroups=2, chunk_size=4, vocab_size=20,
        dt_limit_low=0.05, dt_limit_high=0.1,
    )  # fmt: skip
    free = Mamba2Config(d_model=16, n_layer=2, d_state=4, headdim=4, ngroups=2, vocab_size=20)
    model, text = tiny_model(config), tokens(config, 2, 11)
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


def test_a_bfloat16_model_keeps_its_recurrent_state_and_logits_in_float32():
    config = Mamba2Config(
        d_model=32, n_layer=2, d_state=8, headdim=8, ngroups=2, chunk_size=8, vocab_size=40
    )
    model, text = tiny_model(config), tokens(config, 2, 20)
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


def small():
    return Mamba2Config(d_model=16, n_layer=2, d_state=4, headdim=4, chunk_size=4, vocab_size=20)


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
