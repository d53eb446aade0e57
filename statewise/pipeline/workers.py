"""Independent work of one run side by side, a process and a share of the cores each.

Small models leave a second core half idle; two trainings on a core each do not.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from statewise.pipeline import STAGES
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.stage import Run
from statewise.pipeline.stages import PIPELINE
from statewise.recipe import load_recipe

T = TypeVar("T")
PR_SET_PDEATHSIG = 1

_run: Run | None = None  # a worker's own view of the run it works for


def side_by_side(
    run: Run, work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[T]:
    """The results of `work(run, *job)` for every job, in order.

    Args:
        run: the run; its folder is held by this process.
        work: a function of a module, that resumes what it had begun.
        jobs: what it is called with.
        workers: so many processes; with one, this process does the work.

    Raises:
        StatewiseError: the first that a job raises. What other jobs have done by then stays.
    """
    if workers == 1:
        yield from (work(run, *job) for job in jobs)
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # threads of torch do not survive a fork
        initializer=_begin,
        initargs=(run.path, threads_each(workers)),
    ) as pool:
        futures = [pool.submit(_do, work, job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def threads_each(workers: int) -> int:
    """Threads that one of so many processes computes with."""
    return max(torch.get_num_threads() // workers, 1)


class _NoTerminal(io.TextIOWrapper):
    """Standard error for one of several processes: lines, for bars would overwrite each other."""

    def isatty(self) -> bool:
        """No."""
        return False


def _begin(path: Path, threads: int) -> None:
    """What a worker does first."""
    global _run
    if sys.platform == "linux":  # who is killed must not leave workers that write on
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    torch.set_num_threads(threads)
    sys.stderr = _NoTerminal(os.fdopen(os.dup(2), "wb"), line_buffering=True)
    recipe = load_recipe(path / "recipe.toml")
    _run = Run(recipe, RunFolder(path, STAGES), PIPELINE, _say)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _do(work: Callable[..., T], job: tuple[Any, ...]) -> T:
    assert _run is not None
    return work(_run, *job)
