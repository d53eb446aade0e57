import gc
import random

import numpy as np
import pytest
import torch
from engine_doubles import Bytes, Letters, Recital
from hypothesis import given, settings
from hypothesis import strategies as st

import statewise.engine.prefill as prefill_module
from statewise.engine import Engine
from statewise.engine.rows import Rows
from statewise.engine.sampling import RowParams, pick, table_row, uniforms
from statewise.errors import ConfigError, DataError, RunError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.records import FinishReason
from statewise.sampler import Prompt, SamplingParams

PROMPTS = ["2+2=", "a", "what is 7 + 5?", "Hello", "x = 3 + y", "count to ten", "zz", "9"]


def by_name(completions):
    found = {}
    for c in completions:
        assert (c.prompt_id, c.sample) not in found
        found[c.prompt_id, c.sample] = c
    return found


def named(texts):
    return [Prompt(t, t) for t in texts]


def reread(model, tokenizer, text, drawn, params, sample):
    """By the definition: read the whole text anew for every token, alone, without any state.

    Returns what is drawn after each of the tokens `drawn`; where rounding could tip the draw, all
    tokens that it could tip to.
    """
    ids = tokenizer.encode(text)
    us = uniforms(params.seed, text, sample, params.max_tokens)
    rows = RowParams.of(np.array([table_row(params)] * 3))
    allowed = []
    for t in range(len(drawn)):
        tokens = torch.tensor([ids + drawn[:t]])
        with torch.inference_mode():
            logits = model(tokens).logits[:, -1, : tokenizer.vocab_size]
        seen = torch.zeros_like(logits, dtype=torch.bool).index_fill_(1, tokens[0], True)
        near = torch.tensor([us[t] - 1e-5, us[t], us[t] + 1e-5]).clamp(0, 1 - 2**-53)
        allowed.append(set(pick(logits.expand(3, -1), near, rows, seen).tolist()))
    return allowed


@pytest.fixture
def engine(model, letters):
    return Engine(model, letters, slots=4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9, "repetition_penalty": 1.3}],
    ids=["plain", "greedy", "all the settings"],
)
def test_a_completion_is_what_rereading_the_text_for_every_token_gives(
    engine, model, letters, settings
):
    params = SamplingParams(n=3, max_tokens=12, seed=4, **settings)
    sampled = list(engine.sample(named(PROMPTS[:4]), params))
    assert len(sampled) == 12
    for c in sampled:
        drawn = letters.encode(c.text) + [letters.eos_id] * (c.finish_reason == FinishReason.STOP)
        assert len(drawn) == c.completion_tokens
        allowed = reread(model, letters, c.prompt_id, drawn, params, c.sample)
        assert all(token in tokens for token, tokens in zip(drawn, allowed, strict=True))
        assert sum(len(tokens) for tokens in allowed) <= len(drawn) + 1


@pytest.fixture
def visits(monkeypatch):
    """The logits of every draw, as {(text, sample, tokens so far): [(slot, logits), ...]}."""
    seen = {}
    draw = Rows.draw

    def spy(rows):
        for slot in np.flatnonzero(rows.running).tolist():
            sequence = rows._sequences[slot]
            text = sequence.entry.request.prompt.text
            place = text, sequence.sample, tuple(rows.ids(slot))
            seen.setdefault(place, []).append((slot, rows._logits[slot].clone()))
        return draw(rows)

    monkeypatch.setattr(Rows, "draw", spy)
    return seen


def test_every_logit_is_the_same_to_the_bit_in_any_company_order_and_slot(engine, visits):
    shuffled = PROMPTS.copy()
    random.Random(0).shuffle(shuffled)
    for texts, n in [(PROMPTS, 3), (shuffled, 3), (PROMPTS[::-1], 5), (PROMPTS[2:3], 1)]:
        list(engine.sample(texts, SamplingParams(n=n, max_tokens=15)))
    moved = 0
    for (_, sample, _), seen in visits.items():
        first_slot, first = seen[0]
        assert all(torch.equal(logits, first) for _, logits in seen)
        assert len(seen) >= (3 if sample < 3 else 1)
        moved += any(slot != first_slot for slot, _ in seen)
    assert moved > 100  # else the test would not have tried other slots


