"""Who computes a model: one table, and the choice of a row when a model is opened.

| row | norms and projections | convolution, step, gated norm | scan |
|---|---|---|---|
| torch | torch | the definition | the definition |
| cpu | our kernels and oneDNN | one kernel for all of it | the same |
| triton | torch | our kernels | our kernels |
| mamba_ssm | torch | our kernels | `mamba_ssm`'s, where that package can be imported |
| fla | torch | our kernels | `fla`'s simple GLA, which takes B and C once a head |

A further form of the inside of a mixer is a further row.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from statewise.errors import ConfigError
from statewise.model.config import Mamba2Config
from statewise.model.inside import Parts
from statewise.model.layout import Layout
from statewise.model.norm import RMSNorm
from statewise.model.ssd import SSDOutput

Backend = Literal["auto", "cpu", "triton", "mamba_ssm", "fla", "torch"]
Device = Literal["auto", "cpu", "cuda"]
ON_GPUS: tuple[Backend, ...] = ("triton", "mamba_ssm", "fla")  # as "auto" prefers them


def products_in(weight: Tensor) -> torch.dtype:
    """The dtype in which products take a weight: autocast's, where it is on."""
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def norm_residual(norm: RMSNorm, residual: Tensor) -> tuple[Tensor, Tensor]:
    """The residual stream (..., d_model) float32 as it is, and normed."""
    return residual, norm(residual)


def project(linear: nn.Linear, x: Tensor) -> Tensor:
    """A projection by its own forward."""
    projected: Tensor = linear(x)
    return projected


@dataclass(frozen=True, slots=True)
class Ops:
    """A row of the table: all that reading rows of tokens needs.

    Attributes:
        norm: as `norm_residual`. The stream is passed through, so that a fused form has the
            gradients of both results at once.
        project: as `project`.
        mix: from one projection of a mixer to the other, as `Parts.mix`.
        step_: one token of it, as `Parts.step_`.
        decoder: whose kernels decode (`statewise.engine.slots`); "" where none of ours do.
    """

    norm: Callable[[RMSNorm, Tensor], tuple[Tensor, Tensor]]
    project: Callable[[nn.Linear, Tensor], Tensor]
    mix: Callable[..., tuple[Tensor, Tensor, Tensor]]
    step_: Callable[..., Tensor]
    decoder: Literal["", "cpu", "triton"] = ""

    @classmethod
    def of(cls, parts: Parts, decoder: Literal["", "cpu", "triton"] = "") -> Ops:
        """The row that composes a mixer of these parts."""
        return cls(norm_residual, project, parts.mix, parts.step_, decoder)


DEFINITION = Ops.of(Parts())


def place(device: Device) -> torch.device:
    """Where a model is to run; "auto": on a GPU if there is one.

    Raises:
        ConfigError: a GPU is asked for where torch sees none.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ConfigError("device: 'cuda' is asked for, but torch sees no GPU here; use 'auto'")
    return torch.device("cuda" if there and device != "cpu" else "cpu")


def choose(
    backend: Backend,
    config: Mamba2Config,
    device: torch.device,
    weights: torch.dtype,
    products: torch.dtype | None = None,
) -> Ops:
    """The row of a backend for a model; "auto" takes the first that works, the definition last.

    Args:
        backend: a row's name, or "auto".
        config: the model's sizes.
        device: where it is.
        weights: dtype of its large weights.
        products: dtype in which autocast multiplies; None: the weights'.

    Raises:
        ConfigError: a row is asked for by name where it cannot work; the message says why.
    """
    products = weights if products is None else products
    if backend in ("cpu", "auto"):
        reason = _without_cpu_kernels(config, device, weights, products)
        if not reason:
            return _cpu()
        if backend == "cpu":
            raise ConfigError(f"backend: 'cpu' has no kernels here: {reason}; use 'auto'")
    if backend in ON_GPUS:
        return Ops.of(parts_of(backend, config, device, products), "triton")
    if backend == "auto" and device.type == "cuda":
        for name in ON_GPUS:
            try:
                return Ops.of(parts_of(name, config, device, products), "triton")
            except ConfigError:
                continue
    return DEFINITION


def parts_of(
    backend: Backend, config: Mamba2Config, device: torch.device, products: torch.dtype
) -> Parts:
    """The parts of one of `ON_GPUS`, or the definition's.

    Raises:
        ConfigError: as for `choose`.
    """
    if backend not in ON_GPUS:
        return Parts()
    ours = _triton(config, device, products)
    if backend == "triton":
        return ours
    module, function, scan = {
        "mamba_ssm": (
            "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined", scan_mamba_ssm,
        ),
        "fla": ("fla.ops.simple_gla", "chunk_simple_gla", scan_fla),
    }[backend]  # fmt: skip
    try:
        theirs = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise ConfigError(
            f"backend: {backend!r} cannot be imported here ({e}); use 'auto'"
        ) from None
    return replace(ours, scan=partial(scan, theirs=theirs, operands=products))


def _without_cpu_kernels(
    config: Mamba2Config, device: torch.device, weights: torch.dtype, products: torch.dtype
) -> str:
    """Why the CPU's kernels cannot read a model; empty if they can."""
    taken = (torch.float32, torch.bfloat16)
    reason = ""
    if device.type != "cpu":
        reason = f"the tensors are on {device.type}"
    elif weights not in taken:
        reason = f"the weights are {weights}"
    elif products not in taken:
        reason = f"autocast is to {products}"
    for name in ("d_model", "headdim", "d_state"):
        if getattr(config, name) % 16:
            reason = f"{name} is {getattr(config, name)}, not a multiple of 16"
    return reason


