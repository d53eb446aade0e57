"""The benchmark's arithmetic and its rule: who computes something else is not measured."""

import json
import math
from contextlib import ExitStack

import numpy as np
import pytest
from tolerances import BOUNDS

from benchmarks import cpu
from benchmarks.cpu import Bench, Row, error, main, table
from benchmarks.shapes import (
    SHAPES,
    decode_bytes,
    linear_weights,
    random_model,
    random_tokens,
    save_checkpoint,
    scan_flops,
)
from benchmarks.worker import ContestantError, Worker


def test_the_bounds_of_parity_are_those_of_the_tests():
    for name, bound in (*cpu.PARITY.values(), *cpu.GRADIENT_PARITY.values()):
        assert bound == BOUNDS[name]


@pytest.mark.parametrize("shape", ["small", "tiny"])
def test_the_weights_of_a_step_are_those_of_the_model(shape):
    config = SHAPES[shape]
    model = random_model(config, seed=0)
    matrices = [p.numel() for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    assert linear_weights(config) == sum(matrices) + model.lm_head.weight.numel()
    state = model.zero_state(1).ssm.nbytes
    assert decode_bytes(config, "bf16", 3) == 2 * linear_weights(config) + 2 * 3 * state
    per_token = 2 * model.zero_state(1).ssm.numel()  # a product with B, and one with C
    assert scan_flops(config) > 2 * per_token


def test_the_7b_layer_has_the_published_width():
    c = SHAPES["7B layer"]
    assert (c.d_in_proj, c.d_inner, c.nheads, c.ngroups) == (18_560, 8192, 128, 8)


def test_an_error_is_relative_to_the_largest_number_and_never_hides_a_nan():
    expected = np.array([0.0, 4.0])
    assert error(np.array([0.0, 3.0]), expected) == 0.25
    assert error(np.array([0.0]), expected) == math.inf
    assert error(np.array([np.nan, 4.0]), expected) == math.inf


def test_the_table_has_medians_their_ratios_and_the_share_of_the_floor():
    row = Row("prefill", "bf16", 100, {"statewise": [1.0, 2.0, 9.0], "llama.cpp": [4.0]}, 1.0)
    alone = Row("prefill", "q8_0", 100, {"llama.cpp": [4.0]})
    decode = Row("decoding", "int8", 10, {"statewise": [2.0], "llama.cpp": [1.0]}, 1.0)
    assert table([row, alone, decode]).splitlines()[2:] == [
        "| prefill | bf16 | **50** | 50 % | 25 | 2.00 x | – | – |",
        "| prefill | Q8_0 | – | – | 25 | – | – | – |",
        "| decoding | int8 / Q8_0 | **5** | 50 % | 10 | 0.50 x | – | – |",
    ]


def test_a_worker_that_fails_says_why_and_another_question_is_answered(tmp_path):
    folder = save_checkpoint(random_model(SHAPES["tiny"], seed=0), tmp_path / "tiny")
    with Worker("bare", "fp32", folder, 1) as worker:
        with pytest.raises(ContestantError, match="bare fp32: AttributeError"):
            worker.ask("prefill", tokens=3)
        assert worker.ask("linears", tokens=3, logits=1) > 0
    with (
        Worker("statewise", "fp32", tmp_path, 1) as worker,
        pytest.raises(ContestantError, match=r"statewise fp32: ended with status 1.*config\.json"),
    ):
        worker.ask("prefill", tokens=3)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_all_forms_of_statewise_are_the_definition_and_are_measured(tmp_path, capsys):
    asked = ["--quick", "--only", "layer", "--peers", "--threads", "1", "--out", str(tmp_path)]
    assert main(asked) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "cpu.json").read_text())
    found = {(row["work"], row["dtype"]): row["tokens_per_s"] for row in result["rows"]}
    for dtype in ("fp32", "bf16"):
        assert found["tiny: prefill of 128 tokens", dtype]["statewise"] > 0
    for dtype in ("fp32", "bf16", "int8"):
        assert found["tiny: decoding, 1 sequence", dtype]["statewise"] > 0
    assert result["left_out"] == []
    assert (tmp_path / "cpu.md").read_text().count("| **") == 5
    assert (tmp_path / "cpu.png").stat().st_size > 5_000


class Answering:
    """A worker without a process; of int8 everything comes out half as large again."""

    def __init__(self, kind, dtype, *_, **__):
        self.dtype, self.name = dtype, f"{kind} {dtype}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, do, **_):
        return np.ones(4) * (1.5 if self.dtype == "int8" else 1.0)


def test_who_computes_something_else_is_told_and_not_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "Worker", Answering)
    bench = Bench(cpu.QUICK, tmp_path, 1, [], same_allocator=False)
    with ExitStack() as stack:
        entered, _ = bench.entered(stack, tmp_path, SHAPES["tiny"])
    assert [worker.dtype for worker in entered] == ["fp32", "bf16"]
    assert [told.partition(":")[0] for told in bench.left_out] == ["statewise int8"]
    assert "statewise int8" in capsys.readouterr().out


def test_random_texts_are_the_same_for_all():
    config = SHAPES["tiny"]
    assert (random_tokens(config, 2, 5) == random_tokens(config, 2, 5)).all()
    assert random_tokens(config, 1000).max() < config.vocab_size
