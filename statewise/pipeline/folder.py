"""A run's folder: which stages are done, from what inputs, and nobody else at work in it."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from statewise.errors import DataError, RunError
from statewise.records import read_json, write_atomically, write_json

STAGES = ("synth", "train", "eval", "compare", "bench", "report")

_LOST = (
    "it alone knows what the folder was made from: move the folder away, or choose another --out"
)


class RunFolder:
    """The folder of one run, held by one process at a time.

    `run.json` remembers for each stage a hash of everything it was made from. A stage whose inputs
    are the same is skipped when it is done and resumed when it is not. A stage whose inputs have
    changed starts anew; what it made before is moved aside to `<stage>.old-<n>`, never deleted.

    Args:
        path: the folder; made if need be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder.

        Raises:
            RunError: another process works in it, it is somebody else's, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a")
        except OSError as e:
            raise RunError(
                f"{self.path}: cannot be a run folder ({e.strerror or e}); choose another --out"
            ) from None
        with lock:
            self._claim(lock)
            self._sweep()
            yield

    def _claim(self, lock: IO[str]) -> None:
        if not (self.path / "run.json").exists():
            strangers = [name for name in STAGES if (self.path / name).exists()]
            if strangers:
                raise RunError(
                    f"{self.path}: holds {strangers[0]!r} but no run.json, so it is not a run "
                    "folder; choose another --out"
                )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{self.path}: another process is at work in this run folder; wait for it, or "
                "choose another --out"
            ) from None

    def _sweep(self) -> None:
        """Remove what a killed process was writing when it died."""
        torn = list(self.path.glob(".*.tmp"))
        for name in (*STAGES, "figures"):
            torn += (self.path / name).rglob(".*.tmp")
        for path in torn:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def stages(self) -> dict[str, dict[str, Any]]:
        """What `run.json` says of each stage: inputs, done, wall_s."""
        path = self.path / "run.json"
        if not path.exists():
            return {}
        try:
            stages = read_json(path)["stages"]
            return {
                str(name): {
                    "inputs": str(record["inputs"]),
                    "done": bool(record["done"]),
                    "wall_s": float(record["wall_s"]),
                }
                for name, record in stages.items()
            }
        except DataError as e:
            raise RunError(f"{e}; {_LOST}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise RunError(
                f"{path}: not what a run wrote ({type(e).__name__}: {e}); {_LOST}"
            ) from None

    def _put(self, name: str, record: dict[str, Any]) -> None:
        write_json(self.path / "run.json", {"stages": {**self.stages(), name: record}})

    def set_recipe(self, toml: str) -> None:
        """Keep the resolved recipe; an earlier, different one is kept beside it."""
        path = self.path / "recipe.toml"
        if path.exists() and path.read_text() != toml:
            path.rename(_aside(path))
        write_atomically(path, toml.encode())

    @contextmanager
    def stage(self, name: str, inputs: str) -> Iterator[bool]:
        """Enter a stage.

        Args:
            name: the stage, and its folder.
            inputs: hash of all it is made from.

        Yields:
            Whether there is anything to do. Leaving without an exception marks the stage done.
        """
        own = self.path / name
        known = self.stages().get(name) if own.is_dir() else None  # moved away: from the beginning
        if known is not None and known["inputs"] == inputs and known["done"]:
            yield False
            return
        if known is not None and known["inputs"] != inputs:
            own.rename(_aside(own))
            known = None
        before = known["wall_s"] if known is not None else 0.0
        began = time.monotonic()
        self._put(name, {"inputs": inputs, "done": False, "wall_s": before})
        own.mkdir(exist_ok=True)
        try:
            yield True
        except BaseException:
            spent = before + time.monotonic() - began
            with suppress(OSError):  # a full disk is already on its way to whoever asked
                self._put(name, {"inputs": inputs, "done": False, "wall_s": spent})
            raise
        spent = before + time.monotonic() - began
        self._put(name, {"inputs": inputs, "done": True, "wall_s": spent})


def _aside(path: Path) -> Path:
    n = 1
    while (target := path.with_name(f"{path.name}.old-{n}")).exists():
        n += 1
    return target


def digest(*parts: object) -> str:
    """A hash of some values, by their JSON or their `repr`."""
    text = "\x1f".join(p if isinstance(p, str) else repr(p) for p in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
