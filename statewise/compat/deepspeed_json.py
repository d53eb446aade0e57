"""A DeepSpeed configuration file as the published training command takes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from statewise.errors import ConfigError, DataError
from statewise.records import read_json
from statewise.train.config import ParallelConfig

AUTO = "auto"  # what the flags say
# Flags that the file may repeat, and where it does.
OPTIMISER = {"lr": "learning_rate", "weight_decay": "weight_decay", "eps": "adam_epsilon"}
SCHEDULER = {"warmup_max_lr": "learning_rate", "warmup_num_steps": "warmup_steps"}
TOP = {
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
}
READ = {"fp16", "bf16", "optimizer", "scheduler", "zero_optimization", *TOP}


@dataclass(frozen=True, slots=True)
class DeepSpeed:
    """What of such a file is of meaning here.

    Attributes:
        parallel: engine and offloading.
        warmup: the shape of its scheduler's warm-up; None where it has no scheduler.
        decays: its scheduler falls to 0 behind the warm-up.
        unused: keys of the file that change nothing here: they tune DeepSpeed's traffic.
    """

    parallel: ParallelConfig
    warmup: Literal["linear", "log"] | None
    decays: bool
    unused: tuple[str, ...]


def read(path: Path, flags: Mapping[str, Any]) -> DeepSpeed:
    """A file, held against the flags: what both say must be the same.

    Args:
        path: the JSON file.
        flags: the command's, by name.

    Raises:
        DataError: it is not there, or is no JSON object.
        ConfigError: it asks for what is not built, or for something else than a flag does.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object")

    def table(tree: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
        value = tree.get(key) or {}
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {where}{key}: expected an object, found {value!r}")
        return value

    def same(where: str, value: Any, flag: str) -> None:
        if value is None or value == AUTO or value == flags[flag]:
            return
        raise ConfigError(
            f"{path}: {where} is {value!r}, and --{flag} is {flags[flag]!r}. DeepSpeed would go by "
            f'the file in silence: make them the same, or write "{AUTO}" there'
        )

    if table(found, "fp16").get("enabled") is True:
        raise ConfigError(f"{path}: fp16.enabled: training is in bfloat16 or float32")
    if table(found, "bf16").get("enabled") not in (None, AUTO, flags["bf16"]):
        same("bf16.enabled", table(found, "bf16")["enabled"], "bf16")
    for key, flag in TOP.items():
        same(key, found.get(key), flag)
    optimiser = table(found, "optimizer")
    if optimiser.get("type", "AdamW") != "AdamW":
        raise ConfigError(f"{path}: optimizer.type: {optimiser['type']!r} is not 'AdamW'")
    params = table(optimiser, "params", "optimizer.")
    for key, flag in OPTIMISER.items():
        same(f"optimizer.params.{key}", params.get(key), flag)
    betas = params.get("betas")
    for i, flag in enumerate(("adam_beta1", "adam_beta2")):
        same(f"optimizer.params.betas.{i}", betas[i] if isinstance(betas, list) else betas, flag)
    scheduler = table(found, "scheduler")
    kind = scheduler.get("type")
    if kind not in (None, "WarmupLR", "WarmupDecayLR"):
        raise ConfigError(f"{path}: scheduler.type: {kind!r} is not WarmupLR or WarmupDecayLR")
    params = table(scheduler, "params", "scheduler.")
    for key, flag in SCHEDULER.items():
        same(f"scheduler.params.{key}", params.get(key), flag)
    if params.get("warmup_min_lr") not in (None, AUTO, 0):
        raise ConfigError(f"{path}: scheduler.params.warmup_min_lr: a warm-up begins at 0 here")
    shape = params.get("warmup_type", "log")
    if shape not in ("log", "linear"):
        raise ConfigError(f"{path}: scheduler.params.warmup_type: {shape!r} is not log or linear")
    zero = table(found, "zero_optimization")
    parallel, used = _parallel(path, zero, table)
    unused = [key for key in found if key not in READ]
    unused += [f"zero_optimization.{key}" for key in zero if key not in used]
    return DeepSpeed(
        parallel,
        None if kind is None else shape,
        kind == "WarmupDecayLR",
        tuple(sorted(unused)),
    )


def _parallel(path: Path, zero: Mapping[str, Any], table: Any) -> tuple[ParallelConfig, set[str]]:
    stage = zero.get("stage", 0)
    engines: dict[Any, Any] = {0: "ddp", 1: "zero2", 2: "zero2", 3: "zero3"}
    if stage not in engines:
        raise ConfigError(f"{path}: zero_optimization.stage: {stage!r} is not 0, 1, 2 or 3")
    devices = {}
    for what in ("optimizer", "param"):
        key = f"offload_{what}"
        devices[what] = table(zero, key, "zero_optimization.").get("device", "none")
    if devices["optimizer"] not in ("none", "cpu") or devices["param"] != "none":
        raise ConfigError(
            f"{path}: zero_optimization: only the optimiser can be offloaded, to the CPU; found "
            f"offload_optimizer to {devices['optimizer']!r} and offload_param to "
            f"{devices['param']!r}"
        )
    offload = devices["optimizer"] == "cpu" and stage > 0
    used = {"stage", "offload_optimizer", "offload_param"}
    return ParallelConfig(engines[stage], offload=offload), used
