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

from statewise.errors import SandboxError
from statewise.sandbox.installation import interpreter
from statewise.sandbox.limits import ADDRESS_SLACK, Limits, SandboxResult

_BOOT = """
import _sitebuiltins, builtins, resource, sys
for name in ("exit", "quit"):  # which come with the site packages that it does without
    setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
for name, value in zip(("CPU", "AS", "FSIZE", "CORE"), map(int, sys.argv[2:])):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value + (name == "CPU")))
sys.argv = sys.argv[1:2]
exec(compile(open(sys.argv[0], "rb").read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


def run_plain(program: str, stdin: bytes, limits: Limits) -> SandboxResult:
    """Run a program and wait for its end. Processes are not counted, nor all files together.

    Raises:
        SandboxError: it could not be started.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "program.py"
        path.write_bytes(program.encode("utf-8", "surrogatepass"))
        entered, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        entered.write(stdin)
        entered.seek(0)
        size = max(limits.file_bytes, limits.output_bytes + 1)
        address = limits.memory_bytes + ADDRESS_SLACK
        numbers = (max(1, math.ceil(limits.cpu_s)), address, size, 0)
        command = [interpreter(), "-I", "-S", "-B", "-c", _BOOT, str(path), *map(str, numbers)]
        begun = time.monotonic()
        try:
            process = subprocess.Popen(
                command, stdin=entered, stdout=out, stderr=err, cwd=folder,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            raise SandboxError(f"the program could not be started: {e}") from e
        hit: str | None = None
        try:
            process.wait(limits.wall_s)
        except subprocess.TimeoutExpired:
            hit = "wall"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wall = time.monotonic() - begun
        if hit is None and process.returncode == -signal.SIGXCPU:
            hit = "cpu"
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read(limits.output_bytes + 1))
            if len(texts[-1]) > limits.output_bytes:
                hit = hit or "output"
        out_text, err_text = (text[: limits.output_bytes] for text in texts)
        code = None if hit else process.returncode
        return SandboxResult(out_text, err_text, code, hit in ("wall", "cpu"), hit, wall)
