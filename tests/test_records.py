"""Records on disk: whole or not at all, and every complaint names file and line."""

import json
import os
import re
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.records import (
    Completion,
    Concept,
    Draft,
    Example,
    FinishReason,
    JsonlAppender,
    Judgement,
    Outcome,
    Problem,
    Rating,
    TestCase,
    Verdict,
    content_id,
    file_sha256,
    finish_reason,
    from_json,
    iter_rows,
    json_bytes,
    read_json,
    read_jsonl,
    read_record,
    to_json,
    write_atomically,
    write_json,
    write_jsonl,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Half a surrogate pair is no character, but JSON can say it; both halves in a row are one.
ANY_TEXT = st.text(st.characters() | st.sampled_from('\ud800\udbff\\"')).map(
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
COUNT = st.integers(0, 2**40)

EXAMPLES = st.builds(Example, TEXT, TEXT, TEXT, TEXTS)
RECORDS = st.one_of(
    st.builds(Concept, TEXT, TEXT, TEXT),
    st.builds(Draft, TEXT, TEXT, TEXTS, TEXT, TEXT, TEXT),
    st.builds(Judgement, TEXT, TEXT, st.sampled_from(Rating), TEXT),
    st.builds(
        Problem,
        TEXT,
        TEXT,
        TEXT,
        st.none() | TEXT,
        st.lists(st.builds(TestCase, TEXT, TEXT), max_size=2).map(tuple),
        TEXTS,
        TEXT,
        TEXT,
    ),
    EXAMPLES,
    st.builds(Completion, TEXT, COUNT, TEXT, st.sampled_from(FinishReason), COUNT, COUNT, COUNT),
    st.builds(Verdict, TEXT, COUNT, st.sampled_from(Outcome), st.none() | TEXT, TEXT),
)

A, B, C = (Concept(name, "algebra") for name in "abc")


@given(RECORDS)
def test_a_record_survives_json(record):
    row = json.loads(json.dumps(to_json(record)))
    assert from_json(type(record), row, "here") == record


@given(st.lists(EXAMPLES, max_size=4))
def test_records_survive_a_file(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "r.jsonl"
    write_jsonl(path, records)
    assert read_jsonl(path, Example) == records


@given(st.lists(st.builds(Example, ANY_TEXT, ANY_TEXT), max_size=4))
def test_half_a_surrogate_pair_survives_every_kind_of_file(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("records")
    write_jsonl(folder / "whole.jsonl", records)
    with JsonlAppender(folder / "line by line.jsonl") as f:
        for record in records:
            f.append(record)
    assert read_jsonl(folder / "whole.jsonl", Example) == records
    assert read_jsonl(folder / "line by line.jsonl", Example) == records
    write_json(folder / "r.json", {r.prompt: r.completion for r in records})
    assert read_json(folder / "r.json") == {r.prompt: r.completion for r in records}


@given(st.dictionaries(TEXT, st.lists(TEXT)))
def test_what_utf8_can_hold_is_not_escaped(value):
    assert json_bytes(value) == (json.dumps(value, ensure_ascii=False) + "\n").encode()
    assert (
        json_bytes(value, indent=2)
        == (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    )


def test_a_byte_order_mark_is_no_part_of_a_file_nor_of_the_lines_of_joined_ones(tmp_path):
    mark = "\ufeff"
    path = tmp_path / "r.jsonl"
    path.write_bytes(f'{mark}{{"a": "{mark}"}}\n{mark}\n{mark}{{"b": 2}}\n'.encode())
    assert list(iter_rows(path)) == [(f"{path}:1", {"a": mark}), (f"{path}:3", {"b": 2})]
    path.write_bytes(f'{mark}{{"a": "{mark}"}}'.encode())
    assert read_json(path) == {"a": mark}


HOSTILE = [
    (b'{"a": ' + b"9" * 5_000 + b"}", "holds an integer of more than 4,300 digits"),
    (b'{"a": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", "brackets are nested more than 200 deep"),
    (b'{"a": ' * 201 + b"1" + b"}" * 201, "brackets are nested more than 200 deep"),
    (b'{"a": ' + b"[" * 100_000, "brackets are nested more than 200 deep"),
    (b'{"a": "\0"}', "Invalid control character"),
    (b"\0\0\0", "not JSON"),
    (b'{"a": "\xc3"}', "not UTF-8 text"),
    (b'{"a": "\xed\xa0\xbd"}', "not UTF-8 text"),  # a surrogate as bytes
]


@pytest.mark.parametrize(("data", "told"), HOSTILE, ids=[told for _, told in HOSTILE])
def test_what_python_cannot_read_is_told_with_file_and_line(tmp_path, data, told):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"a": 1}\n' + data + b"\n")
    with pytest.raises(DataError, match=rf"r\.jsonl:2: .*{told}"):
        list(iter_rows(path))
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"r\.jsonl:.*{told}"):
        read_json(path)


def test_a_file_in_utf_16_is_told_as_such(tmp_path):
    (tmp_path / "r.jsonl").write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 0\); it begins as UTF-16 does"):
        list(iter_rows(tmp_path / "r.jsonl"))


def test_200_brackets_and_4300_digits_are_read_and_can_be_written_again(tmp_path):
    path, value = tmp_path / "r.json", [int("9" * 4_300)]
    for _ in range(198):
        value = [value]
    write_json(path, {"a": value})
    assert read_json(path) == {"a": value}
    assert to_json(Table(None, (), {}, {"a": value}))["rest"] == {"a": value}


@pytest.mark.parametrize("read", [read_json, lambda path: list(iter_rows(path))])
def test_a_folder_or_no_name_at_all_is_told_as_a_file_that_cannot_be_read(tmp_path, read):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read .*null byte"):
        read(tmp_path / "a\0b")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)  # root may read everything
    with pytest.raises(DataError, match=r"r\.json: cannot be read \(Permission denied\)"):
        read_json(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("said", "meant"),
    [(None, "stop"), ("", "stop"), ("stop", "stop"), ("eos", "stop"), ("eos_token", "stop"),
     ("stop_sequence", "stop"), ("end_turn", "stop"), ("STOP", "stop"), ("tool_calls", "stop"),
     (FinishReason.STOP, "stop"), ("length", "length"), ("max_tokens", "length"),
     ("MAX_TOKENS", "length"), ("model_length", "length"), (FinishReason.LENGTH, "length"),
     ("content_filter", "length"), ("abort", "length"), ("error", "length")],
)  # fmt: skip
def test_what_tools_call_the_end_of_a_completion_is_understood(said, meant):
    assert finish_reason(said) is FinishReason(meant)


@pytest.mark.parametrize("said", ["bored", " stop", 0, False, ["stop"], {"type": "eos"}])
def test_an_end_that_nobody_knows_is_not_guessed(said):
    with pytest.raises(ValueError, match=r"finish_reason must be one of abort, .* found"):
        finish_reason(said)


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path):
    record = Example("a\u2028b\x0bc\x85d\r", "e\n")
    write_jsonl(tmp_path / "r.jsonl", [record, record])
    assert read_jsonl(tmp_path / "r.jsonl", Example) == [record, record]


def test_blank_lines_are_skipped_but_counted(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('\n{"a": 1}\n  \n{"b": 2}')
    assert list(iter_rows(path)) == [(f"{path}:2", {"a": 1}), (f"{path}:4", {"b": 2})]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"name": "a"', "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"name": "a"}', "Concept needs the field 'domain'"),
        ('{"name": "a", "domain": "b", "color": 1}', "Concept has no field 'color'"),
        ('{"name": "a", "domain": 3}', "field 'domain': expected str, found 3"),
    ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path, line, told):
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"name": "a", "domain": "b"}}\n{line}\n')
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}:2: {told}')}"):
        read_jsonl(path, Concept)


