"""What `--sandbox none` still promises: limits, and that it never happens unasked."""

import json
import os
import sys
from dataclasses import replace

import pytest
from programs import LIMITED, SETTINGS

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


def test_the_kernel_holds_these_limits_and_python_is_alone_with_these_words(plain, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    program = SETTINGS + (
        "print(os.getcwd() == os.path.dirname(sys.argv[0]), os.getsid(0) == os.getpid(), __name__)"
    )
    result = sandbox.run(program, limits=replace(LIMITED, output_bytes=2000))
    first, second = result.stdout.decode().splitlines()
    told = json.loads(first)
    assert told["limits"] | {"AS": [(300 + 256) << 20] * 2, "CORE": [0, 0], "CPU": [3, 4],
                             "FSIZE": [2001, 2001]} == told["limits"]  # fmt: skip
    assert told["flags"][:2] == [1, 1]
    assert told["environ"] == {"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    assert second == "True True __main__"
    assert not os.path.exists(told["flags"][2][0])
    assert b"No module named 'pytest'" in sandbox.run("import pytest").stderr


def test_output_as_long_as_is_allowed_is_whole_and_a_file_may_be_as_long_as_one(plain):
    limits = Limits(output_bytes=1000, file_bytes=5000)
    for stream in ("stdout", "stderr"):
        exact = sandbox.run(f"import sys; sys.{stream}.write('x' * 1000)", limits=limits)
        assert (exact.exit_code, exact.limit_hit, len(getattr(exact, stream))) == (0, None, 1000)
        more = sandbox.run(f"import sys; sys.{stream}.write('x' * 1001)", limits=limits)
        assert (more.exit_code, more.limit_hit, more.timed_out) == (None, "output", False)
        assert getattr(more, stream) == b"x" * 1000
    program = "import os; print(os.write(os.open('f', os.O_CREAT | os.O_WRONLY), bytes(6000)))"
    assert sandbox.run(program, limits=limits).stdout == b"5000\n"
    assert 0 < exact.wall_s < 10


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
