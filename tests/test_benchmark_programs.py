"""The comparison of graders of programs: what it counts, and how it speaks with the harness."""

import sys
from pathlib import Path

import pytest

from benchmarks.programs import (
    OFFICIAL,
    STRICT,
    THEIRS,
    Item,
    asked_here,
    asked_there,
    disagreements,
    published,
    table,
)
from statewise import sandbox
from statewise.errors import RunError
from statewise.records import Problem, TestCase

DATA = Path(__file__).parents[2] / "shared" / "data"
HARNESS = """
import json
def check_correctness(sample, code, timeout, debug):
    print("noise")
    if "hang" in code:
        raise IndexError("list index out of range")
    tests = json.loads(sample["input_output"])
    assert timeout == 6 and tests["fn_name"] is None
    right = tests["outputs"][0].strip() in code
    return [[True, right and True or -2], {} if right else {"error_message": "Wrong Answer"}]
"""


def item(code):
    problem = Problem("p", "code", "?", tests=(TestCase("", "7\n"),), test_s=6.0)
    return Item(problem, "m", code, {"inputs": [""], "outputs": ["7\n"], "fn_name": None})


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "lcb_runner" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "compute_code_generation_metrics.py").write_text(HARNESS)
    return tmp_path


def test_the_harness_is_asked_in_its_own_process_from_a_checkout(checkout, tmp_path):
    items = [item("print(7)"), item("print(8)"), item("hang")]
    rows = list(asked_there(sys.executable, checkout, items))
    assert [(r.who, r.credited) for r in rows] == [(THEIRS, True), (THEIRS, False), (THEIRS, False)]
    assert [r.why for r in rows] == ["", "Wrong Answer", "IndexError: list index out of range"]
    with pytest.raises(RunError, match="ended early; is it a checkout of the harness"):
        list(asked_there(sys.executable, tmp_path / "empty", items))


@pytest.mark.skipif(sandbox.isolation().kind == "none", reason="no isolation here")
def test_both_sets_of_rules_are_counted_from_one_grading_and_what_differs_is_told(checkout):
    items = [item("print(7)"), item("print(7.0)"), item("print(10 - 3)")]
    rows = [*asked_here(items), *asked_there(sys.executable, checkout, items)]
    counts = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:3] for line in
              table(rows).splitlines()[2:]}  # fmt: skip
    assert counts == {OFFICIAL: ["3", "0"], STRICT: ["2", "1"], THEIRS: ["2", "1"]}
    (differing,) = disagreements(rows)
    assert (differing["here"], differing["rule"], differing["there"]) == (
        True, "lines", "Wrong Answer"
    )  # fmt: skip


def test_the_choice_of_problems_is_the_seeds():
    if not (DATA / "livecodebench_v5_public.jsonl").is_file():
        pytest.skip("no LiveCodeBench file")
    first = published(DATA, 3, 0)
    assert len(first) == 6
    assert [i.code for i in first] == [i.code for i in published(DATA, 3, 0)]
    assert {i.problem.id for i in first} != {i.problem.id for i in published(DATA, 3, 1)}
    assert all(i.tests["inputs"] for i in first)
