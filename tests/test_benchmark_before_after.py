"""Two checkouts beside each other: what differs is named, whoever is asked."""

import json

import numpy as np
import pytest

from benchmarks import before_after
from benchmarks.cpu import QUICK


class Scripted:
    def __init__(self, kind, dtype, answers):
        self.kind, self.dtype, self.name, self._answers = kind, dtype, f"{kind} {dtype}", answers

    def ask(self, do, **_):
        return self._answers[do]


def test_one_bit_that_differs_is_named_with_what_was_asked():
    same = {"stepped": np.zeros(3), "logits": np.ones(3)}
    other = {**same, "logits": np.nextafter(np.ones(3), 2)}
    pair = [Scripted("statewise", "fp32", same), Scripted("statewise", "fp32", other)]
    assert before_after.differences(QUICK, pair) == ["statewise fp32: logits"]
    assert before_after.differences(QUICK, pair[:1] * 2) == []


def test_gradients_are_compared_one_by_one():
    first = {"gradient": {"loss": np.ones(1), "D": np.ones(2)}}
    second = {"gradient": {"loss": np.ones(1), "D": np.zeros(2)}}
    pair = [Scripted("training statewise", "bf16", g) for g in (first, second)]
    assert before_after.differences(QUICK, pair) == ["training statewise bf16: gradient D"]


@pytest.mark.slow
def test_a_checkout_beside_itself_computes_the_same_bits(capsys):
    assert before_after.main([str(before_after.HERE), "--quick", "--rounds", "2"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["unequal"] == []
    assert len(result["rows"]) == len(before_after.rows(QUICK))
