"""The sizes of a model in the configuration files of each layout, and how ours are written there.

    hf         config.json, model_type "mamba2"      `transformers`, vLLM
    mamba_ssm  config.json with d_model, ssm_cfg     `MambaLMHeadModel.from_pretrained`
    mistral    params.json                           the original release of Codestral Mamba

An entry that would change what the model computes is understood or refused; what only concerns
speed, precision or initialisation is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from statewise.errors import CheckpointError, ConfigError, DataError
from statewise.model.config import Mamba2Config
from statewise.records import read_json

Layout = Literal["hf", "mamba_ssm", "mistral"]

CONFIG, PARAMS = "config.json", "params.json"
_INFINITY = float("inf")

# Sizes that are equal in both vocabularies but for the name: (config.json, Mamba2Config).
_HF_SIZES = (
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
_HF_OPTIONAL = (
    ("chunk_size", "chunk_size", 256),
    ("layer_norm_epsilon", "norm_eps", 1e-5),
    ("time_step_min", "dt_min", 0.001),
    ("time_step_max", "dt_max", 0.1),
    ("use_conv_bias", "conv_bias", True),
    ("use_bias", "bias", False),
    ("tie_word_embeddings", "tie_embeddings", False),
)
# Entries of `ssm_cfg` with the defaults of `mamba_ssm`'s Mamba2; the names are ours too.
_SSM_CFG: tuple[tuple[str, Any], ...] = (
    ("d_state", 128),
    ("headdim", 64),
    ("ngroups", 1),
    ("expand", 2),
    ("d_conv", 4),
    ("chunk_size", 256),
    ("conv_bias", True),
    ("bias", False),
    ("dt_min", 0.001),
    ("dt_max", 0.1),
)
# Entries of `ssm_cfg` that only the published architecture may have, and no other value of them.
_SSM_FIXED = (("norm_before_gate", False), ("rmsnorm", True), ("D_has_hdim", False))
_SSM_PASSED_OVER = {
    *("layer", "d_ssm", "dt_limit", "A_init_range", "conv_init", "dt_init_floor"),
    *("use_mem_eff_path", "sequence_parallel", "layer_idx", "device", "dtype"),
}


def layout_of(folder: Path) -> Layout:
    """Which layout a checkpoint folder has, told by its configuration file.

    Raises:
        CheckpointError: there is neither a readable `config.json` nor a `params.json`.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    if not (folder / CONFIG).exists() and (folder / PARAMS).exists():
        return "mistral"
    stored = read_json_object(folder / CONFIG)
    ours = "d_model" in stored and "n_layer" in stored and "model_type" not in stored
    return "mamba_ssm" if ours else "hf"


def read_config(folder: str | Path) -> Mamba2Config:
    """The sizes of the model in a checkpoint folder of any layout, from its configuration file.

    Raises:
        CheckpointError: naming the file and the entry that is missing, wrong or foreign.
    """
    folder = Path(folder)
    read = {"hf": _from_hf, "mamba_ssm": _from_mamba_ssm, "mistral": _from_mistral}
    layout = layout_of(folder)
    path = folder / (PARAMS if layout == "mistral" else CONFIG)
    try:
        return read[layout](read_json_object(path), path)
    except ConfigError as e:
        raise CheckpointError(f"{path}: {e}") from None


def _from_hf(stored: dict[str, Any], path: Path) -> Mamba2Config:
    # `norm_before_gate` is not read: whatever it says, the published models gate first.
    if stored.get("model_type") != "mamba2":
        raise CheckpointError(
            f"{path}: model_type is {stored.get('model_type')!r}; only 'mamba2' can be loaded"
        )
    if stored.get("hidden_act", "silu") not in ("silu", "swish"):
        raise CheckpointError(f"{path}: hidden_act {stored['hidden_act']!r} is not 'silu'")
    sizes: dict[str, Any] = {}
    for theirs, ours in _HF_SIZES:
        sizes[ours] = _typed(_needed(stored, theirs, path), int, theirs, path)
    for theirs, ours, default in _HF_OPTIONAL:
        sizes[ours] = _typed(stored.get(theirs, default), type(default), theirs, path)
    sizes |= _limits(stored.get("time_step_limit", [0.0, _INFINITY]), "time_step_limit", path)
    config = Mamba2Config(**sizes)
    heads = stored.get("num_heads", config.nheads)
    if heads != config.nheads:
        raise CheckpointError(
            f"{path}: num_heads is {heads}, but expand * hidden_size / head_dim is {config.nheads}"
        )
    return config


def _from_mamba_ssm(stored: dict[str, Any], path: Path) -> Mamba2Config:
    ssm = _typed(stored.get("ssm_cfg", {}), dict, "ssm_cfg", path)
    layer = ssm.get("layer", "Mamba1")  # what mamba_ssm takes where it is not said
    if layer != "Mamba2":
        raise CheckpointError(f"{path}: ssm_cfg.layer is {layer!r}; only 'Mamba2' can be loaded")
    if stored.get("d_intermediate", 0) != 0:
        raise CheckpointError(
            f"{path}: d_intermediate is {stored['d_intermediate']!r}: layers with an MLP beside "
            "the mixer cannot be loaded"
        )
    if stored.get("attn_layer_idx"):
        raise CheckpointError(
            f"{path}: attn_layer_idx is {stored['attn_layer_idx']!r}: layers of attention cannot "
            "be loaded"
        )
    for name in ssm:
        if name not in _SSM_PASSED_OVER | {n for n, _ in (*_SSM_CFG, *_SSM_FIXED)}:
            raise CheckpointError(f"{path}: ssm_cfg.{name}: an entry that is not known here")
    for name, only in _SSM_FIXED:
        if ssm.get(name, only) != only:
            raise CheckpointError(f"{path}: ssm_cfg.{name} is {ssm[name]!r}; only {only} is known")
    sizes: dict[str, Any] = {
        name: _typed(ssm.get(name, default), type(default), f"ssm_cfg.{name}", path)
        for name, default in _SSM_CFG
    }
    for name in ("d_model", "n_layer"):
        sizes[name] = _typed(_needed(stored, name, path), int, name, path)
    sizes |= _of_the_whole(stored, path)
    sizes |= _limits(ssm.get("dt_limit", [0.0, _INFINITY]), "ssm_cfg.dt_limit", path)
    config = Mamba2Config(**sizes)
    if ssm.get("d_ssm") not in (None, config.d_inner):
        raise CheckpointError(
            f"{path}: ssm_cfg.d_ssm is {ssm['d_ssm']!r}: mixers that are recurrent in a part of "
            f"their {config.d_inner} channels only cannot be loaded"
        )
    return config


