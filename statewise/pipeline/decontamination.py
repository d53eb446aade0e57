"""Training documents that give away a problem of a run's evaluation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from statewise.eval.benchmarks import load_benchmark, load_problems
from statewise.pipeline.stage import Run
from statewise.records import Problem
from statewise.synth.dedup import Exams
from statewise.train.corpus import Corpus

Tests = dict[str, list[Problem]]


@dataclass(frozen=True, slots=True)
class Near:
    """A document that is not trained on, as it stands in `decontaminated.jsonl`.

    Attributes:
        document: its number in the source, the first is 1.
        set: of evaluation problems.
        problem: the id of the one that it holds most of.
        containment: how much (`statewise.synth.dedup.Exams`).
    """

    document: int
    set: str
    problem: str
    containment: float


def evaluated(run: Run) -> Tests:
    """The problems of every set that the run's models are judged by, whichever a recipe asks now.

    Raises:
        DataError: a benchmark's file is missing; the message says where to get it.
    """
    tests = {name: load_benchmark(name, run.data_dir) for name in run.recipe.eval.benchmarks}
    for part in ("development", "held_out"):
        for problem_set in getattr(run.recipe.synth, part):
            path = run.path / "synth" / part / problem_set.name / "problems.jsonl"
            tests[problem_set.name] = load_problems(path)
    return tests


def statements(tests: Tests) -> dict[str, list[str]]:
    """What is looked for in training documents."""
    return {name: [p.statement for p in problems] for name, problems in tests.items()}


def near(corpus: Corpus, exams: Exams, tests: Tests, containment: float) -> Iterator[Near]:
    """The documents that hold (nearly) an evaluation problem.

    The documents' marks are read twice from disk, part by part: how rare an n-gram is among all of
    them, and then what each comes to.

    Args:
        corpus: made with the marks of `exams`.
        exams: of the statements of `tests`.
        tests: evaluation set -> problems.
        containment: the share of a problem from which a document is one of them.
    """
    exams.weigh(len(corpus), Counter(mark for _, marks in corpus.marks() for mark in marks))
    for number, marks in corpus.marks():
        shares = exams.shares(marks)
        nearest = max(shares, key=lambda statement: (shares[statement], -statement))
        if shares[nearest] >= containment:
            name, at = exams.statements[nearest]
            yield Near(number + 1, name, tests[name][at].id, round(shares[nearest], 3))
