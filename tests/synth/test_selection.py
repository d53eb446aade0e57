"""Concept sets: the law that they are drawn by, its scales, and where it ends."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from statewise.errors import DataError
from statewise.synth.selection import Selector

LISTS = [["a", "b"], ["a", "b"], ["a", "c"], ["d", "e"], ["d", "c"], ["e"]]


def npmi(lists, x, y):
    """By hand, its positive part."""
    total = len(lists)
    both = sum(x in names and y in names for names in lists) / total
    if both in (0.0, 1.0):  # never, and no surprise
        return 0.0
    px, py = (sum(n in names for names in lists) / total for n in (x, y))
    return max(np.log(both / (px * py)) / -np.log(both), 0.0)


@st.composite
def concept_lists(draw):
    names = st.sampled_from("abcdefgh")
    return draw(st.lists(st.lists(names, min_size=1, max_size=4), min_size=1, max_size=12))


@given(concept_lists(), st.floats(0.05, 5.0), st.booleans())
def test_a_weight_is_the_exponential_of_both_scores_by_hand(lists, temperature, embedded):
    distinct = [sorted(set(names)) for names in lists]
    names = sorted({n for found in distinct for n in found})
    rng = np.random.default_rng(len(lists))
    embeddings = {n: 7.0 * rng.standard_normal(5) for n in names}
    selector = Selector(lists, embeddings if embedded else None, temperature=temperature)
    assert selector.names == names
    first = np.array([sum(n in found for found in distinct) for n in names], dtype=float)
    np.testing.assert_allclose(selector.weights([]), first / first.sum())
    chosen = list(range(min(2, len(names) - 1)))
    if not chosen:
        return
    score = np.array([np.mean([npmi(distinct, n, names[c]) for c in chosen]) for n in names])
    if embedded:
        unit = {n: e / np.linalg.norm(e) for n, e in embeddings.items()}
        score += [np.mean([unit[n] @ unit[names[c]] for c in chosen]) for n in names]
    expected = np.exp(score / temperature)
    expected[chosen] = 0.0
    np.testing.assert_allclose(selector.weights(chosen), expected / expected.sum(), rtol=1e-4)


def test_what_is_drawn_follows_the_weights():
    selector = Selector(LISTS, temperature=0.5)
    rng = np.random.default_rng(0)
    drawn = Counter(selector.draw(2, rng) for _ in range(4000))
    first = selector.weights([])
    expected = {
        (a, b): first[i] * selector.weights([i])[j]
        for i, a in enumerate(selector.names)
        for j, b in enumerate(selector.names)
        if i != j
    }
    counts = [drawn[pair] for pair in expected]
    assert chisquare(counts, [4000 * p for p in expected.values()]).pvalue > 1e-3


def test_a_cosine_belongs_to_its_own_concept():
    """Two families that no problem has together; cold, a set stays in one of them."""
    names = [f"{family}{i}" for i in range(6) for family in "xy"]
    embeddings = {n: [1.0, 0.01 * i] if n[0] == "x" else [-1.0, 0.02] for i, n in enumerate(names)}
    selector = Selector([[n] for n in names], embeddings, temperature=0.05)
    drawn = [selector.draw(4, np.random.default_rng(i)) for i in range(50)]
    assert all(len({n[0] for n in found}) == 1 for found in drawn)
    assert {found[0][0] for found in drawn} == {"x", "y"}


def test_a_pair_that_stands_together_a_million_times_neither_overflows_nor_is_all_there_is():
    lists = [["a", "b"]] * 1000 + [["a", "c"]] * 900 + [["d"]] * 500
    selector = Selector(lists, temperature=0.2)
    after_a = dict(zip(selector.names, selector.weights([0]), strict=True))
    assert after_a["b"] < 3 * after_a["c"]
    assert after_a["d"] > 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_sets_are_the_same_however_many_are_asked_for(seed):
    few, many = (list(islice(Selector(LISTS).sets(3, ("x", "y"), seed=seed), n)) for n in (4, 12))
    assert many[:4] == few
    assert many != list(islice(Selector(LISTS).sets(3, ("x", "y"), seed=seed + 2), 12))


@given(concept_lists(), st.integers(1, 3), st.integers(0, 5))
def test_no_set_repeats_a_concept_or_another_set(lists, size, seed):
    selector = Selector(lists)
    if size > len(selector.names):
        with pytest.raises(DataError, match="but there are"):
            next(selector.sets(size, ("x",), seed=seed))
        return
    found = []
    for names, level in islice(selector.sets(size, ("x", "y"), seed=seed), 5):
        found.append((frozenset(names), level))
        assert len(set(names)) == size
        if len(found) == len(selector.names) - size + 1:
            break
    assert len(set(found)) == len(found)


def test_where_nothing_new_is_left_the_sets_end_with_what_to_do():
    sets = Selector([["a", "b", "c"]]).sets(2, ("x",), seed=0)
    assert len(list(islice(sets, 3))) == 3
    with pytest.raises(DataError, match="after 3; ask for fewer"):
        next(sets)


def test_the_order_of_seed_problems_and_of_their_concepts_is_of_no_matter():
    turned = [list(reversed(names)) for names in reversed(LISTS)]
    a, b = (list(islice(Selector(x).sets(2, ("x",), seed=3), 6)) for x in (LISTS, turned))
    assert a == b


@pytest.mark.parametrize(
    ("embeddings", "told"),
    [
        ({"a": [1.0]}, "'b' has no embedding"),
        ({"a": [1.0], "b": [1.0, 2.0]}, "'b' has 2 numbers, that of 'a' has 1"),
        ({"a": [1.0], "b": [0.0]}, "'b' has no direction"),
        ({"a": [1.0], "b": [float("nan")]}, "'b' has no direction"),
    ],
)
def test_embeddings_that_say_nothing_are_refused(embeddings, told):
    with pytest.raises(DataError, match=told):
        Selector([["a", "b"]], embeddings)


def test_without_a_concept_there_is_nothing_to_draw():
    with pytest.raises(DataError, match="no seed problem names a concept"):
        Selector([[], []])
