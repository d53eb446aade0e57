"""LiveCodeBench's release, made small: encoded as published, unpacked, asked, graded, refused."""

import base64
import contextlib
import hashlib
import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from statewise import sandbox
from statewise.errors import DataError
from statewise.eval import hidden
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.eval.codetests import grade_program
from statewise.eval.rows import LEETCODE_HEADER, call
from statewise.records import Function, Outcome, Problem, TestCase, TestsFile, iter_rows
from statewise.text import PUBLISHED_PROMPT

DATA = Path(__file__).parents[3] / "shared" / "data"
isolated = pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)


def encoded(cases) -> str:
    """As the release has it: JSON text, pickled, compressed, in base64."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def case(given, output, kind="stdin"):
    return {"input": given, "output": output, "testtype": kind}


DOUBLE = {
    "question_title": "Double",
    "question_content": "Double the number.",
    "platform": "atcoder",
    "question_id": "abc365_x",
    "contest_id": "abc365",
    "contest_date": "2024-08-03T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([case("3\n", "6\n")]),
    "private_test_cases": encoded([case("4\n", "8\n"), case("-1\n", "-2\n")]),
    "metadata": "{}",
}
TOTAL = {
    **DOUBLE,
    "question_id": "3500",
    "question_content": "Sum the list.",
    "platform": "leetcode",
    "contest_date": "2024-12-01T00:00:00",
    "starter_code": "class Solution:\n    def total(self, xs: List[int]) -> int:\n        ",
    "public_test_cases": json.dumps([case("[1, 2]", "3", "functional")]),
    "private_test_cases": json.dumps([case("[]", "0", "functional")]),
    "metadata": json.dumps({"func_name": "total"}),
}
RIGHT = {
    "abc365_x": "print(2 * int(input()))",
    "3500": "class Solution:\n    def total(self, xs):\n        return sum(xs)",
}
WRONG = {
    "abc365_x": "print(6 if input() == '3' else 8)",
    "3500": "class Solution:\n    def total(self, xs):\n        return 3",
}


def release(folder, *files):
    place = folder / hidden.RELEASE
    place.mkdir()
    for i, rows in enumerate(files, start=1):
        name = "test.jsonl" if i == 1 else f"test{i}.jsonl"
        (place / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@isolated
def test_a_release_is_unpacked_once_and_its_hidden_tests_decide(tmp_path):
    release(tmp_path, [DOUBLE], [TOTAL])
    problems = load_benchmark("livecodebench", tmp_path)
    assert [p.id for p in problems] == ["abc365_x", "3500"]
    assert [p.date for p in problems] == ["2024-08-03", "2024-12-01"]
    for p in problems:
        assert p.test_s == 6.0
        for program, outcome in ((RIGHT, Outcome.CORRECT), (WRONG, Outcome.INCORRECT)):
            text = f"so\n</think>\n```python\n{program[p.id]}\n```"
            assert grade_program(text, p).outcome is outcome
    made = tmp_path / "livecodebench" / "abc365_x.json"
    row = json.loads((made.parent / "problems.jsonl").read_text().split("\n")[0])
    kept = ("question_title", "question_content", "contest_date", "starter_code", "platform",
            "difficulty", "question_id")  # fmt: skip
    assert row == {k: DOUBLE[k] for k in kept} | {"tests": row["tests"]}
    before = made.stat().st_mtime_ns
    assert load_benchmark("livecodebench", tmp_path) == problems
    assert made.stat().st_mtime_ns == before
    assert [p.id for p in load_benchmark("livecodebench", tmp_path, since="2024-09-01")] == ["3500"]


def test_more_of_the_release_is_taken_up(tmp_path):
    release(tmp_path, [DOUBLE])
    assert len(load_benchmark("livecodebench", tmp_path)) == 1
    (tmp_path / hidden.RELEASE / "test2.jsonl").write_text(json.dumps(TOTAL) + "\n")
    assert len(load_benchmark("livecodebench", tmp_path)) == 2


def test_unpacking_is_shown_in_megabytes(tmp_path, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def task(name, total, unit):
        shown.append((name, total, unit))
        yield SimpleNamespace(update=shown.append)

    monkeypatch.setattr(hidden.progress, "task", task)
    big = {**DOUBLE, "question_content": "x" * (1 << 20)}
    release(tmp_path, [big], [{**big, "question_id": "second"}])
    hidden.unpack_if_there(tmp_path)
    assert shown == [("unpack LiveCodeBench", 2, "MB"), 1, 2]


def test_the_md5_is_that_of_the_published_converter(tmp_path):
    release(tmp_path, [DOUBLE])
    (problem,) = load_benchmark("livecodebench", tmp_path)
    tests = {"inputs": ["3\n", "4\n", "-1\n"], "outputs": ["6\n", "8\n", "-2\n"], "fn_name": None}
    text = json.dumps({"input_output": json.dumps(tests)})
    assert problem.hidden.md5 == hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    assert Path(problem.hidden.path).read_text() == text


def test_a_tests_file_is_known_by_its_bytes_or_by_what_the_converter_would_write(tmp_path):
    path = tmp_path / "x.json"
    stored = {"input_output": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]})}
    path.write_text(json.dumps(stored, indent=4) + "\n")
    converted = json.dumps(stored).encode()
    for data in (path.read_bytes(), converted):
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert hidden.read(TestsFile(str(path), md5)) == (None, (TestCase("1\n", "2\n"),))
    with pytest.raises(DataError, match=r"x.json: its md5 is"):
        hidden.read(TestsFile(str(path), "0" * 32))


def test_a_problem_with_its_tests_in_it_is_otherwise_the_same(tmp_path):
    release(tmp_path, [DOUBLE, TOTAL])
    double, total = map(hidden.with_tests, load_benchmark("livecodebench", tmp_path))
    tests = tuple(TestCase(f"{i}\n", f"{2 * i}\n") for i in (3, 4, -1))
    assert double == Problem("abc365_x", "code", "Double the number.", tests=tests, test_s=6.0)
    assert total.function == Function("Solution.total", header=LEETCODE_HEADER)
    assert total.tests == (call("[1, 2]", "3"), call("[]", "0"))
    assert (total.id, total.kind, total.test_s) == ("3500", "code", 6.0)
    assert total.statement.startswith("Sum the list.\n\nComplete this class:")


class Bomb:
    def __reduce__(self):
        return (print, ("run!",))


@pytest.mark.parametrize(
    "thing", [Bomb(), TestsFile("a", "b"), print, ["a list"], b"bytes", 7, None],
    ids=["call", "class", "function", "list", "bytes", "number", "nothing"],
)  # fmt: skip
def test_a_pickle_of_anything_but_text_is_refused_and_runs_nothing(thing, tmp_path, capsys):
    packed = base64.b64encode(zlib.compress(pickle.dumps(thing))).decode()
    release(tmp_path, [{**DOUBLE, "private_test_cases": packed}])
    with pytest.raises(DataError, match=r"test.jsonl:1: not a row of code_generation_lite"):
        load_benchmark("livecodebench", tmp_path)
    assert "run!" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "damaged",
    [b"", b"N.", b"]K\x01Na.", b"NNa.", b"Vx", b".", b"K\x01V[]\na.", b"K\x07.",
     b"\x80\x04\x95" + b"\xff" * 8, b"\x8e" + b"\xff" * 7 + b"\x3f", b"\x8c\x02\xff\xff.",
     b"V{}\n."],
    ids=["nothing", "None", "no list to append to", "an append to None", "no end", "no value",
         "a list of none", "a number", "a frame beyond all", "a length beyond memory", "no UTF-8",
         "no list"],
)  # fmt: skip
def test_a_damaged_pickle_is_a_malformed_row(damaged, tmp_path):
    packed = base64.b64encode(zlib.compress(damaged)).decode()
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        hidden.private_tests(packed)
    release(tmp_path, [{**DOUBLE, "private_test_cases": packed}])
    with pytest.raises(DataError, match=r"test.jsonl:1: not a row of code_generation_lite"):
        load_benchmark("livecodebench", tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"private_test_cases": "!!"}, {"private_test_cases": base64.b64encode(b"x").decode()},
     {"public_test_cases": "[{}]"}, {"metadata": "["}, {"question_id": "../up"},
     {"private_test_cases": '{"a": 1}'}],
)  # fmt: skip
def test_a_malformed_row_is_named(change, tmp_path):
    release(tmp_path, [DOUBLE, {**TOTAL, **change}])
    with pytest.raises(DataError, match=r"test.jsonl:2: not a row of code_generation_lite"):
        load_benchmark("livecodebench", tmp_path)


def test_without_the_release_the_command_that_gets_it_is_told(tmp_path):
    with pytest.raises(DataError, match=r"hf download livecodebench/code_generation_lite .*"):
        load_benchmark("livecodebench", tmp_path)


@isolated
def test_a_tests_file_that_was_changed_or_lost_leaves_the_program_unscored(tmp_path):
    release(tmp_path, [DOUBLE])
    (problem,) = load_benchmark("livecodebench", tmp_path)
    text = f"</think>\n```python\n{RIGHT['abc365_x']}\n```"
    path = Path(problem.hidden.path)
    path.write_text(path.read_text().replace("8", "9"))
    found = grade_program(text, problem)
    assert found.outcome is Outcome.UNSCORED
    assert "its md5 is" in found.rule
    path.unlink()
    assert "No such file" in grade_program(text, problem).rule


@pytest.mark.parametrize(
    "stored",
    [[], {}, {"input_output": "{"}, {"input_output": "[]"},
     {"input_output": json.dumps({"inputs": ["1"], "outputs": []})},
     {"input_output": json.dumps({"inputs": ["1"], "outputs": ["x"], "fn_name": "f"})}],
)  # fmt: skip
def test_a_file_that_holds_no_tests_is_named_and_leaves_the_program_unscored(stored, tmp_path):
    release(tmp_path, [DOUBLE])
    (problem,) = load_benchmark("livecodebench", tmp_path)
    text = json.dumps(stored).encode()
    path = Path(problem.hidden.path)
    path.write_bytes(text)
    md5 = hashlib.md5(text, usedforsecurity=False).hexdigest()
    found = grade_program(
        "</think>\n```python\npass\n```", replace(problem, hidden=TestsFile(str(path), md5))
    )
    assert found.outcome is Outcome.UNSCORED
    assert f"{path}: not a file of tests" in found.rule


def test_private_tests_that_are_no_list_say_so():
    with pytest.raises(ValueError, match="must be a list"):
        hidden.private_tests('{"a": 1}')


def test_the_papers_problems_keep_their_prompts_and_take_tests_by_md5(tmp_path, monkeypatch):
    path = DATA / BENCHMARKS["livecodebench_v5"].file
    if not path.is_file():
        pytest.skip(f"no {path}")
    published = [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]
    (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"559.json: no such file.*hf download"):
        load_benchmark("livecodebench_v5", tmp_path)
    folder = tmp_path / "livecodebench_v5_tests"
    folder.mkdir()
    for row in published:
        (folder / row["tests"]["fname"]).write_text("{}")
    problems = load_benchmark("livecodebench_v5", tmp_path)
    assert len(problems) == 279
    assert (min(p.date for p in problems), max(p.date for p in problems)) == (
        "2024-08-03", "2025-01-04"
    )  # fmt: skip
    for p, row in zip(problems, published, strict=True):
        made = PUBLISHED_PROMPT.render(p.statement, "code", instructed=True)
        assert made == row["prompt"]
        assert p.hidden.md5 == row["tests"]["md5"]
    assert sum(p.function is not None for p in problems) == 104
    text = "</think>\n```python\npass\n```"
    assert grade_program(text, problems[0]).outcome is Outcome.UNSCORED  # another file's md5


# --- the published sample problems, as the release would have them


def published(count=None):
    path = DATA / BENCHMARKS["livecodebench_public"].file
    if not path.is_file():
        pytest.skip(f"no {path}")
    return [row for _, row in iter_rows(path)][:count]


def as_released(row):
    """A row as the release encodes it; its private tests are those that became known."""
    tests = [case(t["input"], t["output"], t["type"]) for t in row["public_tests"]]
    private = [case(t["input"], t["output"]) for t in row["recovered_hidden_tests"]]
    return {
        "question_title": row["title"],
        "question_content": row["content"],
        "private_test_cases": encoded(private),
        "public_test_cases": json.dumps(tests),
        "metadata": json.dumps({"func_name": row["func_name"]} if row["func_name"] else {}),
        **{k: row[k] for k in ("platform", "question_id", "contest_id", "contest_date",
                               "starter_code", "difficulty")},
    }  # fmt: skip


def test_the_published_problems_come_out_of_a_release_as_they_are(tmp_path):
    rows = published()
    release(tmp_path, *([as_released(r) for r in rows[i::3]] for i in range(3)))
    loaded = {p.id: p for p in load_benchmark("livecodebench", tmp_path)}
    public = {p.id: p for p in load_benchmark("livecodebench_public", DATA)}
    assert loaded.keys() == public.keys()
    assert sum(bool(p.function) for p in loaded.values()) == 381
    for row in rows:
        p, other = loaded[row["question_id"]], public[row["question_id"]]
        assert (p.statement, p.date, p.level, p.test_s) == (
            other.statement, other.date, other.level, other.test_s
        )  # fmt: skip
        full = hidden.with_tests(p)
        assert full.function == other.function
        more = tuple(TestCase(t["input"], t["output"]) for t in row["recovered_hidden_tests"])
        assert full.tests == other.tests + more


@isolated
def test_published_programs_get_their_published_verdicts_on_a_release(tmp_path):
    rows = [r for r in published() if r["recovered_hidden_tests"]][:6]
    rows += [r for r in published() if r["func_name"]][::190]
    release(tmp_path, [as_released(r) for r in rows])
    problems = load_benchmark("livecodebench", tmp_path)
    seen = set()
    for problem, row in zip(problems, rows, strict=True):
        for o in row["official"]:
            text = f"so\n</think>\n```python\n{o['code']}\n```"
            found = grade_program(text, problem).outcome is Outcome.CORRECT
            assert found or not o["passed"], (problem.id, o["model"])
            seen.add((found, o["passed"]))
    assert {(True, True), (False, False)} <= seen
