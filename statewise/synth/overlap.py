"""How much of the evaluation problems training has solved on its way, by the workbook's reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from statewise.synth.workbook import contents


def overlap(
    tests: Mapping[str, Iterable[str]], training: Iterable[str]
) -> dict[str, dict[str, int]]:
    """Steps of evaluation problems that stand in training problems, whatever their wording.

    A step is a concept with its numbers, worked out: "gcd(56,84)" of a question that names 56 and
    84, and of one that arrives at them.

    Args:
        tests: evaluation set -> statements. A set that the workbook does not read is left out.
        training: statements.

    Returns:
        For each set `problems`, `steps`, and of each how many training holds: `steps_trained`, and
        `problems_trained`, all of whose steps are among them.
    """
    asked = {name: [contents(s) for s in statements] for name, statements in tests.items()}
    trained = {step for s in training for step in contents(s) or ()}
    return {
        name: {
            "problems": len(problems),
            "problems_trained": sum(all(c in trained for c in p) for p in problems if p),
            "steps": sum(len(p) for p in problems if p),
            "steps_trained": sum(c in trained for p in problems if p for c in p),
        }
        for name, problems in asked.items()
        if all(problems)
    }
