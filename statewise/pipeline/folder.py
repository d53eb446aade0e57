"""A run's folder: which stages are done, from what inputs, and nobody else at work in it."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from statewise.config import told
from statewise.errors import DataError, RunError
from statewise.records import (
    file_sha256,
    from_json,
    read_json,
    to_json,
    write_atomically,
    write_json,
)

_LOST = (
    "it alone knows what the folder was made from: move the folder away, or choose another --out"
)


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What `run.json` remembers of a stage: the hash of its inputs, whether it is done, seconds."""

    inputs: str
    done: bool
    wall_s: float


class RunFolder:
    """The folder of one run, held by one process at a time.

    `run.json` remembers for each stage a hash of everything it was made from. A stage whose inputs
    are the same is skipped when it is done and resumed when it is not. A stage whose inputs have
    changed starts anew; what it made before is moved aside to `<stage>.old-<n>`, never deleted.

    Args:
        path: the folder; made if need be.
        stages: names of the folders that stages have in it.
    """

    def __init__(self, path: Path, stages: Collection[str] = ()) -> None:
        self.path = path
        self._names = tuple(stages)

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
            strangers = [name for name in self._names if (self.path / name).exists()]
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
        for name in (*self._names, "figures"):
            torn += (self.path / name).rglob(".*.tmp")
        for path in torn:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def stages(self) -> dict[str, StageRecord]:
        """What `run.json` says of each stage.

        Raises:
            RunError: the file is damaged, or is not what a run wrote.
        """
        path = self.path / "run.json"
        if not path.exists():
            return {}
        try:
            records = read_json(path).get("stages")
            if not isinstance(records, dict):
                raise DataError(f"{path}: not what a run wrote: it has no table of stages")
            return {
                name: from_json(StageRecord, record, f"{path}: stages.{name}")
                for name, record in records.items()
            }
        except DataError as e:
            raise RunError(f"{e}; {_LOST}") from None

    def _put(self, name: str, record: StageRecord) -> None:
        records = {**self.stages(), name: record}
        document = {"stages": {name: to_json(record) for name, record in records.items()}}
        write_json(self.path / "run.json", document)

    def set_recipe(self, toml: str) -> None:
        """Keep the resolved recipe; an earlier, different one is kept beside it."""
        path = self.path / "recipe.toml"
        if path.exists() and path.read_bytes() != toml.encode():
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
        folder = self.path / name
        record = self.stages().get(name) if folder.is_dir() else None  # moved away: from nothing
        if record is not None and record.inputs == inputs and record.done:
            yield False
            return
        if record is not None and record.inputs != inputs:
            folder.rename(_aside(folder))
            record = None
        before = record.wall_s if record is not None else 0.0
        began = time.monotonic()
        self._put(name, StageRecord(inputs, done=False, wall_s=before))
        folder.mkdir(exist_ok=True)
        try:
            yield True
        except BaseException:
            spent = before + time.monotonic() - began
            with suppress(OSError):  # a full disk is already on its way to whoever asked
                self._put(name, StageRecord(inputs, done=False, wall_s=spent))
            raise
        spent = before + time.monotonic() - began
        self._put(name, StageRecord(inputs, done=True, wall_s=spent))


def _aside(path: Path) -> Path:
    n = 1
    while (target := path.with_name(f"{path.name}.old-{n}")).exists():
        n += 1
    return target


def digest(*parts: object) -> str:
    """A hash of some values: strings as they are, others as they are `told`."""
    text = "\x1f".join(p if isinstance(p, str) else told(p) for p in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def content(place: str) -> str:
    """The hash of the files in a local folder; a hub id stands for what it names."""
    folder = Path(place)
    files = sorted(f for f in folder.glob("*") if f.suffix in (".json", ".safetensors"))
    return digest(place, *(file_content(f) for f in files))


def file_content(path: Path) -> str:
    """A file's name and the hash of what is in it; read again only when it has changed."""
    stat = path.stat()
    return _hash_once(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _hash_once(path: Path, size: int, changed_ns: int) -> str:
    return f"{path.name} {file_sha256(path)}"