def test_engines_of_other_sizes_agree_to_the_bit_or_within_rounding(model, letters, visits):
    sizes = (1, 3, 4, 7, 32)
    for slots in sizes:
        list(Engine(model, letters, slots=slots).sample(PROMPTS, SamplingParams(max_tokens=10)))
    for seen in visits.values():
        for _, logits in seen:
            torch.testing.assert_close(logits, seen[0][1], rtol=0, atol=1e-4)
            if model.backend == "cpu":
                assert torch.equal(logits, seen[0][1])
    # A tipped draw leaves places that not every engine has visited.
    assert sum(len(seen) == len(sizes) for seen in visits.values()) >= 0.8 * len(visits)


@settings(max_examples=15, deadline=None)
@given(
    st.permutations(PROMPTS).flatmap(lambda p: st.integers(1, 8).map(lambda k: p[:k])),
    st.integers(1, 6),
)
def test_company_order_and_number_of_samples_change_no_completion(model, texts, n):
    engine = Engine(model, Letters(), slots=4)
    alone = by_name(
        c for t in texts for c in engine.sample(named([t]), SamplingParams(n=n, max_tokens=10))
    )
    together = by_name(engine.sample(named(texts), SamplingParams(n=n + 1, max_tokens=10)))
    assert together == together | alone


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_the_place_of_a_row_and_its_companions_do_not_change_its_bits(model, rows):
    generator = torch.Generator().manual_seed(0)

    def tokens(*shape):
        return torch.randint(72, shape, generator=generator)

    with torch.inference_mode():
        row = model(tokens(1, 9)).state
        results = []
        for place in (*range(0, rows, max(1, rows // 8)), rows - 1):  # of one row, twice
            state = model(tokens(rows, 5)).state
            state.write_(torch.tensor([place]), row)
            read = tokens(rows)
            read[place] = 5
            logits = model.step_(read, state)
            results.append((logits[place], state.ssm[:, place], state.conv[:, place]))
    assert len(results) > 1
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_the_seed_changes_the_completions_and_the_id_does_not(engine):
    def texts(prompts, seed):
        found = engine.sample(prompts, SamplingParams(n=4, max_tokens=20, seed=seed))
        return sorted((c.sample, c.text) for c in found)

    assert texts([Prompt("a", "2+2=")], 0) == texts([Prompt("b", "2+2=")], 0)
    assert texts([Prompt("a", "2+2=")], 0) != texts([Prompt("a", "2+2=")], 1)


def test_the_samples_of_a_prompt_differ_from_one_another(engine):
    texts = [c.text for c in engine.sample(["2+2="], SamplingParams(n=8, max_tokens=20))]
    assert len(set(texts)) == 8


def test_sequences_end_at_different_steps_and_their_slots_are_used_at_once(letters):
    # After the prompt of letter k the model says k letters and stops.
    scripts = {k: [9] * k + [0] for k in range(1, 30)}
    model = Recital(letters.vocab_size, scripts)
    engine = Engine(model, letters, slots=2)
    prompts = [letters.alphabet[k - 1] for k in (5, 1, 2, 8, 3)]
    params = SamplingParams(temperature=0, max_tokens=6)
    found = {c.prompt_id: c for c in engine.sample(prompts, params)}
    assert [len(found[str(i)].text) for i in range(5)] == [5, 1, 2, 6, 3]
    assert [found[str(i)].finish_reason.value for i in range(5)] == [
        "stop", "stop", "stop", "length", "stop",
    ]  # fmt: skip
    assert [found[str(i)].completion_tokens for i in range(5)] == [6, 2, 3, 6, 4]
    assert {c.prompt_tokens for c in found.values()} == {1}
    # 21 tokens on two slots: slot 0 draws 6, then 4; slot 1 draws 2, 3, then 6. That is 11 rounds
    # without a gap, with one step of the model between two rounds.
    assert model.stepped == 10


def test_an_end_token_at_the_limit_counts_as_a_stop(letters):
    engine = Engine(Recital(letters.vocab_size, {1: [5, 5, 0]}), letters, slots=2)
    [c] = engine.sample(["a"], SamplingParams(temperature=0, max_tokens=3))
    assert (c.text, c.finish_reason) == ("ee", FinishReason.STOP)
    [c] = engine.sample(["a"], SamplingParams(temperature=0, max_tokens=2))
    assert (c.text, c.finish_reason) == ("ee", FinishReason.LENGTH)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.text("efgh", max_size=7)), max_size=8),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 8),
)
def test_whatever_the_lengths_every_sample_says_its_script(said, slots, n, max_tokens):
    letters = Letters()
    scripts = {k: [*letters.encode(text), 0] for k, text in said}
    model = Recital(letters.vocab_size, scripts)
    prompts = [Prompt(str(i), letters.decode([3, k])) for i, (k, _) in enumerate(said)]
    params = SamplingParams(n=n, temperature=0, max_tokens=max_tokens)
    found = by_name(Engine(model, letters, slots=slots).sample(prompts, params))
    assert len(found) == len(said) * n
    for (i, _), c in found.items():
        k = said[int(i)][0]
        assert c.text == letters.decode(scripts[k][:-1])[:max_tokens]
    assert model.prefilled == len(said)  # once a prompt, not once a sample


