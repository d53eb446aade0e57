"""One row of each published form, and the problem that it becomes, field by field."""

import pytest

from statewise import sandbox
from statewise.eval import rows
from statewise.eval.codetests import grade_program
from statewise.eval.values import encode
from statewise.records import Function, Outcome, Problem, TestCase, TestsFile
from statewise.text import INSTRUCTIONS

HEADER = 'def twice(x):\n    """Twice."""\n'
SHOWN = f"```python\n{HEADER}```"
STARTER = "class Solution:\n    def total(self, xs):\n        "
COMPLETE = f"Sum the list.\n\nComplete this class:\n\n```python\n{STARTER}\n```"
METHOD = Function("Solution", header=rows.LEETCODE_HEADER)
EVALPLUS = {
    "task_id": "HumanEval/0",
    "entry_point": "twice",
    "prompt": HEADER,
    "canonical_solution": "    return 2 * x\n",
    "base_input": [[1]],
    "plus_input": [[2], [-3]],
    "atol": 0.5,
}
PUBLIC = {
    "question_id": "abc",
    "content": "Sum the list.",
    "starter_code": "",
    "func_name": None,
    "difficulty": "easy",
    "contest_date": "2024-08-03T00:00:00",
    "public_tests": [{"input": "1\n", "output": "2\n"}],
}
RELEASED = {
    "question_id": "abc",
    "question_content": "Sum the list.",
    "starter_code": "",
    "difficulty": "hard",
    "contest_date": "2024-08-03T00:00:00",
    "tests": {"fname": "abc.json", "md5": "0f"},
}


def chat(turn: str) -> str:
    return f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n<think>\n"


def olympiad(**change):
    row = {
        "id": 7,
        "question": "How far?",
        "final_answer": ["$1$, $2$"],
        "subfield": "Geometry",
        "is_multiple_answer": True,
        "unit": None,
        "error": None,
    }
    return {**row, **change}


