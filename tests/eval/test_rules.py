"""The two sets of rules: outputs, and what the official prelude gives."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.eval.metrics import summarise
from statewise.eval.rules import PRELUDE, matching_rule, passed
from statewise.records import Completion, FinishReason, Outcome, Problem, Verdict

OFFICIAL_ONLY = "official rules only: decimals"


@pytest.mark.parametrize(
    ("expected", "output", "rule"),
    [
        ("1 2\n3\n", "1 2\n3\n", "lines"),
        ("1 2\n3", "1 2  \n3\n\n\n", "lines"),
        ("1 2\n3", "1 2\r\n3\r\n", "lines"),
        ("1 2\n3", " 1 2\n\t3", "decimals"),
        ("1 2\n3", "\n1 2\n3", "decimals"),
        ("1 2", "1   2", "decimals"),
        ("a b", "a  b", None),
        ("1 2\n3", "1\n2\n3", None),
        ("1 2 3", "1 2", None),
        ("1 2", "1 2 3", None),
        ("3", "3.0", "decimals"),
        ("3.0", "3", "decimals"),
        ("1e-05", "0.00001", "decimals"),
        ("1.0e3", "1000", "decimals"),
        ("-0", "0", "decimals"),
        ("0.5", "0.5000001", None),
        ("1000000.0", "1000000.5", None),
        ("50000000000000001.0", "50000000000000000.0", None),
        ("0.6666666666666667", "0.666666666666666667", None),
        ("1.5", "nan", None),
        ("nan", "NaN", None),
        ("1.5", "sNaN", None),
        ("0.5", "1e400", None),
        ("yes 1", "Yes 1", None),
        ("yes 1.0", "yes 1", None),
        ("", "", "lines"),
        ("", "0", None),
        ("é", "é", "lines"),
    ],
)
def test_the_strictest_matching_rule_is_named(expected, output, rule):
    assert matching_rule(expected, output.encode()) == rule


def test_output_that_is_no_text_matches_nothing():
    assert matching_rule("", b"\xff") is None


@given(st.lists(st.lists(st.integers(), min_size=1), min_size=1), st.text(" \t", max_size=3))
def test_white_space_at_line_ends_never_matters(rows, padding):
    expected = "\n".join(" ".join(map(str, row)) for row in rows)
    output = "".join(" ".join(map(str, row)) + padding + "\n" for row in rows)
    assert matching_rule(expected, output.encode()) == "lines"


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 20))
def test_a_number_is_the_same_however_many_zeros_end_it_and_no_other_is(x, zeros):
    written = f"{x:f}" + ("" if "." in f"{x:f}" else ".") + "0" * zeros
    assert matching_rule(str(x), written.encode()) is not None
    assert matching_rule(str(x), (written + "1").encode()) is None


@given(st.integers() | st.floats(allow_nan=False), st.integers() | st.floats(allow_nan=False))
def test_two_numbers_match_exactly_where_their_decimals_are_equal(a, b):
    same = Decimal(str(a)) == Decimal(str(b))
    assert (matching_rule(str(a), str(b).encode()) is not None) == same


def test_the_prelude_hides_no_built_in_and_ends_with_modules():
    space: dict = {}
    exec(PRELUDE.partition("sys.setrecursionlimit")[0], space)
    assert space["pow"] is pow
    assert space["open"] is open
    assert space["input"] is input
    names = ("math", "json", "statistics", "datetime", "copy", "bisect", "random")
    assert {type(space[n]).__name__ for n in names} == {"module"}
    for name in ("List", "Optional", "defaultdict", "heappush", "inf", "median", "gcd", "cache"):
        assert name in space


def test_the_prelude_imports_what_the_official_harness_does_under_those_names():
    space: dict = {}
    exec(PRELUDE.partition("sys.setrecursionlimit")[0], space)
    # LiveCodeBench's list, a second time.
    names = (
        "string re datetime collections heapq bisect copy math random statistics itertools "
        "functools operator io sys json"
    ).split()
    assert {n for n in names if type(space.get(n)).__name__ == "module"} == set(names)
    for name in ("ascii_lowercase", "Counter", "heappop", "bisect_left", "deepcopy", "randint",
                 "mode", "permutations", "reduce", "itemgetter", "StringIO", "dumps", "sub",
                 "timedelta", "exit", "sqrt", "Tuple"):  # fmt: skip
        assert name in space
    assert PRELUDE.endswith("sys.setrecursionlimit(50_000)\nsys.set_int_max_str_digits(50_000)\n")


def verdict(problem, outcome, rule):
    return Verdict(problem, 0, outcome, None, rule, 0, "stop", 1)


@pytest.mark.parametrize(
    ("outcome", "rule", "official", "strict"),
    [
        (Outcome.CORRECT, "lines", True, True),
        (Outcome.CORRECT, "values", True, True),
        (Outcome.CORRECT, "assertions", True, True),
        (Outcome.CORRECT, "decimals", True, False),
        (Outcome.CORRECT, "lines, prelude", True, False),
        (Outcome.CORRECT, "values, bare function", True, False),
        (Outcome.INCORRECT, OFFICIAL_ONLY, True, False),
        (Outcome.INCORRECT, "test 1 of 1: wrong output", False, False),
        (Outcome.TRUNCATED, "lines", False, False),
    ],
)
def test_a_verdict_says_what_it_would_be_by_the_other_rules(outcome, rule, official, strict):
    v = verdict("p", outcome, rule)
    assert (passed(v, "official"), passed(v, "strict")) == (official, strict)


def test_both_figures_come_from_one_grading_by_whichever_rules():
    problems = [Problem(p, "code", "?") for p in "abcd"]
    completions = [Completion(p, 0, "", FinishReason.STOP, 0, 1, 0) for p in "abcd"]

    def figures(of_b):
        verdicts = [
            verdict("a", Outcome.CORRECT, "lines"),
            of_b,
            verdict("c", Outcome.INCORRECT, "test 1 of 1: wrong output"),
            verdict("d", Outcome.UNSCORED, "the problem has no tests"),
        ]
        return summarise(problems, completions, verdicts)

    official = figures(verdict("b", Outcome.CORRECT, "decimals"))
    strict = figures(verdict("b", Outcome.INCORRECT, OFFICIAL_ONLY))
    assert official.by_rules == strict.by_rules == {"official": 2 / 3, "strict": 1 / 3}
    assert (official.pass_at_1, strict.pass_at_1) == (2 / 3, 1 / 3)
    assert summarise([Problem("m", "math", "?", "1")], [], []).by_rules is None
