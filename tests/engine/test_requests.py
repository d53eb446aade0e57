"""Many callers in one running engine: each request is as if it were alone."""

import random

import pytest
import torch
from engine_doubles import Letters, Recital
from hypothesis import given, settings
from hypothesis import strategies as st

import statewise.engine.prefill as prefill_module
import statewise.engine.rows as rows_module
from statewise.engine import Engine, Failed, Finished, Request, Token
from statewise.errors import DataError, RunError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.sampler import Prompt, SamplingParams

GREEDY = SamplingParams(temperature=0)


def request(text, stream=True, **params):
    return Request(Prompt(text, text), SamplingParams(**params), stream)


def drain(engine):
    """Step until everything is over; all events."""
    events = []
    while engine.unfinished:
        events += engine.step()
    return events


def of(events, id):
    return [e for e in events if e.id == id]


def tokens(events, sample=0):
    return [e.token for e in events if isinstance(e, Token) and e.sample == sample]


def completions(events):
    return [e.completion for e in events if isinstance(e, Finished)]


def renamed(events):
    """The same events as of a request number 0."""
    return [type(e)(0, *(getattr(e, name) for name in e.__slots__ if name != "id")) for e in events]


def alone(model, tokenizer, asked):
    """The events of a request that an engine runs with nothing beside it."""
    return run_alone(Engine(model, tokenizer, slots=4), asked)


def run_alone(engine, asked):
    engine.add(asked)
    return renamed(drain(engine))


def agree(events, expected, gone=False):
    """Whether a request said what it says alone; in part, if it was aborted."""
    for sample in range(9):
        said = [e for e in renamed(events) if sample_of(e) == sample]
        whole = [e for e in expected if sample_of(e) == sample]
        if said != (whole[: len(said)] if gone else whole):
            return False
    return len(events) < len(expected) if gone else len(events) == len(expected)


def sample_of(event):
    return event.sample if isinstance(event, Token) else event.completion.sample


def mixed_requests(rng, count, longest=30):
    """Requests of as many different parameter sets."""
    letters = Letters()
    made = []
    for i in range(count):
        text = "".join(rng.choices(letters.alphabet, k=rng.randint(1, longest)))
        params = SamplingParams(
            n=rng.choice([1, 1, 1, 2, 3]),
            max_tokens=rng.randint(1, 18),
            temperature=rng.choice([0.0, 0.5, 1.0, 1.3]),
            top_p=rng.choice([0.3, 0.9, 1.0]),
            top_k=rng.choice([0, 1, 5, 40]),
            repetition_penalty=rng.choice([0.9, 1.0, 1.2]),
            seed=i,
        )
        made.append(Request(Prompt(f"p{i}", text), params, stream=rng.random() < 0.5))
    return made


def run_with_aborts(engine, asked, rng):
    """Let requests arrive while others run, and abort some; the events of each, and the aborted."""
    coming, ids, aborted, events = list(asked), [], set(), []
    while coming or engine.unfinished:
        for _ in range(rng.choice([0, 0, 1, 3])):
            if coming:
                ids.append(engine.add(coming.pop(0)))
        if ids and rng.random() < 0.1:
            victim = rng.choice(ids)
            if engine.abort(victim):
                aborted.add(victim)
        events += engine.step()
    assert engine.step() == []
    return [of(events, id) for id in ids], [id in aborted for id in ids]


def test_forty_requests_of_forty_parameter_sets_that_come_and_go_are_each_their_lone_run(
    model, letters, monkeypatch
):
    monkeypatch.setattr(rows_module, "BLOCK", 8)  # so that sequences fill several
    rng = random.Random(3)
    asked = mixed_requests(rng, 40)
    assert len({r.params for r in asked}) == 40
    found, aborted = run_with_aborts(Engine(model, letters, slots=4), asked, rng)
    assert 3 <= sum(aborted) <= 20
    idle = Engine(model, letters, slots=4)
    for r, events, gone in zip(asked, found, aborted, strict=True):
        assert agree(events, run_alone(idle, r), gone)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_comes_and_goes_when_a_request_is_its_lone_run(model, seed):
    rng = random.Random(seed)
    asked = mixed_requests(rng, rng.randint(1, 8))
    found, aborted = run_with_aborts(Engine(model, Letters(), slots=4), asked, rng)
    idle = Engine(model, Letters(), slots=4)
    for r, events, gone in zip(asked, found, aborted, strict=True):
        assert agree(events, run_alone(idle, r), gone)


