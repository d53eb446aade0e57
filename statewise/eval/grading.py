"""A completion of a problem to its verdict: one door, whatever the problem asks for."""

from __future__ import annotations

from statewise.eval.answers import Checker, Grade, Kind, as_kind, grade
from statewise.eval.codetests import grade_program
from statewise.eval.mathematics.workers import compare
from statewise.eval.rules import Rules
from statewise.records import Completion, Outcome, Problem, Verdict
from statewise.sandbox import Limits
from statewise.text import as_opened


def grade_completion(
    problem: Problem,
    completion: Completion,
    *,
    kind: Kind = "math",
    limits: Limits | None = None,
    opened: bool = True,
    checker: Checker = compare,
    rules: Rules = "official",
) -> Verdict:
    """The verdict on one completion of a problem.

    Args:
        problem: with a reference answer, whose unit, tolerance and checker count; of code with
            tests or a function. Without any of these the completion is unscored.
        completion: of the problem's prompt.
        kind: how answers are compared where the problem does not say.
        limits: of each run of a program; by default those of the problem.
        opened: the prompt had opened the think block; otherwise a text without one is all answer.
        checker: the last resort for answers (`answers.grade`).
        rules: by which programs are graded.

    Raises:
        DataError: the problem names a checker that there is not.
    """
    text = completion.text if opened else as_opened(completion.text)
    if problem.kind == "code":
        graded = grade_program(
            text, problem, finish_reason=completion.finish_reason, limits=limits, rules=rules
        )
    elif problem.answer is None:
        graded = Grade(Outcome.UNSCORED, rule="the problem has no reference answer")
    else:
        graded = grade(
            text,
            problem.answer,
            kind=as_kind(problem.checker, kind),
            unit=problem.unit,
            tolerance=problem.tolerance,
            finish_reason=completion.finish_reason,
            checker=checker,
        )
    return Verdict(
        problem_id=completion.prompt_id,
        sample=completion.sample,
        outcome=graded.outcome,
        extracted=graded.extracted,
        rule=graded.rule,
        seed=completion.seed,
        finish_reason=completion.finish_reason.value,
        completion_tokens=completion.completion_tokens,
    )
