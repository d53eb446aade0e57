import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.cli import main
from statewise.errors import DataError
from statewise.eval import regrade
from statewise.eval.regrade import count_of, grade_file, reference_of

ROWS = [
    {"completion": "x</think>\\boxed{2}", "answer": "2", "id": 7},
    {"completion": "x</think>\\boxed{\\frac{1}{2}}", "answer": "0.5"},
    {"completion": "x</think>\\boxed{3}", "reference_solution": "so\n#### 2"},
    {"completion": "x</think>so it is 2", "reference_solution": "\\boxed{2}"},
    {"completion": "x \\boxed{2}", "answer": "2"},
    {"completion": "x</think>\\boxed{2}", "answer": 2, "finish_reason": "length"},
]
OUTCOMES = ["correct", "correct", "incorrect", "no_answer", "truncated", "truncated"]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_keep_what_they_have_and_gain_a_grade(tmp_path):
    path = written(tmp_path / "in.jsonl", ROWS)
    done = []
    counts = grade_file(path, tmp_path / "out.jsonl", progress=done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    graded = read(tmp_path / "out.jsonl")
    assert [row["outcome"] for row in graded] == OUTCOMES
    for row, before in zip(graded, ROWS, strict=True):
        assert {k: v for k, v in row.items() if k not in regrade.ADDED} == before
        assert row["rule"]
    assert graded[2]["extracted"] == "3"
    assert counts == {"correct": 2, "incorrect": 1, "no_answer": 1, "truncated": 2}


def test_what_was_graded_before_a_kill_is_not_graded_again(tmp_path, monkeypatch):
    path, out = written(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    grade_file(path, out)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    asked = []
    real = regrade.grade_row
    monkeypatch.setattr(regrade, "grade_row", lambda *a, **k: asked.append(a[1]) or real(*a, **k))
    assert sum(grade_file(path, out).values()) == len(ROWS)
    assert out.read_bytes() == whole
    assert [where.rpartition(":")[2] for where in asked] == ["5", "6"]


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path, out = written(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    written(out, [{"completion": "mine"}])
    with pytest.raises(DataError, match=r"out.jsonl:1: is not a grade of row 1.*another name"):
        grade_file(path, out)
    assert read(out) == [{"completion": "mine"}]
    graded = {"completion": "mine", "answer": "2", "outcome": "correct"}
    written(out, [graded])
    with pytest.raises(DataError, match="is not a grade of row 1"):
        grade_file(path, out)
    assert read(out) == [graded]


def test_grades_of_more_rows_than_the_file_has_are_of_something_else(tmp_path):
    path, out = written(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    grade_file(path, out)
    whole = out.read_bytes()
    with pytest.raises(DataError, match=r"out.jsonl:4: is not a grade of row 4"):
        grade_file(written(path, ROWS[:3]), out)
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("row", "told"),
    [({"answer": "2"}, "field 'completion' must be text"),
     ({"completion": "x"}, "needs the field 'answer' or 'reference_solution'"),
     ({"completion": "x", "answer": " "}, "holds no reference answer"),
     ({"completion": "x", "reference_solution": "none"}, "holds no reference answer"),
     ({"completion": "x", "answer": None}, "holds no reference answer"),
     ({"completion": "x", "answer": True}, "holds no reference answer: field 'answer' is True"),
     ({"completion": "x", "answer": {"value": 2}}, "holds no reference answer: field 'answer' is"),
     ({"completion": "x", "answer": []}, "holds no reference answer: field 'answer' is 0 answers"),
     ({"completion": "x", "answer": ["2", "3"]}, "is 2 answers; several answers are of kind"),
     ({"completion": "x", "answer": [None]}, "holds no reference answer: field 'answer' is None"),
     ({"completion": "x", "answer": float("nan")}, "holds no reference answer"),
     ({"completion": ["x", "y"], "answer": "2"}, "field 'completion' must be text"),
     ({"completion": "x", "answer": "2", "finish_reason": ["stop"]}, "must be one of"),
     ({"completion": "x", "answer": "2", "finish_reason": "bored"}, "must be one of .*'bored'")],
)  # fmt: skip
def test_a_row_that_cannot_be_graded_is_named(row, told, tmp_path):
    path = written(tmp_path / "in.jsonl", [*ROWS[:2], row])
    with pytest.raises(DataError, match=rf"in.jsonl:3: .*{told}"):
        grade_file(path, tmp_path / "out.jsonl")


@given(solution=st.text())
def test_a_reference_is_found_or_refused_whatever_the_text(solution):
    with contextlib.suppress(DataError):
        assert reference_of({"reference_solution": solution}, "here").strip()


@pytest.mark.parametrize(
    ("answer", "text"),
    [("2", "2"), (2, "2"), (-3, "-3"), (0, "0"), (0.5, "0.5"), (1.0, "1"), (-0.25, "-0.25"),
     (1e-05, "0.00001"), (1e22, "1" + "0" * 22), (1.5e-7, "0.00000015"), (["3"], "3"),
     ([3], "3"), ([[0.5]], "0.5"), (" x ", " x ")],
)  # fmt: skip
def test_a_number_or_a_list_of_one_is_the_text_that_says_it(answer, text):
    assert reference_of({"answer": answer}, "here") == text


def test_several_answers_are_parts_of_one_where_the_kind_has_several():
    row = {"answer": [1, "\\frac{1}{2}", -2.5]}
    assert reference_of(row, "here", "several") == "1, \\frac{1}{2}, -2.5"


def test_several_answers_are_graded_in_any_order(tmp_path):
    row = {"completion": "x</think>\\boxed{-1, 2}", "answer": [2, -1]}
    path = written(tmp_path / "in.jsonl", [row])
    assert grade_file(path, tmp_path / "out.jsonl", kind="several") == {"correct": 1}


@pytest.mark.parametrize(
    ("said", "count"),
    [(None, 9), (0, 0), (7, 7), (7.0, 7), ("7", 7), (" 7 ", 7), ("0" * 18 + "7", 7)],
)
def test_a_count_may_be_written_as_text_or_with_a_point(said, count):
    assert count_of({"run": said}, "run", "here", 9) == count
    assert count_of({}, "run", "here") == 0


@pytest.mark.parametrize("said", [-1, 7.5, "x", "-7", "7.0", "", "1" * 20, True, [7], "\u0667",
                                  float("nan")])  # fmt: skip
def test_what_is_no_count_is_refused(said):
    with pytest.raises(DataError, match="here: field 'run' must be a whole number, found "):
        count_of({"run": said}, "run", "here")


def test_the_reference_is_what_stands_behind_the_last_marks_or_in_the_last_box():
    for solution, reference in (("#### 1\n#### 2", "2"), ("\\boxed{1} \\boxed{3} ####", "3"),
                                ("\\boxed{1} #### 2", "2")):  # fmt: skip
        assert reference_of({"reference_solution": solution}, "here") == reference
    with pytest.raises(DataError, match="here: holds no reference answer"):
        reference_of({"reference_solution": 7}, "here")


def test_an_answer_that_is_null_leaves_the_solution_to_say_it():
    assert reference_of({"answer": None, "reference_solution": "#### 7"}, "here") == "7"


@pytest.mark.parametrize(
    ("said", "outcome", "rule"),
    [(None, "correct", "integer"), ("", "correct", "integer"), ("eos", "correct", "integer"),
     ("STOP", "correct", "integer"), ("stop_sequence", "correct", "integer"),
     ("length", "truncated", "token limit"), ("max_tokens", "truncated", "token limit"),
     ("content_filter", "truncated", "finish_reason content_filter"),
     ("abort", "truncated", "finish_reason abort")],
)  # fmt: skip
def test_other_tools_words_for_the_end_are_understood_and_an_interruption_is_named(
    tmp_path, said, outcome, rule
):
    row = {"completion": "x</think>\\boxed{2}", "answer": "2", "finish_reason": said}
    path = written(tmp_path / "in.jsonl", [row])
    grade_file(path, tmp_path / "out.jsonl", kind="integer")
    (graded,) = read(tmp_path / "out.jsonl")
    assert (graded["outcome"], graded["rule"]) == (outcome, rule)
    assert graded["finish_reason"] == said


def test_half_a_surrogate_pair_anywhere_in_a_row_is_written_as_it_was_read(tmp_path):
    half = "\ud83d"
    rows = [
        {"completion": f"{half}</think>\\boxed{{2}}", "answer": "2"},
        {"completion": "x</think>\\boxed{2}", "answer": f"2{half}", "note": [{half: half}]},
        {"completion": ["x</think>\\boxed{2\udc00}"], "answer": 2},
        {"completion": "x</think>\\boxed{2}", "answer": "2", "a": "\U0001f600 é \u2028"},
    ]
    path, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file(path, out)
    graded = [json.loads(line) for line in out.read_bytes().decode().split("\n") if line]
    for row, before in zip(graded, rows, strict=True):
        assert {k: v for k, v in row.items() if k not in regrade.ADDED} == before
    assert [graded[0]["outcome"], graded[3]["outcome"]] == ["correct", "correct"]
    assert "\U0001f600 é \u2028".encode() in out.read_bytes()
    whole = out.read_bytes()
    grade_file(path, out)
    assert out.read_bytes() == whole


def test_a_file_of_another_tool_on_another_system_is_graded(tmp_path):
    path = tmp_path / "in.jsonl"
    line = json.dumps({"completion": "x</think>\\boxed{2}", "answer": 2, "score": float("nan")})
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\ufeff{line}\r\n".encode())
    for _ in range(2):  # the second time it goes on where it stopped, at the end
        assert grade_file(path, tmp_path / "out.jsonl") == {"correct": 2}


def test_the_command_says_what_came_out(tmp_path, capsys):
    path, out = written(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    assert main(["grade", str(path), "--out", str(out), "--kind", "integer"]) == 0
    told = capsys.readouterr().out
    assert "6 rows: 1 correct, 1 incorrect, 1 no_answer, 2 truncated, 1 unscored" in told
    assert "20.0 % of the 5 scored are correct" in told
    assert main(["sandbox"]) == 0
    assert "isolation: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_answers_are_graded_whole(tmp_path):
    rows = [
        {"completion": f"x</think>\\boxed{{{i % 50}x+{i % 7}}}", "answer": "7 + 49x"}
        for i in range(100_000)
    ]
    path = written(tmp_path / "in.jsonl", rows)
    counts = grade_file(path, tmp_path / "out.jsonl")
    assert sum(counts.values()) == len(rows)
    assert set(counts) == {"incorrect"}


def test_a_plain_answer_is_read_whole_where_it_is_said_that_nothing_was_opened(tmp_path):
    texts = ["So \\boxed{4}.", "<think>4?</think> \\boxed{4}", "<think>\\boxed{4}"]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"completion": t, "answer": "4"}) + "\n" for t in texts))
    assert grade_file(path, tmp_path / "a.jsonl", opened=False) == {"correct": 2, "truncated": 1}
    assert grade_file(path, tmp_path / "b.jsonl") == {"correct": 1, "truncated": 2}