def _cpu() -> Ops:
    from statewise.model import cpu  # compiles; not all runs need it

    return Ops(_cpu_norm, _cpu_project, cpu.mix, DEFINITION.step_, "cpu")


def _cpu_norm(norm: RMSNorm, residual: Tensor) -> tuple[Tensor, Tensor]:
    from statewise.model import cpu

    return cpu.norm_residual(residual, norm.weight, norm.eps, products_in(norm.weight))


def _cpu_project(linear: nn.Linear, x: Tensor) -> Tensor:
    from statewise.model import cpu

    if type(linear) is not nn.Linear:  # an adapter around one, say: its forward is what counts
        return project(linear, x)
    return cpu.linear(x, linear.weight, linear.bias)


def _triton(config: Mamba2Config, device: torch.device, products: torch.dtype) -> Parts:
    try:
        from statewise.model import triton
    except ImportError:
        raise ConfigError(
            "backend: 'triton' is not installed: pip install 'statewise[gpu]'"
        ) from None
    if device.type != "cuda" and not triton.interpreted():
        raise ConfigError(
            f"backend: 'triton' needs tensors on a GPU, these are on {device.type}; use 'auto'"
        )
    reason = triton.failure(device)
    if reason:
        raise ConfigError(
            f"backend: 'triton' cannot launch a kernel here ({reason}); its launcher needs a C "
            "compiler and Python's headers; without them use 'torch'"
        )
    if products not in (torch.float32, torch.bfloat16):
        raise ConfigError(f"backend: 'triton' has no kernels for weights of {products}")
    if not triton.fits((config.headdim, config.d_state), products):
        raise ConfigError(
            f"backend: 'triton' has no tiles for headdim {config.headdim} with d_state "
            f"{config.d_state} in {products}; use 'torch'"
        )
    return Parts(
        partial(triton.conv_silu, dtype=products),
        partial(triton.ssd, operands=products),
        triton.ssd_step,
        partial(triton.gated_norm, dtype=products),
        triton.CHUNK,
    )


def scan_mamba_ssm(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    state: Tensor,
    layout: Layout,
    operands: torch.dtype,
    theirs: Callable[..., Any],
) -> SSDOutput:
    """`ssd_chunked` by `mamba_ssm`'s `mamba_chunk_scan_combined` (2.3); arguments as there.

    Its chunks are cut at multiples of `chunk_size` of the row. `theirs` gives a row's first state
    to document number 0 and to no other.
    """
    y, after = theirs(
        *(x.to(operands), dt, A, B.to(operands), C.to(operands), chunk_size),
        initial_states=state,
        seq_idx=layout.numbers(x.device).to(torch.int32) if layout.packed else None,
        return_final_states=True,
    )
    return SSDOutput(y, after)


def scan_fla(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    state: Tensor,
    layout: Layout,
    operands: torch.dtype,
    theirs: Callable[..., Any],
) -> SSDOutput:
    """`ssd_chunked` by `fla`'s `chunk_simple_gla` (0.6); arguments as there.

    All documents stand in one row behind each other; queries are C and keys B, once for each head
    of a group, values dt x, and the logarithm of a decay dt A. `chunk_size` is its own.
    """
    b, l, h, p = x.shape
    g, n = B.shape[2:]
    starts, carries, last = layout.derived(_for_fla, x.device)
    before = torch.cat([state, torch.zeros_like(state[:1])])[carries]  # -1 is the zero row
    keys, queries = (t.to(operands).repeat_interleave(h // g, dim=2) for t in (B, C))
    y, after = theirs(
        queries.view(1, b * l, h, n),
        keys.view(1, b * l, h, n),
        (x.float() * dt[..., None]).to(operands).view(1, b * l, h, p),
        (dt * A).view(1, b * l, h),
        scale=1.0,
        initial_state=before.transpose(2, 3).contiguous(),
        output_final_state=True,
        cu_seqlens=starts,
    )
    return SSDOutput(y.view(b, l, h, p), after[last].transpose(2, 3))


def _for_fla(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(d + 1,) where documents start and the last ends; (d,) rows they continue; (b,) the last."""
    ends = np.append(layout.row * layout.columns + layout.start, layout.rows * layout.columns)
    carries = np.where(layout.carries, layout.row, -1)
    every = (ends, carries, np.flatnonzero(layout.last))
    starts, continued, last = (torch.from_numpy(a).to(device) for a in every)
    return starts, continued, last
