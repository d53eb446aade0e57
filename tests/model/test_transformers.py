"""Hugging Face `transformers` is the oracle: equal logits, and folders that go both ways.

The only module that imports it, since that takes seconds.
"""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BACKENDS, SEEDS, configs, tiny_model, tokens
from tolerances import BOUNDS, within

from statewise.errors import DataError
from statewise.model import Mamba2Config, State
from statewise.model.checkpoint import load_model, read_config
from statewise.model.exchange import from_transformers, to_transformers
from statewise.text import BPETokenizer, chat_prompt

transformers.utils.logging.disable_progress_bar()


def oracle(config: Mamba2Config):
    """Their model of our sizes, said in their words here and not taken from the code under test."""
    high = config.dt_limit_high
    return transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layer,
            state_size=config.d_state,
            num_heads=config.expand * config.d_model // config.headdim,
            head_dim=config.headdim,
            n_groups=config.ngroups,
            expand=config.expand,
            conv_kernel=config.d_conv,
            chunk_size=config.chunk_size,
            vocab_size=config.vocab_size,
            tie_word_embeddings=config.tie_embeddings,
            layer_norm_epsilon=config.norm_eps,
            use_conv_bias=config.conv_bias,
            use_bias=config.bias,
            time_step_limit=(config.dt_limit_low, high if high else float("inf")),
            residual_in_fp32=True,
        )
    ).eval()


def logits(model, text):
    with torch.no_grad():
        return model(text).logits


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(["seven plus four is 11", "x = 3"], vocab_size=280)


CONFIG = Mamba2Config(
    d_model=32, n_layer=2, d_state=8, headdim=8, ngroups=2, chunk_size=8, vocab_size=280
)


SOME = settings(max_examples=max(1, settings().max_examples // 6))  # of each of several kinds
both = pytest.mark.parametrize("backend", BACKENDS)
LENGTHS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65]))


def drawn(data, backend, **kinds):
    """Our model and theirs with the same weights, a text of two rows."""
    config, seed = data.draw(configs(backend=backend, **kinds)), data.draw(SEEDS)
    model, theirs = tiny_model(config, seed, backend), oracle(config)
    theirs.load_state_dict(model.state_dict())  # strict: the names are the same
    return model, theirs, tokens(config, 2, data.draw(LENGTHS), seed)


@both
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 8])
@SOME
@given(data=st.data())
def test_logits_are_those_of_transformers(groups, tied, backend, data):
    model, theirs, text = drawn(data, backend, ngroups=(groups,), tied=(tied,))
    expected = logits(theirs, text)
    assert expected.std() > 0.1  # nothing has been multiplied away
    within(logits(model, text), expected, "transformers")


@both
@SOME
@given(data=st.data())
def test_a_prefill_in_pieces_is_that_of_transformers(backend, data):
    model, theirs, text = drawn(data, backend)
    cut = data.draw(st.integers(0, text.shape[1] - 1))
    with torch.no_grad():
        expected = theirs(text[:, :cut], use_cache=True) if cut else None
        cache = expected.cache_params if cut else None
        second = theirs(text[:, cut:], cache_params=cache, use_cache=True).logits
        state = model(text[:, :cut]).state if cut else None
        within(model(text[:, cut:], state).logits, second, "transformers")


@both
@SOME
@given(data=st.data())
def test_their_left_padding_is_our_lack_of_it(backend, data):
    # A bias of the input projection passes their mask and reaches the convolution of the first
    # tokens: with one, theirs is not exact.
    model, theirs, text = drawn(data, backend, bias=(False,))
    padding = data.draw(st.integers(1, 20))
    padded = torch.cat([tokens(model.config, 2, padding), text], dim=1)
    mask = torch.ones_like(padded)
    mask[1, :padding] = 0
    with torch.no_grad():
        expected = theirs(padded, attention_mask=mask).logits
    within(logits(model, padded[:1]), expected[:1], "transformers")
    within(logits(model, text[1:]), expected[1:, padding:], "transformers")


