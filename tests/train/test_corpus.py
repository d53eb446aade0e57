"""A source on disk: what is in it, that it is made once, and that a kill costs a part at most."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.records import Example
from statewise.text import BPETokenizer
from statewise.train import corpus
from statewise.train.corpus import Corpus, Fitting, make
from statewise.train.sources import Pair

WRITE = corpus._write_part
TOKENIZER = BPETokenizer.train(["ab abc abcd ", "bcd"] * 9, vocab_size=270)


def some(count):
    return [Pair(Example(f"ab {i} ", f"abcd {i * i}")) for i in range(count)]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(corpus, "PART", 4)


def as_lists(documents):
    return [(d.ids.tolist(), d.num_prompt) for d in documents]


def expected(pairs):
    found = []
    for e, _ in pairs:
        prompt, completion = TOKENIZER.encode(e.prompt), TOKENIZER.encode(e.completion)
        found.append(([*prompt, *completion, TOKENIZER.eos_id], len(prompt)))
    return found


TEXT = st.text("abc ", max_size=9)
RATES = st.floats(0, 1)


@given(st.lists(st.tuples(TEXT, TEXT, RATES), max_size=11), st.booleans(), st.integers(1, 40))
def test_it_holds_every_example_in_its_order(tmp_path_factory, rows, rated, characters):
    """Whatever parts it is cut into, by count or by length; and pass rates and marks with them."""
    pairs = [Pair(Example(a, b), rate if rated else None) for a, b, rate in rows]
    folder = tmp_path_factory.mktemp("corpus") / "source"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(corpus, "PART", 4)
        m.setattr(corpus, "PART_CHARACTERS", characters)
        m.setattr(corpus, "BATCH_CHARACTERS", characters // 2)
        make(folder, iter(pairs), TOKENIZER, marks=lambda text: [ord(c) for c in set(text)])
    made = Corpus(folder)
    assert as_lists(made) == expected(pairs)
    assert made.lengths.tolist() == [len(ids) for ids, _ in expected(pairs)]
    assert made.prompts.tolist() == [n for _, n in expected(pairs)]
    assert made.contents.tokens == sum(made.lengths)
    rates = None if made.pass_rates is None else made.pass_rates.tolist()
    assert rates == ([rate for _, rate in pairs] if rated and pairs else None)
    marks = {n: {chr(mark) for mark in marks} for n, marks in made.marks()}
    assert marks == {i: {*e.prompt, *e.completion, "\n"} for i, (e, _) in enumerate(pairs)}


def test_documents_that_have_no_marks_are_passed_over(tmp_path):
    def found(text):
        return [7, 9] if "3" in text else []

    made = make(tmp_path / "source", some(40), TOKENIZER, marks=found)
    assert list(made.marks()) == [
        (i, [7, 9]) for i, (e, _) in enumerate(some(40)) if "3" in e.prompt + e.completion
    ]


@pytest.mark.usefixtures("small_parts")
def test_while_it_is_made_its_rate_and_the_time_left_are_told(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("statewise.progress.time.monotonic", lambda: now[0])

    def slow(examples):
        for pair in examples:
            now[0] += 5.0
            yield pair

    make(tmp_path / "a", slow(some(10)), TOKENIZER, label="tokens of a", total=lambda: 10)
    told = capsys.readouterr().err.splitlines()
    assert [line.split("%")[0] for line in told] == [f"  tokens of a: {n} " for n in (" 40", " 80")]
    assert "0.2 documents/s" in told[0]
    assert told[0].endswith(" tokens  30 s left")
    now[0] = 0.0
    make(tmp_path / "b", slow(some(10)), TOKENIZER, label="tokens of b")
    assert "  tokens of b: 4 documents  0.2 documents/s" in capsys.readouterr().err


def test_it_keeps_no_file_open(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART", 1)
    made = make(tmp_path / "source", some(9), TOKENIZER)
    before = set(os.listdir("/proc/self/fd"))
    documents = list(made)
    assert set(os.listdir("/proc/self/fd")) == before
    assert len(documents) == 9


@pytest.mark.usefixtures("small_parts")
def test_it_is_made_once(tmp_path):
    make(tmp_path / "source", some(9), TOKENIZER)

    def never():
        raise AssertionError
        yield

    assert len(make(tmp_path / "source", never(), TOKENIZER)) == 9


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("moves", range(6))
def test_killed_anywhere_it_goes_on_with_the_next_part(tmp_path, monkeypatch, moves):
    class Killed(BaseException):
        pass

    real, left = os.replace, [moves]

    def replace(*paths):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(*paths)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            make(tmp_path / "source", some(10), TOKENIZER)
    encoded = []
    with monkeypatch.context() as m:
        m.setattr(
            corpus,
            "_write_part",
            lambda folder, part, *rest: encoded.append(part) or WRITE(folder, part, *rest),
        )
        made = make(tmp_path / "source", some(10), TOKENIZER)
    assert encoded == list(range(moves // 2, 3))
    assert as_lists(made) == expected(some(10))


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_was_cut_is_told(tmp_path):
    make(tmp_path / "source", some(9), TOKENIZER)
    os.truncate(tmp_path / "source" / "part-00001.ids", 10)
    with pytest.raises(DataError, match=r"part-00001\.ids: holds 5 ids, and its index speaks of"):
        Corpus(tmp_path / "source")


def test_wide_vocabularies_have_wide_ids(tmp_path, monkeypatch):
    assert make(tmp_path / "narrow", some(2), TOKENIZER).contents.dtype == "uint16"
    monkeypatch.setattr(type(TOKENIZER), "vocab_size", property(lambda self: 70_000))
    wide = make(tmp_path / "wide", some(2), TOKENIZER)
    assert wide.contents.dtype == "uint32"
    assert as_lists(wide) == expected(some(2))
    assert wide[0].ids.dtype == np.uint32


# What of it can be trained on.


@pytest.fixture(scope="module")
def long_and_short(tmp_path_factory):
    """Prompts of 4 tokens or none, completions of 3 to 12."""
    pairs = [Pair(Example("abab" if i % 5 else "", "c" * 2 * i), i / 10) for i in range(1, 11)]
    return make(tmp_path_factory.mktemp("fits") / "source", pairs, LETTERS), pairs


LETTERS = BPETokenizer.train([], vocab_size=260)
LEFT_OUT = dict.fromkeys(
    (
        "without a prompt",
        "without a completion",
        "near an evaluation problem",
        "longer than a row",
    ),
    0,
)


def test_what_is_longer_than_a_row_is_left_out_and_counted_never_cut(long_and_short):
    made, _ = long_and_short
    kept = Fitting(made, max_tokens=15, long="drop", where="x")
    assert [len(d.ids) for d in kept] == [7, 9, 11, 13]
    assert kept.lengths.tolist() == [7, 9, 11, 13]
    assert all(d.ids[-1] == LETTERS.eos_id for d in kept)
    assert kept.left_out == LEFT_OUT | {"longer than a row": 4, "without a prompt": 2}
    assert kept.cut == 0


def test_what_is_longer_than_a_row_is_cut_where_the_recipe_says_so(long_and_short):
    made, _ = long_and_short
    kept = Fitting(made, max_tokens=15, long="cut", where="x")
    assert kept.lengths.tolist() == [len(d.ids) for d in kept] == [7, 9, 11, 13, 15, 15, 15, 15]
    assert {why: n for why, n in kept.left_out.items() if n} == {"without a prompt": 2}
    assert kept.cut == 4
    only_prompts = Fitting(made, max_tokens=5, long="cut", where="x")
    assert all(d.num_prompt < len(d.ids) for d in only_prompts)
    with pytest.raises(DataError, match="2 without a prompt, 8 with a prompt as long as a row"):
        Fitting(made, max_tokens=4, long="cut", where="x")


def test_what_teaches_nothing_or_gives_a_problem_away_is_left_out_and_counted_once(tmp_path):
    pairs = [
        ("", ""),
        ("a", ""),
        ("ab", "c"),
        ("ab", "cc"),
        ("ab", "c" * 99),
        ("", "c"),
        ("a", "b"),
    ]
    made = make(tmp_path / "source", [Pair(Example(*pair)) for pair in pairs], LETTERS)
    kept = Fitting(made, max_tokens=15, long="drop", where="x", near=[0, 2, 4])
    assert as_lists(kept) == [as_lists(made)[3], as_lists(made)[6]]
    assert kept.left_out == {
        "without a prompt": 2,
        "without a completion": 1,
        "near an evaluation problem": 2,
        "longer than a row": 0,
    }
    assert len(Fitting(made, max_tokens=15, long="refuse", where="x", near=[4])) == 3


def test_pass_rates_stay_with_their_documents(long_and_short):
    kept = Fitting(long_and_short[0], max_tokens=15, long="drop", where="x")
    assert kept.pass_rates.tolist() == [0.1, 0.2, 0.3, 0.4]
    (out,) = kept.hold_out(1, seed=0)
    assert kept.pass_rates.tolist() == [(len(d.ids) - 5) / 20 for d in kept]
    assert len(out.ids) not in kept.lengths


def test_what_is_longer_than_a_row_is_refused_where_the_recipe_says_so(long_and_short):
    made, _ = long_and_short
    assert len(Fitting(made, max_tokens=30, long="refuse", where="x")) == 8
    with pytest.raises(DataError, match=r"^x: 4 of its examples are longer than 15 tokens, the "):
        Fitting(made, max_tokens=15, long="refuse", where="x")


def test_a_source_of_which_nothing_fits_is_named(long_and_short):
    with pytest.raises(
        DataError, match=r"^x: none of its 10 .*longest has 23 .*row_tokens is 2\)$"
    ):
        Fitting(long_and_short[0], max_tokens=2, long="drop", where="x")


def test_a_source_without_examples_is_named(tmp_path):
    empty = make(tmp_path / "none", [], TOKENIZER)
    with pytest.raises(DataError, match=r"^foundation: holds no examples"):
        Fitting(empty, max_tokens=5, long="drop", where="foundation")


@given(st.integers(1, 7), st.integers(0, 99))
def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost(long_and_short, count, seed):
    made, _ = long_and_short
    kept = Fitting(made, max_tokens=30, long="drop", where="x")
    every = as_lists(kept)
    out = as_lists(kept.hold_out(count, seed))
    assert len(out) == count
    assert sorted(out + as_lists(kept)) == sorted(every)
    assert kept.lengths.tolist() == [len(d.ids) for d in kept]
    again = Fitting(made, max_tokens=30, long="drop", where="x")
    assert as_lists(again.hold_out(count, seed)) == out


def test_a_source_cannot_hold_out_all_that_it_has(long_and_short):
    kept = Fitting(long_and_short[0], max_tokens=30, long="drop", where="x")
    with pytest.raises(DataError, match="x: hold_out: 8 of 8 documents cannot be held out"):
        kept.hold_out(8, 0)
