"""The prompts of the roles and the parsers of their answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.records import Draft, Rating, TestCase
from statewise.synth import formats
from statewise.synth.concepts import LEVELS, levels_for

TAGS = (
    formats.BEGIN_RATIONALE,
    formats.END_RATIONALE,
    formats.BEGIN_PROBLEM,
    formats.END_PROBLEM,
)
prose = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(
    lambda s: s.strip() and not any(tag in s for tag in TAGS)
)
lines = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(rationale=prose, problem=prose)
def test_what_is_put_between_the_tags_is_read_back(rationale: str, problem: str) -> None:
    block = formats.draft_block(rationale, problem)
    assert formats.parse_draft(f"Sure!\n{block}\n") == (rationale.strip(), problem.strip())


@pytest.mark.parametrize("tag", TAGS)
def test_a_missing_or_repeated_tag_makes_a_draft_unreadable(tag: str) -> None:
    block = formats.draft_block("why", "what")
    assert formats.parse_draft(block.replace(tag, "")) is None
    assert formats.parse_draft(block + tag) is None


def test_tags_out_of_order_or_with_nothing_between_make_a_draft_unreadable() -> None:
    first, second, third, fourth = TAGS
    assert formats.parse_draft(f"{third}p{fourth}{first}r{second}") is None
    assert formats.parse_draft(formats.draft_block(" ", "p")) is None
    assert formats.parse_draft(formats.draft_block("r", "\n")) is None


@given(concepts=st.lists(lines, min_size=1, max_size=5), level=lines)
def test_concepts_and_level_are_read_back_from_an_authors_and_a_judges_prompt(
    concepts: list[str], level: str
) -> None:
    for kind in ("math", "code"):
        asked = formats.author_prompt(concepts, level, kind)
        assert formats.parse_request(asked) == (tuple(concepts), level)
        draft = Draft("d", kind, tuple(concepts), level, "why", "what")
        assert formats.parse_request(formats.judge_prompt(draft)) == (tuple(concepts), level)


def test_an_authors_prompt_numbers_the_concepts_and_names_the_level() -> None:
    text = formats.author_prompt(["means", "remainders"], "AMC10", "math")
    assert "Foundational Concepts:\n1. means\n2. remainders\n\nDifficulty Level: AMC10\n" in text
    assert formats.parse_request("no concepts here") is None


@pytest.mark.parametrize(
    ("last", "rating"),
    [
        ("Final Judgement: perfect", Rating.PERFECT),
        ("Final Judgement: [Acceptable]", Rating.ACCEPTABLE),
        ("**Final Judgement:** BAD.", Rating.BAD),
        ("**Final Judgement: perfect**", Rating.PERFECT),
        ("Final Judgement: not perfect", Rating.UNREADABLE),
        ("Final Judgement: imperfect", Rating.UNREADABLE),
        ("Final Judgement: perfectly fine", Rating.UNREADABLE),
        ("Final Judgement: perfect or bad", Rating.UNREADABLE),
        ("Final Judgement: [verdict]", Rating.UNREADABLE),
        ("Final Judgement:", Rating.UNREADABLE),
        ("perfect", Rating.UNREADABLE),
        ("My Final Judgement: perfect", Rating.UNREADABLE),
        ("", Rating.UNREADABLE),
    ],
)
def test_only_a_marked_last_line_with_one_known_word_is_a_verdict(
    last: str, rating: Rating
) -> None:
    assert formats.parse_rating(f"Accuracy: Perfect\n{last}\n\n") is rating


def test_the_last_line_outweighs_an_earlier_verdict() -> None:
    text = "Final Judgement: perfect\nNo, wait.\nFinal Judgement: bad"
    assert formats.parse_rating(text) is Rating.BAD
    assert formats.parse_rating("Final Judgement: perfect\nI hope so.") is Rating.UNREADABLE


@given(st.text())
def test_no_parser_ever_raises(text: str) -> None:
    formats.parse_draft(text)
    formats.parse_rating(text)
    formats.parse_request(text)
    formats.parse_tests(text)
    formats.parse_tests(f"```json\n{text}\n```")


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_test_cases_are_read_back_from_a_fenced_block(pairs: list[tuple[str, str]]) -> None:
    rows = [{"input": a, "output": b} for a, b in pairs]
    text = f"Here they are.\n```json\n{json.dumps(rows)}\n```\nDone."
    assert formats.parse_tests(text) == tuple(TestCase(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "block",
    [
        "[]",
        "{}",
        "[1]",
        '[{"input": "1"}]',
        '[{"input": 1, "output": "1"}]',
        '[{"input": "1", "output": "1", "why": ""}]',
        '[{"input": "1", "output": "1"}',
    ],
)
def test_anything_but_a_list_of_inputs_and_outputs_is_refused(block: str) -> None:
    assert formats.parse_tests(f"```json\n{block}\n```") is None


def test_two_fenced_blocks_or_none_are_refused() -> None:
    block = '```json\n[{"input": "1", "output": "1"}]\n```'
    assert formats.parse_tests(block) is not None
    assert formats.parse_tests(f"{block}\n{block}") is None
    assert formats.parse_tests(block.replace("`", "")) is None


def test_a_statement_stands_at_the_end_of_the_tests_and_verifier_prompts() -> None:
    for prompt in (formats.tests_prompt("Add 1."), formats.verifier_prompt("Add 1.")):
        assert prompt.endswith("\n\nProblem:\nAdd 1.\n")
    assert r"\boxed{}" in formats.verifier_prompt("Add 1.")


def test_every_number_of_concepts_up_to_the_hardest_level_has_a_level() -> None:
    for k in range(1, max(LEVELS.values()) + 1):
        assert all(LEVELS[name] == k for name in levels_for(k))
    with pytest.raises(DataError, match="5 concepts"):
        levels_for(5)
