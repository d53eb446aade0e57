"""Programs on standard input: by both sets of rules, and tricks that pass by neither."""

from dataclasses import replace

import pytest

from statewise import sandbox
from statewise.errors import SandboxError
from statewise.eval import codetests
from statewise.eval.answers import Grade
from statewise.eval.codetests import grade_program
from statewise.records import FinishReason, Function, Outcome, Problem, TestCase
from statewise.sandbox import Limits, SandboxResult

isolated = pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
DOUBLE = (TestCase("3\n", "6\n"), TestCase("10\n", "20\n"))
NEGATE = (TestCase("1\n", "-1\n"),)


def asking(tests):
    return Problem("p", "code", "?", tests=tests)


def written(program: str) -> str:
    return f"let me see</think>\nThis will do:\n\n```python\n{program}\n```\n"


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
        ("print(-1); raise SystemError(3)", "exit code 1"),
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


def ran(program, tests, rules="official", **limits):
    problem = Problem("p", "code", "?", tests=tests, test_s=6.0)
    given = Limits(**limits) if limits else None
    return grade_program(written(program), problem, rules=rules, limits=given)


BY_ALLOWANCE = {
    "a module of the prelude": ("print(math.gcd(-int(input()), 1) - 2)", "lines, prelude"),
    "a name of the prelude": ("d: List = defaultdict(int)\nprint(d[input()] - 1)",
                              "lines, prelude"),
    "a name, its lack caught": ("try: print(json.loads(input()) - 2)\nexcept Exception: pass",
                                "lines, prelude"),
    "deep recursion": ("def f(n): return n and 1 + f(n - 1)\nprint(f(20_000) - 20_001)",
                       "lines, prelude"),
    "many digits": ("print(len(str(10 ** 5000)) - 5002)", "lines, prelude"),
    "numpy": ("import numpy as np\nprint(np.array([-1]).sum())", "lines, prelude"),
    "the future, and the prelude": ("from __future__ import annotations\nprint(math.floor(-0.5))",
                                    "lines, prelude"),
    "the product of a power": ("print(pow(2, 10, 5) - int(gcd(5, 10)))", "lines, prelude"),
    "an exit with a code": ("print(-1)\nsys.exit(3)", "lines, prelude"),
    "decimals": ("print(-1.00)", "decimals"),
    "white space before": ("print('  -1')", "decimals"),
}  # fmt: skip


@isolated
@pytest.mark.parametrize("name", BY_ALLOWANCE)
def test_what_the_official_harness_allows_passes_officially_and_not_strictly(name):
    program, rule = BY_ALLOWANCE[name]
    assert ran(program, NEGATE) == Grade(Outcome.CORRECT, None, rule)
    strict = ran(program, NEGATE, "strict")
    assert strict == Grade(Outcome.INCORRECT, None, f"official rules only: {rule}")


@isolated
def test_what_passes_strictly_is_run_once_a_test_and_needs_no_allowance(monkeypatch):
    asked = []
    run = sandbox.run
    monkeypatch.setattr(codetests.sandbox, "run", lambda p, **how: asked.append(p) or run(p, **how))
    program = "import sys\nif __name__ == '__main__': print(2 * int(sys.stdin.read()))"
    for rules in ("official", "strict"):
        assert ran(program, DOUBLE, rules) == Grade(Outcome.CORRECT, None, "lines")
    assert asked == [program + "\n"] * len(DOUBLE)


@isolated
def test_a_program_may_be_indented_as_a_whole():
    assert ran("    n = int(input())\n    if n:\n        print(2 * n)", DOUBLE).rule == "lines"
    kept = "print(len('''\n    \n''') - 7)"
    assert ran(kept, NEGATE).rule == "lines"


@isolated
def test_a_main_guard_is_run_by_the_official_rules_too():
    program = "if __name__ == '__main__':\n    print(math.prod([2, int(input())]))"
    assert ran(program, DOUBLE) == Grade(Outcome.CORRECT, None, "lines, prelude")


@isolated
def test_a_contests_memory_and_recursion_are_there():
    assert ran("x = bytearray(b'1') * (1200 << 20)\nprint(-1)", NEGATE).rule == "lines"
    cached = (
        "import functools, sys\nsys.setrecursionlimit(10**6)\n"
        "@functools.cache\ndef f(n): return n and 1 + f(n - 1)\nprint(f(60_000) - 60_001)"
    )
    assert ran(cached, NEGATE).rule == "lines"
    threaded = (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 29)\n"
        "def f(n): return n and 1 + f(n - 1)\n"
        "threading.Thread(target=lambda: print(f(100_000) - 100_001)).start()"
    )
    assert ran(threaded, NEGATE).rule == "lines"


def test_a_problem_with_a_time_has_a_contests_limits_and_a_function_that_of_all_its_calls(
    monkeypatch,
):
    asked = []

    def run(program, *, stdin, limits, packages=()):
        asked.append(limits)
        return SandboxResult(b"", b"", 1, False, "wall", 0.0)

    monkeypatch.setattr(codetests.sandbox, "run", run)
    contest = Limits(wall_s=6.0, cpu_s=6.0, memory_bytes=4 << 30, output_bytes=64 << 20,
                     stack_bytes=64 << 20)  # fmt: skip
    calls = (TestCase("[1]", "1"), TestCase("[2]", "2"))
    for problem, limits in (
        (Problem("a", "code", "?", tests=NEGATE, test_s=6.0), contest),
        (Problem("b", "code", "?", tests=calls, test_s=6.0, function=Function("f")),
         replace(contest, wall_s=18.0, cpu_s=18.0)),
        (Problem("c", "code", "?", tests=NEGATE), None),
    ):  # fmt: skip
        assert grade_program(written("pass"), problem).rule.endswith("wall limit")
        assert asked.pop() == limits
    own = Limits(wall_s=1.0)
    grade_program(written("pass"), Problem("a", "code", "?", tests=NEGATE, test_s=6.0), limits=own)
    assert asked == [own]


@isolated
def test_what_is_written_on_the_way_to_a_failure_need_be_no_text():
    program = "import os\nos.write(2, b'\\xff\\n')\nos.write(1, b'\\xff')\nos._exit(3)"
    assert ran(program, NEGATE).rule == "test 1 of 1: exit code 3 (\ufffd)"
    function = Problem("f", "code", "?", tests=(TestCase("[1]", "1"),), function=Function("f"))
    program = (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff\\n')\n"
        "    except OSError: pass\ndef f(x): return 1"
    )
    assert grade_program(written(program), function).rule == "call 1 of 1: no value"


@isolated
def test_numpy_is_all_that_is_shown_of_what_is_installed():
    program = "import numpy, {0}\nprint(-1)"
    for name in ("torch", "tokenizers", "statewise", "pytest"):
        assert f"No module named '{name}'" in ran(program.format(name), NEGATE).rule


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
