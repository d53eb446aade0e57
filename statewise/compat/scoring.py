"""The rules by which the original commands score, for comparison with published figures.

`calc_acc_aime.py`: its known faults are the point: the whole completion is searched, thinking
included, down to the last number in it; 7000 and 0.7 pass for 70; 10001 passes for 10000; the
spread is that of the run means. What is left out is its last resort, which hands boxed text to
SymPy's `parse_expr` and so executes it: an answer that is equal in value but not in form may be
counted wrong here. On the integer answers of AIME there is no such case.

`calc_acc_lcb.py`: see `published_passes`.
"""

from __future__ import annotations

import math
import re
import statistics
from decimal import Decimal, InvalidOperation
from typing import Any

from statewise import sandbox
from statewise.eval.functions import judge
from statewise.eval.hidden import with_tests
from statewise.eval.regrade import Row, completion_of, reference_of
from statewise.records import Problem
from statewise.sandbox import Limits

_NUMBER = re.compile(r"-?\d*\.?\d+")
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|~|\s+")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_SIZES = re.compile(r"\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")
RELATIVE = 1e-4


def published_extract(text: str) -> str:
    """The answer that the original finds: its patterns in its order, at last the last number."""
    if "final answer is $" in text and "$. I hope" in text:
        return text.split("final answer is $", 1)[1].split("$. I hope", 1)[0].strip()
    if "boxed" in text:
        return _boxed(text.rpartition("boxed")[2])
    for words in ("he answer is", "final answer is"):
        if words in text:
            return text.rpartition(words)[2].split(".\n")[0].strip().rstrip(".")
    numbers = _NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else ""


def _boxed(rest: str) -> str:
    """What stands in braces; an unclosed brace takes all that follows."""
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth, boxed = 1, ""
    for c in rest[1:]:
        depth += (c == "{") - (c == "}")
        if depth == 0:
            break
        boxed += c
    return boxed


def _number(text: str) -> float | None:
    plain = text.replace(",", "").strip()
    percent = plain.endswith("%")
    try:
        value = float(plain.rstrip("%").rstrip("\\"))
    except ValueError:
        return None
    return value / 100 if percent else value


def normalise(text: str) -> str:
    """Strip spacing, sizes, dollars, degrees, percent signs, a final stop, as the original does."""
    text = text.replace("−", "-").replace("\\$", "").replace("$", "").replace("{,}", ",")
    text = _SPACING.sub("", _WRAPPER.sub(r"\1", _SIZES.sub("", text)))
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = re.sub(r"\^\{?\\circ\}?|°|\\degree(?![a-zA-Z])", "", text)
    text = re.sub(r"\\?%$", "", text.removesuffix("."))
    return text.removesuffix(".")


def published_equal(answer: str, reference: str) -> bool:
    """Equal as text, or as numbers: within 1e-4, and a hundred times more or less passes too."""
    if normalise(answer).lower() == normalise(reference).lower():
        return True
    a, b = _number(normalise(answer)), _number(normalise(reference))
    if a is None or b is None:
        return False
    return any(math.isclose(a, c, rel_tol=RELATIVE) for c in (b / 100, b, b * 100))


def published_line(source: str, prompts: dict[str, list[tuple[str, Any]]], runs: int) -> str:
    """The original's line for a source: mean over runs, and their standard deviation."""
    means = []
    for run in range(runs):
        right = [
            published_equal(
                published_extract(completion_of(row, where)), _published_reference(row, where)
            )
            for where, row in (rows[run] for rows in prompts.values())
        ]
        means.append(100 * sum(right) / len(right))
    spread = statistics.stdev(means) if len(means) > 1 else math.nan
    return f"{source}, by the original's rules: {statistics.mean(means):.1f} ± {spread:.1f}"


def _published_reference(row: Row, where: str) -> str:
    solution = row.get("reference_solution")
    if isinstance(solution, str):
        return solution.rpartition("####")[2].strip()
    return reference_of(row, where)


CODE_LIMITS = Limits(wall_s=30.0, cpu_s=30.0, memory_bytes=1 << 30, output_bytes=64 << 20)
_STAND_IN = "import io, sys; sys.stdin = io.StringIO(sys.stdin.read())\n"  # it has no buffer


def published_code(text: str) -> str:
    """What the original runs: the lines between the last two that hold a fence; maybe nothing."""
    visible = text.partition("\n</think>\n\n")[2] or text
    lines = visible.split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


def published_output_equal(expected: str, output: str) -> bool:
    """Line by line, as text or as exact decimals."""
    wanted = [line.strip() for line in expected.strip().split("\n")]
    got = [line.strip() for line in output.strip().split("\n")]
    return len(wanted) == len(got) and all(map(_line_equal, wanted, got))


def _line_equal(wanted: str, got: str) -> bool:
    if wanted == got:
        return True
    try:
        return [Decimal(t) for t in wanted.split()] == [Decimal(t) for t in got.split()]
    except InvalidOperation:
        return False


def published_passes(text: str, problem: Problem) -> bool:
    """Whether the original passes a completion, but for what only its shared process allows.

    That is: 30 s a test, `sys.stdin` without a buffer, and no tests is a pass. Objects with an
    `__eq__` of their own pass there and not here.

    Raises:
        DataError: the tests cannot be had.
        SandboxError: nothing can be isolated here.
    """
    program, problem = published_code(text), with_tests(problem)
    if problem.function is not None:
        return not problem.tests or judge(problem, program, CODE_LIMITS).correct
    for test in problem.tests:
        ran = sandbox.run(
            _STAND_IN + program, stdin=test.input.encode(errors="surrogatepass"), limits=CODE_LIMITS
        )
        output = ran.stdout.decode(errors="replace")
        if ran.exit_code != 0 or not published_output_equal(test.output, output):
            return False
    return True