PLAIN = [
    {"completion": "So \\boxed{2}.", "answer": "2"},
    {"completion": "It is \\boxed{3}", "answer": "2"},
    {"completion": "\\boxed{2", "answer": "2", "finish_reason": "length"},
    {"completion": "two", "answer": "2"},
]


def test_ordinary_answers_are_read_whole_and_that_is_said(tmp_path, capsys):
    path, out = written(tmp_path / "in.jsonl", PLAIN), tmp_path / "out.jsonl"
    assert main(["grade", str(path), "--out", str(out), "--kind", "integer"]) == 0
    told = capsys.readouterr().out
    assert "in.jsonl: no row has a think tag; all of it is answer, as with --form plain" in told
    assert "4 rows: 1 correct, 1 incorrect, 1 no_answer, 1 truncated" in told
    assert (
        "25.0 % were truncated: the token limit, an interruption, or thinking that was never closed"
        in told
    )


def test_whoever_insists_on_a_think_block_is_told_what_that_makes_of_ordinary_answers(
    tmp_path, capsys
):
    path, out = written(tmp_path / "in.jsonl", PLAIN), tmp_path / "out.jsonl"
    assert main(["grade", str(path), "--out", str(out), "--form", "think"]) == 0
    told = capsys.readouterr().out
    assert "thinking which never ended: give --form plain" in told
    assert "100.0 % were truncated" in told


@pytest.mark.parametrize("text", ["x</think>\\boxed{2}", "<think>x", "<think>x</think>y"])
def test_one_think_tag_is_enough_to_know_what_the_others_lack(text, tmp_path, capsys):
    rows = [*PLAIN, {"completion": text, "answer": "2"}]
    path, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["grade", str(path), "--out", str(out), "--kind", "integer"]) == 0
    told = capsys.readouterr().out
    assert "no row has a think tag" not in told
    assert [row["outcome"] for row in read(out)][:4] == ["truncated"] * 4
