"""Functions are called in the sandbox and judged outside: honest ones pass, no trick does."""

import ast
import contextlib
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise import sandbox
from statewise.eval import functions, values
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.eval.codetests import grade_program
from statewise.eval.functions import judge, same, sources_of
from statewise.eval.rows import LEETCODE_HEADER, call
from statewise.records import Function, Outcome, Problem, TestCase
from statewise.sandbox import Limits

DATA = Path(__file__).parents[3] / "shared" / "data"
isolated = pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
HEADER = '''def helper(x):
    return x + 1


def double_all(xs: list) -> list:
    """ Double every number.
    >>> double_all([1])
    [2]
    """
'''
ASSERTED = Problem(
    "p", "code", "?",
    function=Function(
        "double_all",
        HEADER,
        "    return [2 * x for x in xs]\n",
        "def check(candidate):\n"
        "    import random\n"
        "    for _ in range(3):\n"
        "        xs = [random.randint(0, 9) for _ in range(4)]\n"
        "        assert candidate(xs) == [2 * x for x in xs]\n"
        "    assert double_all([helper(1)]) == [4]\n",
    ),
)  # fmt: skip
COMPARED = Problem(
    "p", "code", "?",
    tests=tuple(TestCase(values.encode(([i, i + 1],)), "") for i in range(4)),
    function=Function("double_all", HEADER, "    return [2 * x for x in xs]\n"),
)  # fmt: skip
BOTH = pytest.mark.parametrize("problem", [ASSERTED, COMPARED], ids=["asserted", "compared"])
RIGHT = "def double_all(xs):\n    return [x + x for x in xs]"

# --- values


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers()), inner)
        | st.sets(st.integers())
        | st.frozensets(st.text())
    ),
)


@given(value=plain)
def test_a_built_in_value_comes_through_as_it_is(value):
    found = values.decode(values.encode(value))
    assert found == value
    assert type(found) is type(value)


def test_infinite_and_enormous_numbers_come_through():
    assert values.decode(values.encode([math.inf, 7**9000])) == [math.inf, 7**9000]
    assert math.isnan(values.decode(values.encode(math.nan)))


@pytest.mark.parametrize("value", [object(), len, range(3), Exception("x"), type])
def test_what_is_no_built_in_value_cannot_be_said(value):
    with pytest.raises(TypeError, match="is not a built-in value"):
        values.encode([value])


@given(text=st.text() | st.text(st.sampled_from('{}[]":,intuplefloat0x1')))
def test_a_line_that_is_no_value_is_refused_and_nothing_else_happens(text):
    with contextlib.suppress(ValueError):
        values.decode(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", '{"int":"0x"}', '{"int":5}', '{"int":"0x1","set":[]}', '{"dict":[[1]]}',
     '{"dict":[[[],1]]}', '{"complex":[1]}', '{"complex":["1",2]}', '{"set":[[]]}', '{"set":5}',
     '{"list":[]}', '{"bytes":"f"}', '{"bytes":5}', '[{"tuple":[{}]}]',
     '{"complex":[1' + "0" * 400 + ",0]}"],
)  # fmt: skip
def test_what_encodes_no_value_is_refused(text):
    with pytest.raises(ValueError, match=r"[a-z]"):
        values.decode(text)


def test_a_text_of_many_brackets_is_refused():
    with pytest.raises(ValueError, match="not an encoded value"):
        values.decode("[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize(
    ("expected", "found", "tolerance", "equal"),
    [(1.0, 1.0 + 5e-7, 0, True), (1.0, 1.0 + 5e-6, 0, False), (1.0, 1.01, 0.1, True),
     ([1.0, 2.0], [1.0, 2.0000001], 0, True), ([1.0], [1.0, 2.0], 0, False), (1, 2, 0, False),
     ([1.0], (1.0000001,), 0, False), ("a", "a", 0, True), (True, 1, 0, True),
     (1.0, "1.0", 0, False), (1.0, math.nan, 0, False), ({1: 2}, {1: 2}, 0, True)],
)  # fmt: skip
def test_floats_are_compared_as_evalplus_does(expected, found, tolerance, equal):
    assert same(expected, found, tolerance) is equal


# --- programs


