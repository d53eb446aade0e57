"""Checkpoints written tensor by tensor; a folder or file appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from statewise.errors import CheckpointError
from statewise.model.formats.files import INDEX, WEIGHTS
from statewise.records import write_json

MAX_SHARD_BYTES = 5_000_000_000
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`, which takes its place when the block has ended well.

    What the block makes, a file or a folder, is flushed to the disk before. If the block fails,
    nothing is kept.

    Raises:
        CheckpointError: something is at `target` already, or the disk refused.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(
            f"{target}: exists already and is not overwritten; move it away or choose another name"
        )
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)  # of a writer that was killed
        yield temporary
        inside = list(temporary.iterdir()) if temporary.is_dir() else []
        for path in (*inside, temporary):
            flush(path)
        if not temporary.is_dir() and target.is_dir():
            target.rmdir()  # empty, as was seen above
        os.rename(temporary, target)
        flush(target.parent)
    except OSError as e:
        raise CheckpointError(f"{target}: could not be written, nothing was kept ({e})") from None
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_safetensors(
    folder: Path,
    planned: Sequence[Planned],
    read: Callable[[str], Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors into a folder: one file, or shards and their index.

    One tensor is held at a time: headers say all sizes before any data.

    Args:
        folder: where; exists.
        planned: names, shapes and dtypes, in the order in which `read` shall be asked.
        read: a tensor by name, of the planned shape and dtype.
        max_shard_bytes: data of one file, at most (a tensor above it has a file of its own).
    """
    shards: list[list[Planned]] = [[]]
    for one in planned:
        if shards[-1] and sum(p.nbytes for p in shards[-1]) + one.nbytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(one)
    if len(shards) == 1:
        _write_file(folder / WEIGHTS, shards[0], read)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, read)
        weight_map |= {one.name: name for one in shard}
    total = {"total_size": sum(one.nbytes for one in planned)}
    write_json(folder / INDEX, {"metadata": total, "weight_map": weight_map})


def _write_file(path: Path, planned: Sequence[Planned], read: Callable[[str], Tensor]) -> None:
    """A safetensors file: length of the header, header, data without gaps."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for one in planned:
        end = at + one.nbytes
        header[one.name] = {
            "dtype": _NAMES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)  # data begins where a cache line does
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for one in planned:
            tensor = read(one.name)
            assert (tuple(tensor.shape), tensor.dtype) == (one.shape, one.dtype), one.name
            f.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
