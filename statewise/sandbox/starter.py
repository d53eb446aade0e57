"""The process that forks a launcher for each program, and the streams of those under way."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import IO

from statewise.errors import SandboxError
from statewise.sandbox.installation import interpreter

JAIL = Path(__file__).with_name("jail.py")
END_S = 20.0  # for an end after the kill


class Starter:
    """A process that has Python started already, and forks for each program."""

    def __init__(self, script: Path) -> None:
        self.script, self._owner = script, (os.geteuid(), os.getegid())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [interpreter(), "-I", "-S", "-B", str(script), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as e:
                ours.close()
                raise SandboxError(f"the sandbox could not be started: {e}") from e
        self._control = ours

    def lost(self) -> bool:
        """Whether it ended, or has rights that this process has given up."""
        return self._owner != (os.geteuid(), os.getegid()) or self._process.poll() is not None

    def launch(self, channel: int) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        """Start a launcher; returns our ends of its standard streams."""
        with contextlib.ExitStack() as theirs:
            ends = []
            for ours_reads in (False, True, True):
                read, write = os.pipe()
                theirs.callback(os.close, write if ours_reads else read)
                ends.append((read, write) if ours_reads else (write, read))
            files = [os.fdopen(mine, "rb" if i else "wb", 0) for i, (mine, _) in enumerate(ends)]
            try:
                socket.send_fds(self._control, [b"s"], [*(their for _, their in ends), channel])
            except OSError as e:
                for file in files:
                    file.close()
                raise SandboxError(f"the sandbox's starter was lost ({e})") from e
        stdin, stdout, stderr = files
        return stdin, stdout, stderr

    def close(self) -> None:
        """End it. Programs under way are not touched."""
        self._control.close()  # it ends by itself then; the signal is for one that hangs
        with contextlib.suppress(PermissionError):
            self._process.kill()
            self._process.wait(END_S)

    def forget(self) -> None:
        """In a fork of this process: it is the parent's."""
        self._control.close()
        self._process.returncode = 0  # nothing to wait for


_starting = threading.Lock()
_started: Starter | None = None
open_ends: set[IO[bytes] | socket.socket] = set()  # ends of programs under way


def _after_fork() -> None:
    """A fork has no programs under way, and must not hold their streams open."""
    global _starting, _started
    _starting = threading.Lock()
    for end in list(open_ends):
        end.close()
    open_ends.clear()
    if _started is not None:
        _started.forget()
        _started = None


os.register_at_fork(after_in_child=_after_fork)


def starter() -> Starter:
    """The process's own, started when it is first needed, and again when it was lost.

    Raises:
        SandboxError: it could not be started.
    """
    global _started
    with _starting:
        if _started is None or _started.lost() or _started.script != JAIL:
            if _started is not None:
                _started.close()
            _started = Starter(JAIL)
            atexit.register(_started.close)
        return _started
