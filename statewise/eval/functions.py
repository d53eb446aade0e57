"""Functions: a completion's function is called in the sandbox, and judged where it is not.

The program sees inputs, one after the other, and nothing else; what it returns comes out as plain
data (`values.py`). Then either

- it is compared, in this process, with the expected values; or
- the benchmark's own assertions (`check(candidate)`, as in HumanEval) run in a second sandbox, in
  which the candidate is a list of the values that came out. They see no object, no process and no
  file of the program's.

The inputs of such assertions are found by running them once with the reference implementation as
the candidate. Their random numbers start from one seed, so that both runs ask the same.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import signal
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from statewise import sandbox
from statewise.eval import values
from statewise.eval.rules import PACKAGES, PRELUDE, shown_packages
from statewise.records import Function, Problem
from statewise.sandbox import Limits, SandboxResult

CALL_LIMITS = Limits(wall_s=30.0, cpu_s=30.0, memory_bytes=1 << 30, output_bytes=512 << 20)
RELATIVE, ABSOLUTE = 1e-7, 1e-6  # of floats, as EvalPlus compares them

_CODEC = Path(values.__file__).read_text(encoding="utf-8")
_BEGIN = """
import os, random, signal, sys, types
_asked = json.loads(sys.stdin.buffer.read())
_wire = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
random.seed(0)
"""
# Runs what nobody has vouched for: the sources, one after the other in one module, define the
# entry, which is called on each input. A method may stand outside of its class.
_CALLER = (
    _CODEC
    + _BEGIN
    + """
def _main():
    module = sys.modules["program"] = types.ModuleType("program")
    space = module.__dict__
    for source in _asked["sources"]:
        exec(compile(source, "program", "exec", dont_inherit=True), space)
    owner, _, name = _asked["entry"].rpartition(".")
    entry = getattr(space[owner](), name) if owner in space else space[name]
    for call in _asked["calls"]:
        signal.setitimer(signal.ITIMER_REAL, _asked["call_s"])
        try:
            reply = encode(entry(*decode(call)))
        except Exception as e:
            reply = json.dumps({"raised": (type(e).__name__ + ": " + str(e))[:200]})
        _wire.write(reply + "\\n")
        _wire.flush()

_main()
"""
)
# Runs a benchmark's assertions with what the program returned; nothing of the program is here.
_ASSERTER = (
    _CODEC
    + _BEGIN
    + """
def _main():
    own = {"__name__": "__main__"}
    exec(compile(_asked["source"], "reference", "exec"), own)
    reference, replies, calls = own[_asked["entry"]], _asked["replies"], []
    space = dict(own)  # a reference that calls itself is not asked by the assertions

    def candidate(*arguments):
        calls.append(encode(arguments))
        if replies is None:
            return reference(*arguments)
        if len(calls) > len(replies) or calls[-1] != _asked["calls"][len(calls) - 1]:
            _wire.write("other calls\\n")
            _wire.flush()
            os._exit(3)
        reply = replies[len(calls) - 1]
        if reply.startswith('{"raised"'):
            raise RuntimeError(json.loads(reply)["raised"])
        return decode(reply)

    exec(compile(_asked["check"], "check", "exec"), space)
    space[_asked["entry"]] = candidate
    try:
        space["check"](candidate)
        held = True
    except Exception as e:
        held = (type(e).__name__ + ": " + str(e))[:200]
    _wire.write(json.dumps({"held": held, "calls": calls}) + "\\n")
    _wire.flush()

_main()
"""
)


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a function: whether it is right, the rule, and if unscored why."""

    correct: bool
    rule: str
    unscored: bool = False


def sources_of(function: Function, program: str, before: str = "") -> tuple[str, ...]:
    """What is run, in order: what the benchmark puts first, `before`, and what the model wrote.

    A model may have written the whole function, or only what comes after the header.
    """
    whole = dedented(program)
    if "." in function.entry or _defines(whole, function.entry):
        program = whole
    if not function.header:
        sources: tuple[str, ...] = (before, program)
    elif _defines(program, function.entry) or "." in function.entry:
        sources = (function.header, before, program)  # the header's function has no body
    else:
        sources = (before, function.header + program)
    return tuple(source for source in sources if source)


def dedented(program: str) -> str:
    """A program that is indented as a whole, without that."""
    return textwrap.dedent(program) if program.lstrip("\n")[:1] in (" ", "\t") else program


def _defines(program: str, name: str) -> bool:
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {n.name for n in body if isinstance(n, kinds)}
    names |= {t.id for n in body if isinstance(n, ast.Assign) for t in n.targets
              if isinstance(t, ast.Name)}  # fmt: skip
    return name.partition(".")[0] in names


def judge(
    problem: Problem, program: str, limits: Limits | None = None, *, call_s: float = 0.0
) -> Judged:
    """Call a program's function on the problem's inputs, and judge what it returns.

    Args:
        problem: with a `function`; what it must return is told by the function's assertions, by
            its reference on the arguments of `tests`, or by the values of `tests`.
        program: what the model wrote.
        limits: of all calls together.
        call_s: seconds of one call, where values decide; 0: what `limits` leave it.

    Raises:
        SandboxError: nothing can be isolated here.
    """
    limits, function = limits or CALL_LIMITS, problem.function
    assert function is not None
    judged = _judge_form(problem, sources_of(function, program), limits, call_s)
    by_itself = function.check or function.solution  # HumanEval runs a program without a prelude
    in_class = by_itself or _defines(dedented(program), function.entry)
    needed = "" if in_class else ", bare function"
    ended = judged.correct or judged.unscored or judged.rule.endswith(" limit")
    if not ended and ("numpy" in program or not by_itself):
        before = shown_packages() + ("" if by_itself else PRELUDE)
        needed = ", numpy" if by_itself else ", prelude"
        sources = sources_of(function, program, before)
        judged = _judge_form(problem, sources, limits, call_s, PACKAGES)
    return replace(judged, rule=judged.rule + needed) if judged.correct else judged


