"""Programs: run a completion's code against its tests in the sandbox.

Each test is a fresh process that is given the test's input and nothing else; the expected output
stays in this process and is compared here, so a program can neither find it nor touch the verdict.
A program is run as it was written; where that fails, from that test on as the official rules run
it. The grade names what was needed (`rules`).
"""

from __future__ import annotations

import functools

from statewise import sandbox
from statewise.errors import DataError, SandboxError
from statewise.eval.answers import Grade
from statewise.eval.functions import dedented, failure_of, judge
from statewise.eval.hidden import with_tests
from statewise.eval.rules import (
    NOT_STRICTLY,
    PACKAGES,
    STRICT,
    Rules,
    matching_rule,
    official_form,
)
from statewise.records import FinishReason, Outcome, Problem, TestCase
from statewise.sandbox import Limits, SandboxResult
from statewise.text import last_code_block, split_thinking


def grade_program(
    completion: str,
    problem: Problem,
    *,
    finish_reason: FinishReason = FinishReason.STOP,
    limits: Limits | None = None,
    rules: Rules = "official",
) -> Grade:
    """Run or call the last fenced program of a completion; the first failure decides.

    Args:
        completion: what the model wrote after the prompt, thinking included.
        problem: with tests, hidden or not, or a function; with neither the completion is unscored.
        finish_reason: why the completion ended.
        limits: for each run of the program; by default those of the problem.
        rules: by which it is correct.
    """
    visible = split_thinking(completion).visible
    if finish_reason is FinishReason.LENGTH:
        return Grade(Outcome.TRUNCATED, rule="token limit")
    if visible is None:
        return Grade(Outcome.TRUNCATED, rule="thinking never closed")
    program = last_code_block(visible)
    if program is None:
        return Grade(Outcome.NO_ANSWER, rule="no program")
    try:
        grade = _run(program, problem, limits)
    except (SandboxError, DataError) as e:
        return Grade(Outcome.UNSCORED, rule=str(e))
    if rules == "strict" and grade.outcome is Outcome.CORRECT and grade.rule not in STRICT:
        return Grade(Outcome.INCORRECT, rule=NOT_STRICTLY + grade.rule)
    return grade


@functools.lru_cache(maxsize=4096)
def _run(program: str, problem: Problem, limits: Limits | None) -> Grade:
    """Samples of one problem often hold the same program: it is run once."""
    if problem.hidden is not None:
        problem = with_tests(problem)
    if not problem.tests and not (problem.function and problem.function.check):
        return Grade(Outcome.UNSCORED, rule="the problem has no tests")
    limits = limits or _limits(problem)
    if problem.function is None:
        return _run_tests(dedented(program), problem.tests, limits)
    judged = judge(problem, program, limits, call_s=problem.test_s)
    failed = Outcome.UNSCORED if judged.unscored else Outcome.INCORRECT
    return Grade(Outcome.CORRECT if judged.correct else failed, rule=judged.rule)


def _limits(problem: Problem) -> Limits | None:
    """A problem's own: so much time a test; the calls of a function share one process.

    Solutions to contests fill tables and recurse: memory is four times a contest's, and the stack
    holds 100,000 calls through a cache.
    """
    if not problem.test_s:
        return None
    wall = problem.test_s * (1 + len(problem.tests) if problem.function else 1)
    return Limits(
        wall_s=wall,
        cpu_s=wall,
        memory_bytes=4 << 30,
        output_bytes=64 << 20,
        stack_bytes=64 << 20,
    )


def _run_tests(program: str, tests: tuple[TestCase, ...], limits: Limits | None) -> Grade:
    officially, rules = False, set()
    for number, test in enumerate(tests, start=1):
        result, rule = _run_test(program, test, limits, officially=officially)
        if rule is None and not officially and result.limit_hit is None:
            officially = True
            result, rule = _run_test(program, test, limits, officially=True)
        if rule is None:
            why = failure_of(result) or "wrong output"
            return Grade(Outcome.INCORRECT, rule=f"test {number} of {len(tests)}: {why}")
        rules.add(rule)
    rule = "decimals" if "decimals" in rules else "lines"
    return Grade(Outcome.CORRECT, rule=f"{rule}, prelude" if officially else rule)


def _run_test(
    program: str, test: TestCase, limits: Limits | None, *, officially: bool
) -> tuple[SandboxResult, str | None]:
    """How a program ended on a test, and the rule by which its output is right."""
    result = sandbox.run(
        official_form(program) if officially else program,
        stdin=test.input.encode(),
        limits=limits,
        packages=PACKAGES if officially else (),
    )
    return result, None if failure_of(result) else matching_rule(test.output, result.stdout)