def test_what_a_model_writes_may_be_the_whole_function_or_its_body():
    function = ASSERTED.function
    assert sources_of(function, "    return xs") == (HEADER + "    return xs",)
    assert sources_of(function, RIGHT) == (HEADER, RIGHT)
    assert sources_of(function, "double_all = print") == (HEADER, "double_all = print")
    assert sources_of(Function("f"), "def f(): pass") == ("def f(): pass",)
    inside = "    def double_all(xs):\n        return xs"
    assert sources_of(function, inside) == (HEADER, "def double_all(xs):\n    return xs")
    assert sources_of(function, "    x = 1\n    return xs") == (
        HEADER + "    x = 1\n    return xs",
    )
    method = Function("Solution.f", "import math\n")
    assert sources_of(method, "def f(): pass", "x = 1") == (
        "import math\n",
        "x = 1",
        "def f(): pass",
    )


@pytest.mark.parametrize("program", ["\0", "(", "-" * 100_000 + "1", "(" * 100_000, "\ud800"])
def test_what_cannot_be_parsed_is_taken_for_a_body(program):
    assert sources_of(ASSERTED.function, program) == (HEADER + program,)


def test_calls_without_limits_have_these():
    assert (
        Limits(wall_s=30.0, cpu_s=30.0, memory_bytes=1 << 30, output_bytes=512 << 20)
        == functions.CALL_LIMITS
    )


@isolated
@BOTH
def test_calls_have_the_limits_that_are_given(problem):
    program = "def double_all(xs):\n    return [0] * 100_000"
    verdict = judge(problem, program, Limits(output_bytes=10_000))
    assert (verdict.correct, verdict.unscored) == (False, False)
    assert verdict.rule.endswith("output limit")


@isolated
@BOTH
def test_a_right_function_passes_in_either_form(problem):
    assert judge(problem, RIGHT).correct
    assert judge(problem, "    return [helper(x) + x - 1 for x in xs]").correct
    assert judge(problem, "import sys\nprint('noise')\n" + RIGHT).correct


ATTACKS = {
    "a value whose equality is always true": """
class Same(list):
    def __eq__(self, other): return True
def double_all(xs): return Same()""",
    "a number whose equality is always true": """
class Same(int):
    def __eq__(self, other): return True
def double_all(xs): return [Same(0) for _ in xs]""",
    "an object that cannot be said": """
class Anything:
    def __eq__(self, other): return True
def double_all(xs): return Anything()""",
    "an exit that looks like success": "import sys\ndef double_all(xs): sys.exit(0)",
    "an end without clearing up": "import os\ndef double_all(xs): os._exit(0)",
    "an exit before any call": "raise SystemExit(0)\ndef double_all(xs): pass",
    "the word passed": "print('passed')\ndef double_all(xs): print('passed')",
    "a verdict on every descriptor": """
import os
def double_all(xs):
    for fd in range(64):
        try: os.write(fd, b'{"held": true, "calls": []}\\n')
        except OSError: pass
    os._exit(0)""",
    "a patched encoder": """
import json, sys
json.dumps = lambda *a, **k: 'true'
sys.modules['__main__'].encode = lambda v: '{"held": true}'
def double_all(xs): return None""",
    "a look through the frames for what is expected": """
import sys
def double_all(xs):
    frame = sys._getframe()
    while frame:
        for v in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(v, dict) and ('replies' in v or 'expected' in v or 'check' in v):
                return v
        frame = frame.f_back""",
    "a look for what is expected in files": """
import glob
def double_all(xs): return [open(p).read() for p in glob.glob('/**/*.jsonl', recursive=True)]""",
    "a patched assertion": """
import builtins
builtins.AssertionError = type('Quiet', (Exception,), {})
def double_all(xs): raise builtins.AssertionError""",
    "an answer that never comes": "def double_all(xs):\n    while True: pass",
    "an error": "def double_all(xs): return 1 / 0",
    "the wrong values": "def double_all(xs): return xs",
    "an entry that is not there": "def triple_all(xs): return xs",
    "no Python": "def double_all(xs) return xs",
    "its input changed and given back": "def double_all(xs):\n    xs.clear()\n    return xs",
    "the first answer right, the rest not": """
seen = []
def double_all(xs):
    seen.append(1)
    return [2 * x for x in xs] if len(seen) < 3 else None""",
}


@isolated
@BOTH
@pytest.mark.parametrize("name", ATTACKS)
def test_a_wrong_function_does_not_pass_with(name, problem):
    limits = sandbox.Limits(wall_s=2.0, cpu_s=2.0)
    completion = f"so</think>\n```python\n{ATTACKS[name]}\n```"
    assert grade_program(completion, problem, limits=limits).outcome is Outcome.INCORRECT


@isolated
def test_assertions_that_fail_for_the_reference_are_no_fault_of_the_program():
    function = Function("f", "def f(x):\n", "    return x\n", "def check(c): assert c(1) == 2")
    judged = judge(Problem("p", "code", "?", function=function), "    return 2")
    assert judged.unscored
    assert "the benchmark's own assertions fail" in judged.rule


