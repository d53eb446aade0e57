"""What is concluded from measured speeds, on results built by hand."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import ConfigError, DataError
from statewise.speed import (
    IN_LLAMA_CPP,
    IN_TORCH,
    OURS,
    OURS_IN_TORCH,
    Bench,
    BenchRow,
    Ratio,
    Speed,
    break_even_told,
    decide,
    floor_break_even,
    measured_break_even,
    memory_break_even,
    read,
    write,
)
from statewise.verdict import Word

REPEATS = 9
SURE, UNSURE = 0.01, 0.5  # how far repeats lie apart


def speed(tokens_per_s, memory=1000, floor=5000, batch=8, spread=0.0, repeats=REPEATS):
    """Repeats evenly around a speed, as a share of it."""
    shares = [spread * (2 * i / (repeats - 1) - 1) if repeats > 1 else 0.0 for i in range(repeats)]
    times = tuple(batch / tokens_per_s * (1 + share) for share in shares)
    return Speed(batch, times, memory, floor, 1e-6)


def row(length=1000, ours=2.0, torch=1.0, llama=None, state=500, cache=1000, spread=SURE, **more):
    contestants = {
        OURS: speed(ours, state, spread=spread, **more),
        IN_TORCH: speed(torch, cache, **more),
    }
    if llama is not None:
        contestants[IN_LLAMA_CPP] = speed(llama, cache, **more)
    return BenchRow(length, contestants)


def bench(*rows, budget=None, llama_cpp="1.0"):
    return Bench(
        threads=2,
        dtype="float32",
        copy_bytes_per_s=1e10,
        llama_cpp=llama_cpp,
        not_measured="" if llama_cpp else "not installed",
        rows=rows,
        budget_bytes=10_000,
        most_sequences=256,
        under_budget=(budget or rows[-1],),
    )


def measured(alike, budget, smaller, *, spread=SURE, budget_spread=SURE, repeats=REPEATS):
    """Ours is `alike` and `budget` times as fast as the Transformer, and smaller or not."""
    state, cache = (500, 1000) if smaller else (1000, 500)
    both = {"state": state, "cache": cache, "repeats": repeats}
    return bench(
        row(ours=alike, spread=spread, **both),
        budget=row(ours=budget, spread=budget_spread, **both),
    )


TRUTH = [
    (measured(2.0, 3.0, True), Word.HELD),
    (measured(0.5, 0.3, False), Word.REVERSED),
    (measured(2.0, 3.0, False), Word.MIXED),  # faster, but larger
    (measured(0.5, 0.3, True), Word.MIXED),  # smaller, but slower
    (measured(0.5, 3.0, True), Word.MIXED),  # faster only with more sequences
    (measured(2.0, 0.3, True), Word.MIXED),  # faster only with as many
    (measured(2.0, 0.3, False), Word.MIXED),
    (measured(1.2, 3.0, True, spread=UNSURE), Word.UNDECIDED),
    (measured(2.0, 1.2, True, budget_spread=UNSURE), Word.UNDECIDED),
    (measured(0.9, 0.3, False, spread=UNSURE), Word.UNDECIDED),
    (measured(1.0, 3.0, True, spread=0.0), Word.UNDECIDED),  # exactly alike
    (measured(2.0, 3.0, True, repeats=5), Word.TOO_WEAK),
    (measured(2.0, 3.0, True, repeats=1), Word.TOO_WEAK),
    (measured(2.0, 3.0, True, repeats=6), Word.HELD),
    (measured(0.5, 0.3, False, repeats=5), Word.TOO_WEAK),
]


@pytest.mark.parametrize(("results", "word"), TRUTH)
def test_the_verdict_has_this_truth_table(results, word):
    assert decide(results).word is word


OTHER_WAY = {Word.HELD: Word.REVERSED, Word.REVERSED: Word.HELD}


@pytest.mark.parametrize(("results", "word"), TRUTH)
def test_the_verdict_turns_round_where_the_two_models_change_places(results, word):
    def swapped(r):
        return BenchRow(r.length, {OURS: r.contestants[IN_TORCH], IN_TORCH: r.contestants[OURS]})

    turned = bench(*map(swapped, results.rows), budget=swapped(results.under_budget[-1]))
    assert decide(turned).word is OTHER_WAY.get(word, word)


def test_the_longest_length_decides_and_no_other():
    short, long = row(10, ours=0.1, state=5000), row(1000)
    assert decide(bench(short, long)).word is Word.HELD
    assert decide(bench(row(10), row(1000, ours=0.1, state=5000))).word is Word.REVERSED


def test_the_faster_opponent_decides_whichever_it_is():
    assert decide(bench(row(ours=2.0, torch=1.0, llama=4.0))).word is Word.MIXED
    assert decide(bench(row(ours=2.0, torch=4.0, llama=1.0))).word is Word.MIXED
    assert decide(bench(row(ours=2.0, torch=1.0, llama=1.5))).word is Word.HELD
    assert row(torch=1.0, llama=1.5).opponent == IN_LLAMA_CPP
    assert row(torch=1.5, llama=1.0).opponent == IN_TORCH


def test_our_model_in_torch_is_no_opponent_and_decides_nothing():
    r = row()
    fast = BenchRow(r.length, {**r.contestants, OURS_IN_TORCH: speed(99.0)})
    assert fast.opponent == IN_TORCH
    decision = decide(bench(fast))
    assert decision.word is Word.HELD
    assert "Torch against torch, without kernels of ours, it is 99.00 times" in decision.reason


def test_a_verdict_without_llama_cpp_is_one_against_torch_only():
    alone = decide(bench(row(), llama_cpp=""))
    assert alone.scope == "against torch only"
    assert alone.word is Word.INDICATED
    slower = row(ours=0.1, state=5000)
    assert decide(bench(slower, llama_cpp="")).word is Word.REVERSED  # another could only be faster
    assert alone.reason.endswith("llama.cpp was not measured: not installed.")
    both = decide(bench(row(llama=1.5)))
    assert both.scope == ""
    assert "not measured" not in both.reason
    assert "2 tokens/s and the Transformer 1 in torch and 2 in llama.cpp" in both.reason
    assert "as the faster, in llama.cpp" in both.reason


def test_a_length_whose_interval_holds_one_is_not_told_as_a_lead():
    close = row(128, ours=1.1, torch=1.0, spread=UNSURE)
    reason = decide(bench(close, row(1000), budget=row(1000))).reason
    assert "ahead at every length measured, from 128 tokens on (undecided at 128)" in reason
    assert "undecided at" not in decide(bench(row(128), row(1000))).reason


def test_the_reason_tells_what_each_of_the_three_answers_rests_on():
    budget = row(ours=30.0, torch=10.0)
    reason = decide(bench(row(ours=2.0), budget=budget)).reason
    assert "2.00 times (95 % interval 1.99 to 2.02)" in reason
    assert "3.00 times (95 % interval 2.98 to 3.02)" in reason
    assert "500 bytes of state against 1,000 of keys and values" in reason
    assert "too few repeats" in decide(bench(row(repeats=5))).reason


def test_nothing_measured_decides_nothing():
    with pytest.raises(ConfigError, match="nothing was measured"):
        decide(bench(budget=row()))


@pytest.mark.parametrize(
    ("repeats", "left_out"), [(5, None), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (20, 5)]
)
def test_an_interval_leaves_out_as_many_at_either_end_as_the_sign_test_allows(repeats, left_out):
    """Conover 1999, Practical Nonparametric Statistics, table of the binomial at 1/2."""
    theirs = Speed(8, (1.0,) * repeats, 1, 1, 0.0)
    ours = Speed(8, tuple(1 / (i + 1) for i in range(repeats)), 1, 1, 0.0)
    interval = Ratio.of(ours, theirs).interval
    assert interval == (None if left_out is None else (1 + left_out, repeats - left_out))


@given(st.lists(st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)), min_size=1, max_size=30))
def test_a_ratio_is_taken_repeat_by_repeat_and_turns_round_with_its_sides(pairs):
    ours, theirs = (Speed(8, times, 1, 1, 0.0) for times in zip(*pairs, strict=True))
    forth, back = Ratio.of(ours, theirs), Ratio.of(theirs, ours)
    assert forth.median == pytest.approx(statistics.median(b / a for a, b in pairs))
    assert (forth.interval is None) == (len(pairs) < 6)
    if forth.interval:
        assert forth.interval[0] <= forth.median <= forth.interval[1]
        assert back.interval == pytest.approx(tuple(1 / b for b in reversed(forth.interval)))


def test_more_sequences_at_once_are_more_tokens():
    one, two = speed(10.0, batch=1), Speed(2, speed(10.0, batch=1).step_s, 1, 1, 0.0)
    assert two.tokens_per_s == 2 * one.tokens_per_s
    assert Ratio.of(two, one).median == pytest.approx(2)


def test_the_share_of_the_floor_is_the_time_of_its_bytes_over_the_time_taken():
    one = speed(8.0, floor=2 * 10**9)  # a step of one second
    assert bench(row()).floor_share(one) == pytest.approx(0.2)


def floors(state, each, weights, batch, length):
    """A row whose bytes are as `bench.bytes_moved` counts them."""
    ours = speed(2.0, state, weights + 2 * batch * state, batch)
    cache = each * length
    theirs = speed(1.0, cache, weights + batch * (cache + each), batch)
    return BenchRow(length, {OURS: ours, IN_TORCH: theirs})


def test_the_floors_of_the_miniature_are_as_worked_out_by_hand():
    long, short = (floors(280_576, 384, 2_282_368, 8, n) for n in (4096, 128))
    assert long.floor_ratio == pytest.approx(2.20, abs=0.01)
    assert 1 / short.floor_ratio == pytest.approx(2.53, abs=0.01)
    assert floor_break_even(long) == pytest.approx(2 * 280_576 / 384 - 1)  # 1,460 tokens
    assert floor_break_even(short) == pytest.approx(floor_break_even(long))
    assert "it would be ahead from about 1,460 tokens on." in break_even_told(bench(long))
    small = floors(1, 384, 2_282_368, 8, 128)
    assert "it would be ahead at every length." in break_even_told(bench(small))


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 64), st.integers(1, 10**4))
def test_at_the_break_even_both_move_as_many_bytes(state, each, batch, length):
    meet = floor_break_even(floors(state, each, 12_345, batch, length))
    assert meet == pytest.approx(2 * state / each - 1)
    assert memory_break_even(floors(state, each, 1, batch, length)) == pytest.approx(state / each)


@pytest.mark.parametrize(
    ("gaps", "meet"),  # of step times, theirs less ours, at 10, 20 and 30 tokens
    [
        ([-1, 1, 3], 15),
        ([-3, -1, 1], 25),
        ([1, -1, 1], 25),  # ahead, behind and ahead again: from where on it stays ahead
        ([-3, 1, 1], 17.5),
        ([0, 1, 1], 10),
        ([1, 1, 1], None),
        ([-1, -1, -1], None),
        ([1, 1, -1], None),
        ([-1, 1, 0], None),
    ],
)
def test_the_measured_break_even_is_where_it_stays_faster(gaps, meet):
    def timed(seconds):
        return Speed(8, (float(seconds),), 10, 100, 0.0)

    rows = [
        BenchRow(10 * (i + 1), {OURS: timed(5), IN_TORCH: timed(5 + gap)})
        for i, gap in enumerate(gaps)
    ]
    assert measured_break_even(rows) == (meet and pytest.approx(meet))
    told = break_even_told(bench(*rows))
    if meet is not None:
        assert f"ahead from about {meet:,.0f} tokens on and behind below" in told
    elif gaps[-1] > 0:
        assert "ahead at every length measured, from 10 tokens on" in told
    else:
        assert "not ahead at the longest length measured, 30 tokens" in told


def test_where_both_are_told_to_be_ahead_goes_by_tokens_and_not_by_steps():
    def of(ours, theirs):  # twice as many sequences in a step of 1.5 times the time
        return BenchRow(10, {OURS: speed(ours, batch=16), IN_TORCH: speed(theirs, batch=8)})

    assert measured_break_even([of(2.0, 1.5)]) is None
    told = break_even_told(bench(row(), budget=of(2.0, 1.5)))
    assert "With as many as fit, it is ahead at every length measured" in told
    told = break_even_told(bench(row(), budget=of(1.5, 2.0)))
    assert "With as many as fit, it is not ahead at the longest length measured" in told


def test_the_file_is_refused_by_field(tmp_path):
    path = tmp_path / "bench.json"
    write(path, bench(row(llama=1.5), row()))
    assert read(path) == bench(row(llama=1.5), row())
    document = json.loads(path.read_text())
    document["rows"][1]["contestants"][OURS]["step_s"][0] = "fast"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"'statewise': field 'step_s': expected float"):
        read(path)
