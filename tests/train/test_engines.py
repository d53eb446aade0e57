"""One loop, every engine: what two processes train is what one does, whatever holds what where."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from tolerances import within
from training_doubles import TWO_PHASES, metrics, some_documents, trainer

from statewise import progress

pytestmark = pytest.mark.timeout(300)
pytest.importorskip(
    "deepspeed", reason="DeepSpeed is not installed: pip install 'statewise[deepspeed]'"
)

CASES = (  # engine, and rows a step
    ("ddp", 4), ("ddp", 8), ("fsdp2", 4), ("zero2", 8), ("zero2-offload", 4), ("zero3-offload", 4),
)  # fmt: skip
DEVELOPMENT = {"seven": some_documents(7, seed=4), "one": some_documents(1, seed=5)}
SHARDED = ("fsdp2", "zero2", "zero3")

# Every job is one training; those that stop do so after some steps, as a kill would.
WORKER = """
import json, sys
from pathlib import Path
import torch
from test_engines import DEVELOPMENT, config, poisoned, stopped_after
from training_doubles import trainer
for job in json.loads(sys.argv[1]):
    settings = config(job["engine"], job["rows"], job["every_s"])
    run = trainer(Path(job["folder"]), settings, development=DEVELOPMENT)
    with stopped_after(job["steps"]), poisoned(run, job["poison"]):
        run.run()
torch.distributed.destroy_process_group()
"""


def config(engine, rows, every_s=0.0):
    """Two phases of rows of 20 tokens, under an engine, with a checkpoint every so often."""
    name, _, offload = engine.partition("-")
    parallel = dataclasses.replace(TWO_PHASES.parallel, engine=name, offload=bool(offload))
    phases = tuple(dataclasses.replace(p, tokens=60 * rows) for p in TWO_PHASES.phases)
    return dataclasses.replace(
        TWO_PHASES,
        phases=phases,
        batch_tokens=20 * rows,
        parallel=parallel,
        checkpoint_every_s=every_s,
        nonfinite="skip",
        measure_every=150,
    )


@contextlib.contextmanager
def poisoned(run, step):
    """Let a step's gradient be no number; with 0 none is."""
    real, ended = run._engine.backward, [0]

    def backward(loss, *, last):
        real(loss * float("inf") if ended[0] + 1 == step else loss, last=last)
        ended[0] += last

    run._engine.backward = backward
    yield


class Stopped(Exception):
    """Stands for a kill."""


class stopped_after:
    """Let a training end after some steps, 0 for none, and go on behind it."""

    def __init__(self, steps):
        self.steps = steps

    def __enter__(self):
        self.real, left = progress.Task.update, [self.steps]

        def update(task, done, note=""):
            self.real(task, done, note)
            left[0] -= 1
            if left[0] == 0:
                raise Stopped

        progress.Task.update = update

    def __exit__(self, kind, *_):
        progress.Task.update = self.real
        return kind is Stopped


def launch(jobs, world=2, worker=WORKER):
    """Run a worker as so many processes."""
    here = Path(__file__).parent
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {
        "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent), str(here)]),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    with contextlib.ExitStack() as stack:  # a pipe that nobody reads would fill up
        told = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(world)]
        processes = []
        for rank, file in enumerate(told):
            env = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-W", "ignore", "-c", worker, json.dumps(jobs)]
            processes.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))
        try:
            failed = [process.wait(timeout=280) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for code, file in zip(failed, told, strict=True):
            file.seek(0)
            assert code == 0, file.read()[-4000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trainings by one process and, under every engine, by two: whole, and as the middle third."""
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        return train_all(tmp_path_factory.mktemp("engines"))
    root = tmp_path_factory.getbasetemp().parent / "engines"  # of all workers
    with FileLock(root.with_suffix(".lock")):
        return root if (root / "done").exists() else train_all(root)


def train_all(root):
    """The trainings that the tests look at."""
    jobs = []
    for rows in sorted({rows for _, rows in CASES}):
        one = trainer(root / f"one-{rows}", config("ddp", rows), development=DEVELOPMENT)
        one.run()
    for engine, rows in CASES:
        job = {"engine": engine, "rows": rows, "poison": 0}
        whole, handed = root / f"{engine}-{rows}", root / f"{engine}-{rows}-handed"
        jobs.append(job | {"folder": str(whole), "steps": 0, "every_s": 1e9})
        with stopped_after(2):
            trainer(handed, config("ddp", rows), development=DEVELOPMENT).run()
        jobs.append(job | {"folder": str(handed), "steps": 3, "every_s": 0.0})
    one = trainer(root / "one-skipped", config("ddp", 4), development=DEVELOPMENT)
    with poisoned(one, 3):
        one.run()
    for engine in SHARDED:
        job = {"engine": engine, "rows": 4, "poison": 3, "steps": 0, "every_s": 1e9}
        jobs.append(job | {"folder": str(root / f"{engine}-skipped")})
    launch(jobs)
    (root / "done").touch()
    return root


def same_training(actual, expected):
    """Loss, gradient norm and weights are those of another training, within the tolerance."""
    one, two = metrics(expected), metrics(actual)
    assert len(one) == len(two) >= 6
    for own, other in zip(one, two, strict=True):
        for name in ("phase", "step", "tokens", "lr"):
            assert own[name] == other[name]
        for name in ("loss", "grad_norm"):
            within(torch.tensor(other[name]), torch.tensor(own[name]), "model", name)
    measured = [(path / "development.jsonl").read_text() for path in (expected, actual)]
    for own, other in zip(*(map(json.loads, text.splitlines()) for text in measured), strict=True):
        assert own["source"] == other["source"]
        assert own["targets"] == other["targets"]
        within(torch.tensor(other["loss"]), torch.tensor(own["loss"]), "model", "development")
    for phase in ("after-a", "after-b"):
        weights, found = load_file(expected / phase), load_file(actual / phase)
        assert list(weights) == list(found)
        for name, weight in weights.items():
            within(found[name], weight, "model", name)


@pytest.mark.parametrize(("engine", "rows"), CASES)
def test_two_processes_train_what_one_does(trained, engine, rows):
    same_training(trained / f"{engine}-{rows}", trained / f"one-{rows}")


@pytest.mark.parametrize(("engine", "rows"), CASES)
def test_one_process_begins_two_go_on_and_one_finishes(trained, engine, rows):
    folder = trained / f"{engine}-{rows}-handed"
    assert 4 <= len(metrics(folder)) <= 5
    trainer(folder, config("ddp", rows), development=DEVELOPMENT).run()
    same_training(folder, trained / f"one-{rows}")


@pytest.mark.parametrize("engine", SHARDED)
def test_every_engine_skips_a_step_whose_gradient_is_no_number(trained, engine):
    steps = [m["step"] for m in metrics(trained / "one-skipped")]
    assert steps[:3] == [1, 2, 4]
    assert metrics(trained / "one-skipped")[-1]["skipped"] == 1
    same_training(trained / f"{engine}-skipped", trained / "one-skipped")
