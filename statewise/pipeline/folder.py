"""A run's folder: which stages are done, from what inputs, and nobody else at work in it."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from statewise.errors import DataError, RunError
from statewise.records import read_json, write_atomically, write_json

STAGES = ("synth", "train", "eval", "compare", "bench", "report")


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
            RunError: another process works in it, or it is somebody else's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "run.json").exists():
            strangers = [name for name in STAGES if (self.path / name).exists()]
            if strangers:
                raise RunError(
                    f"{self.path}: holds {strangers[0]!r} but no run.json, so it is not a run "
                    "folder; choose another --out"
                )
        with (self.path / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path}: another process is at work in this run folder; wait for it, or "
                    "choose another --out"
                ) from None
            self._sweep()
            yield

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
        except (DataError, AttributeError, KeyError, TypeError, ValueError) as e:
            raise RunError(
                f"{path}: not what a run wrote ({type(e).__name__}: {e}); it alone knows what the "
                "folder was made from: move the folder away, or choose another --out"
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
        known, own = self.stages().get(name), self.path / name
        if known is not None and known["inputs"] == inputs and known["done"] and own.is_dir():
            yield False
            return
        if known is not None and known["inputs"] != inputs:
            if own.exists():
                own.rename(_aside(own))
            known = None
        own.mkdir(exist_ok=True)
        before = known["wall_s"] if known is not None else 0.0
        began = time.monotonic()
        self._put(name, {"inputs": inputs, "done": False, "wall_s": before})
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
