"""Figures against their definitions."""

import itertools
import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.eval.metrics import (
    bootstrap,
    majority_answer,
    paired_difference,
    pass_at_k,
    standard_error,
    summarise,
)
from statewise.records import Completion, FinishReason, Outcome, Problem, Verdict, to_json

SYMBOLS = {
    "c": (Outcome.CORRECT, "1"),
    "i": (Outcome.INCORRECT, "2"),
    "n": (Outcome.NO_ANSWER, None),
    "t": (Outcome.TRUNCATED, None),
    "u": (Outcome.UNSCORED, "3"),
}


def verdicts(*rows: str) -> list[Verdict]:
    """One row a problem, one letter a sample."""
    return [
        Verdict(f"p{i}", j, *SYMBOLS[letter])
        for i, row in enumerate(rows)
        for j, letter in enumerate(row)
    ]


def problems(n: int, kind: str = "math") -> list[Problem]:
    return [Problem(f"p{i}", kind, "?", "1") for i in range(n)]


def result(*rows: str, kind: str = "math"):
    vs = verdicts(*rows)
    cs = [Completion(v.problem_id, v.sample, "", FinishReason.STOP, 1, 10, 0) for v in vs]
    return summarise(problems(len(rows), kind), cs, vs)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_correct_sample(n_and_correct):
    n, correct = n_and_correct
    samples = [True] * correct + [False] * (n - correct)
    for k in range(1, n + 1):
        draws = list(itertools.combinations(samples, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_at_k(n, correct, n + 1) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_the_standard_error_is_that_of_the_mean_over_problems(means):
    expected = statistics.stdev(means) / math.sqrt(len(means))
    assert standard_error(means) == pytest.approx(expected, abs=1e-12)


def test_one_problem_has_no_standard_error():
    assert standard_error([0.5]) is None
    assert result("ci").stderr is None


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12))
def test_the_interval_is_the_same_every_time_and_lies_within_the_means(means):
    interval = bootstrap(means)
    assert interval == bootstrap(means)
    assert min(means) <= interval.low <= interval.high <= max(means)


def test_the_interval_is_that_of_every_report_before():
    assert bootstrap([0.0, 0.25, 0.5, 1.0, 1.0]) == pytest.approx((0.2, 0.9))
    means = [math.sin(i) ** 2 for i in range(38)]
    expected = (0.3834691530685278, 0.6092350029215836)
    assert bootstrap(means) == pytest.approx(expected, rel=1e-12)
    large = [i % 3 / 2 for i in range(3_000)]  # drawn in several pieces
    assert bootstrap(large) == pytest.approx((0.48533333333333334, 0.5146666666666667))
    assert bootstrap([]) is None


def test_the_interval_of_many_problems_is_about_two_standard_errors_wide():
    means = [i % 2 for i in range(1000)]
    low, high = bootstrap(means)
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error(means), rel=0.05)


@given(st.lists(st.text("cintu", min_size=1, max_size=6), min_size=1, max_size=8))
def test_pass_at_1_is_the_mean_of_means_over_what_was_scored(rows):
    r = result(*rows)
    means = []
    for row in rows:
        scored = [s for s in row if s != "u"]
        if scored:
            means.append(scored.count("c") / len(scored))
    if means:
        assert r.pass_at_1 == pytest.approx(sum(means) / len(means))
        assert r.pass_at_1 == pytest.approx(r.pass_at_k["1"])
    else:
        assert r.pass_at_1 is None
    assert r.n_problems == len(rows)
    assert r.n_samples == sum(map(len, rows)) == sum(r.outcomes.values())
    assert r.n_unscored == "".join(rows).count("u") == r.n_samples - r.n_scored
    assert r.truncated == pytest.approx("".join(rows).count("t") / r.n_samples)


def test_an_unscored_sample_is_counted_and_not_averaged_as_wrong():
    r = result("cu", "iu")
    assert (r.pass_at_1, r.n_scored, r.n_unscored) == (0.5, 2, 2)
    only = result("uu")
    assert (only.pass_at_1, only.interval, only.majority) == (None, None, None)


def test_problems_weigh_the_same_however_many_samples_they_have():
    assert result("c", "iiii").pass_at_1 == 0.5


def test_pass_at_k_is_undefined_if_one_problem_has_too_few_samples():
    assert result("cici", "iiii").pass_at_k == {"1": 0.25, "2": pytest.approx(5 / 12), "4": 0.5}
    assert result("cici", "ii").pass_at_k["4"] is None


