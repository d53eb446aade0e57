"""One door from a completion to its verdict: what the problem says about its answer counts."""

import pytest

from statewise import sandbox
from statewise.eval.grading import grade_completion
from statewise.eval.mathematics.workers import Comparison
from statewise.records import Completion, FinishReason, Outcome, Problem, TestCase

FINISHED = FinishReason.STOP


def completion(text, reason=FINISHED):
    return Completion("p", 3, text, reason, 1, 9, 7)


def outcome(problem, text, **how):
    return grade_completion(problem, completion(text), **how).outcome


def math(answer, **what):
    return Problem("p", "math", "?", answer, **what)


@pytest.mark.parametrize(
    ("problem", "text", "right"),
    [
        (math("5", unit="V/C"), "\\boxed{5V/C}", True),
        (math("5"), "\\boxed{5V/C}", False),
        (math("3.14", tolerance=0.01), "\\boxed{3.1416}", True),
        (math("3.14"), "\\boxed{3.1416}", False),
        (math("1,2", checker="several"), "\\boxed{2 and 1}", True),
        (math("0.5"), "\\boxed{\\frac{1}{2}}", True),
        (math("1", checker="integer"), "\\boxed{\\frac{2}{2}}", False),
    ],
)
def test_unit_tolerance_and_checker_are_the_problems_own(problem, text, right):
    assert (outcome(problem, f"so</think>{text}") is Outcome.CORRECT) is right


def test_the_sets_kind_counts_where_the_problem_names_none():
    text = "so</think>\\boxed{\\frac{4}{2}}"
    assert outcome(math("2"), text) is Outcome.CORRECT
    assert outcome(math("2"), text, kind="integer") is Outcome.INCORRECT
    assert outcome(math("2", checker="math"), text, kind="integer") is Outcome.CORRECT


def test_a_text_without_a_think_block_is_all_answer_only_where_none_was_opened():
    assert outcome(math("2"), "\\boxed{2}") is Outcome.TRUNCATED
    assert outcome(math("2"), "\\boxed{2}", opened=False) is Outcome.CORRECT


def test_the_verdict_carries_whose_it_is_and_what_the_sampler_said():
    verdict = grade_completion(math("2"), completion("x", FinishReason.LENGTH))
    assert (verdict.problem_id, verdict.sample, verdict.seed) == ("p", 3, 7)
    assert (verdict.finish_reason, verdict.completion_tokens) == ("length", 9)
    assert (verdict.outcome, verdict.rule) == (Outcome.TRUNCATED, "token limit")


def test_what_has_nothing_to_be_held_to_is_unscored():
    assert outcome(math(None), "so</think>\\boxed{2}") is Outcome.UNSCORED
    program = "so</think>\n```python\nprint(8)\n```"
    assert outcome(Problem("p", "code", "?"), program) is Outcome.UNSCORED


@pytest.mark.skipif(sandbox.isolation().kind == "none", reason="no isolation here")
def test_programs_are_run_on_the_problems_tests_within_the_limits():
    problem = Problem("p", "code", "?", tests=(TestCase("4\n", "8\n"),))
    double = "so</think>\n```python\nprint(2 * int(input()))\n```"
    assert outcome(problem, double) is Outcome.CORRECT
    loop = double.replace("print", "while True: pass\nprint")
    assert outcome(problem, loop, limits=sandbox.Limits(wall_s=0.5)) is Outcome.INCORRECT


def test_the_last_resort_is_the_callers():
    assert (
        outcome(
            math("x+1"), "</think>\\boxed{1+x}", checker=lambda *_, **__: Comparison(None, "busy")
        )
        is Outcome.UNSCORED
    )
