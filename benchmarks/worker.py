"""A process in which one contestant lives, and the wire to it.

A question is a line of JSON on standard input, {"do": method, ...arguments}; the answer is one on
standard output. Arrays travel as files in the folder of the model.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# What `statewise` asks of the allocator at its start (`statewise.cli`): large blocks are kept
# instead of being mapped afresh.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class ContestantError(Exception):
    """A contestant failed; the message has the end of what it said."""


class Worker:
    """The other end of the wire.

    Args:
        kind: of contestant: a key of `make`.
        dtype: "fp32", "bf16", "int8" or "q8_0".
        folder: with the model.
        threads: it may use.
        tuned: whether it gets ALLOCATOR.
        root: the checkout whose code it runs.
    """

    def __init__(
        self,
        kind: str,
        dtype: str,
        folder: Path,
        threads: int,
        *,
        tuned: bool = False,
        root: Path = Path(__file__).parents[1],
    ) -> None:
        self.kind, self.dtype, self._folder = kind, dtype, folder
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        command = [sys.executable, "-m", "benchmarks.worker", kind, dtype, str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        environment |= ALLOCATOR if tuned else {}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        paths = [str(root), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
        self._process = subprocess.Popen(
            [*command, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            cwd=root,  # `python -m` looks here first
            text=True,
        )
        self._ready = False

    @property
    def name(self) -> str:
        """Who it is, for people."""
        return f"{self.kind} {self.dtype}"

    def ask(self, do: str, **arguments: Any) -> Any:
        """Put a question and wait for the answer.

        Raises:
            ContestantError: it cannot answer.
        """
        if not self._ready:
            self._receive()
            self._ready = True
        for name, value in arguments.items():
            if isinstance(value, np.ndarray):
                path = self._folder / "question.npy"
                np.save(path, value)
                arguments[name] = {"npy": str(path)}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._receive()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answer = json.loads(line)
        if isinstance(answer, dict) and "failed" in answer:
            raise ContestantError(f"{self.name}: {answer['failed']}")
        if isinstance(answer, dict) and "npz" in answer:
            with np.load(answer["npz"]) as stored:
                arrays = {name: stored[name] for name in stored.files}
            Path(answer["npz"]).unlink()
            return arrays if list(arrays) != ["array"] else arrays["array"]
        return answer

    def _failure(self) -> ContestantError:
        code = self._process.wait()
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()]
        said = lines[-1] if lines else "nothing"
        return ContestantError(f"{self.name}: ended with status {code} and said {said!r}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make(kind: str, dtype: str, folder: Path, threads: int) -> Any:
    """The contestant of that kind."""
    from benchmarks import contestants as c

    if kind.startswith("training "):
        return c.Training(kind.removeprefix("training "), folder, dtype, threads)
    if kind in ("statewise", "definition"):
        return c.Statewise(folder, dtype, threads, plain=kind == "definition")
    kinds = {"transformers": c.Transformers, "llama.cpp": c.LlamaCpp, "bare": c.Bare}
    return kinds[kind](folder, dtype, threads)


def installed(package: str) -> str | None:
    """Its version, if it is installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _answer(contestant: Any, question: dict[str, Any], folder: Path) -> Any:
    from benchmarks.contestants import memory

    do = question.pop("do")
    if do == "peak":
        return memory("VmHWM")
    for name, value in question.items():
        if isinstance(value, dict):
            question[name] = np.load(value["npy"])
    answer = getattr(contestant, do)(**question)
    if isinstance(answer, np.ndarray):
        answer = {"array": answer}
    if isinstance(answer, dict) and all(isinstance(v, np.ndarray) for v in answer.values()):
        path = folder / f"answer-{os.getpid()}.npz"
        np.savez(path, **answer)
        return {"npz": str(path)}
    return answer


def serve(kind: str, dtype: str, folder: Path, threads: int) -> None:
    """Answer questions until there are no more."""
    wire = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for the wire

    def send(answer: Any) -> None:
        wire.write(json.dumps(answer) + "\n")
        wire.flush()

    contestant = make(kind, dtype, folder, threads)
    send("ready")
    for line in sys.stdin:
        try:
            send(_answer(contestant, json.loads(line), folder))
        except Exception as e:  # the other end decides what to do without this contestant
            send({"failed": f"{type(e).__name__}: {str(e).partition(chr(10))[0]}"})


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
