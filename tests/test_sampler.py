"""The seam between text and whatever continues it."""

import pytest

from statewise.errors import ConfigError
from statewise.records import Completion, FinishReason
from statewise.sampler import Prompt, SamplingParams, ScriptedSampler

PROMPTS = [Prompt("p", "one two"), Prompt("q", "three")]


def test_a_scripted_sampler_answers_every_prompt_n_times():
    sampler = ScriptedSampler(lambda text, i: f"{text}, answer {i}")
    found = list(sampler.sample(PROMPTS, SamplingParams(n=2, seed=7)))
    assert [(c.prompt_id, c.sample, c.text) for c in found] == [
        ("p", 0, "one two, answer 0"),
        ("p", 1, "one two, answer 1"),
        ("q", 0, "three, answer 0"),
        ("q", 1, "three, answer 1"),
    ]
    assert found[0] == Completion("p", 0, "one two, answer 0", FinishReason.STOP, 2, 4, 7)


@pytest.mark.parametrize(
    ("max_tokens", "text", "reason"),
    [(4, "a b c", "stop"), (3, "a b c", "stop"), (2, "a b", "length"), (1, "a", "length")],
)
def test_a_script_longer_than_the_limit_is_cut_there(max_tokens, text, reason):
    params = SamplingParams(max_tokens=max_tokens)
    (found,) = ScriptedSampler(lambda text, i: "a b c").sample(PROMPTS[:1], params)
    assert (found.text, found.finish_reason) == (text, reason)
    assert found.completion_tokens == min(3, max_tokens)


def test_a_scripted_sampler_is_lazy():
    asked = []
    sampler = ScriptedSampler(lambda text, i: asked.append(text) or "x")
    stream = sampler.sample(iter(PROMPTS), SamplingParams())
    assert asked == []
    next(stream)
    assert asked == ["one two"]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("n", 0, "at least 1"),
        ("max_tokens", 0, "at least 1"),
        ("temperature", -0.1, r"0 \(greedy\) or more"),
        ("temperature", float("nan"), r"0 \(greedy\) or more"),
        ("top_p", 0.0, r"in \(0, 1\]"),
        ("top_p", 1.1, r"in \(0, 1\]"),
        ("top_k", -1, r"0 \(off\) or more"),
        ("repetition_penalty", 0.0, r"above 0 \(1 is off\)"),
        ("seed", -1, "0 or more"),
    ],
)
def test_a_parameter_that_means_nothing_is_named_with_its_range(name, value, rule):
    with pytest.raises(ConfigError, match=rf"^sampling\.{name}: must be {rule}, found {value}$"):
        SamplingParams(**{name: value})


def test_the_edges_of_every_range_are_permitted():
    SamplingParams(1, 1, 0.0, 1.0, 0, 0.01, 0)
