"""Quantities as they are written."""

import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.eval.benchmarks import BENCHMARKS
from statewise.report import wording
from statewise.report.figures import _round
from statewise.synth.config import Novelty
from statewise.verdict import Word

ROOT = Path(__file__).parents[2]
FACTORS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@given(st.integers(0, 2**49))
def test_a_size_is_right_to_three_figures(n):
    value, unit = wording.size(n).split(wording.NBSP)
    assert float(value) * FACTORS[unit] == pytest.approx(n, rel=0.0051)
    assert len(value.replace(".", "")) <= 4


@given(st.integers(0, 10**12))
def test_a_large_count_is_right_to_three_figures(n):
    value, _, unit = wording.large(n).partition(wording.NBSP)
    factor = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[unit]
    assert float(value) * factor == pytest.approx(n, rel=0.0051)


@given(st.integers(10, 10**6))
def test_a_duration_reads_back_to_the_half_minute(seconds):
    words = wording.duration(seconds).replace(wording.NBSP, " ").split()
    scale = {"h": 3600, "min": 60, "s": 1}
    back = sum(int(n) * scale[u] for n, u in zip(words[::2], words[1::2], strict=True))
    assert abs(back - seconds) <= (30 if seconds >= 3570 else 0)
    assert all(int(n) < 60 for n, u in zip(words[::2], words[1::2], strict=True) if u != "h")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.percent(0.913), "91.3 %"),
        (wording.percent(None), "–"),
        (wording.interval([0.896, 0.928]), "89.6 to 92.8"),
        (wording.interval(None), "–"),
        (wording.interval([None, 0.5]), "–"),
        (wording.points(-0.0114), "−1.1"),
        (wording.points(0.0114), "+1.1"),
        (wording.points_interval([-0.03, 0.01]), "−3.0 to +1.0"),
        (wording.points_interval([]), "–"),
        (wording.count(4_104_192), "4,104,192"),
        (wording.duration(0.42), "0.4 s"),
        (wording.duration(588), "9 min 48 s"),
        (wording.duration(None), "–"),
        (wording.size(None), "–"),
        (wording.size(273_408), "267 KiB"),
        (wording.large(None), "–"),
        (wording.plain(None), "–"),
        (wording.plain(True), "yes"),
        (wording.plain({"max_tokens": 256, "top_p": 0.95}), "max tokens 256, top p 0.95"),
        (wording.plain([1, 2.5, "a"]), "1, 2.5, a"),
        (wording.listed(["a"]), "a"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
        (wording.set_phrase("workbook-2"), "two composed concepts"),
        (wording.set_phrase("math500"), "MATH-500"),
        (wording.set_label("mine"), "mine"),
        (wording.set_label("workbook-pairs"), "Pairs never trained together"),
        (wording.set_label("workbook-numbers-2"), "Numbers beyond training, 2"),
        (wording.set_label("workbook-pairsome"), "workbook-pairsome"),
        (wording.set_phrase("workbook-wording"), "reserved wordings"),
        (wording.word_label(None), "not measured"),
        (wording.word_label(Word.TOO_WEAK), "too weak to say"),
        (wording.sentence("a Transformer"), "A Transformer"),
        (wording.power_of_ten(1.713e13), "1.71 × 10¹³"),
        (wording.power_of_ten(9.999e12), "1.00 × 10¹³"),
        (wording.power_of_ten(None), "–"),
        (wording.multiple(0.5), "0.5×"),
        (wording.wrapped("called perfect by all judges"), "called perfect by\nall judges"),
        (wording.wrapped("a" * 30, 10), "a" * 10 + "\n" + "a" * 9 + "…"),
        (wording.wrapped(""), ""),
        (wording.shortened("a  b\nc" + "d" * 40, 8), "a b cdd…"),
        (_round(wording.size(2**22)), "4 MiB"),
        (_round(wording.percent(0.125, 2)), "12.5 %"),
        (_round("100 %"), "100 %"),
    ],
)
def test_quantities_are_written_as_people_read_them(written, expected):
    assert written.replace(wording.NBSP, " ") == expected


def test_every_kind_of_novelty_has_a_label():
    kinds = {name.removeprefix("workbook-") for name in wording._NOVEL}
    assert kinds == set(typing.get_args(Novelty)) - {"none"}
    assert all(wording.is_novel(name) for name in wording._NOVEL)
    assert not any(wording.is_novel(name) for name in wording._SETS)
    assert wording.has_reserved_wording("workbook-wording")
    assert not wording.has_reserved_wording("workbook-pairs")


def test_every_label_is_of_a_benchmark_or_of_a_set_that_a_recipe_writes_to_ask():
    recipes = "".join(p.read_text() for p in ROOT.rglob("recipes/*.toml"))
    held_out = set(re.findall(r'name = "((?:workbook|development)-[\w-]+)"', recipes))
    assert held_out
    assert set(wording._SETS) <= held_out | BENCHMARKS.keys()
