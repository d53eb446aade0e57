"""Runs a program behind the best isolation that this machine offers."""

from __future__ import annotations

import functools
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from statewise.errors import SandboxError
from statewise.sandbox.confined import run_confined
from statewise.sandbox.installation import package
from statewise.sandbox.limits import Limits, SandboxResult
from statewise.sandbox.plain import run_plain


class Isolation(NamedTuple):
    """What keeps programs apart on this machine: "namespaces", "landlock" or "none", and why."""

    kind: str
    detail: str


_given_up = False


def without_isolation() -> None:
    """From now on run programs with the user's rights. Say so to the user who asked for it."""
    global _given_up
    _given_up = True


def isolation() -> Isolation:
    """What programs run behind; found out once, by running a small one in each kind."""
    return Isolation("none", "given up by --sandbox none") if _given_up else _offered()


@functools.cache
def _offered() -> Isolation:
    if sys.platform != "linux":
        return Isolation("none", f"programs can be isolated on Linux only, not on {sys.platform}")
    where = f"Linux {os.uname().release}, {os.uname().machine}"
    kinds = {
        "namespaces": "user, mount, process, network and IPC namespaces with a system call filter",
        "landlock": "Landlock with a strict system call filter; one process a program",
    }
    refused = []
    for kind, what in kinds.items():
        try:
            result = run_confined(kind, "print(6 * 7)", b"", Limits())
        except SandboxError as e:
            refused.append(f"{kind}: {e}")
            continue
        if result.stdout == b"42\n":
            return Isolation(kind, "; ".join([f"{what} ({where})", *refused]))
        refused.append(f"{kind}: a probe program failed: {result}")
    return Isolation("none", "; ".join(refused))


def run(
    program: str,
    *,
    stdin: bytes = b"",
    limits: Limits | None = None,
    packages: tuple[str, ...] = (),
) -> SandboxResult:
    """Run a Python program in the sandbox and wait for its end.

    May be called from several threads at once.

    Args:
        program: Python source.
        stdin: all of the program's standard input.
        limits: what it may use; the defaults of `Limits` otherwise.
        packages: installed ones whose files it may read too, each at its own path (`package`),
            which is not where Python looks for modules; what is not installed is left out.

    Returns:
        What it wrote and how it ended. A program that fails is a result, not an error.

    Raises:
        SandboxError: this machine offers no isolation, or the sandbox itself failed.
    """
    limits = limits or Limits()
    if _given_up:
        return run_plain(program, stdin, limits)
    if sys.platform != "linux":
        raise SandboxError(f"programs can be isolated on Linux only, not on {sys.platform}")
    here = isolation()
    if here.kind == "none":
        raise SandboxError(
            f"programs cannot be isolated here: {here.detail}. The sandbox needs unprivileged "
            "user namespaces (Linux 5.12) or Landlock (Linux 6.2); a container or a security "
            "profile may forbid them"
        )
    shown = tuple(found for name in packages if (found := package(name)) is not None)
    return run_confined(here.kind, program, stdin, limits, shown)


def rate(threads: int, seconds: float = 1.0) -> float:
    """How many empty programs run here in a second, so many at once: what starting one costs."""
    ended = [0] * threads
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < until:
            run("")
            ended[number] += 1

    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return sum(ended) / (time.monotonic() - began)
