"""What the kernels share: how they are launched, and what products take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import ParamSpec, TypeVar

import torch
import triton
import triton.language as tl

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
# Multiply and add in one instruction: triton's default changes between versions.
LAUNCH = {"enable_fp_fusion": True}
OF_TILES = 64 * 128  # elements of a head's state that tiles are made for
# Elements of a head's state, sides rounded up to powers of two, that the tiles leave room for.
LARGEST_STATE = {torch.float32: 2**14, torch.bfloat16: 2**15}


def interpreted() -> bool:
    """Whether triton runs its kernels in Python, on any device (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret)


def power_of_two(width: int, least: int = 16) -> int:
    """The next power of two, and no less than a product of tiles takes."""
    return max(least, int(triton.next_power_of_2(width)))


def fits(state: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether there are tiles for states of (headdim, d_state)."""
    p, n = (power_of_two(side) for side in state)
    return p * n <= LARGEST_STATE[dtype]


def warps_of(width: int) -> int:
    """Warps of a program that keeps some rows of `width` numbers in registers: a power of two."""
    return min(16, max(4, int(triton.next_power_of_2(width)) // 256))


def stages_of(elements: int) -> int:
    """How far ahead loads of a loop are fetched; a large state leaves no shared memory for it."""
    return 3 if elements <= OF_TILES else 1


def on_its_device(function: Callable[P, R]) -> Callable[P, R]:
    """Triton launches on the current device: make it that of the first tensor among arguments."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        given = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if given is None or not given.is_cuda:
            return function(*args, **kwargs)
        with torch.cuda.device(given.device):
            return function(*args, **kwargs)

    return guarded


@triton.jit
def _touch(there):
    tl.store(there, 1)


@functools.cache
def failure(device: torch.device) -> str:
    """Why no kernel can be launched on a device; empty if one can."""
    release = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if release < (3, 6):
        return f"triton {triton.__version__} is too old: 3.6 or newer is needed"
    try:
        there = torch.zeros(1, dtype=torch.int32, device=device)
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            _touch[(1,)](there)
        works = int(there) == 1
    except Exception as e:  # its own errors, the compiler's, the driver's
        return f"{type(e).__name__}: {e}"
    return "" if works else "a kernel was launched and wrote nothing"


@triton.jit
def operand(values, DTYPE: tl.constexpr, WIDEN: tl.constexpr):
    """Values as a product takes them, rounded to its dtype.

    WIDEN is for Triton's interpreter, which multiplies the bits of 16-bit floats as integers (3.9).
    """
    values = values.to(DTYPE)
    return values.to(tl.float32) if WIDEN else values
