"""Checkpoints written: a Hugging Face `mamba2` folder, which appears whole or not at all.

config.json   model.safetensors (or shards and model.safetensors.index.json)   tokenizer.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from statewise.errors import CheckpointError
from statewise.model.config import Mamba2Config
from statewise.model.formats.configs import CONFIG, to_hf
from statewise.model.formats.source import EMBEDDING, HEAD
from statewise.model.formats.write import MAX_SHARD_BYTES, Planned, appearing, write_safetensors
from statewise.model.language_model import FolderTokenizer
from statewise.records import write_json


def write_checkpoint(
    config: Mamba2Config,
    weights: dict[str, Tensor],
    tokenizer: FolderTokenizer,
    folder: Path,
    *,
    extra: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write sizes, weights and tokenizer; arguments and errors as for `Mamba2LM.save`."""
    with appearing(folder) as temporary:
        check_tokenizer(tokenizer, config, str(folder))
        described = to_hf(config, eos_id=tokenizer.eos_id, dtype=weights[EMBEDDING].dtype)
        taken = sorted(set(described) & set(extra or {}))
        if taken:
            raise CheckpointError(f"{folder}: extra: {taken[0]!r} is an entry of the model itself")
        written = {k: w for k, w in weights.items() if k != HEAD or not config.tie_embeddings}
        temporary.mkdir()
        write_json(temporary / CONFIG, {**described, **(extra or {})})
        planned = [Planned(name, tuple(w.shape), w.dtype) for name, w in written.items()]
        write_safetensors(
            temporary, planned, lambda name: written[name].cpu(), max_shard_bytes=max_shard_bytes
        )
        tokenizer.save(temporary)


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
