"""Runs programs that nobody has vouched for: a model wrote them.

A program is Python source. It runs in processes of its own, behind Linux namespaces, a system call
filter and resource limits; nothing but bytes goes in (standard input) and comes out (standard
output and error, an exit code). Where the kernel forbids namespaces, Landlock and a stricter filter
stand in their place; where it has neither, `run` raises `SandboxError`, unless `without_isolation`
was called (`--sandbox none`): then programs have the user's rights. `isolation` says which it is.

Covered by namespaces, with a test for each line in `tests/test_sandbox.py`:

- no network: no socket but a Unix one, and no interface behind it;
- no view of the user's files: the root holds the Python installation without its site packages
  and the system's libraries, read-only, and an empty /tmp of limited size that vanishes with the
  program;
- no view of the environment, of other processes, or of descriptors of this process;
- no writing outside /tmp;
- no rights: user "nobody", no capabilities, no new namespaces, mounts, tracing or device nodes;
- limits on wall time, processor time, memory (of one process and of all together), number of
  processes and threads, size of a file, bytes of output;
- everything the program started ends with it, or with the deadline, whatever it ignores, and
  also when this process is killed;
- exit code, output and error arrive as they are, as bytes.

Landlock (a test for each line in `tests/test_landlock.py`) differs in this:

- a program is one process: it may start threads, and nothing else;
- it can open no file but those above and its own folder's, and no installed package's; that other
  files and processes exist, with their sizes and owners, it can find out;
- no socket at all, no signal to anybody, no change of a file's mode, owner, times or attributes, no
  lease or lock on it; in its folder, /tmp's stand-in, no file can be removed or renamed;
- it has the user's name, and no capability;
- the number of threads, and files and bytes in the folder, are sampled as memory is.

Not covered by either: flaws of the Linux kernel itself; how loudly a program uses the processor
within its limits (use few at once); timing side channels; memory held by the kernel on a program's
behalf (pipes, page tables), which is only bounded by the number of processes. Memory over all
processes is sampled every 20 ms, so a burst may pass the limit by up to 256 MiB a process before
the kill.

Needs Linux on x86_64 or aarch64: 5.12 or newer with user namespaces permitted (or root), or 6.2 or
newer with Landlock.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import marshal
import math
import os
import resource
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from statewise.errors import SandboxError
from statewise.sandbox.plain import run_plain

_JAIL = Path(__file__).with_name("jail.py")
_START_S = 60.0  # for building a jail, on a machine however busy
_END_S = 20.0  # for its end after the kill
_SLACK = 256 << 20  # address space beyond memory that is used: libraries, thread stacks
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Bytes are bytes, times are seconds."""

    wall_s: float = 10.0
    cpu_s: float = 10.0  # of one process; rounded up to whole seconds
    memory_bytes: int = 512 << 20  # of all processes together
    processes: int = 16  # threads count
    file_bytes: int = 16 << 20  # of one file
    tmp_bytes: int = 64 << 20  # of all files
    output_bytes: int = 1 << 20  # of standard output, and of standard error


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended.

    Attributes:
        stdout, stderr: what it wrote, cut at `Limits.output_bytes` each.
        exit_code: minus the signal's number if a signal ended it; None if it was killed here.
        timed_out: wall or processor time ran out.
        limit_hit: the limit that ended it, if one did: "wall", "cpu", "memory", "output"; under
            Landlock also "processes" or "files".
        wall_s: from the program's start to its end.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    timed_out: bool
    limit_hit: str | None
    wall_s: float


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
            result = _confined(kind, "print(6 * 7)", b"", Limits())
        except SandboxError as e:
            refused.append(f"{kind}: {e}")
            continue
        if result.stdout == b"42\n":
            return Isolation(kind, "; ".join([f"{what} ({where})", *refused]))
        refused.append(f"{kind}: a probe program failed: {result}")
    return Isolation("none", "; ".join(refused))


def run(program: str, *, stdin: bytes = b"", limits: Limits | None = None) -> SandboxResult:
    """Run a Python program in the sandbox and wait for its end.

    May be called from several threads at once.

    Args:
        program: Python source.
        stdin: all of the program's standard input.
        limits: what it may use; the defaults of `Limits` otherwise.

    Returns:
        What it wrote and how it ended. A program that fails is a result, not an error.

    Raises:
        SandboxError: this machine offers no isolation, or the sandbox itself failed.
    """
    limits = limits or Limits()
    if _given_up:
        ended = run_plain(
            _python(),
            program,
            stdin,
            wall_s=limits.wall_s,
            cpu_s=limits.cpu_s,
            address_bytes=limits.memory_bytes + _SLACK,
            file_bytes=limits.file_bytes,
            output_bytes=limits.output_bytes,
        )
        out, err, code, hit, wall_s = ended
        return SandboxResult(out, err, code, hit in ("wall", "cpu"), hit, wall_s)
    if sys.platform != "linux":
        raise SandboxError(f"programs can be isolated on Linux only, not on {sys.platform}")
    found = isolation()
    if found.kind == "none":
        raise SandboxError(
            f"programs cannot be isolated here: {found.detail}. The sandbox needs unprivileged "
            "user namespaces (Linux 5.12) or Landlock (Linux 6.2); a container or a security "
            "profile may forbid them"
        )
    return _confined(found.kind, program, stdin, limits)


