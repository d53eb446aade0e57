"""Comparison behind processes of its own, so that no answer can hang or swell this one.

Worker processes are started on first need, live until this process ends, and are killed and
replaced when an answer takes too long. They speak JSON lines over their standard streams, so
nothing is unpickled and a thread may ask as well as the main program.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

DEADLINE_S = 6.0
_START_S = 120.0  # a cold disk and a busy machine
_MODULE = "statewise.eval.mathematics.worker"
_PACKAGES = str(Path(__file__).parents[3])


class _Failure(Exception):
    """A worker that was lost or too slow; the message is the reason."""


class _Died(_Failure):
    """The worker ended by itself, or was ended from outside."""


class Comparison(NamedTuple):
    """Whether an answer is equal, or None where that cannot be told; by which rule, or why not."""

    equal: bool | None
    rule: str


class _Worker:
    def __init__(self) -> None:
        # The package that asks answers, wherever it lies; -P: nothing of the user's folder.
        path = [_PACKAGES, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._pending = b""
        self._ready = False
        self.over_answer = False  # the reference was evaluated: what takes time now is the answer

    def ask(self, question: dict[str, object], deadline_s: float) -> Comparison:
        """One question, one answer. After a `_Failure` the worker is of no use."""
        if not self._ready:
            self._line(_START_S, "did not start")
            self._ready = True
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(question) + "\n").encode())
        except OSError as e:
            raise _Died("checker worker was lost") from e
        first = json.loads(self._line(deadline_s, "took too long with the reference"))
        if "error" in first:
            return Comparison(None, str(first["error"]))
        self.over_answer = True
        reply = json.loads(self._line(deadline_s, "took too long"))
        self.over_answer = False
        return Comparison(bool(reply["equal"]), str(reply["rule"]))

    def _line(self, within_s: float, complaint: str) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        until = time.monotonic() + within_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise _Failure(f"checker {complaint} ({within_s:g} s)")
            data = os.read(fd, 1 << 16)
            if not data:
                raise _Died("checker worker died (out of memory?)")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def close(self) -> None:
        self._process.kill()
        with self._process:
            pass


class MathChecker:
    """A pool of workers; safe to call from several threads.

    Args:
        workers: how many questions are answered at once.
        deadline_s: for one question; a worker that takes longer is killed and replaced.
    """

    def __init__(self, workers: int = 2, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # the warmest first
        for _ in range(workers):
            self._idle.put(None)

    def compare(
        self, reference: str, answer: str, *, several: bool = False, unit: str = ""
    ) -> Comparison:
        """Whether two pieces of LaTeX are equal (`equality.Reference`).

        An answer over which the worker is lost is not equal: it was readable to nobody in time.
        """
        question: dict[str, object] = {
            "reference": reference, "answer": answer, "several": several, "unit": unit,
        }  # fmt: skip
        failure: Comparison | None = None
        for _ in range(2):  # a worker may have been ended by who knows whom: once is no proof
            worker = self._idle.get()
            try:
                worker = worker or _Worker()
                return worker.ask(question, self._deadline_s)
            except (_Failure, OSError, ValueError) as e:
                failure = Comparison(
                    False if worker is not None and worker.over_answer else None, str(e)
                )
                if worker is not None:
                    worker.close()
                    worker = None
                if not isinstance(e, _Died):
                    break
            except BaseException:  # interrupted in between: question and answer are out of step
                if worker is not None:
                    worker.close()
                    worker = None
                raise
            finally:
                self._idle.put(worker)
        assert failure is not None
        return failure

    def close(self) -> None:
        """End all workers that are not at work."""
        while True:
            try:
                worker = self._idle.get_nowait()
            except queue.Empty:
                return
            if worker is not None:
                worker.close()


@functools.cache
def _shared() -> MathChecker:
    checker = MathChecker()
    atexit.register(checker.close)
    return checker


@functools.lru_cache(maxsize=10_000)
def compare(reference: str, answer: str, *, several: bool = False, unit: str = "") -> Comparison:
    """`MathChecker.compare` by the pool that this process shares, each pair asked once."""
    return _shared().compare(reference, answer, several=several, unit=unit)
