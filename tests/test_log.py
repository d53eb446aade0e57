"""The log: what is there, what is missing, and what a kill in the middle of a line does to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.log import Log
from statewise.records import Concept


def opened(path):
    return Log(path, Concept, key=lambda c: c.name)


NAMES = st.lists(st.text(max_size=5), unique=True, max_size=8)


@given(NAMES, st.data())
def test_cut_anywhere_it_holds_every_whole_line_and_names_the_rest_as_missing(
    tmp_path_factory, names, data
):
    path = tmp_path_factory.mktemp("log") / "deep" / "log.jsonl"
    with opened(path) as log:
        for name in names:
            log.append(Concept(name, "\u2028\n"))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with opened(path) as log:
        assert list(log) == names[: whole[:cut].count(b"\n")]
        for name in (left := log.missing(names)):
            log.append(Concept(name, "\u2028\n"))
        assert left == names[len(names) - len(left) :]
        assert log.missing([*names, "another one"]) == ["another one"]
    assert path.read_bytes() == whole


def test_what_is_logged_twice_counts_as_it_was_logged_last(tmp_path):
    with opened(tmp_path / "log") as log:
        for domain in ("first", "last"):
            log.append(Concept("a", domain))
        assert log["a"].domain == "last"
    with opened(tmp_path / "log") as log:
        assert (len(log), log["a"].domain) == (1, "last")


def test_plain_rows_may_be_kept_under_any_key(tmp_path):
    for _ in range(2):
        with Log(tmp_path / "log", dict, key=lambda row: (row["run"], row["index"])) as log:
            for key in log.missing([(0, 1), (0, 2)]):
                log.append({"run": key[0], "index": key[1]})
    assert (tmp_path / "log").read_text() == '{"run": 0, "index": 1}\n{"run": 0, "index": 2}\n'


@pytest.mark.parametrize("line", ['{"run": 0}', "[]", "no JSON"])
def test_a_line_of_something_else_is_named_and_the_file_stays(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(line + "\n")
    for cls, key in ((dict, lambda row: row["index"]), (Concept, lambda c: c.name)):
        with pytest.raises(DataError, match=r"log\.jsonl:1: "):
            Log(path, cls, key=key)
    assert path.read_text() == line + "\n"