def test_prompts_are_pulled_only_when_a_slot_is_free(letters):
    pulled = []

    def endless():
        while True:
            pulled.append(len(pulled))
            yield "ab"

    model = Recital(letters.vocab_size, {2: [7, 7, 0]})
    completions = Engine(model, letters, slots=3).sample(
        endless(), SamplingParams(n=2, temperature=0)
    )
    for _ in range(20):
        assert next(completions).text == "gg"
    assert len(pulled) <= 10 + 2
    completions.close()


def test_a_long_prompt_is_read_in_pieces_and_still_exactly(model, letters, monkeypatch):
    text = "".join(random.Random(1).choices(letters.alphabet, k=100))
    params = SamplingParams(n=2, max_tokens=10)
    whole = list(Engine(model, letters, slots=4).sample([text], params))
    sizes = []
    forward = model.forward

    def spy(tokens, *args, **kwargs):
        sizes.append(tokens.shape[1])
        return forward(tokens, *args, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    monkeypatch.setattr(prefill_module, "PREFILL_TOKENS", 32)
    assert list(Engine(model, letters, slots=4).sample([text], params)) == whole
    assert sizes == [32, 32, 32, 4]


def test_memory_does_not_grow_with_what_is_generated(model, letters):
    engine = Engine(model, letters, slots=4)
    if model.backend == "torch":
        assert engine.state_nbytes == 4 * model.config.state_bytes()
    before = engine.state_nbytes
    held = {}
    step, steps = engine._rows.memory.step_, 0

    def spy(tokens, slots):
        nonlocal steps
        steps += 1
        if steps in (20, 390):
            tensors = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in gc.get_objects()
                if type(t) is torch.Tensor
            }
            held[steps] = sum(tensors.values())
        return step(tokens, slots)

    never = letters.__class__()
    never.end_ids = ()  # no token ends a text
    engine.tokenizer = never
    never.decode = lambda ids: ""
    engine._rows.memory.step_ = spy
    [c] = engine.sample(["2+2="], SamplingParams(max_tokens=400))
    assert c.completion_tokens == 400
    assert held[20] == held[390]
    assert engine.state_nbytes == before


def test_an_engine_is_as_new_after_its_iterator_was_closed_midway(engine):
    params = SamplingParams(n=3, max_tokens=20)
    expected = by_name(engine.sample(named(PROMPTS), params))
    half = engine.sample(named(PROMPTS), params)
    next(half)
    half.close()
    assert by_name(engine.sample(named(PROMPTS), params)) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_engine_is_as_new_after_an_interruption(engine, monkeypatch, error):
    params = SamplingParams(n=3, max_tokens=20)
    expected = by_name(engine.sample(named(PROMPTS), params))
    step, calls = engine._rows.memory.step_, []

    def interrupted(tokens, slots):
        calls.append(1)
        if len(calls) == 7:
            raise error
        return step(tokens, slots)

    with monkeypatch.context() as patch:
        patch.setattr(engine._rows.memory, "step_", interrupted)
        with pytest.raises(error):
            list(engine.sample(named(PROMPTS), params))
    assert by_name(engine.sample(named(PROMPTS), params)) == expected


def test_an_error_in_the_prompts_reaches_the_caller_and_frees_the_engine(engine):
    def prompts():
        yield "a"
        raise DataError("line 2 is torn")

    with pytest.raises(DataError, match="line 2"):
        list(engine.sample(prompts(), SamplingParams(max_tokens=4)))
    assert len(list(engine.sample(["a"], SamplingParams(max_tokens=4)))) == 1


