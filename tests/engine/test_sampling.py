import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from statewise.engine.sampling import NOT_A_NUMBER, RowParams, penalise, pick, table_row, uniforms
from statewise.sampler import SamplingParams

logit = st.integers(-24, 24).map(lambda i: i / 4)
rows = st.lists(logit, min_size=1, max_size=12)
unit = st.floats(0, 1, exclude_max=True)


def rows_of(params):
    return RowParams.of(np.array([table_row(p) for p in params]))


def alike(count, **params):
    return rows_of([SamplingParams(**params)] * count)


def draw(row, us, **params):
    """One token of `row` for each number in `us`."""
    logits = torch.tensor([row] * len(us), dtype=torch.float32)
    u = torch.tensor(us, dtype=torch.float64)
    return pick(logits, u, alike(len(us), **params)).tolist()


def invert(weights, u):
    """The definition: the first token at which the running sum exceeds u times the sum."""
    target, total = u * math.fsum(weights), 0.0
    for token, weight in enumerate(weights):
        total += weight
        if total > target + 1e-9:
            return token
        assume(total < target - 1e-9)  # too close to call in floating point
    raise AssertionError("u is below 1")


def softmax_weights(row, temperature):
    return [math.exp((x - max(row)) / temperature) for x in row]


@given(st.integers(0, 2**64), st.text(), st.integers(0, 999), st.integers(0, 40), st.integers(0, 9))
def test_a_stream_resumed_at_a_position_goes_on_as_if_never_cut(seed, prompt, i, start, count):
    whole = uniforms(seed, prompt, i, start + count)
    assert np.array_equal(uniforms(seed, prompt, i, count, start), whole[start:])
    assert ((whole >= 0) & (whole < 1)).all()


def test_seed_prompt_and_sample_each_name_a_stream_of_their_own():
    names = [(s, p, i) for s in (0, 1, 12) for p in ("", "1", "12") for i in (0, 1, 12)]
    firsts = {uniforms(s, p, i, 1)[0] for s, p, i in names}
    assert len(firsts) == len(names)


def test_the_streams_never_change_between_versions():
    # Frozen: a report names a seed, and the seed has to mean the same draws next year.
    assert uniforms(0, "What is 2 + 2?", 0, 2).tolist() == [0.6458403429656712, 0.07955778355639831]


def test_uniforms_fill_the_unit_interval_evenly():
    # 10 bins of 2000 expected draws, sd 42.4. The streams are fixed, so this cannot fail by chance;
    # with fresh ones, 5.5 sd would be passed once in 2.6 million runs.
    x = np.concatenate([uniforms(3, f"prompt {k}", k % 7, 20) for k in range(1000)])
    counts = np.histogram(x, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 5.5 * math.sqrt(20_000 * 0.1 * 0.9)


@given(rows, unit, st.sampled_from([0.5, 0.8, 1.0, 2.0]))
def test_a_draw_inverts_the_cumulative_distribution(row, u, temperature):
    expected = invert(softmax_weights(row, temperature), u)
    assert draw(row, [u], temperature=temperature) == [expected]


@given(rows, unit, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_likeliest_set_that_has_the_mass(row, u, top_p):
    weights = softmax_weights(row, 1.0)
    needed, mass, kept = top_p * math.fsum(weights), 0.0, set()
    for token in sorted(range(len(row)), key=lambda t: (-row[t], t)):
        assume(abs(mass - needed) > 1e-9)
        if mass >= needed:
            break
        kept.add(token)
        mass += weights[token]
    expected = invert([w if t in kept else 0.0 for t, w in enumerate(weights)], u)
    assert draw(row, [u], top_p=top_p) == [expected]


@given(rows, unit, st.integers(1, 14))
def test_top_k_keeps_the_k_likeliest_and_what_equals_the_last_of_them(row, u, k):
    threshold = sorted(row, reverse=True)[min(k, len(row)) - 1]
    weights = [
        w if x >= threshold else 0.0 for x, w in zip(row, softmax_weights(row, 1.0), strict=True)
    ]
    assert draw(row, [u], top_k=k) == [invert(weights, u)]


def test_top_p_is_taken_of_what_top_k_left():
    row = [math.log(x) for x in (0.4, 0.3, 0.2, 0.1)]
    us = [i / 50 for i in range(50)]
    # Of all, 0.55 needs two tokens; of the two that top-k leaves, the first has 0.571 already.
    assert set(draw(row, us, top_p=0.55)) == {0, 1}
    assert set(draw(row, us, top_p=0.55, top_k=2)) == {0}


@given(rows, unit)
def test_greedy_takes_the_likeliest_and_the_lowest_id_among_equals(row, u):
    assert draw(row, [u], temperature=0) == [row.index(max(row))]


@given(rows, unit)
def test_a_temperature_near_zero_is_greedy_but_for_ties(row, u):
    [token] = draw(row, [u], temperature=1e-6)
    assert row[token] == max(row)


@given(st.lists(rows.filter(lambda r: len(r) >= 5).map(lambda r: r[:5]), min_size=2, max_size=6))
def test_a_row_is_drawn_alike_alone_and_among_others(batch):
    us = torch.from_numpy(uniforms(0, "rows", 0, len(batch)))
    logits = torch.tensor(batch)
    params = {"temperature": 0.7, "top_p": 0.9, "top_k": 4}
    together = pick(logits, us, alike(len(batch), **params))
    one = alike(1, **params)
    alone = [pick(logits[i : i + 1], us[i : i + 1], one)[0] for i in range(len(batch))]
    assert together.tolist() == [int(t) for t in alone]


def pick_alone(logits, uniform, params, seen):
    """The definition for one row (1, v): its own parameters as plain numbers, nothing beside it."""
    if params.repetition_penalty != 1:
        penalty = params.repetition_penalty
        logits = torch.where(
            seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits
        )
    best = logits.amax()
    if params.temperature == 0:
        return int((logits == best).int().argmax())
    weights = ((logits.double() - best) / params.temperature).exp()
    if 0 < params.top_k < logits.shape[-1]:
        weights[logits < logits.topk(params.top_k).values[0, -1]] = 0
    if params.top_p < 1:
        order = sorted(range(weights.shape[1]), key=lambda t: (-weights[0, t], t))
        mass = weights[0, order].cumsum(0)
        needed = params.top_p * mass[-1]
        dropped = [t for t, m in zip(order[1:], mass, strict=False) if m >= needed]
        weights[0, dropped] = 0
    cumulative = weights[0].cumsum(0)
    token = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return min(token, logits.shape[-1] - 1)


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.05, 0.6, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 30, 500]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
)


