"""Comparing outputs, and the ways in which a program may try to pass without solving anything."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise import sandbox
from statewise.errors import SandboxError
from statewise.eval import codetests
from statewise.eval.answers import Grade
from statewise.eval.codetests import grade_program, matching_rule
from statewise.records import FinishReason, Outcome, Problem, TestCase
from statewise.sandbox import Limits

isolated = pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
DOUBLE = (TestCase("3\n", "6\n"), TestCase("10\n", "20\n"))
NEGATE = (TestCase("1\n", "-1\n"),)


def asking(tests):
    return Problem("p", "code", "?", tests=tests)


def written(program: str) -> str:
    return f"let me see</think>\nThis will do:\n\n```python\n{program}\n```\n"


# Comparison, without any program


@pytest.mark.parametrize(
    ("expected", "output", "rule"),
    [
        ("1 2\n3\n", "1 2\n3\n", "lines"),
        ("1 2\n3", "1 2  \n3\n\n\n", "lines"),
        ("1 2\n3", "1 2\r\n3\r\n", "lines"),
        ("1 2\n3", "1\n2\n3", "tokens"),
        ("1 2 3", "1 2", None),
        ("1 2", "1 2 3", None),
        ("0.5", "0.5000001", "numbers"),
        ("0.5", "0.50001", None),
        ("1000000.0", "1000000.5", "numbers"),
        ("2.0", "2", "numbers"),
        ("2", "2.0", None),
        ("0.5", "nan", None),
        ("0.5", "1e400", None),
        ("yes 0.5", "Yes 0.5", None),
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


@given(st.floats(-1e6, 1e6), st.floats(-1e-3, 1e-3))
def test_numbers_agree_within_a_millionth(x, error):
    close = math.isclose(float(f"{x:.9f}"), x + error, rel_tol=1e-6, abs_tol=1e-6)
    assert (matching_rule(f"{x:.9f}", repr(x + error).encode()) is not None) == close


# Programs


@isolated
def test_a_right_program_passes_and_a_wrong_one_fails_at_its_first_wrong_test():
    assert grade_program(written("print(2 * int(input()))"), asking(DOUBLE)) == Grade(
        Outcome.CORRECT, None, "lines"
    )
    assert grade_program(written("print(6 + int(input()) - 3)"), asking(DOUBLE)) == Grade(
        Outcome.INCORRECT, None, "test 2 of 2: wrong output"
    )


@isolated
def test_the_last_program_counts():
    both = written("print(2 * int(input()))") + "\nor rather\n" + "```python\nprint(1)\n```\n"
    assert grade_program(both, asking(DOUBLE)).outcome is Outcome.INCORRECT


@isolated
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit(0)", "wrong output"),
        ("import os; os._exit(0)", "wrong output"),
        ("print('passed', 'ok', True)", "wrong output"),
        ("print(-1); raise SystemExit(3)", "exit code 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("print(open('/expected').read())", "FileNotFoundError"),
        ("class A(str):\n    __eq__ = lambda s, o: True\nprint(A('x'))", "wrong output"),
        (
            "import sys\nf = sys._getframe()\nwhile f: print(f.f_locals.get('expected')); "
            "f = f.f_back",
            "wrong output",
        ),
        (
            "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'exit 0 -\\n')\n"
            "    except OSError: pass",
            "wrong output",
        ),
        ("import os; print(-1, flush=True); os.kill(os.getpid(), 9)", "exit code -9"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_program_that_solves_nothing_fails(program, reason):
    result = grade_program(written(program), asking(NEGATE))
    assert result.outcome is Outcome.INCORRECT
    assert reason in result.rule


@isolated
@pytest.mark.parametrize(
    "program",
    [
        "print(-int(open(0).read()))",
        "import os; os.write(1, b'-' + os.read(0, 100))",
        "import sys; sys.stdout.buffer.write(b'-' + sys.stdin.buffer.read())",
        "import sys\nfor line in sys.stdin: print(-int(line))",
        "print(-int(input())); quit()",
        "import threading\nthreading.Thread(target=lambda: print(-int(input()))).start()",
        "if __name__ == '__main__':\n    print(-int(input()))",
    ],
)
def test_an_honest_program_passes_however_it_reads_and_prints(program):
    assert grade_program(written(program), asking(NEGATE)).outcome is Outcome.CORRECT


@isolated
def test_a_program_that_does_not_end_is_incorrect_and_the_limit_is_named():
    result = grade_program(written("while True: pass"), asking(NEGATE), limits=Limits(wall_s=0.3))
    assert result == Grade(Outcome.INCORRECT, None, "test 1 of 1: wall limit")


# No program runs in these


def test_unfinished_answers_and_missing_programs_are_told_apart():
    program = written("print(1)")
    assert grade_program("```python\nprint(1)\n```", asking(NEGATE)).outcome is Outcome.TRUNCATED
    assert grade_program("x</think>print(1)", asking(NEGATE)).outcome is Outcome.NO_ANSWER
    cut = grade_program(program, asking(NEGATE), finish_reason=FinishReason.LENGTH)
    assert cut.outcome is Outcome.TRUNCATED


def test_a_problem_without_tests_is_unscored():
    result = grade_program(written("print(1)"), asking(()))
    assert result == Grade(Outcome.UNSCORED, None, "the problem has no tests")


def test_a_broken_sandbox_leaves_the_program_unscored_with_the_reason(monkeypatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise SandboxError("no namespaces here")

    monkeypatch.setattr(codetests.sandbox, "run", broken)
    result = grade_program(written("print(1)"), asking(NEGATE))
    assert result == Grade(Outcome.UNSCORED, None, "no namespaces here")
