"""A process that has imported everything and forks a child for each training that it is to join.

One JSON object a line on standard input, one on standard output; see `test_faults.Ranks`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from training_doubles import TWO_PHASES, phases, some_documents, trainer

from statewise.errors import RunError
from statewise.pipeline.training import finish

LONG = dataclasses.replace(
    TWO_PHASES,
    phases=phases(800, 500, warmup_steps=2, decay="linear"),
    checkpoint_every_s=1e9,
    checkpoint_every_steps=2,
    measure_every=300,
)
DEVELOPMENT = {"five": some_documents(5, seed=4)}


def kill_at(where, nth):
    """Let this process be killed just before the nth call of a function."""
    module, _, path = where.partition(":")
    *holder, name = path.split(".")
    owner = importlib.import_module(module)
    for part in holder:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, dying)


def train(job):
    """Join a training; what it ended with."""
    os.environ.update(job["env"])
    if job["at"]:
        kill_at(job["at"], job["nth"])
    try:
        finish(trainer(Path(job["folder"]), LONG, development=DEVELOPMENT))
    except RunError as e:
        return str(e)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return ""


def serve():
    for line in sys.stdin:
        job = json.loads(line)
        answer = Path(job["answer"])
        begun = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                answer.write_text(train(job))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        said = answer.read_text() if code == 0 else ""
        told = {"code": code, "said": said, "wall_s": time.monotonic() - begun}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