@pytest.mark.parametrize(
    ("cls", "changes", "told"),
    [
        (Completion, {"sample": True}, "field 'sample': expected int, found True"),
        (Completion, {"finish_reason": "tired"}, "'tired' is not one of ['stop', 'length']"),
        (Problem, {"concepts": "a"}, "field 'concepts': expected a list, found 'a'"),
        (Problem, {"tests": [{"input": "1"}]}, "field 'tests': TestCase needs the field 'output'"),
        (Problem, {"tests": [1]}, "field 'tests': expected a JSON object, found int"),
        (Problem, {"answer": 5}, "field 'answer': expected str, found 5"),
    ],
)
def test_a_bad_value_is_named_with_its_field(cls, changes, told):
    good = {
        Completion: to_json(Completion("p", 0, "t", FinishReason.STOP, 1, 1, 0)),
        Problem: to_json(Problem("p", "math", "s")),
    }[cls]
    with pytest.raises(DataError) as e:
        from_json(cls, {**good, **changes}, "file:7")
    assert str(e.value).startswith("file:7: ")
    assert told in str(e.value)


class Span(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Table:
    """One field of each shape that results have beside the records of the line."""

    span: Span | None
    steps: tuple[tuple[str, int], ...]
    shares: dict[str, float | None]
    rest: dict[str, Any]


TABLE = Table(Span(0.5, 1), (("drafts", 3),), {"1": 0.25, "2": None}, {"a": [1, "b"]})


def test_tables_and_named_tuples_survive_json():
    table = from_json(Table, json.loads(json.dumps(to_json(TABLE))), "file")
    assert table == TABLE
    assert isinstance(table.span, Span)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"span": [0.5]}, "field 'span': expected 2 values, found [0.5]"),
        ({"span": [0.5, "one"]}, "field 'span': expected float, found 'one'"),
        ({"span": [0.5, True]}, "field 'span': expected float, found True"),
        ({"steps": [["drafts", 1.5]]}, "field 'steps': expected int, found 1.5"),
        ({"shares": [0.25]}, "field 'shares': expected a JSON object, found [0.25]"),
        ({"shares": {"4": "all"}}, "field 'shares': '4': expected float, found 'all'"),
    ],
)
def test_a_bad_value_in_a_table_is_named_with_its_field_and_key(changes, told):
    with pytest.raises(DataError, match=re.escape(told)):
        from_json(Table, {**to_json(TABLE), **changes}, "file")


