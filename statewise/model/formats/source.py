"""A checkpoint of any layout as named tensors that are read one at a time, by memory map.

Opening reads headers only, and compares every name, shape and type with what the configuration
promises; so what is wrong with a checkpoint is known, by tensor and file, before any work begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from statewise.errors import CheckpointError
from statewise.model.config import Mamba2Config

FORGET_AFTER = 256 << 20  # bytes read by map and copied, before their pages are let go of
EXACT = (".dt_bias", ".A_log", ".D")  # they set the decays: never less than float32
EMBEDDING, HEAD = "backbone.embeddings.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as a file's header tells it: our name and the one it has there, shape and dtype."""

    name: str
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
        entries = _checked(reader.entries(), self._expected)
        for name in self._expected:
            if name not in entries and not (config.tie_embeddings and name == HEAD):
                home = (homes or {}).get(name, where)
                raise CheckpointError(f"{home}: tensor {name!r} is missing")
        self._entries = entries
        if config.tie_embeddings and HEAD in entries:
            if not torch.equal(self.read(HEAD), self.read(EMBEDDING)):
                raise CheckpointError(
                    f"{entries[HEAD].file}: tensor {entries[HEAD].stored!r} differs from "
                    f"{entries[EMBEDDING].stored!r}, but config.json ties them"
                )
            del entries[HEAD]
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


def _checked(entries: Iterator[Entry], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Entry]:
    by_name: dict[str, Entry] = {}
    for entry in entries:
        name = entry.name
        if name not in expected:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} is not one of this model's"
            )
        if name in by_name:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} is also in {by_name[name].file.name}; "
                "which one is meant cannot be told"
            )
        if entry.shape != expected[name]:
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} has shape {entry.shape}, "
                f"the configuration asks for {expected[name]}"
            )
        by_name[name] = entry
    return by_name
