"""Published problems become examples of the same form as our own."""

import json

import pytest

from statewise.errors import DataError
from statewise.eval.answers import grade
from statewise.records import Example, FinishReason, Outcome, read_jsonl
from statewise.synth.imports import import_problems
from statewise.text import chat_prompt, split_thinking

CLIPS = {
    "id": "train-0",
    "question": "Nora sold clips to 48 friends in April, and half as many in May. How many in all?",
    "solution": "In May she sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72 clips.",
    "answer": "72",
}
MEAN = {
    "problem": " What is the mean of the numbers $3$, $4$ and $\\frac{1}{2}$, as a fraction?\n",
    "solution": "The sum is $\\frac{15}{2}$, so the mean is $\\boxed{\\frac{5}{2}}$.",
    "answer": "\\frac{5}{2}",
    "level": 3,
}


@pytest.fixture
def imported(tmp_path):
    def run(*rows, **settings):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        known = {"name": "book", "tests": {}, "jaccard": 0.9, "containment": 0.6} | settings
        import_problems(file, tmp_path / "out", **known)
        funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
        return read_jsonl(tmp_path / "out" / "examples.jsonl", Example), funnel

    return run


def test_a_row_becomes_a_prompt_a_solution_and_its_boxed_answer(imported):
    (clips, mean), funnel = imported(CLIPS, MEAN)
    assert clips.prompt == chat_prompt(CLIPS["question"])
    assert clips.completion == (
        "In May she sold 48/2 = 24 clips.\nIn all 48+24 = 72 clips.\n</think>\n\\boxed{72}"
    )
    assert mean.prompt == chat_prompt(MEAN["problem"].strip())
    assert split_thinking(mean.completion).visible == "\\boxed{\\frac{5}{2}}"
    assert (clips.source, funnel["name"], funnel["kind"]) == ("book", "book", "math")


@pytest.mark.parametrize(
    ("answer", "boxed"),
    [(72, "72"), (72.0, "72"), (0.5, "0.5"), (["72"], "72"), (None, None), (True, None),
     ([], None), (["1", "2"], None), ({"value": 72}, None), ("", None)],
)  # fmt: skip
def test_an_answer_may_be_a_number_and_what_is_none_leaves_its_row_out(imported, answer, boxed):
    examples, funnel = imported({**CLIPS, "answer": answer}, MEAN)
    visible = [split_thinking(e.completion).visible for e in examples]
    assert visible[:-1] == ([] if boxed is None else [f"\\boxed{{{boxed}}}"])
    assert dict(funnel["steps"])["with solution and answer"] == len(examples)


def test_every_example_is_graded_correct_against_its_rows_answer(imported):
    for example, row in zip(imported(CLIPS, MEAN)[0], (CLIPS, MEAN), strict=True):
        verdict = grade(example.completion, row["answer"], finish_reason=FinishReason.STOP)
        assert verdict.outcome is Outcome.CORRECT


@pytest.mark.parametrize("field", ["solution", "answer"])
@pytest.mark.parametrize("value", [None, "", True, "absent"])
def test_a_row_without_solution_or_answer_is_left_out_and_counted(imported, field, value):
    row = CLIPS | {field: value}
    if value == "absent":
        del row[field]
    examples, funnel = imported(row, MEAN)
    assert [e.prompt for e in examples] == [chat_prompt(MEAN["problem"].strip())]
    assert funnel["steps"] == [
        ["rows read", 2],
        ["with solution and answer", 1],
        ["not duplicates", 1],
        ["not near an evaluation problem", 1],
    ]


def test_duplicates_and_near_copies_of_evaluation_problems_are_left_out_and_counted(imported):
    tests = {"exam": [f"Read carefully. {MEAN['problem']}"], "other": ["Nothing of the kind."]}
    examples, funnel = imported(CLIPS, MEAN, CLIPS, tests=tests)
    assert [e.prompt for e in examples] == [chat_prompt(CLIPS["question"])]
    assert [number for _, number in funnel["steps"]] == [3, 3, 2, 1]
    assert funnel["nearest"] == {"exam": 0.0, "other": 0.0}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        import_problems(
            tmp_path / "nowhere.jsonl",
            tmp_path / "out",
            name="book",
            tests={},
            jaccard=0.9,
            containment=0.6,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", [{"solution": "so", "answer": "1"}, {"problem": 3, "answer": "1"}])
def test_a_row_without_a_statement_is_named_by_file_and_line(imported, row):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: needs a field 'problem' or 'question'"):
        imported(CLIPS, row)
