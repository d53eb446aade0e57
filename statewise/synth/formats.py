"""The prompts of the synthesis roles, and the strict parsers of their answers.

Whoever plays a role, a language model or the workbook, gets these texts and answers in these
formats. A parser accepts what it fully understands and nothing else: a misread verdict costs more
than a lost draft.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from statewise.records import Draft, Rating, TestCase

BEGIN_RATIONALE = "<!-- BEGIN RATIONALE -->"
END_RATIONALE = "<!-- END RATIONALE -->"
BEGIN_PROBLEM = "<!-- BEGIN PROBLEM -->"
END_PROBLEM = "<!-- END PROBLEM -->"
CONCEPTS_HEADING = "Foundational Concepts:"
LEVEL_HEADING = "Difficulty Level: "
VERDICT_HEADING = "Final Judgement:"
PROBLEM_HEADING = "\n\nProblem:\n"

AUTHOR_TASK = {
    "math": "Design one new mathematics problem that has a single integer answer.",
    "code": "Design one new programming problem, solved by a program from standard input to "
    "standard output.",
}
JUDGE_TASK = {
    "math": "Judge the following draft of a mathematics problem.",
    "code": "Judge the following draft of a programming problem.",
}
TESTS_TASK = "Write test cases for the programming problem below."
VERIFIER_TASK = "Check the problem below by a method other than the obvious one."

_AUTHOR_RULES = f"""It must need every concept listed below and be as hard as the level says.
First explain how the concepts lead to the problem, then state the problem. Use exactly this form:
{BEGIN_RATIONALE}
(your reasoning)
{END_RATIONALE}
{BEGIN_PROBLEM}
(the statement alone)
{END_PROBLEM}"""

_JUDGE_RULES = f"""Rate each of five criteria Perfect, Acceptable or Bad, with a reason, one a line:
Format, Accuracy, Difficulty, Coverage, Solvability.
The verdict is perfect when Accuracy and Solvability are Perfect, at least two of the others are
Perfect and none is Bad; acceptable when none is Bad; bad otherwise. Close with this line:
{VERDICT_HEADING} [verdict]"""


def author_prompt(concepts: Sequence[str], level: str, kind: str) -> str:
    """The prompt for an author.

    Args:
        concepts: the names of the concepts the problem must need.
        level: a key of `statewise.synth.concepts.LEVELS`.
        kind: "math" or "code".
    """
    return f"{AUTHOR_TASK[kind]}\n{_AUTHOR_RULES}\n\n{concept_block(concepts, level)}\n"


def concept_block(concepts: Sequence[str], level: str) -> str:
    """The numbered concepts and the level, as author and judge see them."""
    lines = [f"{i}. {name}" for i, name in enumerate(concepts, start=1)]
    return "\n".join([CONCEPTS_HEADING, *lines, "", LEVEL_HEADING + level])


_REQUEST = re.compile(
    rf"^{CONCEPTS_HEADING}\n((?:\d+\. .+\n)+)\n{LEVEL_HEADING}(.+)$", re.MULTILINE
)


def parse_request(prompt: str) -> tuple[tuple[str, ...], str] | None:
    """The concepts and the level in an author's or judge's prompt, or None if it has none."""
    match = _REQUEST.search(prompt)
    if match is None:
        return None
    lines = match.group(1).splitlines()
    return tuple(line.partition(". ")[2] for line in lines), match.group(2)


def draft_block(rationale: str, problem: str) -> str:
    """A rationale and a problem within their tags."""
    parts = (BEGIN_RATIONALE, rationale, END_RATIONALE, BEGIN_PROBLEM, problem, END_PROBLEM)
    return "\n".join(parts)


def parse_draft(text: str) -> tuple[str, str] | None:
    """The rationale and problem of an author's answer.

    Returns:
        (rationale, problem), stripped; None unless each of the four tags stands exactly once, in
        order, and both texts are non-empty.
    """
    tags = (BEGIN_RATIONALE, END_RATIONALE, BEGIN_PROBLEM, END_PROBLEM)
    if any(text.count(tag) != 1 for tag in tags):
        return None
    a, b, c, d = (text.index(tag) for tag in tags)
    if not a < b < c < d:
        return None
    rationale = text[a + len(BEGIN_RATIONALE) : b].strip()
    problem = text[c + len(BEGIN_PROBLEM) : d].strip()
    return (rationale, problem) if rationale and problem else None


def judge_prompt(draft: Draft) -> str:
    """The prompt for a judge: the rubric, what was asked for, and the draft."""
    block = concept_block(draft.concepts, draft.level)
    text = draft_block(draft.rationale, draft.problem)
    return f"{JUDGE_TASK[draft.kind]}\n{_JUDGE_RULES}\n\n{block}\n\n{text}\n"


_VERDICT = re.compile(
    r"[*_#>\s]*Final Judgement:[*_]*\s*[*_]*\[?\s*(perfect|acceptable|bad)\s*\]?[*_]*\.?[*_]*\s*",
    re.IGNORECASE,
)


def parse_rating(text: str) -> Rating:
    """The verdict of a judge's answer.

    Only the last non-blank line counts, and only if it is `Final Judgement:` followed by one of
    the three words (brackets, emphasis and a full stop are let pass). "not perfect", "imperfect",
    two words or none are `UNREADABLE`.
    """
    last = text.rstrip().rpartition("\n")[2]
    match = _VERDICT.fullmatch(last)
    return Rating(match.group(1).lower()) if match else Rating.UNREADABLE


def tests_prompt(statement: str) -> str:
    """The prompt for a writer of test cases."""
    return (
        f"{TESTS_TASK}\nAnswer with one fenced json block: a list of objects, each with the text "
        f'fields "input" and "output". Cover small, typical and extreme inputs.'
        f"{PROBLEM_HEADING}{statement}\n"
    )


_FENCE = re.compile(r"^```(?:json)?[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


def parse_tests(text: str) -> tuple[TestCase, ...] | None:
    """The test cases of the only fenced block in the text, or None if it is not such a list."""
    blocks = _FENCE.findall(text)
    if len(blocks) != 1:
        return None
    try:
        rows = json.loads(blocks[0])
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(rows, list) or not rows:
        return None
    cases = []
    for row in rows:
        if not isinstance(row, dict) or set(row) != {"input", "output"}:
            return None
        if not isinstance(row["input"], str) or not isinstance(row["output"], str):
            return None
        cases.append(TestCase(row["input"], row["output"]))
    return tuple(cases)


def verifier_prompt(statement: str) -> str:
    """The prompt for a verifier of a mathematical answer."""
    return (
        f"{VERIFIER_TASK}\nEnumerate, substitute or work backwards, and put the final answer "
        f"within \\boxed{{}}.{PROBLEM_HEADING}{statement}\n"
    )
