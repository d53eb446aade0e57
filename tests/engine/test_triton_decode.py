"""Triton's decoding step over slots beside the plain one, and what must not change a bit of it."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model
from tolerances import within

pytest.importorskip("triton", reason="no triton: pip install 'statewise[gpu]'")

from statewise.engine.slots.triton import RING, Decoder
from statewise.errors import ConfigError
from statewise.model import Mamba2Config
from statewise.model.triton import interpreted

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEEDS = st.integers(0, 2**31 - 1)
# Two heads, so that the interpreter has few programs to go through.
SMALL = Mamba2Config(d_model=8, n_layer=2, d_state=8, headdim=8, ngroups=2, vocab_size=11)
few = settings(max_examples=2, deadline=None, phases=[Phase.generate])
STEPS = 4 if interpreted() else RING + 3
# Lengths of prompts after which these steps write the state, and (in few steps) do not.
PROMPTS = {"a write": st.integers(RING - 4, RING - 1), "no write": st.integers(1, RING - 5)}


@st.composite
def shapes(draw):
    g = draw(st.sampled_from([1, 2, 8]))
    return Mamba2Config(
        d_model=4 * g,
        n_layer=2,
        d_state=draw(st.sampled_from([6, 16])),
        headdim=draw(st.sampled_from([4, 8])),
        ngroups=g,
        d_conv=draw(st.integers(2, 5)),
        vocab_size=draw(st.integers(5, 40)),
        tie_embeddings=draw(st.booleans()),
        conv_bias=draw(st.booleans()),
        bias=draw(st.booleans()),
        dt_limit_low=draw(st.sampled_from([0.0, 0.05])),
        dt_limit_high=draw(st.sampled_from([0.0, 0.7])),
    )


def tokens(config, *shape, seed=0):
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def as_kept(t, dtype):
    """A float32 tensor as a kernel keeps it: Triton's interpreter cuts bfloat16 off."""
    if interpreted() and dtype == torch.bfloat16:
        return (t.view(torch.int32) & ~0xFFFF).view(torch.float32)
    return t.to(dtype)


def started(model, seed, rows, prompt):
    """The state of some rows after a prompt."""
    read = tokens(model.config, rows, prompt, seed=seed).to(DEVICE)
    return model(read).state


@pytest.mark.parametrize("lengths", PROMPTS.values(), ids=PROMPTS)
@few
@given(st.data(), shapes(), SEEDS, st.integers(1, 3))
def test_the_step_over_slots_is_the_plain_step_from_any_state_at_any_phase(
    lengths, data, config, seed, rows
):
    prompt = data.draw(lengths)
    rows = 1 if config.ngroups == 8 else rows
    model = tiny_model(config, seed, "torch").to(DEVICE)
    slots = np.random.default_rng(seed).permutation(4)[:rows]
    with torch.inference_mode():
        state = started(model, seed, rows, prompt)
        decoder = Decoder(model, 4)
        decoder.write_(slots, state)
        for read in tokens(config, STEPS, rows, seed=seed + 1):
            expected = model.step_(read.to(DEVICE), state)
            within(decoder.step_(read.numpy(), slots), expected, "model")
        found = decoder.read(slots)
    within(found.ssm, state.ssm, "model")
    within(found.conv, state.conv, "model")
    assert torch.equal(found.position, state.position)


@pytest.mark.parametrize("kept", ["bfloat16", "float16"])
def test_a_state_of_16_bits_is_rounded_when_it_is_written_and_never_else(kept):
    model = tiny_model(SMALL, 0, "torch").to(DEVICE)
    dtype = getattr(torch, kept)
    with torch.inference_mode():
        state = started(model, 0, 2, RING - 3)
        decoder = Decoder(model, 2, state=kept)
        decoder.write_(np.arange(2), state)
        state.ssm.copy_(state.ssm.to(dtype))
        for read in tokens(SMALL, 6, 2, seed=1):  # a write in the middle
            expected = model.step_(read.to(DEVICE), state)
            if int(state.position[0]) % RING == 0:
                state.ssm.copy_(as_kept(state.ssm, dtype))
            within(decoder.step_(read.numpy(), np.arange(2)), expected, "model")
    assert decoder.nbytes < Decoder(model, 2).nbytes


