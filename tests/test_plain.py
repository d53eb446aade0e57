"""What `--sandbox none` still promises: limits, and that it never happens unasked."""

import sys

import pytest

from statewise import sandbox
from statewise.cli import main
from statewise.eval.codetests import grade_program
from statewise.records import Function, Problem, TestCase
from statewise.sandbox import Limits, SandboxResult, execute


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(execute, "_given_up", False)
    sandbox.without_isolation()


def test_it_is_called_what_it_is(plain):
    assert sandbox.isolation() == ("none", "given up by --sandbox none")


def test_output_error_and_exit_code_arrive_as_they_are(plain):
    program = "import sys; print(input()); print('err', file=sys.stderr); sys.exit(7)"
    result = sandbox.run(program, stdin=b"in")
    assert isinstance(result, SandboxResult)
    assert (result.stdout, result.stderr, result.exit_code) == (b"in\n", b"err\n", 7)


@pytest.mark.parametrize(
    ("program", "limits", "limit"),
    [("import time; time.sleep(60)", Limits(wall_s=0.3), "wall"),
     ("while True: pass", Limits(cpu_s=1, wall_s=20), "cpu"),
     ("print('x' * 3_000_000)", Limits(), "output")],
)  # fmt: skip
def test_limits_hold(plain, program, limits, limit):
    result = sandbox.run(program, limits=limits)
    assert result.limit_hit == limit
    assert result.exit_code is None
    assert result.timed_out is (limit != "output")
    assert len(result.stdout) <= limits.output_bytes


def test_programs_and_functions_are_graded_as_in_a_jail(plain):
    def graded(program, problem):
        return grade_program(f"so</think>\n```python\n{program}\n```", problem).rule

    printing = Problem("p", "code", "?", tests=(TestCase("3\n", "6\n"),))
    assert graded("print(2 * int(input()))\nquit()", printing) == "lines"
    assert graded("import numpy\nprint(math.prod([2, int(input())]))", printing) == "lines, prelude"
    header, check = 'def f(x):\n    """Twice."""\n', "def check(c): assert c(2) == 4"
    asserted = Problem(
        "p", "code", "?", function=Function("f", header, "    return x + x\n", check)
    )
    assert graded("def f(x): return 2 * x", asserted) == "assertions"
    assert "assertion" in graded("def f(x): return 3 * x", asserted)


def test_memory_is_limited(plain):
    result = sandbox.run("x = bytearray(2 << 30)", limits=Limits(memory_bytes=256 << 20))
    assert result.exit_code == 1
    assert b"MemoryError" in result.stderr


def test_a_child_ends_with_the_program(plain, tmp_path):
    mark = tmp_path / "alive"
    later = f"import time; time.sleep(1); open({str(mark)!r}, 'w')"
    program = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {later!r}])\n"
    assert sandbox.run(program).exit_code == 0
    sandbox.run("import time; time.sleep(1.5)")
    assert not mark.exists()


def test_the_user_is_warned_and_nobody_else_gives_up_isolation(monkeypatch, capsys, tmp_path):
    assert execute._given_up is False
    monkeypatch.setattr(
        sandbox, "without_isolation", lambda: monkeypatch.setattr(sys, "x", 1, raising=False)
    )
    assert main(["eval", str(tmp_path / "none.toml"), "--sandbox", "none"]) == 1
    assert "warning: --sandbox none: programs that a model wrote run with your rights" in (
        capsys.readouterr().err
    )
    assert sys.x == 1
