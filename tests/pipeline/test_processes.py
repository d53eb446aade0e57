"""Several processes in one run: the first owns the folder, all of them train."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from small_run import RECIPE, ROOT

MORE = """
[train.parallel]
engine = "fsdp2"
"""


TORCHRUN = ("torch.distributed.run", "--nproc-per-node=2", "--standalone")
ACCELERATE = (
    "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
    "--mixed_precision=no", "--dynamo_backend=no",
)  # fmt: skip


def launched(launcher, *arguments):
    """A command as two processes."""
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "statewise.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.timeout(300)
def test_two_processes_do_a_run_and_one_tells_of_it(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE + MORE)
    done = launched(TORCHRUN, "train", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("small  recipe") == 1
    assert done.stdout.count("foundation: rows filled") == 1
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert stages["train"]["done"]
    parts = (tmp_path / "run" / "train" / "checkpoints").glob("*/part-*-of-00002.safetensors")
    assert len(list(parts)) == 4
    other = ("--set", "train.parallel.engine=zero2")  # another engine makes no other model
    again = launched(ACCELERATE, "train", recipe, "--out", tmp_path / "run", *other)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "train: done before, inputs unchanged" in again.stdout
