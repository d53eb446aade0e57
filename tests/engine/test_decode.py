"""The compiled step beside the plain one, and what must not change a bit of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import within

from statewise.engine.slots.cpu import RING, Decoder, quantize
from statewise.errors import ConfigError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.cpu import threads

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def shapes(draw):
    groups = draw(st.sampled_from([1, 2, 8]))
    return Mamba2Config(
        d_model=16 * groups,
        n_layer=2,
        d_state=draw(st.sampled_from([16, 48])),
        headdim=16,
        ngroups=groups,
        d_conv=draw(st.sampled_from([2, 4, 5])),
        vocab_size=draw(st.sampled_from([5, 37, 64])),
        tie_embeddings=draw(st.booleans()),
        conv_bias=draw(st.booleans()),
        bias=draw(st.booleans()),
        dt_limit_low=draw(st.sampled_from([0.0, 0.05])),
        dt_limit_high=draw(st.sampled_from([0.0, 0.7])),
    )


def random_model(config, seed, dtype=torch.float32):
    torch.manual_seed(seed)
    model = Mamba2LM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(dtype).eval()


def tokens(config, *shape, seed=0):
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


SMALL = Mamba2Config(d_model=64, n_layer=2, d_state=16, headdim=16, vocab_size=24)


@settings(max_examples=25)
@given(shapes(), SEEDS, st.integers(1, 6), st.integers(1, 40))
def test_the_compiled_step_is_the_plain_step_from_any_state_at_any_phase(
    config, seed, rows, prompt
):
    model = random_model(config, seed)
    slots = np.random.default_rng(seed).permutation(8)[:rows]
    with torch.inference_mode():
        state = model(tokens(config, rows, prompt, seed=seed)).state
        decoder = Decoder(model, 8)
        decoder.write_(slots, state)
        for read in tokens(config, 2 * RING + 3, rows, seed=seed + 1):
            expected = model.step_(read, state)
            within(decoder.step_(read.numpy(), slots), expected, "model")
        found = decoder.read(slots)
    within(found.ssm, state.ssm, "model")
    within(found.conv, state.conv, "model")
    assert torch.equal(found.position, state.position)


@settings(max_examples=10)
@given(shapes(), SEEDS)
def test_bfloat16_weights_decode_as_the_float32_model_within_their_rounding(config, seed):
    model = random_model(config, seed, torch.bfloat16)
    exact = random_model(config, seed, torch.bfloat16).float()
    with torch.inference_mode():
        state = exact.zero_state(2)
        decoder = Decoder(model, 2)
        for read in tokens(config, RING + 2, 2, seed=seed):
            expected = exact.step_(read, state)
            within(decoder.step_(read.numpy(), np.arange(2)), expected, "model-bfloat16")


@settings(max_examples=15)
@given(SEEDS, st.integers(2, 7), st.integers(0, 20))
def test_company_slots_threads_and_other_sequences_do_not_change_a_bit(seed, rows, prompt):
    model = random_model(SMALL, seed)
    read = tokens(SMALL, 2 * RING + 1, rows, seed=seed).numpy()
    rng = np.random.default_rng(seed)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        start = model.zero_state(1)
        if prompt:
            start = model(tokens(SMALL, 1, prompt, seed=seed)).state
        alone = Decoder(model, 1)
        alone.write_(np.array([0]), start)
        expected = [alone.step_(t[:1], np.array([0]))[0].clone() for t in read]
        torch.set_num_threads(int(rng.integers(1, 4)))
        try:
            together = Decoder(model, 9)
            slots = rng.permutation(9)[:rows]
            for t in read[: int(rng.integers(0, 12))]:  # the others have been at it for a while
                together.step_(t[1:], slots[1:])
            together.write_(slots[:1], start)
            for t, logits in zip(read, expected, strict=True):
                order = rng.permutation(rows)
                found = together.step_(t[order], slots[order])
                assert torch.equal(found[int(np.flatnonzero(order == 0)[0])], logits)
        finally:
            torch.set_num_threads(threads)


@settings(max_examples=10)
@given(SEEDS, st.integers(0, 2 * RING), st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_read_and_written_again_goes_on_as_before(seed, steps, dtype):
    model = random_model(SMALL, seed, dtype)
    decoder, slot, other = Decoder(model, 2), np.array([1]), np.array([0])
    with torch.inference_mode():
        for t in tokens(SMALL, steps, 1, seed=seed).numpy():
            decoder.step_(t, slot)
        before = decoder.read(slot)
        decoder.write_(other, before)
        again = decoder.read(other)
        assert torch.equal(again.ssm, before.ssm)
        assert torch.equal(again.conv, before.conv)
        for t in tokens(SMALL, 3, 1, seed=seed).numpy():
            expected = decoder.step_(t, slot).clone()
            within(decoder.step_(t, other), expected, "model")


@settings(max_examples=10)
@given(SEEDS)
def test_int8_decodes_what_the_dequantised_weights_say(seed):
    model, same = random_model(SMALL, seed), random_model(SMALL, seed)
    with torch.no_grad():
        for module in same.modules():
            if isinstance(module, torch.nn.Linear):
                whole, scales = quantize(module.weight)
                exact = whole.unflatten(1, (-1, 64)) * scales[..., None]
                if module is not same.lm_head:  # tied: the embedding stays as it is
                    module.weight.copy_(exact.flatten(1))
                else:
                    head = exact.flatten(1)
    decoder, state = Decoder(model, 1, weights="int8"), same.zero_state(1)
    with torch.inference_mode():
        for t in tokens(SMALL, RING + 1, 1, seed=seed):
            residual = same.backbone.embeddings(t).float()
            for i in range(SMALL.n_layer):
                block = same.blocks[i]
                residual = residual + block.mixer.step_(
                    block.norm(residual), state.conv[i], state.ssm[i]
                )
            expected = same.backbone.norm_f(residual) @ head.T
            within(decoder.step_(t.numpy(), np.array([0])), expected, "model")


@given(SEEDS, st.sampled_from([1e-6, 1.0, 1e4]))
def test_quantising_is_to_the_nearest_of_255_steps_of_each_block(seed, scale):
    weight = torch.randn(3, 128, generator=torch.Generator().manual_seed(seed)) * scale
    weight[1, 64:] = 0
    whole, scales = quantize(weight)
    back = whole.unflatten(1, (2, 64)) * scales[..., None]
    steps = weight.unflatten(1, (2, 64)).abs().amax(-1) / 127
    assert ((back - weight.unflatten(1, (2, 64))).abs() <= steps[..., None] * 0.5001).all()


def test_memory_is_the_same_at_any_length():
    decoder = Decoder(random_model(SMALL, 0), 3)
    before = decoder.nbytes
    for t in tokens(SMALL, 30, 3).numpy():
        decoder.step_(t, np.arange(3))
    assert decoder.nbytes == before
    assert before == sum(
        t.nbytes
        for name, t in vars(decoder._rings).items()
        if isinstance(t, torch.Tensor) and name not in ("position", "filled")
    )


def test_models_without_kernels_and_sizes_without_int8_are_refused():
    odd = Mamba2LM(Mamba2Config(d_model=32, headdim=8, d_state=16, n_layer=1, vocab_size=8))
    with pytest.raises(ConfigError, match="no compiled kernels"):
        Decoder(odd, 1)
    narrow = Mamba2LM(Mamba2Config(d_model=32, headdim=16, d_state=16, n_layer=1, vocab_size=8))
    with pytest.raises(ConfigError, match="multiples of 64, found 32 and 64"):
        Decoder(narrow, 1, weights="int8")


def test_what_was_compiled_lies_under_the_content_of_the_kernels_own_file_too(
    tmp_path, monkeypatch
):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(threads, "_cache_dir", lambda sources: seen.append(sources) or str(tmp_path))
        patch.setattr(threads, "cfunc", lambda *args, **kwargs: lambda function: function)
        threads.kernel(lambda a: None)
    assert Path(__file__) in seen[0]
    assert Path(threads.__file__).with_name("vector.py") in seen[0]
    own = tmp_path / "own.py"
    own.write_text("1")
    before = threads._cache_dir((own,))
    own.write_text("2")
    threads._cache_dir.cache_clear()
    assert threads._cache_dir((own,)) != before
