"""Checkpoints: a Hugging Face `mamba2` folder is written; that and two other layouts are read.

    config.json   model.safetensors (or shards and model.safetensors.index.json)   tokenizer.json

A folder appears whole or not at all, and what is loaded is checked tensor by tensor against the
shape that its configuration promises. Weights stay in the file's memory map until they are touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from statewise.errors import CheckpointError
from statewise.model.config import Mamba2Config
from statewise.model.formats.configs import CONFIG, read_config, to_hf
from statewise.model.formats.files import PICKLE, open_source
from statewise.model.formats.source import EMBEDDING, EXACT, FORGET_AFTER, HEAD
from statewise.model.formats.write import MAX_SHARD_BYTES, Planned, appearing, write_safetensors
from statewise.model.mamba2 import Mamba2LM
from statewise.records import write_json

__all__ = ["check_tokenizer", "load_model", "locate", "read_config", "save", "to_hf"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class FolderTokenizer(Protocol):
    """What a checkpoint needs of a tokenizer (`statewise.text.Tokenizer` has it)."""

    @property
    def eos_id(self) -> int:
        """The id that ends a document."""
        ...

    @property
    def vocab_size(self) -> int:
        """How many ids there are: every id is below it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder."""
        ...


def save(
    model: Mamba2LM,
    tokenizer: FolderTokenizer,
    folder: str | Path,
    *,
    extra: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `load_model` and `transformers` read; it appears whole or not at all.

    Args:
        model: its weights are written in the dtypes they have.
        tokenizer: written beside the weights.
        folder: where the checkpoint shall be; must not exist yet, or be an empty folder.
        extra: further entries for `config.json`, JSON values.
        max_shard_bytes: weights above this are split into several files with an index.

    Raises:
        CheckpointError: something is there already, the tokenizer has more entries than the model,
            `extra` takes a name that the model uses, or the disk refused. Nothing is left behind.
    """
    folder = Path(folder).absolute()
    with appearing(folder) as temporary:
        check_tokenizer(tokenizer, model.config, str(folder))
        described = to_hf(model.config, eos_id=tokenizer.eos_id, dtype=model.dtype)
        taken = sorted(set(described) & set(extra or {}))
        if taken:
            raise CheckpointError(f"{folder}: extra: {taken[0]!r} is an entry of the model itself")
        weights = model.state_dict()
        if model.config.tie_embeddings:
            del weights[HEAD]
        temporary.mkdir()
        write_json(temporary / CONFIG, {**described, **(extra or {})})
        planned = [Planned(name, tuple(w.shape), w.dtype) for name, w in weights.items()]
        write_safetensors(
            temporary, planned, lambda name: weights[name].cpu(), max_shard_bytes=max_shard_bytes
        )
        tokenizer.save(temporary)


def locate(path_or_hub_id: str | Path) -> Path:
    """The local folder of a checkpoint: itself if it is one, else a snapshot of a hub repository.

    Only JSON and safetensors files are fetched; where there are no safetensors, as in the
    repositories of `mamba_ssm`, also `pytorch_model.bin`.

    Raises:
        CheckpointError: it is neither a folder nor a hub id that can be had.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder}: is a file; a checkpoint is the folder around it")
    if not _HUB_ID.fullmatch(str(path_or_hub_id)):
        raise CheckpointError(
            f"{folder}: no such folder, and not a hub id of the form 'owner/name' either"
        )
    try:
        found = Path(_snapshot(str(path_or_hub_id), ["*.json", "*.safetensors"]))
        if not any(found.glob("*.safetensors")):
            found = Path(_snapshot(str(path_or_hub_id), ["*.json", PICKLE]))
    except Exception as e:  # hub, HTTP and file errors share no base
        reason = str(e).strip().partition("\n")[0] or type(e).__name__
        raise CheckpointError(
            f"{folder}: no such folder here, and the hub did not deliver it ({reason})"
        ) from e
    return found


def _snapshot(hub_id: str, patterns: list[str]) -> str:
    import huggingface_hub  # slow to import, and most checkpoints are local

    found: str = huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns)
    return found


def load_model(folder: str | Path, dtype: torch.dtype | None = None) -> Mamba2LM:
    """The model of a checkpoint folder, on the CPU.

    Weights whose dtype agrees are views of the file's memory map: loading reads headers, and a
    page comes into memory when it is first touched. Writing to them does not reach the file.

    Args:
        folder: a Hugging Face `mamba2` folder with one safetensors file or with shards, a
            `mamba_ssm` folder, or Mistral's original release.
        dtype: of the large weights; by default the embedding's as stored. dt_bias, A_log and D
            become float32 in any case.

    Raises:
        CheckpointError: the folder, its configuration or its weights are missing, corrupt, foreign
            or do not fit each other; the message names file and tensor.
    """
    source = open_source(folder)
    common = dtype or source[EMBEDDING].dtype
    weights, converted = {}, 0
    for name in source:
        wanted = torch.float32 if name.endswith(EXACT) else common
        weights[name] = source.read(name).to(wanted)
        if source[name].dtype != wanted:
            converted += source[name].nbytes
            if converted > FORGET_AFTER:  # pages that were read to be converted
                source.forget()
                converted = 0
    if source.config.tie_embeddings:
        weights[HEAD] = weights[EMBEDDING]
    with torch.device("meta"):  # nothing is drawn that the file overwrites
        model = Mamba2LM(source.config)
    model.load_state_dict(weights, assign=True)
    if source.config.tie_embeddings:
        model.lm_head.weight = model.backbone.embeddings.weight
    return model


def check_tokenizer(tokenizer: FolderTokenizer, config: Mamba2Config, where: str) -> None:
    """Refuse a tokenizer that speaks of ids the model does not have.

    Raises:
        CheckpointError: it has more entries than the model's vocabulary.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} entries, the model's vocab_size "
            f"is {config.vocab_size}; they do not belong together"
        )
