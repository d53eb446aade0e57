"""A checkpoint of any layout as named tensors that are read one at a time, by memory map.

Opening reads headers only, and compares every name, shape and type with what the configuration
promises; so what is wrong with a checkpoint is known, by tensor and file, before any work begins.
Pickles are opened by torch's weights-only loader, which builds tensors and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from statewise.errors import CheckpointError
from statewise.model.config import Mamba2Config
from statewise.model.formats.configs import Layout, layout_of, read_config, read_json_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONSOLIDATED = "consolidated.safetensors"
PICKLE = "pytorch_model.bin"
FORGET_AFTER = 256 << 20  # bytes read by map and copied, before their pages are let go of
EXACT = (".dt_bias", ".A_log", ".D")  # they set the decays: never less than float32
EMBEDDING, HEAD = "backbone.embeddings.weight", "lm_head.weight"

_FLOAT_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as a file's header tells it: the name it has there, shape and dtype."""

    stored: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Reader(Protocol):
    """The files of one checkpoint, whatever they call their tensors."""

    def entries(self) -> Iterator[Entry]:
        """Every tensor's header, in the order of the files."""
        ...

    def read(self, entry: Entry) -> Tensor:
        """One tensor, where possible a view of the file's memory map."""
        ...

    def forget(self) -> None:
        """Let go of the maps, so that pages read so far no longer count as this process's."""
        ...


class Source:
    """The tensors of one model by our names, each checked against the configuration.

    A head that is tied to the embedding is not among them.

    Args:
        config: the sizes that the checkpoint's configuration states.
        reader: its files.
        where: the file or folder to name when a tensor is missing.
        homes: the file in which an index says a tensor is, by our name.

    Raises:
        CheckpointError: a tensor is missing, foreign, there twice, or of another shape or type
            than the configuration promises; the message names tensor and file.
    """

    def __init__(
        self,
        config: Mamba2Config,
        reader: Reader,
        where: Path,
        homes: Mapping[str, Path] | None = None,
    ) -> None:
        self.config = config
        self._reader = reader
        self._expected = expected_shapes(config)
        found = _checked(reader.entries(), self._expected)
        for name in self._expected:
            if name not in found and not (config.tie_embeddings and name == HEAD):
                home = (homes or {}).get(name, where)
                raise CheckpointError(f"{home}: tensor {name!r} is missing")
        self._entries = found
        if config.tie_embeddings and HEAD in found:
            if not torch.equal(self.read(HEAD), self.read(EMBEDDING)):
                raise CheckpointError(
                    f"{found[HEAD].file}: tensor {found[HEAD].stored!r} differs from "
                    f"{found[EMBEDDING].stored!r}, but config.json ties them"
                )
            del found[HEAD]
            self.forget()

    def __iter__(self) -> Iterator[str]:
        """Names in the order of the model's layers, not of the files."""
        return (name for name in self._expected if name in self._entries)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(entry.nbytes for entry in self._entries.values())

    def read(self, name: str) -> Tensor:
        """A tensor in the dtype it is stored in; where possible a view of the memory map.

        Raises:
            CheckpointError: the file has changed or cannot be read.
        """
        return self._reader.read(self._entries[name])

    def forget(self) -> None:
        """Let go of the memory maps; tensors that were read stay usable and keep theirs."""
        self._reader.forget()


def expected_shapes(config: Mamba2Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, the tied head included, in layer order."""
    c = config
    mixer: dict[str, tuple[int, ...]] = {
        "dt_bias": (c.nheads,),
        "A_log": (c.nheads,),
        "D": (c.nheads,),
        "in_proj.weight": (c.d_in_proj, c.d_model),
        **({"in_proj.bias": (c.d_in_proj,)} if c.bias else {}),
        "conv1d.weight": (c.conv_dim, 1, c.d_conv),
        **({"conv1d.bias": (c.conv_dim,)} if c.conv_bias else {}),
        "norm.weight": (c.d_inner,),
        "out_proj.weight": (c.d_model, c.d_inner),
        **({"out_proj.bias": (c.d_model,)} if c.bias else {}),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (c.vocab_size, c.d_model)}
    for i in range(c.n_layer):
        shapes[f"backbone.layers.{i}.norm.weight"] = (c.d_model,)
        shapes |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in mixer.items()}
    shapes["backbone.norm_f.weight"] = (c.d_model,)
    shapes[HEAD] = (c.vocab_size, c.d_model)
    return shapes


def open_source(path: str | Path) -> Source:
    """A checkpoint folder of any layout.

    Raises:
        CheckpointError: it is missing, corrupt, foreign, or its parts do not fit each other; the
            message names file and tensor.
    """
    path = Path(path)
    layout = layout_of(path)
    config = read_config(path)
    where, files, homes = _weight_files(path, layout)
    reader = _Pickle(where) if where.name == PICKLE else _Safetensors(files)
    return Source(config, reader, where, homes)


def _checked(entries: Iterator[Entry], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        name = _our_name(entry.stored)
        if name not in expected:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} is not one of this model's"
            )
        if name in found:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} is also in {found[name].file.name}; "
                "which one is meant cannot be told"
            )
        if entry.shape != expected[name]:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} has shape {entry.shape}, "
                f"the configuration asks for {expected[name]}"
            )
        found[name] = entry
    return found


def _our_name(stored: str) -> str:
    """`mamba_ssm` has another word for the embedding; Mistral puts all below `model.`."""
    return stored.removeprefix("model.").replace("backbone.embedding.", "backbone.embeddings.")


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
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: names the shard {name!r}, which is not in the folder")
    homes = {_our_name(str(k)): index.parent / str(v) for k, v in weight_map.items()}
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
                yield Entry(stored, path, tuple(header.get_shape()), _FLOAT_TYPES[kind])

    def read(self, entry: Entry) -> Tensor:
        try:
            if entry.file not in self._open:
                self._open[entry.file] = safe_open(entry.file, framework="pt")
            found: Tensor = self._open[entry.file].get_tensor(entry.stored)
        except (SafetensorError, OSError) as e:
            raise _torn(entry.file, e) from None
        return found

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
            yield Entry(stored, self._path, tuple(tensor.shape), tensor.dtype)

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
    return CheckpointError(
        f"{path}: truncated or not a safetensors file ({error}); fetch or save it again"
    )


def _foreign_type(path: Path, stored: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: tensor {stored!r} is stored as {kind}; "
        f"only {', '.join(_FLOAT_TYPES)} can be loaded"
    )
