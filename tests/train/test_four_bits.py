"""Adapters over projections in four bits: what is kept, computed, trained and left behind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_lora import SHAPE as NARROW
from test_lora import adapted, named
from test_trainer import Killed
from tiny_models import tiny_model, tokens
from tolerances import within
from training_doubles import TWO_PHASES, results, small_model, some_documents, trainer

from statewise.errors import ConfigError
from statewise.model import Mamba2LM
from statewise.train import lora
from statewise.train.config import LoraConfig, ParallelConfig
from statewise.train.loss import SummedLoss
from statewise.train.packing import pack
from statewise.train.parallel import recompute

why = "bitsandbytes is not installed: pip install 'statewise[qlora]'"
bitsandbytes = pytest.importorskip("bitsandbytes", reason=why)

SHAPE = dataclasses.replace(NARROW, d_model=64)
WIDE = {"d_model": 64, "headdim": 16}  # of `small_model`
FOUR_BITS = LoraConfig(rank=3, alpha=6, base="nf4")
CONFIG = dataclasses.replace(TWO_PHASES, lora=FOUR_BITS)


def read_back(model):
    """The model without adapters, of projections that are read back from four bits."""
    found = Mamba2LM(model.config, backend=model.backend)
    weights = lora.merged({n: lora.dense(p) for n, p in named(model).items()}, FOUR_BITS)
    found.load_state_dict(weights, strict=False)
    assert set(weights) == set(named(found))
    return found


def test_every_projection_lies_in_four_bits_of_sixteen_levels_and_nothing_else_does():
    before = named(tiny_model(SHAPE))
    model = tiny_model(SHAPE)
    lora.adapt(model, FOUR_BITS, seed=0)
    packed = 0
    for name, parameter in named(model).items():
        if not isinstance(parameter, bitsandbytes.nn.Params4bit):
            continue
        packed += 1
        whole = before[name.replace(".base_layer", "")]
        assert parameter.nbytes * 2 == whole.numel()
        blocks = lora.dense(parameter).reshape(-1, 64)
        assert all(len(block.unique()) <= 16 for block in blocks)
        # The widest of NF4's gaps is between its first two levels, -1 and -0.696.
        largest = whole.reshape(-1, 64).abs().amax(1, keepdim=True)
        assert ((blocks - whole.reshape(-1, 64)).abs() <= 0.16 * largest).all()
    assert packed == 2 * SHAPE.n_layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
@torch.no_grad()
def test_what_was_read_back_and_merged_computes_what_the_adapted_model_does(backend, bias):
    shape = dataclasses.replace(SHAPE, bias=bias)
    ids = tokens(shape, 2, 21)
    model = adapted(tiny_model(shape, backend=backend), FOUR_BITS)
    expected = read_back(model)(ids)
    for mode in (True, False):
        found = model.train(mode)(ids)
        within(found.logits, expected.logits, "model", backend)
        within(found.state.ssm, expected.state.ssm, "model", "state")
    within(read_back(model)(ids).logits, expected.logits, "model", "read back again")


@pytest.mark.parametrize("again", ["none", "block"])
def test_gradients_of_adapters_are_those_over_what_was_read_back(again):
    shape = dataclasses.replace(SHAPE, vocab_size=24)
    row = pack(some_documents(6))
    model = adapted(tiny_model(shape), FOUR_BITS)
    recompute(model, ParallelConfig(recompute=again))
    SummedLoss(model)(row).backward()
    whole = read_back(model)
    SummedLoss(whole)(row).backward()
    scale, weights = FOUR_BITS.alpha / FOUR_BITS.rank, named(model)
    for name, parameter in weights.items():
        stem, found, _ = name.partition(".lora_A")
        if found:
            grad = named(whole)[f"{stem}.weight"].grad
            expected = scale * weights[f"{stem}.lora_B.default.weight"].T @ grad
            within(parameter.grad, expected, "model-gradient", name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_phase_leaves_what_was_read_back_with_adapters_added(tmp_path, dtype):
    model = small_model(**WIDE).to(getattr(torch, dtype))
    run = trainer(tmp_path, dataclasses.replace(CONFIG, dtype=dtype), model=model)
    run.run()
    after, kept = load_file(tmp_path / "after-b"), named(run.model)
    name = "backbone.layers.0.mixer.in_proj.weight"
    base, low, high = (
        lora.dense(kept[name.replace("weight", part)])
        for part in ("base_layer.weight", "lora_A.default.weight", "lora_B.default.weight")
    )
    whole = (base.float() + FOUR_BITS.alpha / FOUR_BITS.rank * high @ low).to(base.dtype)
    assert torch.equal(after[name], whole)
    assert after[name].dtype == getattr(torch, dtype)
    assert high.abs().max() > 0.01


def test_a_training_over_four_bits_that_was_killed_resumes_bit_for_bit(tmp_path, monkeypatch):
    trainer(tmp_path / "whole", CONFIG, model=small_model(**WIDE)).run()
    run = trainer(tmp_path / "killed", CONFIG, model=small_model(**WIDE))
    real, left = run._write_checkpoint, [3]

    def write():
        real()
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(run, "_write_checkpoint", write)
    with pytest.raises(Killed):
        run.run()
    trainer(tmp_path / "killed", CONFIG, model=small_model(**WIDE)).run()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


WITHOUT = """
import sys
sys.modules["bitsandbytes"] = None
sys.modules["bitsandbytes.nn"] = None
import dataclasses
from pathlib import Path
from training_doubles import TWO_PHASES, trainer
from statewise.errors import ConfigError
from statewise.train.config import LoraConfig
try:
    lora = LoraConfig(rank=2, base="nf4")
    trainer(Path(sys.argv[1]), dataclasses.replace(TWO_PHASES, lora=lora))
except ConfigError as e:
    print(e)
"""


def test_four_bits_without_bitsandbytes_are_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert 'train.lora.base: "nf4" needs bitsandbytes' in told
    assert "pip install 'statewise[qlora]'" in told


def test_rows_that_are_no_whole_blocks_are_refused_for_they_would_be_read_back_wrong():
    with pytest.raises(ConfigError, match=r"64 weights of a row, but in_proj has rows of 32"):
        lora.adapt(tiny_model(NARROW), FOUR_BITS, seed=0)


def test_four_bits_without_adapters_or_in_pieces_are_refused():
    with pytest.raises(ConfigError, match="give them a rank"):
        LoraConfig(base="nf4")
    with pytest.raises(ConfigError, match=r"lora\.base"):
        dataclasses.replace(CONFIG, parallel=ParallelConfig("fsdp2"))
