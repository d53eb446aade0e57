"""The files of each layout: where the weights are, and how one tensor at a time is read from them.

Pickles are opened by torch's weights-only loader, which builds tensors and nothing else.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from statewise.errors import CheckpointError
from statewise.model.formats.configs import Layout, layout_of, read_config, read_json_object
from statewise.model.formats.gguf import SUFFIX, open_gguf
from statewise.model.formats.source import Entry, Source

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONSOLIDATED = "consolidated.safetensors"
PICKLE = "pytorch_model.bin"

_FLOAT_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def our_name(stored: str) -> str:
    """`mamba_ssm` has another word for the embedding; Mistral puts all below `model.`."""
    return stored.removeprefix("model.").replace("backbone.embedding.", "backbone.embeddings.")


def open_source(path: str | Path) -> Source:
    """A checkpoint: a folder of any layout, or a GGUF file.

    Raises:
        CheckpointError: it is missing, corrupt, foreign, or its parts do not fit each other; the
            message names file and tensor.
    """
    path = Path(path)
    if path.suffix == SUFFIX and path.is_file():
        return open_gguf(path)
    layout = layout_of(path)
    config = read_config(path)
    where, files, homes = _weight_files(path, layout)
    reader = _Pickle(where) if where.name == PICKLE else _Safetensors(files)
    return Source(config, reader, where, homes)


def _weight_files(folder: Path, layout: Layout) -> tuple[Path, list[Path], dict[str, Path]]:
    """The file that says which tensors there are, the files that hold them, and who holds what."""
    single = folder / (CONSOLIDATED if layout == "mistral" else WEIGHTS)
    if single.is_file():
        return single, [single], {}
    if layout == "mistral":
        raise CheckpointError(f"{single}: no such file; params.json says it should be there")
    index = folder / INDEX
    if index.is_file():
        return index, *_shards(index)
    if layout == "mamba_ssm" and (folder / PICKLE).is_file():
        return folder / PICKLE, [folder / PICKLE], {}
    pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
    hint = f"; {pickled[0].name} is pickled and is never read" if pickled else ""
    raise CheckpointError(
        f"{folder}: no {WEIGHTS} and no {INDEX}{hint}; convert the weights to safetensors"
    )


def _shards(index: Path) -> tuple[list[Path], dict[str, Path]]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise CheckpointError(f"{index}: names the shard {name!r}, which is not in the folder")
    homes = {our_name(str(k)): index.parent / str(v) for k, v in weight_map.items()}
    return [index.parent / name for name in names], homes


class _Safetensors:
    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._open: dict[Path, Any] = {}

    def entries(self) -> Iterator[Entry]:
        for path in self._files:
            try:
                yield from self._headers(path)
            except (SafetensorError, OSError) as e:
                raise _torn(path, e) from None

    def _headers(self, path: Path) -> Iterator[Entry]:
        with safe_open(path, framework="pt") as f:
            for stored in f.keys():  # noqa: SIM118 (not a dictionary)
                header = f.get_slice(stored)
                kind = header.get_dtype()
                if kind not in _FLOAT_TYPES:
                    raise _foreign_type(path, stored, kind)
                yield Entry(
                    our_name(stored), stored, path, tuple(header.get_shape()), _FLOAT_TYPES[kind]
                )

    def read(self, entry: Entry) -> Tensor:
        try:
            if entry.file not in self._open:
                self._open[entry.file] = safe_open(entry.file, framework="pt")
            tensor: Tensor = self._open[entry.file].get_tensor(entry.stored)
        except (SafetensorError, OSError) as e:
            raise _torn(entry.file, e) from None
        return tensor

    def forget(self) -> None:
        self._open.clear()


class _Pickle:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors: dict[str, Tensor] = {}

    def entries(self) -> Iterator[Entry]:
        for stored, tensor in self._mapped().items():
            if tensor.dtype not in _FLOAT_TYPES.values():
                raise _foreign_type(self._path, stored, str(tensor.dtype))
            yield Entry(our_name(stored), stored, self._path, tuple(tensor.shape), tensor.dtype)

    def read(self, entry: Entry) -> Tensor:
        return self._mapped()[entry.stored].contiguous()

    def forget(self) -> None:
        self._tensors = {}

    def _mapped(self) -> dict[str, Tensor]:
        if not self._tensors:
            try:
                loaded = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
            except Exception as e:  # a broken pickle may fail in any way; no code of it has run
                reason = str(e).strip().partition("\n")[0]
                raise CheckpointError(
                    f"{self._path}: torch's weights-only loader refuses it ({reason}); fetch it "
                    "again, or convert the weights to safetensors where they come from"
                ) from None
            if not isinstance(loaded, dict) or not all(
                isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()
            ):
                raise CheckpointError(f"{self._path}: holds something else than named tensors")
            self._tensors = loaded
        return self._tensors


def _torn(path: Path, error: Exception) -> CheckpointError:
    first = _first_cut_off(path)
    told = "truncated or not a safetensors file"
    if first:
        told = f"truncated: ends before tensor {first!r} does"
    return CheckpointError(f"{path}: {told} ({error}); fetch or save it again")


def _first_cut_off(path: Path) -> str | None:
    """The first tensor that a truncated file does not hold whole, if its header can be read."""
    try:
        with path.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            there = path.stat().st_size - 8 - length
            header = json.loads(f.read(length)) if there >= 0 else {}
        ends = {k: v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"}
        return next((k for k in sorted(ends, key=ends.__getitem__) if ends[k] > there), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return None


def _foreign_type(path: Path, stored: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: tensor {stored!r} is stored as {kind}; "
        f"only {', '.join(_FLOAT_TYPES)} can be loaded"
    )
