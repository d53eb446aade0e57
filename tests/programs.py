"""What the tests of the sandbox share: attempts inside it, and a look at what is left outside."""

import os
import signal
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from statewise import sandbox
from statewise.errors import SandboxError
from statewise.sandbox import Limits, SandboxResult, starter


def run(program: str, stdin: bytes = b"", limits: Limits | None = None) -> SandboxResult:
    return sandbox.run(textwrap.dedent(program), stdin=stdin, limits=limits)


def attempts(program: str, *expressions: str) -> list[str]:
    """What became of each expression in the sandbox: "done", or the name of the error."""
    lines = [program]
    for e in expressions:
        lines.append(
            f"try:\n    {e}\n    print('done')\nexcept Exception as e:\n    print(type(e).__name__)"
        )
    result = sandbox.run("\n".join(lines))
    assert result.exit_code == 0, result.stderr.decode()
    return result.stdout.decode().split()


def processes_with(marker: str) -> list[str]:
    """The processes that have this in their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
    return found


def launchers() -> list[str]:
    """Processes of this sandbox but the starter."""
    parent = str(starter._started._process.pid)
    pids = []
    for pid in processes_with(str(starter.JAIL) + "\0"):
        status = Path(f"/proc/{pid}/status")
        if status.exists() and f"PPid:\t{parent}\n" in status.read_text():
            pids.append(pid)
    return pids


def ends_with_its_launcher(marker: str) -> bool:
    """Whether a program ends where its launcher is killed, and the one who waits is told."""
    program = f"""
    import os, sys
    sleeping = [sys.executable, '-c', 'import time; time.sleep(60)', {marker!r}]
    os.execve(sys.executable, sleeping, {{}})
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, program, limits=Limits(wall_s=15))
        until = time.monotonic() + 20
        while not processes_with("sleep(60)\0" + marker) and time.monotonic() < until:
            time.sleep(0.02)
        assert processes_with("sleep(60)\0" + marker)
        for pid in launchers():
            os.kill(int(pid), signal.SIGKILL)
        told = isinstance(running.exception(timeout=20), SandboxError)
    while processes_with("sleep(60)\0" + marker) and time.monotonic() < until:
        time.sleep(0.02)
    return told and not processes_with("sleep(60)\0" + marker)


# What the kernel and Python have been told of a program.
SETTINGS = """
import json, os, resource, sys
limits = {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n)) for n in
          ("AS", "CORE", "CPU", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "SIGPENDING", "STACK")}
flags = [sys.flags.isolated, sys.flags.dont_write_bytecode, sys.argv]
print(json.dumps({"limits": limits, "environ": dict(os.environ), "flags": flags}))
"""
LIMITED = Limits(
    cpu_s=2.5, memory_bytes=300 << 20, processes=7, file_bytes=1000, stack_bytes=4 << 20
)
LIMITS_TOLD = {
    "AS": [(300 + 256) << 20] * 2,
    "CORE": [1, 1],
    "CPU": [3, 3],
    "FSIZE": [1000, 1000],
    "MEMLOCK": [0, 0],
    "NOFILE": [64, 64],
    "SIGPENDING": [64, 64],
}


# A thread takes 300 MiB when the process' first thread has ended.
HELD_BY_A_THREAD = """
import ctypes, os, threading, time
def hold():
    time.sleep(0.3)
    kept = bytearray(b'x') * (300 << 20)
    time.sleep(60)
threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
"""
