import gzip
import json
from pathlib import Path

import pytest

from statewise.errors import ConfigError, DataError
from statewise.eval import benchmarks, rows
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark, load_problems
from statewise.records import Problem, TestCase, TestsFile, content_id, iter_rows, write_jsonl

DATA = Path(__file__).parents[3] / "shared" / "data"


WITH_TESTS = [name for name, b in BENCHMARKS.items() if b.tests]


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - set(WITH_TESTS)))
def test_the_real_file_loads_whole(name):
    if not (DATA / BENCHMARKS[name].file).is_file():
        pytest.skip(f"no {DATA / BENCHMARKS[name].file}")
    problems = load_benchmark(name, DATA)
    assert len({p.id for p in problems}) == BENCHMARKS[name].count
    assert all(p.statement and (p.answer or p.tests or p.function) for p in problems[:300])
    assert {p.source for p in problems} == {name}


def test_every_benchmark_has_the_papers_samples_its_problems_and_its_way_to_compare():
    table = {b.name: (b.checker, b.count, b.samples, b.tests) for b in BENCHMARKS.values()}
    assert table == {
        "math500": ("math", 500, 8, ""),
        "aime2024": ("integer", 30, 16, ""),
        "aime2025": ("integer", 30, 16, ""),
        "gsm8k": ("integer", 1319, 1, ""),
        "hmmt_feb_2025": ("math", 30, 16, ""),
        "olympiadbench": ("math", 675, 8, ""),
        "humaneval": ("math", 164, 8, ""),
        "humaneval_plus": ("math", 164, 8, ""),
        "livecodebench_v5": ("math", 279, 8, "livecodebench_v5_tests"),
        "livecodebench": ("math", 0, 8, "livecodebench"),
        "livecodebench_public": ("math", 880, 8, ""),
    }


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_missing_file_says_what_to_get_and_where_to_put_it(name, tmp_path):
    with pytest.raises(DataError) as e:
        load_benchmark(name, tmp_path)
    for part in (str(tmp_path / BENCHMARKS[name].file), "Get it: ", ".jsonl"):
        assert part in str(e.value)
    fetch = str(e.value).partition("Get it: ")[2]
    assert fetch.startswith(("curl -L -o ", "hf download livecodebench/", "https://github.com/"))


INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


def originals(name):
    """The bytes of the published file, made from the converted one."""
    converted = {n: DATA / BENCHMARKS[n].file for n in ("aime2024", "aime2025", name)}
    if not all(path.is_file() for path in converted.values()):
        pytest.skip(f"no files in {DATA}")
    if name == "livecodebench_v5":
        rows = [row for _, row in iter_rows(converted[name])]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    names = ("aime2024", "aime2025") if name.startswith("aime") else (name,)
    rows = [row for n in names for _, row in iter_rows(converted[n])]
    made = []
    for i, row in enumerate(rows):
        worked = row.get("reference_solution", f"\\boxed{{{row['answer']}}}")
        made.append({
            "idx": i,
            "prompt": f"<|im_start|>user\n{row['problem']}\n{INSTRUCTION}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n",
            "reference_solution": f"{worked}\n#### {row.get('answer_as_published', row['answer'])}",
            "source": row["source"],
        })  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in made).encode()


@pytest.mark.parametrize("name", ["aime2024", "aime2025", "hmmt_feb_2025"])
def test_the_published_file_gives_the_same_problems_as_the_converted_one(name, tmp_path):
    (tmp_path / BENCHMARKS[name].file).write_bytes(originals(name))  # of the declared SHA-256
    assert load_benchmark(name, tmp_path) == load_benchmark(name, DATA)


def test_gsm8k_as_published_is_split_at_its_marks():
    row = {"question": "How many?", "answer": "1000 + 1 = <<1000+1=1001>>1001\n#### 1,001"}
    assert rows.grade_school_math(7, row) == Problem("gsm8k-test-7", "math", "How many?", "1001")


