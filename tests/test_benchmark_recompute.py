"""What recomputation costs is measured by the training's own loop, beside what it saves."""

from __future__ import annotations

from benchmarks import recompute
from benchmarks.recompute import Measured, measure, table


def test_every_case_takes_the_same_steps(monkeypatch):
    monkeypatch.setattr(recompute, "SHAPE", "tiny")
    monkeypatch.setattr(recompute, "VOCABULARY", 256)
    found = [measure(256, how, 3) for how in ("none", "scan", "block")]
    assert len({m.loss for m in found}) == 1
    for m in found:
        assert len(m.steps_s) == 2
        assert m.peak_bytes > m.fixed_bytes > 0
        assert m.tokens_per_s > 0


def test_the_table_names_the_share_of_the_speed_where_there_is_one():
    found = [
        Measured(100, "none", [1.0, 3.0, 2.0], 1 << 31, 1, 5.0),
        Measured(100, "block", [2.5], 1 << 30, 1, 5.0),
        Measured(900, "block", [9.0], 3 << 30, 1, 5.0),
    ]
    rows = table(found).splitlines()[2:]
    assert rows == [
        "| 100 | none | 2.0 GiB | 50 | 1.00 |",
        "| 100 | block | 1.0 GiB | 40 | 0.80 |",
        "| 900 | block | 3.0 GiB | 100 | does not fit |",
    ]
