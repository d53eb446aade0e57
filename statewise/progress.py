"""What a person sees while long work runs: rate, time left, and the numbers that matter.

On a terminal a live bar; otherwise (a log file, CI) a plain line every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0


class Task:
    """One piece of long work; its size is known, or None."""

    def __init__(self, name: str, total: float | None, unit: str, stream: TextIO) -> None:
        self.name, self.unit = name, unit
        self.total = None if total is None else max(total, 1e-9)
        self.done = 0.0
        self._begun_at = self._told_at = time.monotonic()
        self._first: float | None = None
        self._stream = stream
        self._bar: Progress | None = None
        console = Console(file=stream)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.fields[rate]} {task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._id = self._bar.add_task(name, total=self.total, rate="", note="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Units a second since the task's first report (work done before a resume not counted)."""
        elapsed = time.monotonic() - self._begun_at
        return (self.done - (self._first or 0.0)) / elapsed if elapsed > 0 else 0.0

    def start_at(self, done: float) -> None:
        """Say how much was already done when the task began (after a resume)."""
        self.done = self._first = done

    def update(self, done: float, note: str = "") -> None:
        """Report how much is done; `note` holds the numbers that matter now."""
        self.done = done
        rate = (
            f"{self.rate:,.0f} {self.unit}/s"
            if self.rate >= 10
            else f"{self.rate:.1f} {self.unit}/s"
        )
        if self._bar is not None:
            self._bar.update(self._id, completed=done, rate=rate, note=note)
            return
        now = time.monotonic()
        if now - self._told_at >= PLAIN_EVERY_S:
            self._told_at = now
            if self.total is None:
                line = f"  {self.name}: {done:,.0f} {self.unit}  {rate}  {note}\n"
            else:
                left = (self.total - done) / self.rate if self.rate > 0 else float("inf")
                share = 100 * done / self.total
                line = f"  {self.name}: {share:3.0f} %  {rate}  {note}  {left:.0f} s left\n"
            self._stream.write(line)
            self._stream.flush()

    def advance(self, note: str = "") -> None:
        """Report one more unit."""
        self.update(self.done + 1, note)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def task(
    name: str, total: float | None, unit: str = "", stream: TextIO | None = None
) -> Iterator[Task]:
    """Show a task's progress on standard error (or `stream`) while the block runs."""
    shown = Task(name, total, unit, stream or sys.stderr)
    try:
        yield shown
    finally:
        shown.close()
