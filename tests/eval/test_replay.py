"""Published programs of LiveCodeBench get the official harness's verdicts again."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from statewise import sandbox
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.eval.codetests import grade_program
from statewise.records import Outcome, Problem, from_json, iter_rows

DATA = Path(__file__).parents[3] / "shared" / "data"
VERDICTS = json.loads(Path(__file__).with_name("livecodebench_verdicts.json").read_text())
MODELS = {"o1-mini-2024-09-12": "mini", "o1-preview-2024-09-12": "preview"}
pytestmark = pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)


def replay(first, step):
    """What every so manyth program comes to, and what differs from the harness's verdicts."""
    path = DATA / BENCHMARKS["livecodebench_public"].file
    if not path.is_file():
        pytest.skip(f"no {path}")
    programs = {row["question_id"]: row["official"] for _, row in iter_rows(path)}
    problems = [p for p in load_benchmark("livecodebench_public", DATA) if p.tests]
    counts, differing = {True: 0, False: 0}, {}
    for problem in problems[first::step]:
        for official in programs[problem.id]:
            model = MODELS[official["model"]]
            if model in VERDICTS["near the time limit"].get(problem.id, ()):
                continue
            text = f"</think>\n```python\n{official['code']}\n```"
            graded = grade_program(text, problem)
            found = graded.outcome is Outcome.CORRECT
            counts[found] += 1
            if found != (model not in VERDICTS["failed"].get(problem.id, ())):
                differing[problem.id, model] = graded.rule
    return counts, differing


def test_a_few_published_programs_get_the_official_verdicts():
    counts, differing = replay(0, 60)
    assert differing == {}
    assert counts[True] > 15
    assert counts[False] > 2


def test_programs_that_people_report_of_graders_have_their_right_outcome():
    path = DATA / "field-cases" / "programs.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = list(iter_rows(path))
    assert len(rows) == 70
    with ThreadPoolExecutor(2) as pool:
        graded = pool.map(
            lambda r: grade_program(r[1]["completion"], from_json(Problem, r[1]["problem"], r[0])),
            rows,
        )
    wrong = {
        where: (row["kind"], found)
        for (where, row), found in zip(rows, graded, strict=True)
        if found.outcome != row["expected"]
    }
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_seventh_published_problems_programs_get_the_official_verdicts():
    counts, differing = replay(3, 7)
    assert differing == {}
    assert counts[True] > 150
    assert counts[False] > 30
