"""Copies among statements, and training statements that give away a test."""

import difflib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.synth.dedup import decontaminate, duplicates
from statewise.text import words

DATA = Path(__file__).parents[3] / "shared" / "data"

WORDS = ("ada", "box", "cat", "dice", "egg", "fig", "gold", "hen", "ink", "jar", "kite", "lamp")
WORD = st.sampled_from(WORDS) | st.integers(0, 99).map(str)
STATEMENTS = st.lists(WORD, min_size=12, max_size=40).map(" ".join)


@given(st.lists(STATEMENTS, max_size=6), st.data())
def test_an_exact_copy_is_a_duplicate_wherever_it_stands_and_the_first_stays(statements, data):
    copied = data.draw(st.lists(st.sampled_from(statements), max_size=4)) if statements else []
    repeated = duplicates(statements + copied, jaccard=0.9)
    assert set(range(len(statements), len(statements) + len(copied))) <= repeated
    assert 0 not in repeated
    kept = [s for i, s in enumerate(statements + copied) if i not in repeated]
    assert len(set(kept)) == len(kept)
    assert not duplicates(kept, jaccard=0.9)


@given(STATEMENTS)
def test_case_and_spaces_do_not_hide_a_copy(statement):
    shouted = f"  {statement.upper()} ".replace(" ", "\n ")
    assert duplicates([statement, shouted], jaccard=0.9) == {1}


def test_the_same_exercise_with_other_numbers_is_another_problem():
    exercises = [
        f"A train travels {a} km in {b} hours. How far does it get in {c} hours at that speed?"
        for a, b, c in [(120, 2, 5), (150, 3, 7), (80, 4, 9), (120, 3, 5)]
    ]
    assert duplicates(exercises, jaccard=0.9) == set()


def numbered(seed, count=200):
    return [f"{WORDS[(i * seed) % 11]}{i * i + seed}" for i in range(count)]


def test_one_word_in_two_hundred_makes_no_other_problem_but_a_half_does():
    tokens = numbered(1)
    touched = [*tokens[:100], "elsewhere", *tokens[101:]]
    assert duplicates([" ".join(tokens), " ".join(touched)], jaccard=0.9) == {1}
    half = [*tokens[:100], *numbered(7)[100:]]
    assert duplicates([" ".join(tokens), " ".join(half)], jaccard=0.9) == set()
    assert duplicates([" ".join(tokens), " ".join(half)], jaccard=0.1) == {1}


def test_short_and_empty_statements_are_compared_whole():
    assert duplicates(["", "2 + 2", "2", "", "2 + 2", "2 + 3"], jaccard=0.9) == {3, 4}
    assert duplicates([], jaccard=0.9) == set()


OTHERS = st.lists(STATEMENTS, max_size=5)


@given(STATEMENTS, OTHERS, st.lists(WORD, max_size=20), st.lists(WORD, max_size=20), st.booleans())
def test_a_test_within_a_training_statement_is_always_found(test, others, before, after, shout):
    copy = " ".join([*before, test.upper() if shout else test, *after])
    found = decontaminate([*others, copy], {"exam": [*others[:1], test]}, containment=0.99)
    assert len(others) in found.dropped
    assert found.highest["exam"] < 0.99


@given(st.lists(STATEMENTS, max_size=6), st.lists(STATEMENTS, max_size=6), st.floats(0.05, 1))
def test_what_is_kept_lies_below_the_threshold_and_a_stricter_one_keeps_less(train, tests, share):
    exams = {"even": tests[::2], "odd": tests[1::2]}
    found = decontaminate(train, exams, containment=share)
    assert all(highest < share for highest in found.highest.values())
    assert set(found.highest) == set(exams)
    assert found.dropped <= decontaminate(train, exams, containment=share / 2).dropped
    kept = [s for i, s in enumerate(train) if i not in found.dropped]
    assert not set(kept) & set(tests)


