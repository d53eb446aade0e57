"""Files that a phase names are held against the run's evaluation sets while they are tokenised."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_run import command, write_recipe

from statewise.eval import benchmarks, rows
from statewise.pipeline.decontamination import near
from statewise.records import Example, Problem
from statewise.synth.dedup import Exams, decontaminate
from statewise.text import BPETokenizer
from statewise.train import corpus
from statewise.train.corpus import make
from statewise.train.sources import Pair

BYTES = BPETokenizer.train([], vocab_size=260)
WORD = st.sampled_from(("ada", "box", "cat", "dice", "egg", "fig", "gold")) | st.integers(0, 9)
STATEMENTS = st.lists(st.lists(WORD.map(str), min_size=3, max_size=24).map(" ".join), max_size=6)


@given(STATEMENTS, STATEMENTS, st.lists(st.integers(0, 5), max_size=4), st.floats(0.1, 1.0))
def test_a_source_on_disk_is_held_to_the_rule_that_written_problems_are(
    tmp_path_factory, own, exam, copied, limit
):
    """Whatever parts it is cut into, and whether prompt or completion holds the problem."""
    own += [f"here is one {exam[i]}" for i in copied if i < len(exam)]
    pairs = [Pair(Example(*text.split(" ", 1))) for text in own]
    texts = [f"{e.prompt}\n{e.completion}" for e, _ in pairs]
    tests = {"even": exam[::2], "odd": exam[1::2]}
    problems = {
        name: [Problem(f"{name}-{i}", "math", s) for i, s in enumerate(statements)]
        for name, statements in tests.items()
    }
    exams = Exams(tests)
    folder = tmp_path_factory.mktemp("corpus") / "source"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PART", 2)
        made = make(folder, pairs, BYTES, marks=exams.marks)
    found = list(near(made, exams, problems, limit))
    assert {row.document - 1 for row in found} == decontaminate(
        texts, tests, containment=limit
    ).dropped
    for row in found:
        assert row.containment >= round(limit, 3)
        assert row.problem in {p.id for p in problems[row.set]}


def test_what_is_rare_in_the_source_weighs_more_than_what_all_its_documents_have(tmp_path):
    stock = (
        "The answer can be written as $m/n$ where $m$ and $n$ are relatively prime positive "
        "integers and $n$ is as small as it can be. Find $m+n$ and explain each step of it."
    )
    *own, exam = [
        f"A bag holds {n} red and {n * n} blue marbles; two are drawn. {stock}" for n in range(9)
    ]
    exams = Exams({"exam": [exam]})
    pairs = [Pair(Example(text, "It is 3.")) for text in [*own, f"Once more: {exam}"]]
    made = make(tmp_path / "source", pairs, BYTES, marks=exams.marks)
    problems = {"exam": [Problem("a", "math", exam)]}
    (found,) = near(made, exams, problems, 0.3)
    assert (found.document, found.problem, found.containment) == (9, "a", 1.0)


PROBLEM = "A bag holds 13 red and 47 blue marbles; how many draws until two of them are alike?"


@pytest.fixture
def with_exam(tmp_path, monkeypatch):
    """A published benchmark of one problem, and the settings of a run that names it."""
    exam = benchmarks.Benchmark(
        name="exam",
        checker="integer",
        file="exam.jsonl",
        count=1,
        forms={"": rows.answers("id", "problem")},
        url="https://example.org/exam.jsonl",
    )
    monkeypatch.setitem(benchmarks.BENCHMARKS, "exam", exam)
    row = {"id": "exam-7", "problem": PROBLEM, "answer": "3"}
    (tmp_path / "exam.jsonl").write_text(json.dumps(row) + "\n")
    return [
        f"data_dir={tmp_path}",
        'eval.benchmarks=["exam"]',
        "train.backend=torch",
        "train.row_tokens=256",
        "train.batch_tokens=256",
        "train.checkpoint_every_s=1000.0",
    ]


def test_a_file_that_a_phase_names_is_trained_on_without_the_problems_of_the_evaluation(
    tmp_path, with_exam
):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"

    def do(stage, **keys):
        keys = "".join(f", {key}={value}" for key, value in keys.items())
        phase = f'{{name="one", tokens=600, lr=1e-3, sources=[{{path="own.jsonl"{keys}}}]}}'
        settings = [*with_exam, f"train.phases=[{phase}]"]
        told = command(stage, recipe, "--out", out, *(w for s in settings for w in ("--set", s)))
        assert told[0] == 0, told
        return told[1]

    pairs = [
        {"prompt": f"What is {i} times {i} plus one?", "completion": f"It is {i * i + 1}."}
        for i in range(30)
    ]
    pairs[4]["prompt"] = f"Solve this. {PROBLEM.upper()} Think first."
    pairs[9]["completion"] = ""
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    do("synth")
    held_out = (out / "synth" / "held_out" / "workbook-2" / "problems.jsonl").read_text()
    problem = json.loads(held_out.splitlines()[0])
    pairs[11]["completion"] = f"It is known that {problem['statement']} And so on."
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, pairs)))

    told = do("train")
    assert "own.jsonl: left out 1 without a completion and 2 near an evaluation problem" in told
    (path,) = (out / "train" / "tokens").glob("*/decontaminated.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [
        {"document": 5, "set": "exam", "problem": "exam-7", "containment": 1.0},
        {"document": 12, "set": "workbook-2", "problem": problem["id"], "containment": 1.0},
    ]
    read = json.loads((out / "train" / "sources.json").read_text())["one"]
    assert read["packing"] == "in-order"
    assert read["row_tokens"] == 256
    assert 0.7 < read["filled"] <= 1.0
    (source,) = read["sources"]
    assert source["left_out"] == {
        "without a prompt": 0,
        "without a completion": 1,
        "near an evaluation problem": 2,
        "longer than a row": 0,
    }
    steps = (out / "train" / "metrics.jsonl").read_text().splitlines()
    assert source["tokens"] == json.loads(steps[-1])["tokens"]
    assert source["documents"] == min(27, source["samples"])
    assert source["passes"] == source["samples"] / 27
    assert "rows filled to " in told

    told = do("train", decontaminate="false")
    assert "own.jsonl: left out 1 without a completion\n" in told


def test_that_there_is_nothing_to_hold_a_file_against_is_told(tmp_path, with_exam):
    (tmp_path / "own.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    settings = [
        *(s for s in with_exam if not s.startswith("eval.")),
        "claims.rates=[1.0]",
        "synth.held_out=[]",
        "synth.development=[]",
        "synth.sets=[]",
        'train.phases=[{name="one", tokens=9, lr=1e-3, sources=[{path="own.jsonl"}]}]',
    ]
    code, told, err = command(
        "train",
        write_recipe(tmp_path),
        "--out",
        tmp_path / "run",
        *(word for s in settings for word in ("--set", s)),
    )
    assert code == 0, err
    assert "own.jsonl: is held against no evaluation problems: the recipe names none" in told