def _judge_form(
    problem: Problem,
    sources: tuple[str, ...],
    limits: Limits,
    call_s: float,
    packages: tuple[str, ...] = (),
) -> Judged:
    function = problem.function
    assert function is not None
    if function.check:
        return _asserted(function, sources, limits, packages)
    calls = tuple(test.input for test in problem.tests)
    replies, failure = _called(sources, function.entry, calls, limits, call_s, packages)
    expected = [test.output for test in problem.tests]
    if function.solution:
        reference = function.header + function.solution
        expected_replies, failed = _reference(reference, function.entry, calls)
        if failed or len(expected_replies) < len(calls):
            return Judged(False, f"the reference fails: {failed}", unscored=True)
        expected = list(expected_replies)
    for number, (want, got) in enumerate(zip(expected, replies, strict=False), start=1):
        if got.startswith('{"raised"'):
            return Judged(False, f"call {number} of {len(calls)}: {json.loads(got)['raised']}")
        try:
            wanted, value = values.decode(want), values.decode(got)
        except ValueError:
            return Judged(False, f"call {number} of {len(calls)}: no value")
        if isinstance(value, tuple) and not function.solution:
            value = list(value)  # expected values in JSON have no tuples
        exact = not function.solution and not problem.tolerance
        if not (wanted == value if exact else same(wanted, value, problem.tolerance)):
            return Judged(False, f"call {number} of {len(calls)}: wrong value")
    if len(replies) < len(calls):
        return Judged(False, f"call {len(replies) + 1} of {len(calls)}: {failure or 'no value'}")
    return Judged(True, "values")


def _asserted(
    function: Function, sources: tuple[str, ...], limits: Limits, packages: tuple[str, ...]
) -> Judged:
    calls = _calls_of_check(function)
    if isinstance(calls, str):
        return Judged(False, f"the benchmark's own assertions fail: {calls}", unscored=True)
    replies, failure = _called(sources, function.entry, calls, limits, 0.0, packages)
    if len(replies) < len(calls):
        return Judged(False, f"call {len(replies) + 1} of {len(calls)}: {failure or 'no value'}")
    verdict = _assert(function, calls, replies)
    if isinstance(verdict, str):
        return Judged(False, f"the assertions could not be run: {verdict}", unscored=True)
    passed = verdict["held"]
    return Judged(passed is True, "assertions" if passed is True else f"assertion: {passed}")


@functools.lru_cache(maxsize=1024)
def _calls_of_check(function: Function) -> tuple[str, ...] | str:
    verdict = _assert(function, (), None)
    if isinstance(verdict, str):
        return verdict
    calls: list[str] = verdict["calls"]
    return tuple(calls) if verdict["held"] is True else str(verdict["held"])


def _assert(
    function: Function, calls: Sequence[str], replies: Sequence[str] | None
) -> dict[str, Any] | str:
    request = {
        "source": function.header + function.solution,
        "entry": function.entry,
        "check": function.check,
        "calls": calls,
        "replies": replies,
    }
    result = sandbox.run(_ASSERTER, stdin=json.dumps(request).encode(), limits=CALL_LIMITS)
    try:
        verdict = json.loads(result.stdout.decode())
    except ValueError:
        return failure_of(result) or "no verdict"
    return verdict if isinstance(verdict, dict) else "no verdict"


@functools.lru_cache(maxsize=1024)
def _reference(source: str, entry: str, calls: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    return _called((source,), entry, calls, CALL_LIMITS)


@functools.lru_cache(maxsize=256)
def _called(
    sources: tuple[str, ...],
    entry: str,
    calls: tuple[str, ...],
    limits: Limits,
    call_s: float = 0.0,
    packages: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], str]:
    """The encoded values of as many calls as were answered, and why there are no more."""
    request = {"sources": sources, "entry": entry, "calls": calls, "call_s": call_s}
    stdin = json.dumps(request).encode()
    result = sandbox.run(_CALLER, stdin=stdin, limits=limits, packages=packages)
    lines = result.stdout.decode(errors="replace").split("\n")[:-1]
    late = result.exit_code == -signal.SIGALRM
    return tuple(lines[: len(calls)]), "time limit" if late else failure_of(result)


def failure_of(result: SandboxResult) -> str:
    """Why a program did not end well; "" where it did."""
    if result.limit_hit is not None:
        return f"{result.limit_hit} limit"
    if result.exit_code != 0:
        last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2][:120]
        return f"exit code {result.exit_code}" + (f" ({last})" if last else "")
    return ""


def same(expected: Any, value: Any, tolerance: float = 0.0) -> bool:
    """Whether two decoded values are equal; floats within a tolerance, as EvalPlus has it.

    A list of floats may differ in each by 1e-7 of it plus `tolerance`, or 1e-6 where none is given.
    """
    if expected == value:
        return True
    if not tolerance and not _floats(expected):
        return False
    absolute = tolerance or ABSOLUTE
    if isinstance(expected, list | tuple):
        return (
            type(value) is type(expected)
            and len(expected) == len(value)
            and all(same(a, b, absolute) for a, b in zip(expected, value, strict=True))
        )
    number = isinstance(expected, int | float) and isinstance(value, int | float)
    return number and math.isclose(expected, value, rel_tol=RELATIVE, abs_tol=absolute)


def _floats(value: object) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(v, float) for v in value)
    return isinstance(value, float)