def test_one_record_is_read_from_a_file_that_every_complaint_names(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"name": "a", "domain": "b"}')
    assert read_record(path, Concept) == Concept("a", "b")
    path.write_text('{"name": "a"}')
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: Concept needs the field"):
        read_record(path, Concept)


def test_missing_and_undecodable_files_are_named(tmp_path):
    path = tmp_path / "r.jsonl"
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: no such file"):
        read_jsonl(path, Concept)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 10\)"):
        read_jsonl(path, Concept)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "r.jsonl"
    write_jsonl(path, [A])

    def torn():
        yield B
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, torn())
    assert read_jsonl(path, Concept) == [A]
    assert os.listdir(tmp_path) == ["r.jsonl"]


def test_a_write_that_the_disk_refuses_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_atomically(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_folders_on_the_way_are_made(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "a" / "b.json").read_text(encoding="utf-8")) == {"ü": [1, None]}


@pytest.mark.parametrize("torn", ["", "{", '{"name": "c", "domain": "\u00e9', "\0\0\0"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "deep" / "r.jsonl"
    with JsonlAppender(path) as f:
        f.append(A)
        f.append(B)
    with path.open("a") as raw:
        raw.write(torn)
    with JsonlAppender(path) as f:
        f.append(C)
    assert read_jsonl(path, Concept) == [A, B, C]


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    write_jsonl(path, [A, B])
    path.write_bytes(path.read_bytes()[:-1])
    with JsonlAppender(path) as f:
        f.append(C)
    assert read_jsonl(path, Concept) == [A, B, C]


@pytest.mark.parametrize("mine", ["years of work", "a\nb", '{"a": 1}\n[1, 2]', "\ufeff{}"])
def test_a_file_whose_last_line_is_no_record_is_left_alone(tmp_path, mine):
    path = tmp_path / "notes.txt"
    path.write_text(mine)
    with pytest.raises(DataError, match=rf"notes\.txt:{mine.count(chr(10)) + 1}: is no record"):
        JsonlAppender(path)
    assert path.read_text() == mine


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"name"')
    with JsonlAppender(path):
        pass
    assert path.read_bytes() == b""


def test_an_appended_record_can_be_read_before_the_file_is_closed(tmp_path):
    path = tmp_path / "r.jsonl"
    with JsonlAppender(path) as f:
        f.append(A)
        assert read_jsonl(path, Concept) == [A]


def test_identity_is_of_the_content_and_of_where_its_parts_end(tmp_path):
    assert content_id("a", "b") == content_id("a", "b")
    assert len({content_id("a", "b"), content_id("ab"), content_id("b", "a")}) == 3
    assert re.fullmatch("[0-9a-f]{16}", content_id("é"))
    assert content_id("\ud83d") != content_id("\ufffd")
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert file_sha256(tmp_path / "f") == expected


@pytest.mark.parametrize("cls", [Concept, Draft, Judgement, Problem, Example, Completion, Verdict])
def test_records_cannot_be_changed(cls):
    assert cls.__dataclass_params__.frozen
    assert set(cls.__slots__) == {f.name for f in fields(cls)}