def test_events_are_complete_and_in_order(model, letters):
    engine = Engine(model, letters, slots=3)
    asked = [request(t, n=2, max_tokens=9) for t in ("2+2=", "abc", "zz")]
    ids = [engine.add(r) for r in asked]
    assert len(set(ids)) == 3
    events = drain(engine)
    assert len(events) == sum(len(of(events, id)) for id in ids)
    for id in ids:
        for sample in range(2):
            its = [e for e in of(events, id) if sample_of(e) == sample]
            assert [type(e) for e in its] == [Token] * (len(its) - 1) + [Finished]
            drawn, completion = tokens(its, sample), its[-1].completion
            assert len(drawn) == completion.completion_tokens
            text = drawn[:-1] if completion.finish_reason.value == "stop" else drawn
            assert letters.decode(text) == completion.text


def test_a_request_that_does_not_stream_is_told_of_its_end_only(engine_of_scripts):
    engine = engine_of_scripts({1: [5, 6, 0]})
    engine.add(Request(Prompt("p", "a"), GREEDY, stream=False))
    [event] = drain(engine)
    assert event.completion.text == "ef"


@pytest.fixture
def engine_of_scripts(letters):
    return lambda scripts, slots=2: Engine(
        Recital(letters.vocab_size, scripts), letters, slots=slots
    )


def test_a_stop_token_at_the_first_draw_gives_an_empty_text(engine_of_scripts):
    engine = engine_of_scripts({1: [0], 2: [5, 0]})
    first, second = engine.add(Request(Prompt("p", "a"), GREEDY)), engine.add(request("b", n=1))
    events = engine.step()
    [token, end] = of(events, first)
    assert token == Token(first, 0, 0)
    assert (end.completion.text, end.completion.completion_tokens) == ("", 1)
    assert [c.text for c in completions(of(drain(engine), second))] == ["e"]


def test_one_token_and_ten_thousand_run_side_by_side(engine_of_scripts, letters):
    engine = engine_of_scripts({1: [*[5, 6, 7] * 200, 0], 2: [9]})
    long = engine.add(Request(Prompt("p", "a"), SamplingParams(temperature=0, max_tokens=10_000)))
    short = engine.add(Request(Prompt("q", "b"), SamplingParams(temperature=0, max_tokens=1)))
    events = engine.step()
    [c] = completions(of(events, short))
    assert (c.text, c.finish_reason.value) == ("i", "length")
    events = of(events + drain(engine), long)
    assert [c.text for c in completions(events)] == [letters.decode([5, 6, 7] * 200)]
    assert tokens(events) == [*[5, 6, 7] * 200, 0]


def test_numbers_go_on_from_block_to_block_as_one_stream(model, letters, monkeypatch):
    asked = request("2+2=", n=2, max_tokens=40)
    never = Letters()
    never.end_ids = ()
    never.decode = lambda ids: " ".join(map(str, ids))
    whole = alone(model, never, asked)
    monkeypatch.setattr(rows_module, "BLOCK", 4)
    assert alone(model, never, asked) == whole
    assert len(whole) == 82


@pytest.mark.parametrize("ends", [(), (0,), (0, 5, 9), tuple(range(72, 0, -3))], ids=len)
def test_a_completion_is_the_endless_one_up_to_whichever_end_comes_first(model, ends):
    asked = request("2+2=", n=6, max_tokens=40)

    def run(end_ids):
        tokenizer = Letters()
        tokenizer.end_ids = end_ids
        tokenizer.decode = lambda ids: " ".join(map(str, ids))
        return alone(model, tokenizer, asked)

    endless, events, by = run(()), run(ends), set()
    for c in completions(events):
        ids = tokens(endless, c.sample)
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        assert tokens(events, c.sample) == (ids if end is None else ids[: end + 1])
        assert c.text == " ".join(map(str, ids[:end]))
        assert c.finish_reason == ("length" if end is None else "stop")
        by |= set() if end is None else {ids[end]}
    assert len(completions(events)) == 6
    assert len(by) >= min(len(ends), 2)  # else the test would not have seen another end


