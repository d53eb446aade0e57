from pathlib import Path

import pytest

from statewise.errors import ConfigError, DataError
from statewise.eval import benchmarks
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark, load_problems
from statewise.records import Problem, TestCase, content_id, write_jsonl

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_the_real_file_loads_whole(name):
    if not (DATA / BENCHMARKS[name].file).is_file():
        pytest.skip(f"no {DATA / BENCHMARKS[name].file}")
    problems = load_benchmark(name, DATA)
    assert len({p.id for p in problems}) == BENCHMARKS[name].count
    assert all(p.statement and (p.answer or p.tests or p.function) for p in problems[:300])
    assert {p.source for p in problems} == {name}


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_missing_file_says_what_to_get_and_where_to_put_it(name, tmp_path):
    with pytest.raises(DataError) as e:
        load_benchmark(name, tmp_path)
    for part in (str(tmp_path / BENCHMARKS[name].file), "github.com/", " at ", ".jsonl"):
        assert part in str(e.value)


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
    (tmp_path / "aime2024.jsonl").write_text(content + "\n")
    monkeypatch.setattr(benchmarks, "file_sha256", lambda _: BENCHMARKS["aime2024"].sha256)
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