@pytest.mark.parametrize("name", ["humaneval", "humaneval_plus"])
def test_a_packed_file_gives_the_same_problems(name, tmp_path, monkeypatch):
    path = DATA / BENCHMARKS[name].file
    if not path.is_file():
        pytest.skip(f"no {path}")
    (tmp_path / path.name).write_bytes(gzip.compress(path.read_bytes(), 1))
    first = next(iter(BENCHMARKS[name].forms))
    monkeypatch.setattr(benchmarks, "file_sha256", lambda _: first)
    packed = load_benchmark(name, tmp_path)
    monkeypatch.undo()
    assert packed == load_benchmark(name, DATA)


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-9], lambda d: d[:12], lambda d: d[:10] + b"\xff" * 9 + d[19:],
     lambda d: d[:-8] + bytes(8), lambda d: d[:2] + b"\x07" + d[3:]],
    ids=["no end", "a beginning", "no code", "another sum", "another method"],
)  # fmt: skip
def test_a_packed_file_that_is_damaged_is_named(damage, tmp_path, monkeypatch):
    packed = gzip.compress(b'{"task_id": "HumanEval/0"}\n' * 50)
    (tmp_path / BENCHMARKS["humaneval"].file).write_bytes(damage(packed))
    first = next(iter(BENCHMARKS["humaneval"].forms))
    monkeypatch.setattr(benchmarks, "file_sha256", lambda _: first)
    with pytest.raises(DataError, match=r"humaneval.jsonl: cannot be unpacked"):
        load_benchmark("humaneval", tmp_path)
    (tmp_path / BENCHMARKS["humaneval"].file).write_bytes(packed)
    with pytest.raises(DataError, match=r"humaneval.jsonl:1: has no field 'entry_point'"):
        load_benchmark("humaneval", tmp_path)


def test_tests_are_taken_from_their_folder_or_else_from_the_unpacked_release(tmp_path):
    problem = Problem("abc", "code", "?", hidden=TestsFile("559.json", "0f"))
    folder, released = tmp_path / "own", tmp_path / "livecodebench" / "abc.json"
    with pytest.raises(DataError, match=r"own/559.json: no such file; the tests of 'abc'"):
        benchmarks._with_tests([problem], folder, tmp_path)
    for path in (released, folder / "559.json"):  # the second goes first
        path.parent.mkdir()
        path.touch()
        (placed,) = benchmarks._with_tests([problem], folder, tmp_path)
        assert placed == Problem("abc", "code", "?", hidden=TestsFile(str(path), "0f"))


def test_a_window_takes_problems_by_their_day_and_those_without_one():
    if not (DATA / BENCHMARKS["livecodebench_public"].file).is_file():
        pytest.skip("no LiveCodeBench file")
    everything = load_benchmark("livecodebench_public", DATA)
    days = sorted(p.date for p in everything)
    window = load_benchmark("livecodebench_public", DATA, since="2024-08-01", until="2024-08-31")
    assert {p.date[:7] for p in window} == {"2024-08"}
    assert len(window) == sum("2024-08-01" <= d <= "2024-08-31" for d in days)
    late = load_benchmark("livecodebench_public", DATA, since=days[-1])
    assert {p.date for p in late} == {days[-1]}
    with pytest.raises(DataError, match="no problem from 2030-01-01 to the last"):
        load_benchmark("livecodebench_public", DATA, since="2030-01-01")
    undated = load_benchmark("math500", DATA)
    assert load_benchmark("math500", DATA, since="2030-01-01") == undated


def test_a_file_with_other_bytes_is_refused(tmp_path):
    (tmp_path / "aime2024.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"not the file that benchmark 'aime2024' means.*SHA-256"):
        load_benchmark("aime2024", tmp_path)


def test_an_unknown_benchmark_is_refused_with_the_names_that_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown benchmark 'aime99'.*aime2024, aime2025"):
        load_benchmark("aime99", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"id": "a", "problem": "?", "answer": 5}', "'answer' must be text"), ("", "0 problems")],
)
def test_a_declared_file_that_does_not_hold_what_it_should_is_named(
    monkeypatch, tmp_path, content, message
):
    first = '{"source": "aime2024", "prompt": "?", "reference_solution": ""}\n'
    (tmp_path / "aime2024.jsonl").write_text(first)
    monkeypatch.setattr(
        benchmarks, "file_sha256", lambda _: next(iter(BENCHMARKS["aime2024"].forms))
    )
    with pytest.raises(DataError, match=r"aime2024.jsonl:1: .*no user's turn"):
        load_benchmark("aime2024", tmp_path)
    (tmp_path / "aime2024.jsonl").write_text(content + "\n")
    monkeypatch.setattr(benchmarks, "file_sha256", lambda _: list(BENCHMARKS["aime2024"].forms)[-1])
    with pytest.raises(DataError, match=message):
        load_benchmark("aime2024", tmp_path)


def test_problems_round_trip_through_a_file(tmp_path):
    problems = [
        Problem("a", "math", "1+1?", "2", concepts=("x", "y"), level="1"),
        Problem("b", "code", "double", None, (TestCase("1", "2"),)),
    ]
    write_jsonl(tmp_path / "p.jsonl", problems)
    assert load_problems(tmp_path / "p.jsonl") == problems


def test_two_problems_with_one_id_are_refused(tmp_path):
    p = Problem(content_id("x"), "math", "x", "1")
    write_jsonl(tmp_path / "p.jsonl", [p, p])
    with pytest.raises(DataError, match="two problems have the id"):
        load_problems(tmp_path / "p.jsonl")