def test_all_five_outcomes_are_reported_even_when_absent():
    assert result("c").outcomes == {
        "correct": 1,
        "incorrect": 0,
        "no_answer": 0,
        "truncated": 0,
        "unscored": 0,
    }


def test_the_majority_answers_and_a_problem_without_votes_is_lost():
    assert result("cci", "cii", "nnt").majority == pytest.approx(1 / 3)


def test_a_problem_whose_winner_nobody_could_judge_has_no_majority_answer():
    assert result("uui", "c").majority == 1.0
    assert result("uui", "i").majority == 0.0
    assert result("uu", "c", "nu").majority == 1.0
    assert result("uu", "ci", "nn").majority == 0.5
    assert result("uui").majority is None


def test_a_tie_goes_to_the_answer_seen_first():
    assert result("cici", "icic").majority == 0.5
    shuffled = list(reversed(verdicts("ic")))
    assert majority_answer(shuffled).sample == 0


def test_spellings_of_one_number_vote_together():
    vs = [
        Verdict("p0", i, o, answer)
        for i, (o, answer) in enumerate(
            [
                (Outcome.INCORRECT, "7"),
                (Outcome.INCORRECT, "7"),
                (Outcome.CORRECT, "033"),
                (Outcome.CORRECT, "33"),
                (Outcome.CORRECT, "33^\\circ"),
            ]
        )
    ]
    assert majority_answer(vs).outcome is Outcome.CORRECT


def test_programs_have_no_majority():
    assert result("ccc", kind="code").majority is None
    mixed = [*problems(1), Problem("p1", "code", "?")]
    assert summarise(mixed, [], verdicts("c", "c")).majority is None


def test_tokens_are_averaged_over_samples_and_a_problem_without_any_counts_as_one():
    cs = [Completion("p0", i, "", FinishReason.STOP, 1, n, 0) for i, n in enumerate([10, 20, 60])]
    r = summarise(problems(2), cs, verdicts("cit"))
    assert (r.mean_tokens, r.n_problems, r.n_samples) == (30, 2, 3)
    assert r.truncated == pytest.approx(1 / 3)
    nothing = summarise(problems(2), [], [])
    assert (nothing.n_problems, nothing.n_samples, nothing.n_scored) == (2, 0, 0)
    assert nothing.mean_tokens is nothing.truncated is nothing.pass_at_1 is nothing.stderr is None
    assert nothing.pass_at_k == nothing.per_problem == {}


def test_programs_have_a_figure_by_each_set_of_rules():
    assert result("ci", "cu").by_rules is None
    r = result("cu", "ii", "uu", kind="code")
    assert r.by_rules == {"official": 0.5, "strict": 0.0}
    assert result("u", kind="code").by_rules == {"official": None, "strict": None}


def test_two_verdicts_on_one_sample_are_an_error():
    with pytest.raises(DataError, match="two verdicts on sample 0 of problem 'p0'"):
        summarise(problems(1), [], verdicts("c") * 2)


def test_a_verdict_on_a_foreign_problem_is_an_error():
    with pytest.raises(DataError, match="'p1', which is not in the set"):
        summarise(problems(1), [], verdicts("c", "c"))


def test_a_paired_difference_sees_what_two_intervals_hide():
    hard = ["c" * i + "i" * (10 - i) for i in range(10)]
    easier = ["c" * (i + 1) + "i" * (9 - i) for i in range(10)]
    a, b = result(*easier), result(*hard)
    d = paired_difference(a.per_problem, b.per_problem)
    assert d.mean == pytest.approx(0.1)
    assert (d.n_problems, d.stderr) == (10, pytest.approx(0, abs=1e-12))
    assert d.interval.low > 0
    assert a.interval.low < b.interval.high
    back = paired_difference(b.per_problem, a.per_problem)
    assert back.mean == pytest.approx(-d.mean)


def test_a_paired_difference_is_over_what_both_scored():
    d = paired_difference({"p": 1.0, "q": 0.5, "r": 0.0}, {"q": 0.25, "r": 0.75, "s": 1.0})
    assert (d.n_problems, d.mean, d.stderr) == (2, -0.25, pytest.approx(0.5))
    assert d.interval == (-0.75, 0.25)


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(DataError, match="nothing to compare"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_a_result_is_plain_json():
    row = json.loads(json.dumps(to_json(result("ci", "cc"))))
    assert row["pass_at_1"] == 0.75
    assert len(row["interval"]) == 2
    assert row["per_problem"] == {"p0": 0.5, "p1": 1.0}