def test_a_long_prompt_is_read_a_piece_a_step_and_the_others_go_on(model, letters, monkeypatch):
    monkeypatch.setattr(prefill_module, "PREFILL_TOKENS", 32)
    engine = Engine(model, letters, slots=4)
    long = "".join(random.Random(1).choices(letters.alphabet, k=100))
    others = [engine.add(request(t, max_tokens=50, top_k=30)) for t in ("ab", "cd", "ef")]
    engine.step()
    read = engine.add(request(long, max_tokens=5))
    late = engine.add(request("gh", max_tokens=5))
    for piece in range(4):
        events = engine.step()
        still = [id for id in others if id in engine._entries or of(events, id)]
        assert len(still) >= 2
        assert all(tokens(of(events, id)) for id in still)  # a token each, while it is read
        assert bool(of(events, read)) == (piece == 3)
        assert not of(events, late) or piece == 3
    events += drain(engine)
    assert renamed(of(events, read)) == alone(model, letters, request(long, max_tokens=5))
    assert renamed(of(events, late)) == alone(model, letters, request("gh", max_tokens=5))


def test_short_prompts_are_read_in_one_step_up_to_a_piece(engine_of_scripts, monkeypatch):
    monkeypatch.setattr(prefill_module, "PREFILL_TOKENS", 10)
    engine = engine_of_scripts({1: [5] * 99}, slots=9)
    ids = [engine.add(request("a" * k, max_tokens=50, temperature=0)) for k in (3, 3, 4, 2, 25, 1)]

    def started():
        events = engine.step()
        return [i for i, id in enumerate(ids) if of(events, id)]

    assert started() == [0, 1, 2]  # 10 tokens
    assert started() == [0, 1, 2, 3]  # 2 tokens; the next piece has 10
    assert started() == [0, 1, 2, 3]
    assert started() == [0, 1, 2, 3]
    assert started() == [0, 1, 2, 3, 4, 5]  # its last 5 tokens, and the 1 behind it


def test_an_aborted_request_leaves_its_slots_to_others_and_says_no_more(engine_of_scripts):
    engine = engine_of_scripts({1: [5], 2: [6, 0]}, slots=2)
    endless = engine.add(request("a", n=3, temperature=0, max_tokens=10_000))
    waiting = engine.add(Request(Prompt("p", "b"), GREEDY))
    assert not of(engine.step(), waiting)
    assert engine.abort(endless)
    assert not engine.abort(endless)
    assert not engine.abort(12345)
    events = drain(engine)
    assert {e.id for e in events} == {waiting}
    assert [c.text for c in completions(events)] == ["f"]


def test_a_request_can_be_aborted_while_it_waits_and_while_its_prompt_is_read(
    engine_of_scripts, monkeypatch
):
    monkeypatch.setattr(prefill_module, "PREFILL_TOKENS", 4)
    engine = engine_of_scripts({1: [5, 0], 2: [6, 0]}, slots=1)
    read = engine.add(request("a" * 9, temperature=0))
    waits = engine.add(request("a", temperature=0))
    last = engine.add(request("b", temperature=0))
    assert engine.step() == []
    assert engine.abort(read)
    assert engine.abort(waits)
    events = drain(engine)
    assert {e.id for e in events} == {last}
    assert tokens(events) == [6, 0]


def test_events_that_wait_for_step_are_dropped_with_their_request(engine_of_scripts):
    engine = engine_of_scripts({1: [5], 2: [6, 6, 0]}, slots=3)
    kept = engine.add(request("a", temperature=0, max_tokens=4))
    gone = engine.add(request("a", temperature=0, max_tokens=90))
    [c] = engine.sample(["b"], GREEDY)  # steps the engine for all
    assert c.text == "ff"
    engine.abort(gone)
    events = engine.step()
    assert {e.id for e in events} == {kept}
    assert tokens(events) == [5, 5, 5, 5]  # three of them came while `sample` ran


class Marked(Letters):
    """Reads a question mark as a token that is never drawn."""

    mark = 70

    def encode(self, text):
        return [self.mark if c == "?" else self.alphabet.index(c) + 1 for c in text]


@pytest.fixture
def damaged():
    """A model that is broken for prompts with a question mark, and for no others."""
    torch.manual_seed(2)
    sizes = {"d_model": 64, "n_layer": 1, "d_state": 16, "headdim": 16, "chunk_size": 16}
    model = Mamba2LM(Mamba2Config(**sizes, vocab_size=72, tie_embeddings=False))
    with torch.no_grad():
        model.lm_head.weight.mul_(15)
        model.backbone.embeddings.weight[Marked.mark] = float("nan")
    return model


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_request_that_fails_fails_alone(damaged, backend):
    damaged.use(backend)
    letters = Marked()
    engine = Engine(damaged, letters, slots=4)
    good = [request(t, max_tokens=20, top_k=20) for t in ("ab", "cd")]
    first = [engine.add(r) for r in good]
    events = engine.step()
    empty, broken = engine.add(request("")), engine.add(request("why?", n=3))
    last = engine.add(good[0])
    events += drain(engine)
    [failed] = of(events, empty)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DataError)
    assert "prompt '': it is empty" in str(failed.error)
    [failed] = of(events, broken)
    assert isinstance(failed.error, RunError)
    assert "prompt 'why?': the model's logits are not finite" in str(failed.error)
    for id, r in zip([*first, last], [*good, good[0]], strict=True):
        assert renamed(of(events, id)) == alone(damaged, letters, r)


