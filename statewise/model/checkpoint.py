"""Checkpoints: the Hugging Face `mamba2` folder, read and written by name. Nothing is unpickled.

    config.json   model.safetensors (or shards and model.safetensors.index.json)   tokenizer.json

A folder appears whole or not at all, and what is loaded is checked tensor by tensor against the
shape that `config.json` promises.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from statewise.errors import CheckpointError, ConfigError
from statewise.model.config import Mamba2Config
from statewise.model.mamba2 import Mamba2LM
from statewise.records import write_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD = "backbone.embeddings.weight", "lm_head.weight"

_FLOAT_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Sizes that are equal in both vocabularies but for the name: (config.json, Mamba2Config).
_SIZES = (
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layer"),
    ("state_size", "d_state"),
    ("head_dim", "headdim"),
    ("n_groups", "ngroups"),
    ("expand", "expand"),
    ("conv_kernel", "d_conv"),
    ("vocab_size", "vocab_size"),
)
# What a config.json may leave out, with the value `transformers` 5.23 then takes.
_OPTIONAL = (
    ("chunk_size", "chunk_size", 256),
    ("layer_norm_epsilon", "norm_eps", 1e-5),
    ("time_step_min", "dt_min", 0.001),
    ("time_step_max", "dt_max", 0.1),
    ("use_conv_bias", "conv_bias", True),
    ("use_bias", "bias", False),
    ("tie_word_embeddings", "tie_embeddings", False),
)


class FolderTokenizer(Protocol):
    """What a checkpoint needs of a tokenizer (`statewise.text.Tokenizer` has it)."""

    eos_id: int

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
) -> None:
    """Write a folder that `load_model` and `transformers` read; it appears whole or not at all.

    Args:
        model: its weights are written in the dtypes they have.
        tokenizer: written beside the weights.
        folder: where the checkpoint shall be; must not exist yet, or be an empty folder.
        extra: further entries for `config.json`, JSON values.

    Raises:
        CheckpointError: something is there already, the tokenizer has more entries than the model,
            `extra` takes a name that the model uses, or the disk refused. Nothing is left behind.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(
            f"{folder}: exists already and is not overwritten; move it away or choose another name"
        )
    check_tokenizer(tokenizer, model.config, str(folder))
    described = to_hf(model.config, eos_id=tokenizer.eos_id, dtype=model.dtype)
    taken = sorted(set(described) & set(extra or {}))
    if taken:
        raise CheckpointError(f"{folder}: extra: {taken[0]!r} is an entry of the model itself")
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if model.config.tie_embeddings:
        del weights[HEAD]
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of a save that was killed
        temporary.mkdir()
        write_json(temporary / "config.json", {**described, **(extra or {})})
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(temporary)
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        os.rename(temporary, folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{folder}: could not be written, nothing was kept ({e})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def locate(path_or_hub_id: str | Path) -> Path:
    """The local folder of a checkpoint: itself if it is one, else a snapshot of a hub repository.

    Only JSON and safetensors files are fetched.

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
    import huggingface_hub  # slow to import, and most checkpoints are local

    try:
        found = huggingface_hub.snapshot_download(
            str(path_or_hub_id), allow_patterns=["*.json", "*.safetensors"]
        )
    except Exception as e:  # hub, HTTP and file errors share no base
        reason = str(e).strip().partition("\n")[0] or type(e).__name__
        raise CheckpointError(
            f"{folder}: no such folder here, and the hub did not deliver it ({reason})"
        ) from e
    return Path(found)


def load_model(folder: str | Path) -> Mamba2LM:
    """The model of a checkpoint folder, on the CPU, in the dtypes it is stored in.

    dt_bias, A_log and D keep their own dtype; the other weights share the embedding's.

    Args:
        folder: a Hugging Face `mamba2` folder with one safetensors file or with shards.

    Raises:
        CheckpointError: the folder, its `config.json` or its weights are missing, corrupt, foreign
            or do not fit each other; the message names file and tensor.
    """
    folder = Path(folder)
    config = read_config(folder)
    with torch.device("meta"):  # nothing is drawn that the file overwrites
        model = Mamba2LM(config)
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    weights = _read_weights(folder, expected, tied=config.tie_embeddings)
    common = weights[EMBEDDING].dtype
    for name, value in weights.items():
        if not name.endswith((".dt_bias", ".A_log", ".D")):
            weights[name] = value.to(common)
    if config.tie_embeddings:
        weights[HEAD] = weights[EMBEDDING]
    model.load_state_dict(weights, assign=True)
    if config.tie_embeddings:
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


def to_hf(config: Mamba2Config, *, eos_id: int, dtype: torch.dtype) -> dict[str, Any]:
    """The `config.json` of a model, as `transformers` reads it.

    Documents here begin with nothing, so there is no bos token; eos pads.
    """
    high = config.dt_limit_high
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES},
        **{theirs: getattr(config, ours) for theirs, ours, _ in _OPTIONAL},
        "num_heads": config.nheads,
        "time_step_floor": 1e-4,
        "time_step_limit": [config.dt_limit_low, high if high > 0 else {"__float__": "Infinity"}],
        "hidden_act": "silu",
        "rms_norm": True,
        "norm_before_gate": False,
        "residual_in_fp32": True,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
        "dtype": str(dtype).removeprefix("torch."),
    }


def read_config(folder: str | Path) -> Mamba2Config:
    """The sizes of the model in a checkpoint folder, from its `config.json`.

    `norm_before_gate` is not read: whatever it says, the published models gate first.

    Raises:
        CheckpointError: naming the file and the entry that is missing, wrong or foreign.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    path = folder / "config.json"
    stored = _read_json(path)
    if stored.get("model_type") != "mamba2":
        raise CheckpointError(
            f"{path}: model_type is {stored.get('model_type')!r}; only 'mamba2' can be loaded"
        )
    if stored.get("hidden_act", "silu") not in ("silu", "swish"):
        raise CheckpointError(f"{path}: hidden_act {stored['hidden_act']!r} is not 'silu'")
    sizes: dict[str, Any] = {}
    for theirs, ours in _SIZES:
        if theirs not in stored:
            raise CheckpointError(f"{path}: has no entry {theirs!r}")
        sizes[ours] = _typed(stored[theirs], int, theirs, path)
    for theirs, ours, default in _OPTIONAL:
        sizes[ours] = _typed(stored.get(theirs, default), type(default), theirs, path)
    low, high = _time_step_limit(stored.get("time_step_limit", [0.0, float("inf")]), path)
    try:
        config = Mamba2Config(**sizes, dt_limit_low=low, dt_limit_high=high)
    except ConfigError as e:
        raise CheckpointError(f"{path}: {e}") from None
    heads = stored.get("num_heads", config.nheads)
    if heads != config.nheads:
        raise CheckpointError(
            f"{path}: num_heads is {heads}, but expand * hidden_size / head_dim is {config.nheads}"
        )
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a checkpoint folder?") from None
    except (OSError, ValueError) as e:  # unreadable, not UTF-8, not JSON
        raise CheckpointError(f"{path}: cannot be read ({e})") from None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(stored).__name__}")
    return stored


