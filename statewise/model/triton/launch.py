"""What the kernels share: how they are launched, and what products take."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
# Multiply and add in one instruction: triton's default changes between versions.
LAUNCH = {"enable_fp_fusion": True}
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
    """Warps of a program that keeps some rows of `width` numbers in registers."""
    return min(16, max(4, width // 256))


@triton.jit
def operand(values, DTYPE: tl.constexpr, WIDEN: tl.constexpr):
    """Values as a product takes them, rounded to its dtype.

    WIDEN is for Triton's interpreter, which multiplies the bits of 16-bit floats as integers (3.9).
    """
    values = values.to(DTYPE)
    return values.to(tl.float32) if WIDEN else values