def test_drivers_and_requests_share_a_running_engine(model, letters):
    def sampled(texts, **params):
        engine = Engine(model, letters, slots=4)
        found = engine.sample([Prompt(t, t) for t in texts], SamplingParams(**params))
        return {(c.prompt_id, c.sample): c for c in found}

    first, second = {"n": 3, "max_tokens": 12, "seed": 1}, {"max_tokens": 30, "temperature": 0.5}
    texts = ["2+2=", "abc", "zz", "9", "hello"]
    engine = Engine(model, letters, slots=4)
    id = engine.add(request("own", max_tokens=25))
    one = engine.sample([Prompt(t, t) for t in texts], SamplingParams(**first))
    two = engine.sample([Prompt(t, t) for t in texts[::-1]], SamplingParams(**second))
    pieces = engine.stream("stream", SamplingParams(max_tokens=20))
    found, events, rng = ({}, {}, []), [], random.Random(0)
    sources = {0: one, 1: two, 2: pieces}
    while sources:
        k = rng.choice([*sources, 3])
        if k == 3:
            events += engine.step()
            continue
        item = next(sources[k], None)
        if item is None:
            del sources[k]
        elif k == 2:
            found[2].append(item)
        else:
            assert (item.prompt_id, item.sample) not in found[k]
            found[k][item.prompt_id, item.sample] = item
    events += engine.step()
    assert engine.unfinished == 0
    assert found[0] == sampled(texts, **first)
    assert found[1] == sampled(texts, **second)
    [c] = sampled(["stream"], max_tokens=20).values()
    assert "".join(found[2]) == c.text
    assert renamed(of(events, id)) == alone(model, letters, request("own", max_tokens=25))


def test_closing_an_iterator_ends_its_requests_and_no_others(engine_of_scripts):
    engine = engine_of_scripts({1: [5], 2: [6, 6, 6, 0], 3: [7, 0]}, slots=4)
    kept = engine.add(request("b", temperature=0))
    dropped = engine.sample(["c", "a", "a"], SamplingParams(temperature=0, max_tokens=10_000))
    assert next(dropped).text == "g"
    pieces = engine.stream("a", SamplingParams(temperature=0, max_tokens=10_000))
    assert next(pieces) == "e"
    assert engine.unfinished == 4
    dropped.close()
    pieces.close()
    assert engine.unfinished == 1
    assert [c.text for c in completions(of(drain(engine), kept))] == ["fff"]


def test_a_driver_queues_its_first_prompt_however_many_wait(engine_of_scripts):
    engine = engine_of_scripts({1: [5, 0]}, slots=1)
    for _ in range(9):
        engine.add(request("a", temperature=0))
    waiting = []

    def prompts():
        for _ in range(2):
            waiting.append(engine.unfinished)
            yield "a"

    assert [c.text for c in engine.sample(prompts(), GREEDY)] == ["e", "e"]
    assert waiting == [
        9,
        0,
    ]  # not only when all others are over; and the second is not pulled early


def test_an_interruption_fails_what_has_begun_and_leaves_what_waits(model, letters, monkeypatch):
    engine = Engine(model, letters, slots=2)
    begun = [engine.add(request(t, max_tokens=20, top_k=30)) for t in ("ab", "cd")]
    waits = engine.add(request("ef", max_tokens=20))
    events = engine.step()

    def interrupted(tokens, slots):
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(engine._rows.memory, "step_", interrupted)
        with pytest.raises(MemoryError):
            engine.step()
    events += drain(engine)
    for id in begun:
        failed = of(events, id)[-1]
        assert isinstance(failed, Failed)
        assert "the engine was interrupted (MemoryError: no more)" in str(failed.error)
    assert renamed(of(events, waits)) == alone(model, letters, request("ef", max_tokens=20))
