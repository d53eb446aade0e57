"""Programs: run a completion's code against its tests in the sandbox.

Each test is a fresh process that is given the test's input and nothing else; the expected output
stays in this process and is compared here, so a program can neither find it nor touch the verdict.
Lines are compared first, then tokens, then tokens as numbers where the reference has a decimal
point; the grade names the loosest rule that was needed.
"""

from __future__ import annotations

import functools
import math
import re

from statewise import sandbox
from statewise.errors import DataError, SandboxError
from statewise.eval.answers import Grade
from statewise.eval.functions import failure_of, judge
from statewise.eval.hidden import with_tests
from statewise.records import FinishReason, Outcome, Problem, TestCase
from statewise.sandbox import Limits
from statewise.text import last_code_block, split_thinking

TOLERANCE = 1e-6
RULES = ("lines", "tokens", "numbers")


def grade_program(
    completion: str,
    problem: Problem,
    *,
    finish_reason: FinishReason = FinishReason.STOP,
    limits: Limits | None = None,
) -> Grade:
    """Run or call the last fenced program of a completion; the first failure decides.

    Args:
        completion: what the model wrote after the prompt, thinking included.
        problem: with tests, hidden or not, or a function; with neither the completion is unscored.
        finish_reason: why the completion ended.
        limits: for each run of the program; by default those of the problem.
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
        return _run(program, problem, limits)
    except (SandboxError, DataError) as e:
        return Grade(Outcome.UNSCORED, rule=str(e))


@functools.lru_cache(maxsize=4096)
def _run(program: str, problem: Problem, limits: Limits | None) -> Grade:
    """Samples of one problem often hold the same program: it is run once."""
    if problem.hidden is not None:
        problem = with_tests(problem)
    if not problem.tests and not (problem.function and problem.function.check):
        return Grade(Outcome.UNSCORED, rule="the problem has no tests")
    limits = limits or _limits(problem)
    if problem.function is None:
        return _run_tests(program, problem.tests, limits)
    judged = judge(problem, program, limits)
    failed = Outcome.UNSCORED if judged.unscored else Outcome.INCORRECT
    return Grade(Outcome.CORRECT if judged.correct else failed, rule=judged.rule)


def _limits(problem: Problem) -> Limits | None:
    """A problem's own: so much time a test; the calls of a function share one process."""
    if not problem.test_s:
        return None
    wall = problem.test_s * (len(problem.tests) if problem.function else 1)
    return Limits(wall_s=wall, cpu_s=wall, memory_bytes=1 << 30, output_bytes=64 << 20)


def _run_tests(program: str, tests: tuple[TestCase, ...], limits: Limits | None) -> Grade:
    loosest = 0
    for number, test in enumerate(tests, start=1):
        result = sandbox.run(program, stdin=test.input.encode(), limits=limits)
        failure = failure_of(result)
        rule = None if failure else matching_rule(test.output, result.stdout)
        if rule is None:
            rule_text = f"test {number} of {len(tests)}: {failure or 'wrong output'}"
            return Grade(Outcome.INCORRECT, rule=rule_text)
        loosest = max(loosest, RULES.index(rule))
    return Grade(Outcome.CORRECT, rule=RULES[loosest])


def matching_rule(expected: str, output: bytes) -> str | None:
    """The strictest of `RULES` by which an output is the expected one; None if none is.

    "lines" ignores white space at the ends of lines and empty lines at the end; "tokens" ignores
    all white space between tokens; "numbers" allows 1e-6, relative or absolute, where the expected
    token has a decimal point.
    """
    try:
        text = output.decode()
    except UnicodeDecodeError:
        return None
    if _lines(expected) == _lines(text):
        return "lines"
    wanted, got = expected.split(), text.split()
    if wanted == got:
        return "tokens"
    if len(wanted) == len(got) and all(map(_same_number, wanted, got)):
        return "numbers"
    return None


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


_POINT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _same_number(wanted: str, got: str) -> bool:
    if wanted == got:
        return True
    if not _POINT.fullmatch(wanted) or not _NUMBER.fullmatch(got):
        return False
    a, b = float(wanted), float(got)
    return math.isfinite(b) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
