"""Math-Verify behind processes of its own, so that no answer can hang or swell this one.

Worker processes are started on first need (the import alone costs the better part of a second),
live until this process ends, and are killed and replaced when an answer takes too long. They speak
JSON lines over their standard streams, so nothing is unpickled and a thread may ask as well as the
main program.
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

DEADLINE_S = 6.0
_START_S = 120.0  # a cold disk and a busy machine
_PROGRAM = Path(__file__).with_name("math_worker.py")


class _Failure(Exception):
    """A worker that was lost or too slow; the message is the reason."""


class _Worker:
    def __init__(self) -> None:
        # -P: the worker's folder holds modules whose names must not shadow installed ones.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._pending = b""
        self._ready = False

    def ask(self, reference: str, answer: str, deadline_s: float) -> dict[str, object]:
        """One question, one answer. After a `_Failure` the worker is of no use."""
        if not self._ready:
            self._line(_START_S, "did not start")
            self._ready = True
        question = json.dumps({"reference": reference, "answer": answer}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(question.encode())
        except OSError as e:
            raise _Failure("checker worker was lost") from e
        reply: dict[str, object] = json.loads(self._line(deadline_s, "took too long"))
        return reply

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
                raise _Failure("checker worker died (out of memory?)")
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

    def compare(self, reference: str, answer: str) -> bool | str:
        """Whether two pieces of LaTeX are equal; a string says why that could not be decided."""
        worker = self._idle.get()
        try:
            worker = worker or _Worker()
            reply = worker.ask(reference, answer, self._deadline_s)
        except (_Failure, OSError, ValueError) as e:
            if worker is not None:
                worker.close()
                worker = None
            return str(e)
        except BaseException:  # interrupted between question and answer: the two are out of step
            if worker is not None:
                worker.close()
                worker = None
            raise
        finally:
            self._idle.put(worker)
        equal = reply.get("equal")
        return equal if isinstance(equal, bool) else str(reply.get("error"))

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
def compare(reference: str, answer: str) -> bool | str:
    """`MathChecker.compare` by the pool that this process shares, each pair asked once."""
    return _shared().compare(reference, answer)