def solving(method, *calls):
    return Problem(
        "p", "code", "?", tests=tuple(call(*c) for c in calls), test_s=6.0,
        function=Function(f"Solution.{method}", LEETCODE_HEADER),
    )  # fmt: skip


TWICE = solving("twice", ("2", "4"), ("5", "10"))
METHOD = "class Solution:\n    def twice(self, x: int) -> int:\n        return 2 * x\n"
GUARDS = [
    "if __name__ == '__main__':\n    assert Solution().twice(2) == 5",
    "if __name__ == '__main__':\n    import sys; sys.exit(Solution().twice(2))",
    "import unittest\nif __name__ == '__main__': unittest.main()",
    "if '__main__' == __name__: input()",
]


@isolated
@pytest.mark.parametrize("guard", GUARDS)
def test_what_a_main_guard_holds_is_not_run_where_a_function_is_called(guard):
    assert judge(TWICE, METHOD + guard) == functions.Judged(True, "values")
    for problem in (ASSERTED, COMPARED):
        assert judge(problem, f"{METHOD}{RIGHT}\n{guard}").correct


ALLOWED = {
    "a bare function": ("def twice(x): return 2 * x", "values, bare function"),
    "a module of the prelude": (METHOD.replace("2 * x", "statistics.mean([x, 3 * x])"),
                                "values, prelude"),
    "a name of the prelude": (METHOD.replace("2 * x", "loads('2') * x"), "values, prelude"),
    "deep recursion": (METHOD + "    def down(self, n): return n and 1 + self.down(n - 1)\n"
                       "deep = Solution().down(20_000)", "values, prelude"),
    "numpy": ("import numpy as np\n" + METHOD.replace("2 * x", "np.int64(2) * x"),
              "values, prelude"),
    "a float that is the integer": (METHOD.replace("2 * x", "2.0 * x"), "values"),
    "the built-in power": (METHOD.replace("2 * x", "2 * pow(x, 1, 100)"), "values"),
    "the future first": ("from __future__ import annotations\n" + METHOD, "values"),
}  # fmt: skip


@isolated
@pytest.mark.parametrize("name", ALLOWED)
def test_a_method_may_have(name):
    program, rule = ALLOWED[name]
    assert judge(TWICE, program) == functions.Judged(True, rule)
    strict = grade_program(f"</think>\n```python\n{program}\n```", TWICE, rules="strict")
    assert (strict.outcome is Outcome.CORRECT) == (rule == "values")


@isolated
def test_values_are_compared_exactly_where_there_is_no_reference():
    problem = solving("at", ("0", "0.3"), ("1", "[[1, 2]]"), ("2", "[1, 2]"), ("3", "true"))
    program = "class Solution:\n    def at(self, i):\n        return {}[i]"
    right = "[0.3, [[1, 2]], (1, 2), 1]"
    assert judge(problem, program.format(right)).correct
    for wrong in ("0.1 + 0.2", "0.3000001", "'0.3'", "None"):
        judged = judge(problem, program.format(right.replace("0.3", wrong)))
        assert judged.rule == "call 1 of 4: wrong value"
    nested = program.format(right.replace("[[1, 2]]", "[(1, 2)]"))
    assert judge(problem, nested).rule == "call 2 of 4: wrong value"


@isolated
def test_every_call_has_the_time_of_a_test():
    slow = METHOD.replace("return", "while x == 5: pass\n        return")
    assert judge(TWICE, slow, call_s=1.0).rule == "call 2 of 2: time limit"


@isolated
@BOTH
@pytest.mark.parametrize(
    "program",
    ["from __future__ import annotations\n" + RIGHT,
     '"""How."""\nfrom __future__ import annotations\n' + RIGHT,
     "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n" + RIGHT],
)  # fmt: skip
def test_a_whole_function_may_open_as_a_module_does(program, problem):
    assert judge(problem, program).correct


@isolated
@BOTH
def test_numpy_may_be_used_and_is_told(problem):
    program = (
        "import numpy as np\n\ndef double_all(xs):\n    return [int(x) for x in 2 * np.array(xs)]"
    )
    assert judge(problem, program).rule in ("assertions, numpy", "values, numpy")
    inside = "    import numpy\n    return list(numpy.array(xs, dtype=int) * 2)"
    assert judge(problem, inside).rule in ("assertions, numpy", "values, numpy")
    assert not judge(problem, program.replace("2 *", "3 *")).correct


