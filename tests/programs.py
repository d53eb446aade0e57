"""What the tests of the sandbox share: attempts inside it, and a look at what is left outside."""

import textwrap
from pathlib import Path

from statewise import sandbox
from statewise.sandbox import Limits, SandboxResult


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