@pytest.mark.parametrize(
    ("reader", "row", "problem"),
    [
        (
            rows.answers("unique_id", "problem"),
            {"unique_id": "t/1", "problem": "1+1?", "answer": "2", "level": 3},
            Problem("t/1", "math", "1+1?", "2", level="3"),
        ),
        (
            rows.answers("id", "question"),
            {"id": "a", "question": "1+1?", "answer": "2"},
            Problem("a", "math", "1+1?", "2"),
        ),
        (
            rows.olympiadbench,
            olympiad(),
            Problem("7", "math", "How far?", "$1$, $2$", level="Geometry", checker="several"),
        ),
        (
            rows.olympiadbench,
            olympiad(
                final_answer=[" $3$."], is_multiple_answer=False, unit="km", error="0.25"
            ),
            Problem("7", "math", "How far?", "3", level="Geometry", checker="math", unit="km",
                    tolerance=0.25),
        ),
        (
            rows.humaneval,
            {k: EVALPLUS[k] for k in ("task_id", "entry_point", "prompt", "canonical_solution")}
            | {"test": "def check(candidate): pass"},
            Problem("HumanEval/0", "code", SHOWN, function=Function(
                "twice", HEADER, "    return 2 * x\n", "def check(candidate): pass")),
        ),
        (
            rows.humaneval_plus,
            EVALPLUS,
            Problem("HumanEval/0", "code", SHOWN,
                    tests=tuple(TestCase(encode([x]), "") for x in (1, 2, -3)), tolerance=0.5,
                    function=Function("twice", HEADER, "    return 2 * x\n")),
        ),
        (
            rows.livecodebench_public,
            PUBLIC,
            Problem("abc", "code", "Sum the list.", tests=(TestCase("1\n", "2\n"),), level="easy",
                    test_s=6.0, date="2024-08-03"),
        ),
        (
            rows.livecodebench_public,
            PUBLIC | {"starter_code": STARTER, "func_name": "total",
                      "public_tests": [{"input": "[1, 2]\n\n3", "output": "4"}]},
            Problem("abc", "code", COMPLETE, level="easy", test_s=6.0, date="2024-08-03",
                    tests=(TestCase(encode(([1, 2], 3)), encode(4)),),
                    function=Function("Solution.total", header=rows.LEETCODE_HEADER)),
        ),
        (
            rows.livecodebench,
            RELEASED,
            Problem("abc", "code", "Sum the list.", level="hard", test_s=6.0, date="2024-08-03",
                    hidden=TestsFile("abc.json", "0f")),
        ),
        (
            rows.livecodebench,
            RELEASED | {"starter_code": STARTER},
            Problem("abc", "code", COMPLETE, level="hard", test_s=6.0, date="2024-08-03",
                    hidden=TestsFile("abc.json", "0f"), function=METHOD),
        ),
        (
            rows.promptcot_livecodebench,
            {**RELEASED, "prompt": chat("Sum the list.\n\nRead it.")},
            Problem("abc", "code", "Sum the list.\n\nRead it.", test_s=6.0, date="2024-08-03",
                    hidden=TestsFile("abc.json", "0f"), instructed=True),
        ),
        (
            rows.promptcot_livecodebench,
            {**RELEASED, "prompt": chat(COMPLETE)},
            Problem("abc", "code", COMPLETE, test_s=6.0, date="2024-08-03",
                    hidden=TestsFile("abc.json", "0f"), function=METHOD, instructed=True),
        ),
        (
            rows.promptcot("aime2025", "aime"),
            {"source": "aime2025", "idx": 31, "prompt": chat(f"1+1?\n{INSTRUCTIONS['math']}"),
             "reference_solution": "so #### no\n#### 336^\\circ "},
            Problem("aime-01", "math", "1+1?", "336"),
        ),
        (
            rows.promptcot("hmmt", "h"),
            {"source": "hmmt", "idx": 12, "prompt": chat("1+1?"),
             "reference_solution": "#### 2^{\\circ}"},
            Problem("h-12", "math", "1+1?", "2^{\\circ}"),
        ),
        (rows.promptcot("hmmt", "h"), {"source": "aime2024"}, None),
        (
            rows.grade_school_math,
            {"question": "How many?", "answer": "<<#### 1>>\n#### 1,001,000"},
            Problem("gsm8k-test-7", "math", "How many?", "1001000"),
        ),
    ],
)  # fmt: skip
def test_a_row_becomes_this_problem(reader, row, problem):
    assert reader(7, row) == problem


def test_a_field_that_is_no_text_and_a_prompt_without_a_turn_are_refused():
    with pytest.raises(TypeError, match="'content' must be text"):
        rows.livecodebench_public(0, PUBLIC | {"content": 7})
    for prompt in ("Sum the list.", chat("x").replace("user", "system"), "x" + chat("y")):
        with pytest.raises(ValueError, match="no user's turn"):
            rows.promptcot_livecodebench(0, RELEASED | {"prompt": prompt})


@pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
def test_of_a_root_the_value_of_the_polynomial_decides():
    header = (
        "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\n"
        'def find_zero(xs):\n    """A root."""\n'
    )
    change = {
        "entry_point": "find_zero",
        "prompt": header,
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "base_input": [[[-4, 2]]],
        "plus_input": [[[3, 1]]],
        "atol": 1e-3,
    }
    problem = rows.humaneval_plus(0, EVALPLUS | change)
    assert problem.tests == ()
    for off, outcome in ((0.0, "correct"), (4e-4, "correct"), (-4e-4, "correct"),
                         (2e-3, "incorrect"), (-2e-3, "incorrect")):  # fmt: skip
        program = f"def find_zero(xs):\n    return -xs[0] / xs[1] + {off}\n"
        graded = grade_program(f"</think>\n```python\n{program}```", problem)
        assert graded.outcome is Outcome(outcome), (off, graded)
