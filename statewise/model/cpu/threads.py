"""Compiled kernels on torch's own OpenMP threads.

A second pool of threads beside torch's would fight it for the cores: a thread of torch that has
run out of work spins for a while before it sleeps. So a kernel is a C function that Numba has
compiled, and it is started by the OpenMP runtime that torch itself has loaded, on the threads that
have just finished torch's last operation. A parallel region costs about a microsecond.

Where torch has brought no GNU OpenMP (macOS, Windows), kernels run in the calling thread alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import cfunc, njit, types


class _Runtime:
    """The functions of libgomp, from the copy that torch uses."""

    def __init__(self, path: str | None) -> None:
        self.parallel: Any = None
        self.team = (0, 0, 0)
        if path is not None:
            lib = ctypes.CDLL(path)
            self.parallel = lib.GOMP_parallel
            self.parallel.restype = None
            self.parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_uint] * 2
            functions = (lib.sched_yield, lib.omp_get_thread_num, lib.omp_get_num_threads)
            give_way, number, count = (ctypes.cast(f, ctypes.c_void_p).value for f in functions)
            self.team = (give_way or 0, number or 0, count or 0)


@cache
def _runtime() -> _Runtime:
    folder = Path(torch.__file__).parent / "lib"
    libraries = sorted(str(p) for p in folder.glob("libgomp*.so*"))
    try:
        return _Runtime(libraries[0] if libraries else None)
    except (OSError, AttributeError):
        return _Runtime(None)


def routine(function: Any) -> Any:
    """Decorator: compile a function of int64 numbers and addresses that kernels call.

    It is compiled once, and kept as a kernel is. Left to itself, Numba would do so anew for each
    integer constant that the function is called with; only where such a constant is a loop's length
    is that worth its time.
    """
    arguments = (types.int64,) * len(inspect.signature(function).parameters)
    with _kept(function):
        return njit(arguments, cache=True, error_model="numpy")(function)


def piece(function: Any) -> Any:
    """Decorator: a function that stands for itself to the reader only: one place calls it.

    It becomes a part of its caller. Compiled apart, it would be optimised once more than need be.
    """
    return njit(error_model="numpy", inline="always")(function)


def kernel(function: Any) -> Any:
    """Decorator: compile a function of one int64, the address of its arguments, for `run`."""
    with _kept(function):
        return cfunc(types.void(types.int64), cache=True, error_model="numpy")(function)


@contextmanager
def _kept(function: Any) -> Iterator[None]:
    """Let what is compiled of a function be kept on disk, and be taken from there.

    Numba looks at a function's own file only, and only at its time and size, to see whether it has
    changed; so the folder is named by the content of that file and of all files of this package,
    where everything is that a kernel calls. None can be stale. Of several processes that start
    together one compiles and the others wait for it.
    """
    before = numba.config.CACHE_DIR
    sources = {*Path(__file__).parent.glob("*.py"), Path(function.__code__.co_filename)}
    folder = numba.config.CACHE_DIR = _cache_dir(tuple(sorted(sources)))
    try:
        with _alone(folder):
            yield
    finally:
        numba.config.CACHE_DIR = before


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Hold the lock of a folder; where there can be none, go on without: it only saves work."""
    lock = None
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            lock = open(os.path.join(folder, ".lock"), "a")  # noqa: SIM115
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


@cache
def _cache_dir(sources: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "statewise" / digest.hexdigest()[:16]
    if not folder.exists() and sys.stderr.isatty():
        sys.stderr.write("compiling kernels for this processor, once: about 20 s\n")
    return str(folder)


def team() -> tuple[int, int, int]:
    """Addresses of C functions for kernels whose threads wait for one another.

    They give the core to another thread, tell this thread's number, and how many threads there
    really are (fewer than were asked for, where a limit is set). All are 0 where kernels run in one
    thread.
    """
    return _runtime().team


def num_threads() -> int:
    """How many threads a kernel started now will run on."""
    return torch.get_num_threads() if _runtime().parallel is not None else 1


def run(compiled: Any, arguments: np.ndarray) -> None:
    """Run a compiled kernel on all threads; returns when all have finished.

    Args:
        compiled: what `kernel` made. It is called once on every thread.
        arguments: (k,) int64, contiguous: sizes and the addresses of arrays, which the caller keeps
            alive. The first two numbers are overwritten: a ticket counter from which the threads
            draw their work, and the number of threads.
    """
    threads = num_threads()
    arguments[0] = 0
    arguments[1] = threads
    parallel = _runtime().parallel
    if parallel is None or threads == 1:
        compiled.ctypes(arguments.ctypes.data)
    else:
        parallel(compiled.address, arguments.ctypes.data, threads, 0)
