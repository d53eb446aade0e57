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


def torchrun(*arguments, env=None):
    """A command as two processes under torch's launcher."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        + ["-m", "statewise.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {}),
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.timeout(300)
def test_two_processes_do_a_run_and_one_tells_of_it(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE + MORE)
    done = torchrun("train", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("small  recipe") == 1
    assert done.stdout.count("foundation: ") == 1
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert stages["train"]["done"]
    parts = (tmp_path / "run" / "train" / "checkpoints").glob("*/part-*-of-00002.safetensors")
    assert len(list(parts)) == 4
    again = torchrun("train", recipe, "--out", tmp_path / "run")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "train: done before, inputs unchanged" in again.stdout
