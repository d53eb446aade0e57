"""What a claim comes to: the truth table of the words, and that they know which side is which."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise import verdict
from statewise.verdict import Evidence, Word

GOOD = {"a": 0.9, "b": 0.8}
ABOVE, BELOW, AROUND = (0.01, 0.2), (-0.2, -0.01), (-0.1, 0.1)


def evidence(interval: tuple[float, float], scores: dict[str, float] = GOOD) -> Evidence:
    return Evidence(sum(interval) / 2, interval, scores)


SETS = {
    "for": evidence(ABOVE),
    "against": evidence(BELOW),
    "open": evidence(AROUND),
    "floor": evidence(ABOVE, {"a": 0.195, "b": 0.03}),
}

H, R, M, U, W = Word.HELD, Word.REVERSED, Word.MIXED, Word.UNDECIDED, Word.TOO_WEAK


@pytest.mark.parametrize(
    ("sets", "together", "word", "worst"),
    [
        (["for"], ABOVE, H, "for"),
        (["for", "for"], ABOVE, H, "for"),
        (["against", "against"], BELOW, R, "against"),
        (["open", "open"], AROUND, U, "open"),
        (["open", "open"], ABOVE, U, "open"),  # alike on every set: their word
        (["for", "against"], ABOVE, M, "against"),
        (["for", "against", "open"], BELOW, M, "against"),
        (["for", "open"], ABOVE, H, "open"),
        (["for", "open"], AROUND, U, "open"),
        (["for", "open"], BELOW, U, "open"),  # no set says so
        (["against", "open"], BELOW, R, "against"),
        (["against", "open"], AROUND, U, "against"),
        (["against", "open"], ABOVE, U, "against"),
        (["floor"], ABOVE, W, "floor"),
        (["for", "floor"], ABOVE, W, "floor"),
        (["for", "against", "floor"], ABOVE, W, "against"),
        (["open", "floor", "floor"], AROUND, W, "floor"),
    ],
)
def test_the_word_over_all_sets_follows_from_the_words_of_each(
    sets: list[str], together: tuple[float, float], word: Word, worst: str
) -> None:
    named = {f"{name}-{i}": SETS[name] for i, name in enumerate(sets)}
    decision = verdict.over_sets(named, evidence(together), seeds=3, reach=0.2)
    assert decision.word is word
    assert decision.worst.rpartition("-")[0] == worst
    each = {"for": H, "against": R, "open": U, "floor": W}
    assert decision.sets == {n: each[n.rpartition("-")[0]] for n in named}


def test_of_equal_words_the_set_with_the_smallest_difference_is_the_worst() -> None:
    sets = {"wide": evidence((0.2, 0.3)), "narrow": evidence((0.01, 0.02))}
    assert verdict.over_sets(sets, sets["wide"], seeds=3, reach=0.2).worst == "narrow"


@pytest.mark.parametrize("reach", [0.2, 0.5])
def test_a_set_is_too_weak_until_two_models_have_learned_it(reach: float) -> None:
    below, at = reach - 0.001, reach
    for scores, word in [
        ({"a": 0.99, "b": below}, W),
        ({"a": below, "b": below}, W),
        ({"a": 0.99, "b": at}, H),
        ({"a": below, "b": at, "c": at}, H),
    ]:
        assert verdict.of_set(evidence(ABOVE, scores), seeds=3, reach=reach) is word


@pytest.mark.parametrize("interval", [(0.0, 0.1), (-0.1, 0.0), (0.0, 0.0)])
def test_an_interval_that_touches_zero_decides_nothing(interval: tuple[float, float]) -> None:
    assert verdict.of_interval(interval, seeds=3) is U


def test_one_seed_indicates_at_most() -> None:
    for names in product(SETS, repeat=2):
        sets = {f"{n}-{i}": SETS[n] for i, n in enumerate(names)}
        for together in (ABOVE, BELOW, AROUND):
            decision = verdict.over_sets(sets, evidence(together), seeds=1, reach=0.2)
            assert not {H, R} & {decision.word, *decision.sets.values()}
    one = verdict.over_sets({"s": SETS["for"]}, SETS["for"], seeds=1, reach=0.2)
    assert one.word is Word.INDICATED
    one = verdict.over_sets({"s": SETS["against"]}, SETS["against"], seeds=1, reach=0.2)
    assert one.word is Word.REVERSAL_INDICATED


OPPOSITE = {
    H: R,
    R: H,
    Word.INDICATED: Word.REVERSAL_INDICATED,
    Word.REVERSAL_INDICATED: Word.INDICATED,
}
intervals = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted).map(tuple)
pieces = st.builds(
    Evidence,
    st.just(0.0),
    intervals,
    st.fixed_dictionaries({"a": st.floats(0, 1), "b": st.floats(0, 1)}),
).map(lambda e: replace(e, difference=sum(e.interval) / 2))


@given(
    sets=st.dictionaries(st.sampled_from("pqrs"), pieces, min_size=1),
    together=pieces,
    seeds=st.integers(1, 3),
)
def test_exchanging_the_two_models_turns_every_word_round(sets, together, seeds) -> None:
    def turned(e: Evidence) -> Evidence:
        return Evidence(-e.difference, (-e.interval[1], -e.interval[0]), e.scores)

    one = verdict.over_sets(sets, together, seeds=seeds, reach=0.2)
    other = verdict.over_sets(
        {n: turned(e) for n, e in sets.items()}, turned(together), seeds=seeds, reach=0.2
    )
    assert other.word is OPPOSITE.get(one.word, one.word)
    assert other.sets == {n: OPPOSITE.get(w, w) for n, w in one.sets.items()}


@given(
    sets=st.dictionaries(st.sampled_from("pqrs"), pieces, min_size=1),
    together=pieces,
    seeds=st.integers(1, 3),
)
def test_no_word_says_more_than_its_sets(sets, together, seeds) -> None:
    decision = verdict.over_sets(sets, together, seeds=seeds, reach=0.2)
    if verdict.supports(decision.word) is not None:
        supports = {verdict.supports(w) for w in decision.sets.values()}
        assert verdict.supports(decision.word) in supports
        assert (not verdict.supports(decision.word)) not in supports
        assert W not in decision.sets.values()


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([H], H),
        ([H, H], H),
        ([H, R], M),
        ([H, M], M),
        ([H, U], U),
        ([R, U], U),
        ([R, R], R),
        ([U, U], U),
        ([H, W], W),
        ([R, W], W),
        ([Word.INDICATED, Word.INDICATED], Word.INDICATED),
        ([Word.INDICATED, Word.REVERSAL_INDICATED], M),
    ],
)
def test_a_claim_of_several_comparisons_needs_them_all(parts: list[Word], word: Word) -> None:
    assert verdict.of_parts(parts) is word
    assert verdict.of_parts(parts[::-1]) is word