@given(st.lists(STATEMENTS, max_size=5), st.lists(STATEMENTS, max_size=5))
def test_statements_of_other_words_have_nothing_in_common(train, tests):
    foreign = [re.sub(r"\w+", lambda m: f"q{m.group()}q", s) for s in tests]
    assert decontaminate(train, {"exam": foreign}, containment=0.01) == (set(), {"exam": 0.0})


STOCK = (
    "The answer can be written as $\\frac{m}{n}$, where $m$ and $n$ are relatively prime "
    "positive integers. Find $m+n$."
)
OPENINGS = [
    f"A bag holds {a} red and {b} blue marbles, and {c} of them are drawn {how}. What is the "
    f"probability that {what}?"
    for a, b, c, how, what in [
        (3, 4, 2, "one after the other", "both are red"),
        (7, 9, 3, "at once", "no two are alike"),
        (5, 2, 2, "with replacement", "the second one is blue"),
    ]
] + [
    "Two points are chosen at random on a circle of radius 6; how likely is a chord below 5?",
    "A grid of 4 by 9 squares is coloured by a walk that never turns left.",
    "Triangle $ABC$ has sides 13, 14 and 15, and a point inside it is chosen at random.",
    "Ada and Bo meet between noon and one o'clock, and each waits 12 minutes for the other.",
]


def test_a_stock_phrase_gives_no_test_away_and_a_copy_does():
    """Thirteen words of the phrase in a row are shared by all, which a plain rule would flag."""
    *train, test = [f"{opening} {STOCK}" for opening in OPENINGS]
    clean = decontaminate(train, {"exam": [test]}, containment=0.6)
    assert not clean.dropped
    assert clean.highest["exam"] < 0.4
    for copy in (test, f"Here is a problem from a contest. {test}", f"{test} Show your work."):
        assert decontaminate([*train, copy], {"exam": [test]}, containment=0.6).dropped == {6}


def test_nothing_against_nothing_is_clean():
    assert decontaminate([], {}, containment=0.6) == (set(), {})
    assert decontaminate([], {"exam": ["a b"]}, containment=0.6) == (set(), {"exam": 0.0})
    assert decontaminate(["a b"], {"exam": []}, containment=0.6) == (set(), {"exam": 0.0})


def statements(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not in shared/data beside the repository")
    rows = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(row)["problem"] for row in rows if row.strip()]


def in_a_row(text, n=13):
    found = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


@pytest.mark.slow
def test_stock_phrases_of_a_contest_do_not_empty_its_earlier_years():
    train, tests = statements("aime_1983_2023.jsonl"), statements("aime2024.jsonl")
    known = set().union(*map(in_a_row, tests))
    plain = sum(not known.isdisjoint(in_a_row(s)) for s in train)
    assert plain == 164
    found = decontaminate(train, {"aime2024": tests}, containment=0.6)
    assert len(found.dropped) <= 2
    assert found.highest["aime2024"] < 0.6


def likeness(a, b):
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


@pytest.mark.slow
def test_near_copies_of_real_tests_are_found_and_no_exact_one_is_left():
    train, tests = statements("math_train_solutions.jsonl"), statements("math500.jsonl")
    found = decontaminate(train, {"math500": tests}, containment=0.6)
    held = [list(words(t)) for t in tests]
    near = 0
    for i in found.dropped:
        own = list(words(train[i]))
        alike = sorted(held, key=lambda t: -len({*own} & {*t}) / len({*own} | {*t}))
        near += max(likeness(own, t) for t in alike[:3]) >= 0.8
    told = f"{len(found.dropped)} of {len(train)} dropped, {near} of them alike word for word"
    assert 20 <= len(found.dropped) <= 60, told
    assert near >= 0.8 * len(found.dropped), told
    kept = {tuple(words(s)) for i, s in enumerate(train) if i not in found.dropped}
    assert kept.isdisjoint(map(tuple, held))
