"""What is applied to a model from outside, in one process."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from training_doubles import TWO_PHASES, metrics, results, small_model, some_documents, trainer

from statewise.train.config import ParallelConfig
from statewise.train.loss import SummedLoss
from statewise.train.packing import pack
from statewise.train.parallel import recompute


def gradients(model):
    row = pack(some_documents(6))
    loss = SummedLoss(model)(row)
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()]


def saved_bytes(model):
    """What autograd keeps of one row."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        SummedLoss(model)(pack(some_documents(6)))
    return sum(kept.values())


@pytest.mark.parametrize("how", ["scan", "block"])
def test_what_is_computed_again_has_the_same_gradients_bit_for_bit(how):
    loss, expected = gradients(small_model())
    model = small_model()
    recompute(model, ParallelConfig(recompute=how))
    again, found = gradients(model)
    assert torch.equal(again, loss)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_what_is_computed_again_is_not_kept(backend):
    kept = {}
    for how in ("none", "scan", "block"):
        model = small_model(n_layer=6)
        model.use(backend)
        recompute(model, ParallelConfig(recompute=how))
        kept[how] = saved_bytes(model)
    assert kept["scan"] < 0.75 * kept["none"]
    assert kept["block"] < kept["none"] / 3
    assert kept["block"] < kept["scan"]


@pytest.mark.parametrize("how", ["scan", "block"])
def test_a_training_that_computes_again_ends_in_the_same_bits(tmp_path, how):
    trainer(tmp_path / "kept").run()
    parallel = ParallelConfig(recompute=how)
    trainer(tmp_path / "again", dataclasses.replace(TWO_PHASES, parallel=parallel)).run()
    assert results(tmp_path / "again") == results(tmp_path / "kept")


WITHOUT = """
import sys
sys.modules["deepspeed"] = None
import dataclasses
from pathlib import Path
from training_doubles import TWO_PHASES, trainer
from statewise.errors import ConfigError
from statewise.train.config import ParallelConfig
config = dataclasses.replace(TWO_PHASES, parallel=ParallelConfig(engine="zero2"))
try:
    trainer(Path(sys.argv[1]), config)
except ConfigError as e:
    print(e)
"""


def test_an_engine_that_is_not_installed_is_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert "train.parallel.engine: 'zero2' needs DeepSpeed" in told
    assert "pip install 'statewise[deepspeed]'" in told


ALONE = """
import dataclasses, sys
from pathlib import Path
from training_doubles import TWO_PHASES, trainer
from statewise.train.config import ParallelConfig
config = dataclasses.replace(TWO_PHASES, parallel=ParallelConfig(engine=sys.argv[2]))
trainer(Path(sys.argv[1]), config).run()
"""


@pytest.mark.parametrize("engine", ["fsdp2", "zero2"])
def test_a_sharded_engine_serves_one_process_that_nobody_launched(tmp_path, engine, monkeypatch):
    if engine == "zero2":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    trainer(tmp_path / "plain").run()
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path / "sharded"), engine]
    subprocess.run(command, check=True)
    expected, found = results(tmp_path / "plain"), results(tmp_path / "sharded")
    assert found["after-b"].keys() == expected["after-b"].keys()
    losses = [[m["loss"] for m in r["metrics"]] for r in (expected, found)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_processes_exchange_gradients_once_a_step_and_not_with_every_row(tmp_path):
    run = trainer(tmp_path, dataclasses.replace(TWO_PHASES, batch_tokens=80))
    engine, exchanged = run._engine, []
    if torch.distributed.is_initialized():  # by an engine before, of one process too
        torch.distributed.destroy_process_group()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        engine.loss = torch.nn.parallel.DistributedDataParallel(engine.loss)

        def hook(_, bucket):
            exchanged.append(bucket.index())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        engine.loss.register_comm_hook(None, hook)
        run.run()
    finally:
        torch.distributed.destroy_process_group()
    assert exchanged == [0] * len(metrics(tmp_path))
