"""Questions to a role: every answer is kept as it comes, and nothing is asked twice."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError, RunError
from statewise.records import Completion, read_jsonl
from statewise.sampler import Prompt, SamplingParams, ScriptedSampler
from statewise.synth.ask import ask


class Killed(BaseException):
    """The end of the process."""


def prompts(count):
    return [Prompt(f"p{i}", f"question {i}") for i in range(count)]


class Role:
    """Answers, counts what it answered, and dies before its `lifetime + 1`-th answer."""

    def __init__(self, lifetime=None):
        self.lifetime, self.answered = lifetime, Counter()
        self._inner = ScriptedSampler(self._reply)

    def _reply(self, text, i):
        if self.answered.total() == self.lifetime:
            raise Killed
        self.answered[text, i] += 1
        return f"answer {i} to {text}\u2028\nover two lines"

    def sample(self, prompts, params):
        return self._inner.sample(prompts, params)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set" / "role.jsonl"


@given(st.integers(0, 8), st.integers(1, 3))
def test_every_question_gets_its_answers_in_order(tmp_path_factory, count, n):
    path = tmp_path_factory.mktemp("ask") / "role.jsonl"
    answers = ask(Role(), prompts(count), SamplingParams(n=n), path)
    assert list(answers) == [f"p{i}" for i in range(count)]
    for id_, found in answers.items():
        assert [(c.prompt_id, c.sample) for c in found] == [(id_, i) for i in range(n)]
    assert ask(Role(0), prompts(count), SamplingParams(n=n), path) == answers


@given(st.lists(st.integers(0, 5), max_size=5), st.booleans())
def test_killed_again_and_again_it_asks_no_question_twice(tmp_path_factory, lifetimes, torn):
    """What a kill tears is the line being written, and that question alone is asked again."""
    path = tmp_path_factory.mktemp("ask") / "role.jsonl"
    asked, torn_off = Counter(), 0
    for lifetime in lifetimes:
        role = Role(lifetime)
        try:
            ask(role, prompts(9), SamplingParams(), path)
        except Killed:
            assert role.answered.total() == lifetime
        asked += role.answered
        whole = path.read_bytes()
        if torn and whole:
            path.write_bytes(whole[:-7])
            torn_off += 1
    last = Role()
    answers = ask(last, prompts(9), SamplingParams(), path)
    asked += last.answered
    assert answers == ask(Role(), prompts(9), SamplingParams(), path.with_name("undisturbed.jsonl"))
    assert set(asked) == {(p.text, 0) for p in prompts(9)}
    assert asked.total() == 9 + torn_off
    assert len(read_jsonl(path, Completion)) == 9


def test_a_kill_loses_only_what_was_not_answered(path):
    with pytest.raises(Killed):
        ask(Role(4), prompts(6), SamplingParams(), path)
    assert [c.prompt_id for c in read_jsonl(path, Completion)] == ["p0", "p1", "p2", "p3"]
    rest = Role()
    ask(rest, prompts(6), SamplingParams(), path)
    assert set(rest.answered) == {("question 4", 0), ("question 5", 0)}


def test_a_torn_last_line_is_cut_off_and_asked_again(path):
    ask(Role(), prompts(3), SamplingParams(), path)
    with path.open("ab") as f:
        f.write(b'{"prompt_id": "p3", "sample": 0, "te')
    role = Role()
    assert len(ask(role, prompts(4), SamplingParams(), path)) == 4
    assert set(role.answered) == {("question 3", 0)}
    assert all(json.loads(line) for line in path.read_text().split("\n") if line)


def test_a_question_with_some_of_its_samples_gets_the_others(path):
    with pytest.raises(Killed):
        ask(Role(4), prompts(2), SamplingParams(n=3), path)
    answers = ask(Role(), prompts(2), SamplingParams(n=3), path)
    assert [[c.sample for c in found] for found in answers.values()] == [[0, 1, 2], [0, 1, 2]]
    assert len(read_jsonl(path, Completion)) == 6


def test_answers_may_come_in_any_order(path):
    class Backwards(Role):
        def sample(self, prompts, params):
            return reversed(list(super().sample(prompts, params)))

    answers = ask(Backwards(), prompts(3), SamplingParams(n=3), path)
    for p in prompts(3):
        assert [(c.prompt_id, c.sample) for c in answers[p.id]] == [(p.id, i) for i in range(3)]


def test_answers_to_other_questions_are_left_alone(path):
    ask(Role(), [Prompt("other", "question")], SamplingParams(), path)
    assert list(ask(Role(), prompts(2), SamplingParams(), path)) == ["p0", "p1"]
    assert len(read_jsonl(path, Completion)) == 3


def test_a_file_that_holds_no_answers_is_named_with_its_line(path):
    ask(Role(), prompts(2), SamplingParams(), path)
    with path.open("a") as f:
        f.write('{"id": 3}\n')
    with pytest.raises(DataError, match=r"role\.jsonl:3: Completion has no field 'id'"):
        ask(Role(), prompts(3), SamplingParams(), path)


def test_a_question_that_is_left_unanswered_is_named(path):
    class Lazy(Role):
        def sample(self, prompts, params):
            return list(super().sample(prompts, params))[:-1]

    with pytest.raises(
        RunError, match=r"role\.jsonl: 1 answers were not given, .* sample 1 of 'p2'"
    ):
        ask(Lazy(), prompts(3), SamplingParams(n=2), path)