def _confined(kind: str, program: str, stdin: bytes, limits: Limits) -> SandboxResult:
    with contextlib.ExitStack() as stack:
        folder = ""
        if kind == "landlock":
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        channel, theirs = socket.socketpair()
        stack.enter_context(channel)  # closed at an error or Ctrl-C: the launcher ends everything
        with theirs:
            streams = _starter().launch(theirs.fileno())
        for stream in streams:
            stack.enter_context(stream)
        ends: tuple[IO[bytes] | socket.socket, ...] = (channel, *streams)
        _open.update(ends)
        stack.callback(_open.difference_update, ends)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            channel.sendall(_settings(program, limits, os.path.realpath(folder) if folder else ""))
        return _Watch(streams, channel, stdin, limits).result()


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


class _Starter:
    """A process that has Python started already, and forks for each program."""

    def __init__(self, script: Path) -> None:
        self.script, self._owner = script, (os.geteuid(), os.getegid())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [_python(), "-I", "-S", "-B", str(script), str(theirs.fileno())],
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
            self._process.wait(_END_S)

    def forget(self) -> None:
        """In a fork of this process: it is the parent's."""
        self._control.close()
        self._process.returncode = 0  # nothing to wait for


_starting = threading.Lock()
_started: _Starter | None = None
_open: set[IO[bytes] | socket.socket] = set()  # ends of programs under way


def _after_fork() -> None:
    """A fork has no programs under way, and must not hold their streams open."""
    global _starting, _started
    _starting = threading.Lock()
    for end in list(_open):
        end.close()
    _open.clear()
    if _started is not None:
        _started.forget()
        _started = None


os.register_at_fork(after_in_child=_after_fork)


def _starter() -> _Starter:
    global _started
    with _starting:
        if _started is None or _started.lost() or _started.script != _JAIL:
            if _started is not None:
                _started.close()
            _started = _Starter(_JAIL)
            atexit.register(_started.close)
        return _started


class _Watch:
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
        self._deadline = time.monotonic() + _START_S
        self._selector = selectors.DefaultSelector()

    def result(self) -> SandboxResult:
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
            self._input = self._input[os.write(pipe.fileno(), self._input[:_CHUNK]) :]
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
            data = os.read(fd, _CHUNK)
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
        kept = self._output[name]
        kept += data[: self._limits.output_bytes - len(kept) + 1]
        if len(kept) > self._limits.output_bytes:
            del kept[self._limits.output_bytes :]
            self._end("output")
        return True

    def _end(self, limit: str) -> None:
        if self._limit_hit is None:
            self._limit_hit = limit
            self._deadline = time.monotonic() + _END_S
            with contextlib.suppress(OSError):
                self._channel.send(b"k")


def _settings(program: str, limits: Limits, folder: str) -> bytes:
    """What a launcher reads. A folder of the host's means Landlock, none means namespaces."""
    cpu_s = max(1, math.ceil(limits.cpu_s))
    settings = {
        "program": program.encode("utf-8", "surrogatepass"),
        "python": _python(),
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
        "bind": _shown(),
        "hide": _hidden(),
        "tmp": f"size={limits.tmp_bytes},nr_inodes=4096",
        "cpu_s": cpu_s,
        "memory": limits.memory_bytes,
        "threads": limits.processes,
        "stored": limits.tmp_bytes,
        "rlimits": [
            (resource.RLIMIT_CPU, cpu_s),
            (resource.RLIMIT_AS, limits.memory_bytes + _SLACK),
            (resource.RLIMIT_FSIZE, limits.file_bytes),
            # Process 1 counts too. Without a user namespace all of the user's processes would.
            *([] if folder else [(resource.RLIMIT_NPROC, limits.processes + 1)]),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 1),  # 0 would still start a program that takes core dumps
            (resource.RLIMIT_SIGPENDING, 64),
            (resource.RLIMIT_MEMLOCK, 0),
        ],
    }
    data = marshal.dumps(settings)
    return struct.pack("Q", len(data)) + data


@functools.cache
def _python() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def _shown() -> list[str]:
    """The paths a program can see: the interpreter, its library, and what the loader needs."""
    prefixes = {os.path.realpath(p) for p in (sys.base_prefix, sys.base_exec_prefix)}
    paths = [_python(), "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    paths += [os.path.join(p, lib) for p in sorted(prefixes) for lib in ("lib", "lib64")]
    if _python().startswith("/nix/"):
        paths.append("/nix/store")
    return [p for p in dict.fromkeys(paths) if os.path.lexists(p)]


@functools.cache
def _hidden() -> list[str]:
    """Folders of installed packages: a program's result must not depend on them."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = []
    for prefix in dict.fromkeys((os.path.realpath(sys.base_prefix), "/usr", "/usr/local")):
        for lib in ("lib", "lib64"):
            for folder in (version, "python3"):
                for name in ("site-packages", "dist-packages"):
                    path = os.path.join(prefix, lib, folder, name)
                    if os.path.isdir(path) and os.path.realpath(path) == path:
                        found.append(path)
    return found
