"""Checkpoints read: a Hugging Face `mamba2` folder, as `Mamba2LM.save` writes it, and two others.

What is loaded is checked tensor by tensor against the shape that its configuration promises.
Weights stay in the file's memory map until they are touched.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from statewise.errors import CheckpointError
from statewise.model.formats.configs import read_config
from statewise.model.formats.files import PICKLE, open_source
from statewise.model.formats.source import EMBEDDING, EXACT, FORGET_AFTER, HEAD
from statewise.model.mamba2 import Mamba2LM
from statewise.model.saving import check_tokenizer

__all__ = ["check_tokenizer", "load_model", "locate", "read_config"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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
        snapshot = Path(_snapshot(str(path_or_hub_id), ["*.json", "*.safetensors"]))
        if not any(snapshot.glob("*.safetensors")):
            snapshot = Path(_snapshot(str(path_or_hub_id), ["*.json", PICKLE]))
    except Exception as e:  # hub, HTTP and file errors share no base
        reason = str(e).strip().partition("\n")[0] or type(e).__name__
        raise CheckpointError(
            f"{folder}: no such folder here, and the hub did not deliver it ({reason})"
        ) from e
    return snapshot


def _snapshot(hub_id: str, patterns: list[str]) -> str:
    import huggingface_hub  # slow to import, and most checkpoints are local

    snapshot: str = huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns)
    return snapshot


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
