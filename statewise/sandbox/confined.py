"""Runs a program in a jail: what is asked of `jail.py`, from the starter to the result."""

from __future__ import annotations

import contextlib
import marshal
import math
import os
import resource
import socket
import struct
import tempfile
from typing import IO

from statewise.sandbox.installation import Package, hidden, interpreter, shown
from statewise.sandbox.limits import ADDRESS_SLACK, Limits, SandboxResult
from statewise.sandbox.starter import open_ends, starter
from statewise.sandbox.watch import Watch


def run_confined(
    kind: str, program: str, stdin: bytes, limits: Limits, packages: tuple[Package, ...] = ()
) -> SandboxResult:
    """Run a program in a jail of a kind, "namespaces" or "landlock", and wait for its end.

    Raises:
        SandboxError: the kernel forbids such a jail, or the sandbox itself failed.
    """
    with contextlib.ExitStack() as stack:
        folder = ""
        if kind == "landlock":
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        channel, theirs = socket.socketpair()
        stack.enter_context(channel)  # closed at an error or Ctrl-C: the launcher ends everything
        with theirs:
            streams = starter().launch(theirs.fileno())
        for stream in streams:
            stack.enter_context(stream)
        ends: tuple[IO[bytes] | socket.socket, ...] = (channel, *streams)
        open_ends.update(ends)
        stack.callback(open_ends.difference_update, ends)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            path = os.path.realpath(folder) if folder else ""
            channel.sendall(_settings(program, limits, path, packages))
        return Watch(streams, channel, stdin, limits).result()


def _settings(program: str, limits: Limits, folder: str, packages: tuple[Package, ...]) -> bytes:
    """What a launcher reads. A folder of the host's means Landlock, none means namespaces."""
    cpu_s = max(1, math.ceil(limits.cpu_s))
    most_stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = limits.stack_bytes
    if most_stack != resource.RLIM_INFINITY:
        stack = min(stack, most_stack)
    settings = {
        "program": program.encode("utf-8", "surrogatepass"),
        "python": interpreter(),
        "folder": folder,
        "flags": ["-I", "-B", f"{folder}/program.py"],
        "environ": {
            "PATH": "/usr/bin",
            "HOME": folder or "/tmp",
            **({"TMPDIR": folder} if folder else {}),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",  # one reserves 64 MiB of address space a thread otherwise
        },
        "bind": shown(),
        "hide": hidden(),
        "packages": [folder for p in packages for folder in p.folders],
        "tmp": f"size={limits.tmp_bytes},nr_inodes=4096",
        "cpu_s": cpu_s,
        "memory": limits.memory_bytes,
        "threads": limits.processes,
        "stored": limits.tmp_bytes,
        "rlimits": [
            *(
                (limit, most, most)
                for limit, most in (
                    (resource.RLIMIT_CPU, cpu_s),
                    (resource.RLIMIT_AS, limits.memory_bytes + ADDRESS_SLACK),
                    (resource.RLIMIT_FSIZE, limits.file_bytes),
                    # Process 1 counts too. Without a user namespace all of the user's would.
                    *([] if folder else [(resource.RLIMIT_NPROC, limits.processes + 1)]),
                    (resource.RLIMIT_NOFILE, 64),
                    (
                        resource.RLIMIT_CORE,
                        1,
                    ),  # 0 would still start a program that takes core dumps
                    (resource.RLIMIT_SIGPENDING, 64),
                    (resource.RLIMIT_MEMLOCK, 0),
                )
            ),
            (resource.RLIMIT_STACK, stack, most_stack),  # programs ask for more, within memory
        ],
    }
    data = marshal.dumps(settings)
    return struct.pack("Q", len(data)) + data
