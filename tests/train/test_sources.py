"""Where training pairs come from: files of two kinds, the hub's data sets, columns by name."""

from __future__ import annotations

import json

import pytest

from statewise.errors import ConfigError, DataError
from statewise.records import Example
from statewise.text import chat_prompt
from statewise.train.config import Columns, Source
from statewise.train.sources import Pair, count, pairs

PAIRS = [{"prompt": f"p{i}", "completion": f"c{i}", "id": i} for i in range(5)]
TALKS = [
    {"talk": [{"from": "user", "value": f" What is {i}? "}, {"from": "gpt", "value": f"It is {i}"}]}
    for i in range(3)
]
OF_TALKS = Columns("talk.0.value", "talk.1.value")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: statewise[data]")
    from pyarrow import parquet

    def write(rows, name="some.parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return tmp_path / name

    return write


def test_the_pairs_of_a_jsonl_file_are_read_whatever_else_it_holds(tmp_path):
    file = jsonl(tmp_path / "some.jsonl", PAIRS)
    found = list(pairs(Source("some.jsonl"), file))
    assert found == [Pair(Example(f"p{i}", f"c{i}")) for i in range(5)]


def test_the_same_rows_are_the_same_pairs_in_every_kind_of_source(tmp_path, parquet):
    source = Source("x", columns=OF_TALKS, form="math")
    expected = [Pair(Example(chat_prompt(f"What is {i}?"), f"It is {i}")) for i in range(3)]
    assert list(pairs(source, jsonl(tmp_path / "talks.jsonl", TALKS))) == expected
    assert list(pairs(source, parquet(TALKS))) == expected
    folder = tmp_path / "hub" / "talks"
    (folder / "data").mkdir(parents=True)
    parquet(TALKS).rename(folder / "data" / "train-00000-of-00001.parquet")
    pytest.importorskip("datasets", reason="datasets is not installed: statewise[data]")
    hub = Source(f"hub:{folder}", columns=OF_TALKS, form="math", revision="main")
    assert list(pairs(hub, tmp_path)) == expected


def test_how_many_rows_there_are_is_known_before_they_are_read(tmp_path, parquet):
    assert count(Source("some.jsonl"), jsonl(tmp_path / "some.jsonl", PAIRS)) == 5
    assert count(Source("some.parquet"), parquet(PAIRS)) == 5
    with pytest.raises(DataError, match="no such file"):
        count(Source("none.jsonl"), tmp_path / "none.jsonl")


def test_a_pass_rate_is_a_number_of_each_row(tmp_path):
    source = Source("x", columns=Columns(pass_rate="right.of_8"))
    rated = [{**row, "right": {"of_8": rate}} for row, rate in zip(PAIRS, (1, 0.25), strict=False)]
    file = jsonl(tmp_path / "some.jsonl", rated)
    assert [rate for _, rate in pairs(source, file)] == [1.0, 0.25]
    for other in ("0.5", None, True, float("nan")):
        jsonl(file, [*rated, {**PAIRS[2], "right": {"of_8": other}}])
        with pytest.raises(DataError, match=r":3: right\.of_8: expected a pass rate, found "):
            list(pairs(source, file))
    jsonl(file, [*rated, PAIRS[2]])
    with pytest.raises(DataError, match=r":3: has no column 'right\.of_8'; it has 'prompt'"):
        list(pairs(source, file))


def test_a_column_that_is_not_there_is_named_with_its_row(tmp_path):
    file = jsonl(tmp_path / "some.jsonl", [*PAIRS[:2], {"prompt": "x", "output": "y"}])
    with pytest.raises(DataError) as e:
        list(pairs(Source("some.jsonl"), file))
    assert str(e.value).startswith(f"{file}:3: has no column 'completion'; it has 'prompt', 'outp")
    talks = jsonl(tmp_path / "talks.jsonl", TALKS)
    with pytest.raises(DataError, match=r":1: has no column 'talk\.2\.value'"):
        list(pairs(Source("x", columns=Columns("talk.2.value", "talk.1.value")), talks))


def test_a_column_that_holds_no_text_is_named(tmp_path):
    file = jsonl(tmp_path / "some.jsonl", PAIRS)
    with pytest.raises(DataError, match=r":1: id: expected text, found int"):
        list(pairs(Source("some.jsonl", columns=Columns("prompt", "id")), file))


def test_a_line_that_is_no_json_is_named(tmp_path):
    file = tmp_path / "some.jsonl"
    file.write_bytes(b'{"prompt": "a", "completion": "b"}\n\n{"prompt"\n')
    with pytest.raises(DataError, match=r"some\.jsonl:3: not JSON"):
        list(pairs(Source("some.jsonl"), file))
    file.write_bytes(b'{"prompt": "a", "completion": "b"}\n\xff\n')
    with pytest.raises(DataError, match=r"some\.jsonl:2: not UTF-8 text"):
        list(pairs(Source("some.jsonl"), file))


def test_a_parquet_file_that_is_none_is_named(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: statewise[data]")
    file = tmp_path / "some.parquet"
    with pytest.raises(DataError, match="no such file"):
        list(pairs(Source("some.parquet"), file))
    file.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="no Parquet file"):
        list(pairs(Source("some.parquet"), file))


def test_a_data_set_of_the_hub_says_which_commit_is_meant():
    with pytest.raises(ConfigError, match="revision: hub:a/b may change any day"):
        Source("hub:a/b")
    with pytest.raises(ConfigError, match="revision: only data sets of the hub have one"):
        Source("a.jsonl", revision="abc")
    assert Source("hub:a/b", revision="abc", subset="en").name == "hub:a/b/en/train"
    assert Source("@foundation").name == "@foundation"
