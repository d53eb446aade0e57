"""The comparison of checkers: what it counts, and how it speaks with a peer."""

import sys
from pathlib import Path

import pytest

from benchmarks import graders
from benchmarks.graders import Item, Row, asked_here, asked_there, golden, references, table
from statewise.errors import RunError

DATA = Path(__file__).parents[2] / "shared" / "data"
PEER = """
import json, sys
print(json.dumps({"version": "1.2"}), flush=True)
for line in sys.stdin:
    item = json.loads(line)
    credited = None if item["output"] == "?" else item["output"] == item["reference"]
    print(json.dumps({"credited": credited, "error": "", "wall_s": 0.5}), flush=True)
"""


def item(output, right=True, reference="2"):
    return Item("g", output, reference, "math", right)


def test_our_own_checker_credits_its_golden_table_and_nothing_else():
    items = [i for i in golden() if i.kind == "integer"]
    assert len(items) > 20
    rows = list(asked_here("Statewise", items))
    assert [r.credited is True for r in rows] == [r.item.right for r in rows]


def test_a_reference_comes_as_it_is_and_with_its_last_digit_changed():
    if not (DATA / "aime2024.jsonl").is_file():
        pytest.skip(f"no {DATA / 'aime2024.jsonl'}")
    items = references("aime2024", DATA)
    assert len(items) == 60
    right, wrong = items[:2]
    assert right.right
    assert not wrong.right
    assert right.output.replace("33", "36") == wrong.output


def test_a_peer_is_asked_item_by_item_in_its_own_python(tmp_path, monkeypatch):
    monkeypatch.setattr(graders, "PEERS", tmp_path / "peer.py")
    graders.PEERS.write_text(PEER)
    items = [item("2"), item("3", right=False), item("?")]
    rows = list(asked_there(sys.executable, "them", items))
    assert [(r.who, r.credited, r.wall_s) for r in rows] == [
        ("them 1.2", True, 0.5), ("them 1.2", False, 0.5), ("them 1.2", None, 0.5)
    ]  # fmt: skip
    graders.PEERS.write_text("")
    with pytest.raises(RunError, match="them: ended early; is the peer installed there"):
        list(asked_there(sys.executable, "them", items))


def test_credit_and_failures_are_counted_apart():
    rows = [
        Row("us", item("2"), True, 0.001),
        Row("us", item("2"), None, 0.001),
        Row("us", item("3", right=False), True, 0.004),
    ]
    assert table(rows).splitlines()[-1] == "| g | us | 1 of 2 | 1 of 1 | 1 | 2.00 |"