def _from_mistral(stored: dict[str, Any], path: Path) -> Mamba2Config:
    kind = stored.get("model_type", "mamba")
    if kind != "mamba":
        raise CheckpointError(f"{path}: model_type is {kind!r}; only 'mamba' can be loaded")
    sizes: dict[str, Any] = dict(_SSM_CFG)
    for theirs, ours in (("dim", "d_model"), ("n_layers", "n_layer"), ("n_groups", "ngroups")):
        sizes[ours] = _typed(_needed(stored, theirs, path), int, theirs, path)
    return Mamba2Config(**sizes | _of_the_whole(stored, path))


def _of_the_whole(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `mamba_ssm` and Mistral say alike. The vocabulary is that of the padded embedding."""
    if stored.get("rms_norm", True) is not True:
        raise CheckpointError(f"{path}: rms_norm is {stored['rms_norm']!r}; only true is known")
    vocab = _typed(_needed(stored, "vocab_size", path), int, "vocab_size", path)
    key = "pad_vocab_size_multiple"
    multiple = _typed(stored.get(key, 8), int, key, path)
    if multiple < 1:
        raise CheckpointError(f"{path}: {key}: must be at least 1, found {multiple}")
    tied = _typed(stored.get("tie_embeddings", True), bool, "tie_embeddings", path)
    return {"vocab_size": -(-vocab // multiple) * multiple, "tie_embeddings": tied}


def to_hf(config: Mamba2Config, *, eos_id: int | None, dtype: torch.dtype) -> dict[str, Any]:
    """The `config.json` of a model, as `transformers` reads it.

    Documents here begin with nothing, so there is no bos token; eos pads.

    Args:
        config: the sizes.
        eos_id: the tokenizer's end of sequence; None where there is no tokenizer.
        dtype: of the large weights.
    """
    low, high = _ends(config)
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **{theirs: getattr(config, ours) for theirs, ours in _HF_SIZES},
        **{theirs: getattr(config, ours) for theirs, ours, _ in _HF_OPTIONAL},
        "num_heads": config.nheads,
        "time_step_floor": 1e-4,
        "time_step_limit": [low, {"__float__": "Infinity"} if high == _INFINITY else high],
        "hidden_act": "silu",
        "rms_norm": True,
        "norm_before_gate": False,
        "residual_in_fp32": True,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
        "dtype": str(dtype).removeprefix("torch."),
    }


def to_mamba_ssm(config: Mamba2Config) -> dict[str, Any]:
    """The `config.json` of a model, as `mamba_ssm` reads it.

    Raises:
        CheckpointError: the norms' epsilon is not 1e-5, the only one that it knows.
    """
    if config.norm_eps != 1e-5:
        raise CheckpointError(
            f"norm_eps is {config.norm_eps}: mamba_ssm has no entry for it and takes 1e-05"
        )
    ssm: dict[str, Any] = {"layer": "Mamba2"}
    ssm |= {name: getattr(config, name) for name, _ in _SSM_CFG}
    if _ends(config) != (0.0, _INFINITY):
        ssm["dt_limit"] = list(_ends(config))  # may hold Infinity, which Python's JSON reads
    return {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": ssm,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,  # vocab_size counts the padding already
        "tie_embeddings": config.tie_embeddings,
    }


def _ends(config: Mamba2Config) -> tuple[float, float]:
    high = config.dt_limit_high
    return config.dt_limit_low, high if high > 0 else _INFINITY


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises `CheckpointError` if there is none."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; is this a checkpoint folder?")
    try:
        return read_json(path)
    except DataError as e:
        raise CheckpointError(str(e)) from None


def _needed(stored: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in stored:
        raise CheckpointError(f"{path}: has no entry {key!r}")
    return stored[key]


def _typed(value: Any, kind: type, key: str, path: Path) -> Any:
    if kind is float and type(value) is int:
        value = _float(value, key, path)
    if type(value) is not kind:  # exactly: True is not a size
        raise CheckpointError(f"{path}: {key}: expected {kind.__name__}, found {value!r}")
    return value


def _float(value: int | float, key: str, path: Path) -> float:
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(f"{path}: {key}: the number is too large") from None


def _limits(value: Any, key: str, path: Path) -> dict[str, float]:
    """Both ends as `Mamba2Config` has them. JSON has no infinity; two spellings are in use."""
    ends = value if isinstance(value, list) else []
    plain = [float(e["__float__"]) if e == {"__float__": "Infinity"} else e for e in ends]
    numbers = [_float(e, key, path) for e in plain if type(e) in (int, float)]
    if len(numbers) != 2 or len(plain) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise CheckpointError(
            f"{path}: {key}: expected [low, high] with 0 <= low < high, found {value!r}"
        )
    low, high = numbers
    return {"dt_limit_low": low, "dt_limit_high": 0.0 if high == _INFINITY else high}
