"""Adapters by two processes: what they train is what one process does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from test_engines import config, launch, stopped_after
from tolerances import within
from training_doubles import metrics, small_model, trainer

from statewise.errors import ConfigError
from statewise.train.config import LoraConfig

pytestmark = pytest.mark.timeout(300)
pytest.importorskip("peft", reason="peft is not installed: pip install 'statewise[lora]'")

WORKER = """
import json, sys
from pathlib import Path
import torch
from test_engines import stopped_after
from test_lora_engines import adapting
for job in json.loads(sys.argv[1]):
    with stopped_after(job["steps"]):
        adapting(Path(job["folder"]), job["engine"], job["dtype"]).run()
torch.distributed.destroy_process_group()
"""
CASES = (("ddp", "float32"), ("fsdp2", "float32"), ("fsdp2", "bfloat16"))


def adapting(folder, engine, dtype):
    """A training of adapters; under bfloat16 what is adapted is bfloat16 too."""
    settings = dataclasses.replace(config(engine, 4), dtype=dtype, lora=LoraConfig(rank=3, alpha=6))
    return trainer(folder, settings, model=small_model().to(getattr(torch, dtype)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trainings by one process, and by two: whole, and the middle third of one that one began."""
    root = tmp_path_factory.mktemp("adapters")
    jobs = []
    for dtype in ("float32", "bfloat16"):
        adapting(root / f"one-{dtype}", "ddp", dtype).run()
    for engine, dtype in CASES:
        handed = root / f"{engine}-{dtype}-handed"
        with stopped_after(2):
            adapting(handed, "ddp", dtype).run()
        whole = {"folder": str(root / f"{engine}-{dtype}"), "steps": 0}
        middle = {"folder": str(handed), "steps": 3}
        jobs += [job | {"engine": engine, "dtype": dtype} for job in (whole, middle)]
    launch(jobs, worker=WORKER)
    return root


def same_adapters(actual, expected):
    one, two = metrics(expected), metrics(actual)
    assert len(one) == len(two) >= 6
    for own, other in zip(one, two, strict=True):
        for name in ("loss", "grad_norm"):
            within(torch.tensor(other[name]), torch.tensor(own[name]), "model", name)
    for phase in "ab":
        paths = [f / f"adapters-{phase}" / "adapter_model.safetensors" for f in (expected, actual)]
        adapters, found = map(load_file, paths)
        assert list(adapters) == list(found)
        for name, weight in adapters.items():
            within(found[name], weight, "model", name)
        merged = [load_file(f / f"after-{phase}") for f in (expected, actual)]
        assert {n: w.dtype for n, w in merged[0].items()} == {
            n: w.dtype for n, w in merged[1].items()
        }
        for name, weight in merged[0].items():
            rounded = weight.dtype == torch.bfloat16  # a last bit of which may be another one
            within(merged[1][name], weight, "model-bfloat16" if rounded else "model", name)


@pytest.mark.parametrize(("engine", "dtype"), CASES)
def test_two_processes_train_the_adapters_that_one_does(trained, engine, dtype):
    same_adapters(trained / f"{engine}-{dtype}", trained / f"one-{dtype}")


@pytest.mark.parametrize(("engine", "dtype"), CASES)
def test_one_process_begins_adapters_two_go_on_and_one_finishes(trained, engine, dtype):
    folder = trained / f"{engine}-{dtype}-handed"
    assert 4 <= len(metrics(folder)) <= 5
    adapting(folder, "ddp", dtype).run()
    same_adapters(folder, trained / f"one-{dtype}")


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_an_engine_that_trains_no_adapters_is_refused(tmp_path, engine):
    with pytest.raises(ConfigError, match="trains no adapters"):
        adapting(tmp_path, engine, "float32")
