"""What a recipe will need, told without training anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from statewise.errors import ConfigError
from statewise.recipe import Recipe
from statewise.train.config import TrainConfig
from statewise.train.memory import Kernels, Memory, training_memory
from statewise.train.trainer import in_bfloat16

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}
ROOM = 0.1  # of the device's memory: the figures are held to within so much of measured ones
SHORTEST = 1024  # rows below this are not proposed


def device_bytes(text: str) -> int:
    """A card's memory as people write it: "80GB", "24 GiB".

    Raises:
        ConfigError: it is no such thing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG]i?B)", text.strip(), re.IGNORECASE)
    nbytes = float(found[1]) * UNITS[found[2].upper()] if found else 0.0
    if nbytes < 1:
        raise ConfigError(
            f"--device-memory: expected a number with MB, GB, MiB or GiB, such as 80GB, found "
            f"{text!r}"
        )
    return int(nbytes)


def describe(recipe: Recipe, *, world: int = 1, device_memory: int | None = None) -> str:
    """Parameters, state, steps and what each process holds in training, as lines of text.

    Args:
        recipe: what would be run.
        world: processes that train, one a device.
        device_memory: bytes of a device; given, it is a GPU, and is said whether the training fits.

    Raises:
        ConfigError: there are no such processes.
    """
    if world < 1:
        raise ConfigError(f"--world: must be at least 1, found {world}")
    r, m, t = recipe, recipe.model, recipe.train
    if world % t.parallel.context:
        raise ConfigError(
            f"--world: {world} processes are no multiple of the {t.parallel.context} that share a "
            "row (train.parallel.context)"
        )
    lanes = world // t.parallel.context
    rows = max(t.batch_tokens // t.row_tokens // lanes, 1) * lanes
    step = rows * t.row_tokens
    shared = f" {t.parallel.context}" if t.parallel.context > 1 else ""
    lines = [
        f"{r.name}: recipe {r.sha256[:8]}",
        f"parameters             {m.num_params:,}",
        f"state per sequence     {m.state_bytes():,} bytes at every length "
        f"(16-bit model: {m.state_bytes(conv_bytes=2):,})",
        f"forward pass           {m.flops_per_token() / 1e6:,.2f} MFLOP a token",
        f"a step                 {step:,} tokens at most: {rows} rows of {t.row_tokens:,}, "
        f"{rows // lanes} for each{shared} of {world} process{'es' * (world > 1)}",
    ]
    for phase in t.phases:
        sources = ", ".join(s.name for s in phase.sources)
        lines.append(
            f"phase {phase.name:<16} {phase.tokens:,} tokens, at least "
            f"{-(-phase.tokens // step):,} steps, from {sources}"
        )
    on_gpu = device_memory is not None or (t.backend == "auto" and torch.cuda.is_available())
    how: dict[str, Any] = {"kernels": _kernels(recipe, on_gpu), "world": world}
    how["bfloat16"] = in_bfloat16(t.dtype, torch.device("cuda" if on_gpu else "cpu"))
    how["threads"] = 1 if on_gpu else torch.get_num_threads()
    lines += _training(recipe, how, "GPU" if on_gpu else "process", device_memory)
    states = r.engine.slots * m.state_bytes()
    lines.append(
        f"evaluation memory      about {_told(4 * m.num_params + states)}: "
        f"{r.engine.slots} slots of state and the weights"
    )
    return "\n".join(lines)


def _kernels(recipe: Recipe, on_gpu: bool) -> Kernels:
    """Whose a recipe's training would compute with; other packages' are counted as Triton's."""
    m, backend = recipe.model, recipe.train.backend
    if backend == "torch":
        return "torch"
    if backend == "cpu":
        return "cpu"
    if backend != "auto" or on_gpu:
        return "triton"
    return "torch" if m.d_model % 16 or m.headdim % 16 or m.d_state % 16 else "cpu"


def _training(recipe: Recipe, how: dict[str, Any], one: str, room: int | None) -> list[str]:
    """The memory of training, whether it fits, and what would make it fit."""
    memory = training_memory(recipe.model, recipe.train, **how)
    p, lora = recipe.train.parallel, recipe.train.lora
    adapters = f", adapters over {lora.base} weights" * bool(lora.rank)
    products = "bfloat16" if how["bfloat16"] else "float32"
    lines = [
        f"training               engine {p.engine}{', offload' * p.offload}{adapters}, recompute "
        f"{p.recompute}, kernels {how['kernels']}, products in {products}",
        f"training memory        about {_told(memory.device)} per {one}, at its most "
        f"{memory.moment}:",
        *(f"  {line.name:<34} {_told(line.nbytes):>10}" for line in memory.lines if not line.host),
    ]
    if memory.host:
        lines += [
            f"host memory            about {_told(memory.host)} per process, "
            f"{_told(how['world'] * memory.host)} for {how['world']}:",
            *(f"  {line.name:<34} {_told(line.nbytes):>10}" for line in memory.lines if line.host),
        ]
    if one == "GPU":  # each process reads the weights itself, and casts them in host memory
        narrow = recipe.train.lora.rank and how["bfloat16"]
        whole = (2 if narrow else 4) * recipe.model.num_params
        lines.append(
            f"to load the weights    {_told(whole)} of host memory per process, "
            f"{_told(how['world'] * whole)} for {how['world']}"
        )
    if room is None:
        return lines
    fits = _fits(memory, room)
    lines.append(
        f"device memory          {_told(room)}: {'fits' if fits else 'does not fit'} "
        f"({memory.device / room:.0%} of it; {ROOM:.0%} is left for what is not counted)"
    )
    return lines if fits else [*lines, *_proposed(recipe, how, room)]


def _fits(memory: Memory, room: int) -> bool:
    return memory.device <= (1 - ROOM) * room


def _proposed(recipe: Recipe, how: dict[str, Any], room: int) -> Iterator[str]:
    """Switches, the least costly first, each on top of those before, until it fits."""
    yield "what would make it fit, each with those above it:"
    for switch, train in _switches(recipe.train, how["world"]):
        memory = training_memory(recipe.model, train, **how)
        fits = _fits(memory, room)
        host = f", host {_told(memory.host)}" if memory.host else ""
        yield (
            f"  --set {switch:<34} {_told(memory.device):>10}{host}: "
            f"{'fits' if fits else 'does not fit'}"
        )
        if fits:
            return
    yield "  nothing of these: more devices, or a smaller model"


def _switches(train: TrainConfig, world: int) -> Iterator[tuple[str, TrainConfig]]:
    """What can be changed without changing what is learnt but for rounding, and what it is then."""

    def switched(keys: str, value: object) -> Iterator[tuple[str, TrainConfig]]:
        nonlocal train
        section, _, key = keys.rpartition(".")
        try:
            part = replace(getattr(train, section), **{key: value})
            train = replace(train, **{section: part})
        except ConfigError:  # engines do not take everything
            return
        told = str(value).lower() if isinstance(value, bool) else value
        yield f"train.{keys}={told}", train

    p = train.parallel
    if p.recompute != "block":
        yield from switched("parallel.recompute", "block")
    if train.lora.rank and train.lora.base == "whole" and p.engine == "ddp":
        yield from switched("lora.base", "nf4")
    if p.engine == "ddp":
        yield from switched("parallel.engine", "zero2")
        if train.parallel.engine == "ddp" and world > 1:
            yield from switched("parallel.engine", "fsdp2")
    if not p.offload and train.parallel.engine != "ddp":
        yield from switched("parallel.offload", True)
    if train.parallel.engine == "zero2" and world > 1:
        yield from switched("parallel.engine", "zero3")
    row = train.row_tokens // 2
    while row >= SHORTEST:
        yield f"train.row_tokens={row}", replace(train, row_tokens=row)
        row //= 2


def _told(nbytes: int) -> str:
    """In gigabytes of 10^9 bytes, or megabytes."""
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 10**9 else f"{nbytes / 1e6:,.1f} MB"