@pytest.mark.parametrize("bias", [-15.0, -20.0])  # above and below what 1 + e can hold
def test_small_steps_are_as_exact_as_large_ones(bias):
    """dt of 1e-7 and below: what softplus gives there must not be lost when 1 is added."""
    model = tiny_model(SMALL, 2, "torch").to(DEVICE)
    with torch.inference_mode():
        for i in range(SMALL.n_layer):
            model.blocks[i].mixer.dt_bias.fill_(bias)
            model.blocks[i].mixer.in_proj.weight[-SMALL.nheads :] *= 0.1
        state, decoder = model.zero_state(1), Decoder(model, 1)
        for read in tokens(SMALL, 3, 1):
            model.step_(read.to(DEVICE), state)
            decoder.step_(read.numpy(), np.array([0]))
        found = decoder.read(np.array([0])).ssm
    scale = 1 / state.ssm.abs().max()
    within(found * scale, state.ssm * scale, "model")


def test_a_state_that_is_no_number_stays_none():
    model = tiny_model(SMALL, 0, "torch").to(DEVICE)
    with torch.inference_mode():
        state = started(model, 0, 1, RING - 1)
        state.ssm[0, 0, 0, 0, 0] = torch.nan
        decoder = Decoder(model, 1, state="float16")
        decoder.write_(np.array([0]), state)
        decoder.step_(np.array([1]), np.array([0]))  # writes the state
        assert decoder.read(np.array([0])).ssm[0, 0, 0, 0, 0].isnan()


def test_a_state_beyond_the_range_of_float16_is_kept_at_its_end():
    model = tiny_model(SMALL, 0, "torch").to(DEVICE)
    with torch.inference_mode():
        state = started(model, 0, 1, 5)
        state.ssm.fill_(1e6)
        decoder = Decoder(model, 1, state="float16")
        decoder.write_(np.array([0]), state)
        found = decoder.read(np.array([0])).ssm
    assert found.eq(torch.finfo(torch.float16).max).all()


@few
@given(SEEDS, st.integers(RING - 4, RING - 1))
def test_company_and_other_sequences_do_not_change_a_bit(seed, prompt):
    model = tiny_model(SMALL, seed, "torch").to(DEVICE)
    rng = np.random.default_rng(seed)
    read = tokens(SMALL, 4, 3, seed=seed).numpy()  # a write among them
    with torch.inference_mode():
        start = started(model, seed, 1, prompt)
        alone, together = Decoder(model, 4), Decoder(model, 4)
        slots = rng.permutation(4)[:3]
        alone.write_(slots[:1], start)
        for t in read[: int(rng.integers(0, 4))]:  # the others have been at it for a while
            together.step_(t[1:], slots[1:])
        together.write_(slots[:1], start)
        for t in read:
            order = rng.permutation(3)
            found = together.step_(t[order], slots[order])[int(np.flatnonzero(order == 0)[0])]
            assert torch.equal(found.clone(), alone.step_(t[:1], slots[:1])[0])


def test_bfloat16_weights_decode_as_the_float32_model_within_their_rounding():
    exact = tiny_model(SMALL, 1, "torch").to(DEVICE).bfloat16().float()
    model = tiny_model(SMALL, 1, "torch").to(DEVICE).bfloat16()
    with torch.inference_mode():
        state, decoder = started(exact, 0, 2, RING - 2), Decoder(model, 2)
        decoder.write_(np.arange(2), state)
        for read in tokens(SMALL, 4, 2):
            expected = exact.step_(read.to(DEVICE), state)
            within(decoder.step_(read.numpy(), np.arange(2)), expected, "model-bfloat16")


def test_weights_of_other_dtypes_are_refused():
    with pytest.raises(ConfigError, match=r"no kernels for weights of torch\.float16"):
        Decoder(tiny_model(SMALL).half(), 1)