@given(st.lists(PARAMS, min_size=1, max_size=9), st.integers(0, 2**31), st.sampled_from([5, 90]))
def test_a_row_is_drawn_by_its_own_parameters_whatever_those_of_the_others(params, seed, width):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(params), width, generator=generator) * 4
    logits = (logits * 4).round() / 4  # so that some are equal
    seen = torch.rand(logits.shape, generator=generator) < 0.3
    us = torch.rand(len(params), generator=generator, dtype=torch.float64)
    together = pick(logits, us, rows_of(params), seen).tolist()
    alone = [pick_alone(logits[i : i + 1], us[i], p, seen[i : i + 1]) for i, p in enumerate(params)]
    assert together == alone


def test_a_row_without_top_p_keeps_what_the_sum_of_the_largest_rounds_away():
    # Four times 2^-54 beside 1: summed by falling weight they are lost, in order of ids they are
    # not. The number 0 draws the first of them, unless top-p has cut them off.
    row = torch.tensor([[-54 * math.log(2)] * 4 + [0.0]]).expand(2, -1)
    u = torch.zeros(2, dtype=torch.float64)
    rows = rows_of([SamplingParams(), SamplingParams(top_p=0.999)])
    assert pick(row, u, rows).tolist() == [0, 4]


def test_the_ends_of_the_unit_interval_never_draw_an_impossible_token():
    row = [-math.inf, 1.0, -math.inf, 2.0, -math.inf]
    assert draw(row, [0.0, 1 - 2**-53]) == [1, 3]


def test_draws_follow_the_distribution():
    # 40 000 draws, each count within 5.5 standard deviations of its mean. The stream is fixed, so
    # this cannot fail by chance; with fresh ones it would once in 4 million runs (6 tokens).
    row = [0.0, 1.0, 2.0, -1.0, 0.5, 1.5]
    n, temperature = 40_000, 1.3
    us = uniforms(5, "distribution", 0, n).tolist()
    counts = np.bincount(draw(row, us, temperature=temperature), minlength=len(row))
    weights = np.array(softmax_weights(row, temperature))
    p = weights / weights.sum()
    assert (abs(counts - n * p) < 5.5 * np.sqrt(n * p * (1 - p))).all()


@settings(max_examples=50)
@given(
    st.lists(logit, min_size=8, max_size=8),
    st.lists(st.integers(0, 7), min_size=1, max_size=12),
    st.sampled_from([0.7, 1.1, 1.5]),
)
def test_the_repetition_penalty_is_that_of_transformers(row, ids, penalty):
    logits = torch.tensor([row])
    seen = torch.zeros(1, 8, dtype=torch.bool)
    seen[0, ids] = True
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits.clone())
    assert torch.equal(penalise(logits, seen, torch.tensor([[penalty]])), theirs)


def test_the_penalty_comes_before_the_temperature_and_the_choice():
    logits = torch.tensor([[2.0, 1.9]])
    seen = torch.tensor([[True, False]])
    u = torch.zeros(1, dtype=torch.float64)
    params = alike(1, temperature=0, repetition_penalty=1.1)
    assert pick(logits, u, params, seen).tolist() == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_with_broken_logits_is_marked_and_leaves_the_others_alone(bad, temperature):
    logits = torch.tensor([[0.0, 1.0, 9.0], [0.0, bad, 1.0], [-math.inf] * 3])
    u = torch.full((3,), 0.9, dtype=torch.float64)
    tokens = pick(logits, u, alike(3, temperature=temperature))
    assert tokens.tolist() == [2, NOT_A_NUMBER, NOT_A_NUMBER]


def test_picking_leaves_the_logits_as_they_were():
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    u = torch.full((3,), 0.5, dtype=torch.float64)
    params = alike(3, temperature=0.5, top_k=3, top_p=0.5, repetition_penalty=1.2)
    pick(logits, u, params, torch.ones(3, 9, dtype=torch.bool))
    assert torch.equal(logits, before)
