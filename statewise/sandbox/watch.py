"""Feeds one confined program, collects what it writes, and ends it at its limits."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from typing import IO

from statewise.errors import SandboxError
from statewise.sandbox.limits import Limits, SandboxResult
from statewise.sandbox.starter import END_S

START_S = 60.0  # for building a jail, on a machine however busy
CHUNK = 1 << 16


class Watch:
    """Feeds one program, collects what it writes, and ends it at its limits."""

    def __init__(
        self,
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
        channel: socket.socket,
        stdin: bytes,
        limits: Limits,
    ) -> None:
        self._stdin, self._stdout, self._stderr = streams
        self._channel = channel
        self._limits = limits
        self._report = b""
        self._input = memoryview(stdin)
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._limit_hit: str | None = None
        self._started: float | None = None
        self._deadline = time.monotonic() + START_S
        self._selector = selectors.DefaultSelector()

    def result(self) -> SandboxResult:
        """Wait for the program's end.

        Raises:
            SandboxError: the jail failed, or did not start or end in time.
        """
        with self._selector:
            self._watch()
        wall_s = time.monotonic() - (self._started or time.monotonic())
        report = self._report.decode(errors="replace")
        lines = [line.partition(" ") for line in report.splitlines()]
        for word, _, rest in lines:
            if word == "error":
                raise SandboxError(rest)
        code: int | None = None
        for word, _, rest in lines:
            if word == "exit":
                number, _, limit = rest.partition(" ")
                code = int(number)
                if limit != "-":
                    self._limit_hit = self._limit_hit or limit
        if self._limit_hit is not None:
            code = None
        elif code is None:
            raise SandboxError("the sandbox ended without a report (was it killed from outside?)")
        return SandboxResult(
            stdout=bytes(self._output["stdout"]),
            stderr=bytes(self._output["stderr"]),
            exit_code=code,
            timed_out=self._limit_hit in ("wall", "cpu"),
            limit_hit=self._limit_hit,
            wall_s=wall_s,
        )

    def _watch(self) -> None:
        for stream in (self._stdin, self._stdout, self._stderr, self._channel):
            os.set_blocking(stream.fileno(), False)
        open_ends = {"stdout", "stderr", "channel"}
        for name, end in (("stdout", self._stdout), ("stderr", self._stderr)):
            self._selector.register(end, selectors.EVENT_READ, name)
        self._selector.register(self._channel, selectors.EVENT_READ, "channel")
        if self._input:
            self._selector.register(self._stdin, selectors.EVENT_WRITE, "stdin")
        else:
            self._stdin.close()
        while open_ends:
            for key, _ in self._selector.select(max(0.0, self._deadline - time.monotonic())):
                if key.data == "stdin":
                    self._feed(self._stdin)
                elif not self._read(key.fd, key.data):
                    self._selector.unregister(key.fileobj)
                    open_ends.remove(key.data)
            if time.monotonic() >= self._deadline:
                if self._limit_hit is not None or self._started is None:
                    raise SandboxError("the sandbox did not start or end in time; it was killed")
                self._end("wall")

    def _feed(self, pipe: IO[bytes]) -> None:
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program ended, or closed its input
            self._input = self._input[:0]
        if not self._input:
            self._selector.unregister(pipe)
            pipe.close()

    def _read(self, fd: int, name: str) -> bool:
        """Take what is there; False at the end of the stream."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        except ConnectionResetError:  # the launcher ended with settings unread
            return False
        if not data:
            return False
        if name == "channel":
            self._report += data
            if self._started is None and self._report.startswith(b"started\n"):
                self._started = time.monotonic()
                self._deadline = self._started + self._limits.wall_s
            return True
        written = self._output[name]
        written += data[: self._limits.output_bytes - len(written) + 1]
        if len(written) > self._limits.output_bytes:
            del written[self._limits.output_bytes :]
            self._end("output")
        return True

    def _end(self, limit: str) -> None:
        if self._limit_hit is None:
            self._limit_hit = limit
            self._deadline = time.monotonic() + END_S
            with contextlib.suppress(OSError):
                self._channel.send(b"k")
