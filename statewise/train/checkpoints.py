"""Checkpoints of a training, in one form for every engine and number of processes.

    phase-00-step-00000040/
        part-00001-of-00002.safetensors   weights and moments, whole tensors, float32
        part-00002-of-00002.safetensors   a process each writes those that are its turn
        training.json                     how far it is, and of each tensor its part and checksum

A tensor is whole whatever engine held it in pieces, so that what two processes under ZeRO began,
one process without may finish. The folder appears when everything is in it. Nothing is pickled
(`docs/decisions/0026-engines-and-checkpoints.md`).
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from statewise.errors import CheckpointError
from statewise.records import write_json

TRAINING = "training.json"


@dataclass(frozen=True, slots=True)
class Rank:
    """This process among those that train together.

    Attributes:
        index: from 0.
        world: how many there are.
        wait: returns when every process has called it.
    """

    index: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a training's folder."""
    return sorted((folder / "checkpoints").glob("phase-*"), reverse=True)


def write(
    path: Path,
    tensors: Iterable[tuple[str, Tensor]],
    state: Mapping[str, Any],
    rank: Rank,
) -> None:
    """Write a checkpoint; every process calls it, and it appears whole or not at all.

    Args:
        path: where it shall be, seen by all processes; nothing is there yet.
        tensors: whole tensors by name, the same ones in the same order in every process. They are
            taken one by one, so that no process ever holds more than its own part.
        state: further entries for `training.json`, JSON values.
        rank: this process.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    if rank.index == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    rank.wait()
    mine: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    for i, (name, tensor) in enumerate(tensors):
        where[name] = _part(i % rank.world, rank.world)
        if i % rank.world == rank.index:
            mine[name] = tensor.detach().to("cpu", copy=rank.world > 1).contiguous()
    file = temporary / _part(rank.index, rank.world)
    save_file(mine, file)
    _to_disk(file)
    sums = {name: _checksum(tensor) for name, tensor in mine.items()}
    write_json(temporary / f"{file.stem}.sums.json", sums)
    rank.wait()
    if rank.index == 0:
        checksums: dict[str, int] = {}
        for other in temporary.glob("*.sums.json"):
            checksums |= json.loads(other.read_text())
            other.unlink()
        described = {n: {"part": p, "crc32": checksums[n]} for n, p in where.items()}
        write_json(temporary / TRAINING, {**state, "tensors": described})
        os.replace(temporary, path)
    rank.wait()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        path: its folder.
        state: the entries of `training.json`.
    """

    path: Path
    state: dict[str, Any]

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], Tensor | None]]:
        """A tensor by its name, None where there is none of it, while the context lasts."""
        described = self.state["tensors"]
        with ExitStack() as stack:
            parts = {
                part: stack.enter_context(safe_open(self.path / part, framework="pt"))
                for part in sorted({d["part"] for d in described.values()})
            }

            def tensor(name: str) -> Tensor | None:
                if name not in described:
                    return None
                whole: Tensor = parts[described[name]["part"]].get_tensor(name)
                return whole

            yield tensor


def read(path: Path, rank: Rank) -> Checkpoint:
    """Open a checkpoint, and hold this process's share of its tensors against their checksums.

    Raises:
        CheckpointError: something in it is missing or is not what was written; it says what.
    """
    try:
        found = Checkpoint(path, json.loads((path / TRAINING).read_text()))
        with found.opened() as tensors:
            for name in list(found.state["tensors"])[rank.index :: rank.world]:
                tensor = tensors(name)
                assert tensor is not None
                if _checksum(tensor) != found.state["tensors"][name]["crc32"]:
                    raise CheckpointError(f"{path}: the tensor {name} is not what was written")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise CheckpointError(f"{path}: {e!r}") from e
    return found


def put_aside(path: Path) -> Path:
    """Take a checkpoint that cannot be read out of the way; where it is now."""
    aside = path.with_name(f"broken-{path.name}")
    for number in count(2):
        if not aside.exists():
            break
        aside = path.with_name(f"broken-{path.name}-{number}")
    path.rename(aside)
    return aside


def let_go(folder: Path, keep: int) -> None:
    """Delete all but the newest checkpoints, and what a kill left of one that was being written."""
    for old in newest_first(folder)[keep:]:
        shutil.rmtree(old)
    for torn in (folder / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(torn, ignore_errors=True)


def _part(index: int, world: int) -> str:
    return f"part-{index + 1:05d}-of-{world:05d}.safetensors"


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _to_disk(file: Path) -> None:
    with file.open("rb") as f:
        os.fsync(f.fileno())
