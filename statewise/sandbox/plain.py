"""No isolation: a program with the user's rights, behind limits alone. Only where it is asked for.

It can read the user's files, use the network and outlive its limits by leaving its session. Its
wall time, processor time, address space, file sizes and output are bounded; its process group is
killed at its end.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from statewise.errors import SandboxError

_BOOT = """
import resource, sys
for name, value in zip(("CPU", "AS", "FSIZE", "CORE"), map(int, sys.argv[2:])):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value + (name == "CPU")))
sys.argv = sys.argv[1:2]
exec(compile(open(sys.argv[0], "rb").read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


class Ended(NamedTuple):
    """How a program ended: `SandboxResult` without names of its own."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    limit_hit: str | None
    wall_s: float


def run_plain(
    python: str,
    program: str,
    stdin: bytes,
    *,
    wall_s: float,
    cpu_s: float,
    address_bytes: int,
    file_bytes: int,
    output_bytes: int,
) -> Ended:
    """Run a program and wait for its end; units as in `Limits`.

    Raises:
        SandboxError: it could not be started.
    """
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        path = Path(place) / "program.py"
        path.write_bytes(program.encode("utf-8", "surrogatepass"))
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        size = max(file_bytes, output_bytes + 1)
        numbers = (max(1, math.ceil(cpu_s)), address_bytes, size, 0)
        command = [python, "-I", "-S", "-B", "-c", _BOOT, str(path), *map(str, numbers)]
        begun = time.monotonic()
        try:
            process = subprocess.Popen(
                command, stdin=given, stdout=out, stderr=err, cwd=place,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            raise SandboxError(f"the program could not be started: {e}") from e
        limit: str | None = None
        try:
            process.wait(wall_s)
        except subprocess.TimeoutExpired:
            limit = "wall"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wall = time.monotonic() - begun
        if limit is None and process.returncode == -signal.SIGXCPU:
            limit = "cpu"
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read(output_bytes + 1))
            if len(texts[-1]) > output_bytes:
                limit = limit or "output"
        code = None if limit else process.returncode
        return Ended(texts[0][:output_bytes], texts[1][:output_bytes], code, limit, wall)
