"""Work in several processes: the same results in order, one error, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from small_run import ROOT, command, report, without_timing, write_recipe

from statewise.errors import DataError
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.stage import Run
from statewise.pipeline.stages import PIPELINE
from statewise.pipeline.workers import side_by_side
from statewise.recipe import load_recipe


def squared(run: Run, x: int) -> tuple[str, int, int]:
    """What a job is given: the run of the process that it works for, and its own arguments."""
    if x < 0:
        raise DataError(f"{run.path}: {x} is negative")
    return run.recipe.name, os.getpid(), x * x


@pytest.fixture
def opened(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path))
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        folder.set_recipe(recipe.toml)
        yield Run(recipe, folder, PIPELINE, print)


def test_results_come_in_the_order_of_the_jobs_from_processes_that_know_the_run(opened):
    jobs = [(i,) for i in range(6)]
    alone = list(side_by_side(opened, squared, jobs, 1))
    assert alone == [("small", os.getpid(), i * i) for i in range(6)]
    shared = list(side_by_side(opened, squared, jobs, 2))
    assert [(name, x) for name, _, x in shared] == [(name, x) for name, _, x in alone]
    assert os.getpid() not in {pid for _, pid, _ in shared}


def test_an_error_of_a_job_is_the_error_of_the_whole(opened):
    with pytest.raises(DataError, match=r"run: -1 is negative"):
        list(side_by_side(opened, squared, [(1,), (-1,), (2,)], 2))


@pytest.mark.slow
def test_a_comparison_in_two_processes_is_that_in_one(finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    recipe, undisturbed = finished_run
    code, _, err = command("run", recipe, "--out", tmp_path / "run", "--set", "claims.workers=2")
    assert code == 0, err
    one, two = (without_timing(report(f))["claims"] for f in (undisturbed, tmp_path / "run"))
    assert one == two


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end orphans")
def test_workers_of_a_killed_process_end_with_it(opened, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_workers import RunFolder, Run, PIPELINE, load_recipe, side_by_side, waiting

            if __name__ == "__main__":
                path = Path({str(opened.path)!r})
                recipe = load_recipe(path / "recipe.toml")
                run = Run(recipe, RunFolder(path), PIPELINE, print)
                list(side_by_side(run, waiting, [(str(path / "pid"),)], 2))
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    pid = opened.path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int(pid.read_text())
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{worker}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived the process that it worked for")


def waiting(run: Run, path: str) -> None:
    """A job that tells its process and does not end."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)