def _typed(value: Any, kind: type, key: str, path: Path) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:  # exactly: True is not a size
        raise CheckpointError(f"{path}: {key}: expected {kind.__name__}, found {value!r}")
    return value


def _time_step_limit(value: Any, path: Path) -> tuple[float, float]:
    """Both ends as `Mamba2Config` has them. JSON has no infinity; two spellings are in use."""
    ends = value if isinstance(value, list) else []
    plain = [float(e["__float__"]) if e == {"__float__": "Infinity"} else e for e in ends]
    numbers = [float(e) for e in plain if isinstance(e, int | float) and not isinstance(e, bool)]
    if len(numbers) != 2 or len(plain) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise CheckpointError(
            f"{path}: time_step_limit: expected [low, high] with 0 <= low < high, found {value!r}"
        )
    low, high = numbers
    return low, (0.0 if high == float("inf") else high)


def _read_weights(
    folder: Path, expected: Mapping[str, tuple[int, ...]], *, tied: bool
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    where, files = _weight_files(folder)
    for path in files:
        weights.update(_read_file(path, expected))
    for name in expected:
        if name not in weights and not (tied and name == HEAD):
            raise CheckpointError(f"{where}: tensor {name!r} is missing")
    if tied and HEAD in weights and not torch.equal(weights[HEAD], weights[EMBEDDING]):
        raise CheckpointError(
            f"{where}: tensor {HEAD!r} differs from {EMBEDDING!r}, but config.json ties them"
        )
    return weights


def _weight_files(folder: Path) -> tuple[Path, list[Path]]:
    """The file that says which tensors there are, and the files that hold them."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS, [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
        hint = f"; {pickled[0].name} is pickled and is never read" if pickled else ""
        raise CheckpointError(
            f"{folder}: no {WEIGHTS} and no {INDEX}{hint}; convert the weights to safetensors"
        )
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index}: names the shard {name!r}, which is not in the folder")
    return index, [folder / name for name in names]


def _read_file(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    weights = {}
    try:
        with safe_open(path, framework="pt") as f:
            for stored in f.keys():  # noqa: SIM118 (not a dictionary)
                name = stored.replace("backbone.embedding.", "backbone.embeddings.")
                if name not in expected:
                    raise CheckpointError(f"{path}: tensor {stored!r} is not one of this model's")
                header = f.get_slice(stored)
                if tuple(header.get_shape()) != expected[name]:
                    raise CheckpointError(
                        f"{path}: tensor {stored!r} has shape {tuple(header.get_shape())}, "
                        f"config.json asks for {expected[name]}"
                    )
                if header.get_dtype() not in _FLOAT_TYPES:
                    raise CheckpointError(
                        f"{path}: tensor {stored!r} is stored as {header.get_dtype()}; "
                        f"only {', '.join(_FLOAT_TYPES)} can be loaded"
                    )
                weights[name] = f.get_tensor(stored)
    except (SafetensorError, OSError) as e:
        raise CheckpointError(
            f"{path}: truncated or not a safetensors file ({e}); fetch or save it again"
        ) from None
    return weights