def test_the_callers_code_runs_outside_inference_mode(engine):
    def prompts():
        assert not torch.is_inference_mode_enabled()
        yield "a"

    for _ in engine.sample(prompts(), SamplingParams(n=2, max_tokens=3)):
        assert not torch.is_inference_mode_enabled()


def test_padding_of_the_vocabulary_is_never_drawn(letters):
    model = Recital(letters.vocab_size + 3, {1: [letters.vocab_size + 1, 0]})
    [c] = Engine(model, letters, slots=1).sample(["a"], SamplingParams(max_tokens=4))
    assert c.completion_tokens >= 1  # any real token, and none that decode would not know


def test_no_prompts_give_no_completions(engine):
    assert list(engine.sample([], SamplingParams())) == []


def test_an_empty_prompt_is_refused_by_name(engine):
    with pytest.raises(DataError, match="'q7'"):
        list(engine.sample([Prompt("q7", "")], SamplingParams()))


def test_a_bare_text_in_place_of_a_list_is_refused(engine):
    with pytest.raises(DataError, match="list"):
        list(engine.sample("2+2=", SamplingParams()))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused_with_both_numbers(letters):
    model = Mamba2LM(Mamba2Config(d_model=16, n_layer=1, d_state=4, headdim=16, vocab_size=50))
    with pytest.raises(DataError, match=r"67 .* 50"):
        Engine(model, letters)


def test_an_engine_without_slots_is_refused(model, letters):
    with pytest.raises(ConfigError, match=r"engine\.slots"):
        Engine(model, letters, slots=0)


def test_damaged_weights_are_reported_and_not_sampled_from(letters):
    model = Mamba2LM(Mamba2Config(d_model=16, n_layer=1, d_state=4, headdim=16, vocab_size=67))
    model.backbone.norm_f.weight.data[3] = float("nan")
    with pytest.raises(RunError, match="not finite"):
        list(Engine(model, letters, slots=2).sample(["a"], SamplingParams()))


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=8), st.integers(1, 20))
def test_streamed_pieces_join_to_the_sampled_text(text, max_tokens):
    model = Recital(257, {97: [*text.encode(), 256]})
    engine = Engine(model, Bytes(), slots=2)
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    [whole] = engine.sample(["a"], params)
    pieces = list(engine.stream("a", params))
    assert "".join(pieces) == whole.text
    if max_tokens > len(text.encode()):
        assert whole.text == text
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_a_stream_shows_characters_as_soon_as_they_are_whole():
    model = Recital(257, {97: [*"né€".encode(), 256]})
    pieces = list(Engine(model, Bytes(), slots=1).stream("a", SamplingParams(temperature=0)))
    assert pieces == ["n", "é", "€", ""]


def test_a_stream_that_is_dropped_frees_the_engine(engine):
    pieces = engine.stream("2+2=", SamplingParams(n=9, max_tokens=50))
    next(pieces)
    pieces.close()
    [c] = engine.sample(["2+2="], SamplingParams(max_tokens=50))
    assert "".join(engine.stream("2+2=", SamplingParams(n=9, max_tokens=50))) == c.text


def test_with_tritons_kernels_an_engine_says_the_same_in_any_company(letters):
    pytest.importorskip("triton", reason="no triton: pip install 'statewise[gpu]'")
    torch.manual_seed(5)
    config = Mamba2Config(d_model=8, n_layer=1, d_state=8, headdim=8, ngroups=2, vocab_size=72)
    model = Mamba2LM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    model.use("torch")
    params = SamplingParams(max_tokens=6, temperature=0, n=1)
    expected = by_name(Engine(model, letters, slots=1).sample(named(PROMPTS[:3]), params))
    model.to("cuda" if torch.cuda.is_available() else "cpu").use("triton")
    engine = Engine(model, letters, slots=3)
    found = by_name(engine.sample(named(PROMPTS[:3]), params))
    assert {k: c.text for k, c in found.items()} == {k: c.text for k, c in expected.items()}
    small = Engine(model, letters, slots=3, state="float16")
    assert small.state_nbytes < engine.state_nbytes
    alone = by_name(engine.sample(named(PROMPTS[2:3]), params))
    assert alone.items() <= found.items()


def test_states_of_16_bits_are_refused_where_no_kernel_keeps_them(model, letters):
    with pytest.raises(
        ConfigError,
        match="state: 'bfloat16' needs Triton's kernels, which do not decode this model here",
    ):
        Engine(model, letters, slots=1, state="bfloat16")
