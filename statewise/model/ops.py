"""Who computes the inside of a mixer: one table of backends, and the choice of a row.

| backend | convolution, step, norm | scan |
|---|---|---|
| torch | the definition | the definition |
| triton | our kernels | our kernels |
| mamba_ssm | our kernels | `mamba_ssm`'s, where that package can be imported |
| fla | our kernels | `fla`'s simple GLA, which takes B and C once a head |

The CPU's kernels are not in it: they compute a mixer whole (`statewise.model.cpu`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from statewise.errors import ConfigError
from statewise.model.conv import causal_conv_silu
from statewise.model.norm import skip_gate_norm
from statewise.model.ssd import ChunkTable, SSDOutput, ssd_chunked, ssd_step

Backend = Literal["auto", "cpu", "triton", "mamba_ssm", "fla", "torch"]
Device = Literal["auto", "cpu", "cuda"]
ON_GPUS: tuple[Backend, ...] = ("triton", "mamba_ssm", "fla")  # as "auto" prefers them


class Ops(NamedTuple):
    """What computes the inside of a mixer.

    Attributes:
        conv: the convolution, as `causal_conv_silu`.
        scan: the recurrence over rows, as `ssd_chunked`.
        step: one token of it, as `ssd_step`.
        norm: skip, gate and norm, as `skip_gate_norm`.
        chunk_size: tokens of the scan's chunks; 0: what the model's configuration says.
    """

    conv: Callable[..., Tensor]
    scan: Callable[..., SSDOutput]
    step: Callable[..., Tensor]
    norm: Callable[..., Tensor]
    chunk_size: int = 0


DEFINITION = Ops(causal_conv_silu, ssd_chunked, ssd_step, skip_gate_norm)


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
    backend: Backend, device: torch.device, dtype: torch.dtype, state: tuple[int, int] = (1, 1)
) -> Ops:
    """The ops of a backend for tensors on `device`, products of `dtype`, and states of a size.

    `state` is (headdim, d_state). "auto" takes the first of `ON_GPUS` that works on a GPU, and the
    definition elsewhere.

    Raises:
        ConfigError: a backend is asked for by name where it cannot work; the message says why.
    """
    if backend in ON_GPUS:
        return _TABLE[backend](device, dtype, state)
    if backend == "auto" and device.type == "cuda":
        for name in ON_GPUS:
            try:
                return _TABLE[name](device, dtype, state)
            except ConfigError:
                continue
    return DEFINITION


def _triton(device: torch.device, dtype: torch.dtype, state: tuple[int, int]) -> Ops:
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
    if dtype not in (torch.float32, torch.bfloat16):
        raise ConfigError(f"backend: 'triton' has no kernels for weights of {dtype}")
    if not triton.fits(state, dtype):
        raise ConfigError(
            f"backend: 'triton' has no tiles for headdim {state[0]} with d_state {state[1]} in "
            f"{dtype}; use 'torch'"
        )
    return Ops(
        partial(triton.conv_silu, dtype=dtype),
        partial(triton.ssd, operands=dtype),
        triton.ssd_step,
        partial(triton.gated_norm, dtype=dtype),
        triton.CHUNK,
    )


def _with_scan(
    name: str, module: str, function: str, scan: Callable[..., SSDOutput], *where: Any
) -> Ops:
    ours = _triton(*where)
    try:
        theirs = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"backend: {name!r} cannot be imported here ({e}); use 'auto'") from None
    return ours._replace(scan=partial(scan, theirs=theirs, operands=where[1]))


def _mamba_ssm(device: torch.device, dtype: torch.dtype, state: tuple[int, int]) -> Ops:
    where = "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined"
    return _with_scan("mamba_ssm", *where, scan_mamba_ssm, device, dtype, state)


def _fla(device: torch.device, dtype: torch.dtype, state: tuple[int, int]) -> Ops:
    where = "fla.ops.simple_gla", "chunk_simple_gla"
    return _with_scan("fla", *where, scan_fla, device, dtype, state)


_TABLE: dict[str, Callable[[torch.device, torch.dtype, tuple[int, int]], Ops]] = {
    "triton": _triton,
    "mamba_ssm": _mamba_ssm,
    "fla": _fla,
}


def scan_mamba_ssm(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    state: Tensor,
    table: ChunkTable,
    operands: torch.dtype,
    theirs: Callable[..., Any],
) -> SSDOutput:
    """`ssd_chunked` by `mamba_ssm`'s `mamba_chunk_scan_combined` (2.3); arguments as there.

    Its chunks are cut at multiples of `chunk_size` of the row. `theirs` gives a row's first state
    to document number 0 and to no other.
    """
    number = _numbers(table, *x.shape[:2]).to(torch.int32)
    y, after = theirs(
        *(x.to(operands), dt, A, B.to(operands), C.to(operands), chunk_size),
        initial_states=state,
        seq_idx=number if table.carries.numel() > x.shape[0] else None,
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
    table: ChunkTable,
    operands: torch.dtype,
    theirs: Callable[..., Any],
) -> SSDOutput:
    """`ssd_chunked` by `fla`'s `chunk_simple_gla` (0.6); arguments as there.

    All documents stand in one row behind each other; queries are C and keys B, once for each head
    of a group, values dt x, and the logarithm of a decay dt A. `chunk_size` is its own.
    """
    b, l, h, p = x.shape
    g, n = B.shape[2:]
    number = _numbers(table, b, l)
    first = torch.ones_like(number, dtype=torch.bool)
    first[:, 1:] = number[:, 1:] != number[:, :-1]
    starts = first.flatten().nonzero()[:, 0]
    document = _documents(table)[starts]
    carries, ends = table.carries[document], table.ends[document]
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
        cu_seqlens=torch.cat([starts, starts.new_tensor([b * l])]),
    )
    return SSDOutput(y.view(b, l, h, p), after[ends >= 0].transpose(2, 3))


def _documents(table: ChunkTable) -> Tensor:
    """(b * l,) the document of each token, as the table counts them."""
    chunk = table.places // table.valid.shape[1]
    level = torch.searchsorted(table.starts, chunk, right=True) - 1
    return chunk - table.starts[level]


def _numbers(table: ChunkTable, b: int, l: int) -> Tensor:
    """(b, l) the number of each token's document in its row, from 0."""
    document = _documents(table).view(b, l)
    changes = torch.zeros_like(document)
    changes[:, 1:] = document[:, 1:] != document[:, :-1]
    return changes.cumsum(1)