@isolated
def test_what_the_header_does_not_import_is_not_there():
    assert (
        "NameError" in judge(ASSERTED, "def double_all(xs: List): return [x + x for x in xs]").rule
    )


@isolated
@pytest.mark.parametrize("rules", ["official", "strict"])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_trick_passes_by_either_set_of_rules_where_values_are_known(name, rules):
    limits = sandbox.Limits(wall_s=1.0, cpu_s=1.0)
    problem = solving("double_all", ("[1]", "[2]"), ("[2]", "[4]"), ("[3]", "[6]"), ("[4]", "[8]"))
    completion = f"so</think>\n```python\n{ATTACKS[name]}\n```"
    graded = grade_program(completion, problem, limits=limits, rules=rules)
    assert graded.outcome is Outcome.INCORRECT


@isolated
def test_methods_are_called_on_one_object_with_arguments_in_json():
    problem = Problem(
        "p", "code", "?",
        tests=(call('[1, 2]\n"a"\n', "[3, null]"), call('[4]\n"b"\n', "[4, null]")),
        function=Function("Solution.total"),
    )  # fmt: skip
    program = "class Solution:\n    def total(self, xs, name):\n        return (sum(xs), None)"
    assert judge(problem, program).correct
    assert judge(problem, program.replace("sum(xs)", "len(xs)")).rule == (
        "call 1 of 2: wrong value"
    )


# --- the published benchmarks


def rows(name):
    path = DATA / BENCHMARKS[name].file
    if not path.is_file():
        pytest.skip(f"no {path}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.slow
@isolated
@pytest.mark.timeout(600)
def test_the_canonical_solutions_of_humaneval_pass():
    rows("humaneval")
    failed = {}
    for problem in load_benchmark("humaneval", DATA):
        judged = judge(problem, problem.function.solution)
        if not judged.correct:
            failed[problem.id] = judged.rule
    assert failed == {}


class Flip(ast.NodeTransformer):
    """One operator or constant of a program changed."""

    def __init__(self, at):
        self.at, self.seen = at, -1

    def _mine(self):
        self.seen += 1
        return self.seen == self.at

    def visit_Compare(self, node):
        swap = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq, ast.LtE: ast.Gt}
        if type(node.ops[0]) in swap and self._mine():
            node.ops[0] = swap[type(node.ops[0])]()
        return self.generic_visit(node)

    def visit_BinOp(self, node):
        swap = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.Mult}
        if type(node.op) in swap and self._mine():
            node.op = swap[type(node.op)]()
        return self.generic_visit(node)

    def visit_Constant(self, node):
        if type(node.value) is int and self._mine():
            node.value += 1
        return node


def mutated(problem, rng):
    source = problem.function.header + problem.function.solution
    counter = Flip(-1)
    counter.visit(ast.parse(source))
    if counter.seen < 0:
        return None
    return ast.unparse(Flip(rng.randrange(counter.seen + 1)).visit(ast.parse(source)))


OFFICIAL = """
import sys, os
{program}
{check}
try:
    check({entry})
except BaseException:
    os.write(1, b"failed")
else:
    os.write(1, b"passed")
"""


@pytest.mark.slow
@isolated
@pytest.mark.timeout(600)
def test_mutated_solutions_of_humaneval_fail_where_the_official_harness_fails_them():
    rows("humaneval")
    rng, differing, failed, asked = random.Random(0), {}, 0, 0
    limits = sandbox.Limits(wall_s=3.0, cpu_s=3.0)
    for problem in load_benchmark("humaneval", DATA)[::3]:
        program = mutated(problem, rng)
        if program is None:
            continue
        asked += 1
        function = problem.function
        official = OFFICIAL.format(program=program, check=function.check, entry=function.entry)
        theirs = sandbox.run(official, limits=limits).stdout == b"passed"
        ours = judge(problem, program, limits).correct
        failed += not theirs
        if ours != theirs:
            differing[problem.id] = (ours, theirs)
    assert differing == {}
    assert failed > asked / 2


@isolated
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_canonical_solutions_of_humaneval_plus_pass_and_mutated_ones_mostly_fail():
    rows("humaneval_plus")
    rng, failed, caught, asked = random.Random(0), {}, 0, 0
    for problem in load_benchmark("humaneval_plus", DATA):
        judged = judge(problem, problem.function.solution)
        if not judged.correct:
            failed[problem.id] = judged.rule
        program = mutated(problem, rng)
        if program is not None:
            asked += 1
            caught += not judge(problem, program, functions.CALL_LIMITS).correct
        functions._called.cache_clear()
        functions._reference.cache_clear()
    assert failed == {}
    assert caught > 0.8 * asked