@both
@SOME
@given(data=st.data())
def test_their_cache_is_decoded_here_and_our_state_there(backend, data):
    model, theirs, text = drawn(data, backend)
    with torch.no_grad():
        read = theirs(text, use_cache=True)
        state = from_transformers(read.cache_params, model.config, position=text.shape[1])
        own = model(text)
        assert torch.equal(state.position, own.state.position)
        within(state.conv, own.state.conv, "transformers", "convolution window")
        within(state.ssm, own.state.ssm, "transformers", "recurrent state")
        cache = to_transformers(own.state, theirs.config)
        here, there, token = read.logits[:, -1], own.logits[:, -1], None
        for _ in range(4):  # greedily, by the logits of the side that decodes here
            token = here.argmax(-1)
            here = model.step_(token, state)
            expected = theirs(token[:, None], cache_params=read.cache_params, use_cache=True)
            there = theirs(token[:, None], cache_params=cache, use_cache=True).logits[:, 0]
            within(here, expected.logits[:, 0], "transformers", "their cache decoded here")
            within(there, expected.logits[:, 0], "transformers", "our state decoded there")
        more = tokens(model.config, 2, 7)
        expected = theirs(more, cache_params=read.cache_params, use_cache=True).logits
        within(model(more, state).logits, expected, "transformers", "read on here")
        found = theirs(more, cache_params=cache, use_cache=True).logits
        within(found, expected, "transformers", "read on there")


def test_a_cache_of_another_model_is_refused_by_what_differs():
    theirs, wide = oracle(CONFIG), replace(CONFIG, d_state=16)
    with torch.no_grad():
        cache = theirs(tokens(CONFIG, 1, 3), use_cache=True).cache_params
    with pytest.raises(DataError, match=r"cache: it has 2 layers, the model 3"):
        from_transformers(cache, replace(CONFIG, n_layer=3))
    with pytest.raises(DataError, match=r"layer 0: convolution: .* shape \(96, 4\)"):
        from_transformers(cache, wide)
    with pytest.raises(DataError, match="layer 0 has read nothing"):
        from_transformers(transformers.DynamicCache(config=theirs.config), CONFIG)
    with pytest.raises(DataError, match=r"state: it has 3 layers, the model 2"):
        to_transformers(State.zeros(replace(CONFIG, n_layer=3), 1), theirs.config)
    with pytest.raises(DataError, match=r"state: convolution: .* needs \(96, 3\)"):
        to_transformers(State.zeros(wide, 1), theirs.config)


def test_the_oracle_bound_is_the_promised_one():
    assert BOUNDS["transformers"] == 1e-4


def test_finite_limits_of_dt_are_those_of_transformers_in_prefill():
    config = replace(CONFIG, dt_limit_low=0.05, dt_limit_high=0.1)
    model, theirs = tiny_model(config), oracle(config)
    theirs.load_state_dict(model.state_dict())
    text = tokens(config, 2, 21)
    within(logits(model, text), logits(theirs, text), "transformers")


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_folder_is_loaded_by_transformers(tied, tokenizer, tmp_path):
    config = replace(CONFIG, tie_embeddings=tied, bias=True)
    model, text = tiny_model(config), tokens(config, 2, 21)
    model.save(tmp_path / "saved", tokenizer)
    theirs, report = transformers.Mamba2ForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not any(report.values()), report
    within(logits(theirs.eval(), text), logits(model, text), "transformers")
    assert theirs.config.eos_token_id == theirs.config.pad_token_id == tokenizer.eos_id
    assert theirs.config.time_step_limit[1] == float("inf")
    prompt = chat_prompt("What is 12 + 30?")
    published = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert published(prompt, add_special_tokens=False).input_ids == tokenizer.encode(prompt)
    assert published.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize("shard_size", ["1GB", "10KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_saved_by_transformers_is_loaded(tied, shard_size, tmp_path):
    config = replace(CONFIG, tie_embeddings=tied)
    theirs = oracle(config)
    theirs.load_state_dict(tiny_model(config).state_dict())
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "10KB")
    model, text = load_model(tmp_path), tokens(config, 2, 21)
    assert model.config == config
    within(logits(model, text), logits(theirs, text), "transformers")


def test_finite_limits_of_dt_survive_both_ways(tokenizer, tmp_path):
    config = replace(CONFIG, dt_limit_low=0.01, dt_limit_high=0.5)
    oracle(config).save_pretrained(tmp_path / "theirs")
    assert read_config(tmp_path / "theirs") == config
    tiny_model(config).save(tmp_path / "ours", tokenizer)
    read = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert list(read.time_step_limit) == [0.01, 0.5]


def test_norm_before_gate_is_not_believed(tmp_path):
    theirs = oracle(CONFIG)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "norm_before_gate": True}))
    text = tokens(CONFIG, 1, 9)
    within(logits(load_model(tmp_path), text), logits(theirs, text), "transformers")
