"""A process that has imported everything and forks a child for each command it is given.

One JSON object a line on standard input, one on standard output; see `small_run.Forker`.
"""

import ctypes
import importlib
import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from statewise.cli import main

# Once, for all children: what the stages import when they do their work.
for name in (
    "bench", "engine.slots.cpu", "model.cpu", "pipeline.asking", "pipeline.gather",
    "pipeline.samplers", "pipeline.training", "synth.imports", "synth.workbook",
):  # fmt: skip
    importlib.import_module(f"statewise.{name}")

CLONE_NEWNS, CLONE_NEWUSER, MS_REMOUNT, MS_PRIVATE, MS_REC = 0x20000, 0x10000000, 32, 1 << 18, 16384


def signal_at(where, nth, name):
    """Send this process a signal just before the nth call of a method."""
    module, _, path = where.partition(":")
    holder, _, method = path.partition(".")
    owner = getattr(importlib.import_module(module), holder)
    original = getattr(owner, method)
    calls = 0

    def counting(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), getattr(signal, name))
        return original(*args, **kwargs)

    setattr(owner, method, counting)


def mount(folder, kibibytes, flags=0):
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={kibibytes}k".encode()
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", flags, options):
        raise OSError(ctypes.get_errno(), "mount")


def enter_namespace():
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount")


def told(argv):
    """Run a command with its output caught."""
    out, err = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = out, err
    try:
        code = main(argv)
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def on_disks(argv, sizes):
    run = Path(argv[argv.index("--out") + 1])
    try:
        enter_namespace()
        mount(run.parent, sizes[0])
    except OSError:
        return None
    found = []
    for size in sizes:
        mount(run.parent, size, MS_REMOUNT)
        result = told(argv)
        result["torn"] = [str(p) for p in run.rglob("*") if p.name.endswith(".tmp")]
        found.append(result)
    found[-1]["report"] = json.loads((run / "report.json").read_text())
    return found


def child(job, answer):
    if job["disk"]:
        result = on_disks(job["argv"], job["disk"])
    else:
        if job["at"]:
            signal_at(job["at"], job["nth"], job["signal"])
        result = told(job["argv"])
    Path(answer).write_text(json.dumps(result))


def serve():
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            answer = Path(folder) / "answer.json"
            answer.unlink(missing_ok=True)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    child(json.loads(line), answer)
                    code = 0
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            if answer.exists():
                result = answer.read_text()
            else:
                result = json.dumps({"code": os.waitstatus_to_exitcode(status)})
            sys.stdout.write(result + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve()
