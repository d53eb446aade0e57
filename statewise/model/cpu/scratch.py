"""Scratch memory of the kernels: one declaration gives the address of each part and the size.

A kernel's parts are declared once, as a function from sizes to the name and shape of each:

    @Scratch
    def SCRATCH(P, N):
        return {"B": (CHUNK, N), "states": (2, N, P)}

    PART = SCRATCH.parts

What is allocated and the addresses at which the kernel works both come from that: a thread reads
them from a table, `place(table, PART.B)`. No kernel adds up sizes.
"""

from __future__ import annotations

import inspect
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from statewise.model.cpu.threads import routine
from statewise.model.cpu.vector import WIDTH, load1_i64

GUARD = WIDTH  # float32 behind each part that belong to none: a slip shows there first

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Scratch memory of a kernel's threads.

    Attributes:
        floats: the memory of all threads, float32; not initialised.
        table: (threads, parts, 2) int64: the address of each part and the bytes of one entry along
            its first axis.
    """

    floats: Tensor
    table: npt.NDArray[np.int64]


class Scratch:
    """The declaration of a kernel's scratch memory.

    Args:
        shapes: from sizes (positive) to the shape, in float32, of each part by its name. The names
            do not depend on the sizes; the order is that in memory.

    Attributes:
        parts: the number of each part, for `place`, as a named tuple (which Numba reads as
            constants).
    """

    def __init__(self, shapes: Callable[..., dict[str, Shape]]) -> None:
        self.shapes = shapes
        names = list(shapes(**dict.fromkeys(inspect.signature(shapes).parameters, 1)))
        self.parts: Any = namedtuple("Parts", names)(*range(len(names)))

    def allocate(self, threads: int, **sizes: int) -> Memory:
        """Memory for so many threads; every part begins at a cache line of its own."""
        offsets, strides, end = [], [], 0
        for shape in self.shapes(**sizes).values():
            offsets.append(end)
            strides.append(math.prod(shape[1:]))
            end += -(-math.prod(shape) // WIDTH) * WIDTH + GUARD
        floats = torch.empty(threads * end)
        table = np.empty((threads, len(offsets), 2), dtype=np.int64)
        first = floats.data_ptr() + 4 * end * np.arange(threads)
        table[:, :, 0] = first[:, None] + 4 * np.array(offsets)
        table[:, :, 1] = 4 * np.array(strides)
        return Memory(floats, table)


@njit(error_model="numpy")
def thread_table(tables, parts, thread):  # pragma: no cover (compiled)
    """Address of a thread's part of the table that is at `tables`."""
    return tables + 16 * len(parts) * thread


@routine
def place(table, part):  # pragma: no cover (compiled)
    """Address of a part of a thread's scratch memory."""
    return load1_i64(table, 2 * part)


@routine
def entry(table, part, index):  # pragma: no cover (compiled)
    """Address of entry `index` along the first axis of a part."""
    return load1_i64(table, 2 * part) + index * load1_i64(table, 2 * part + 1)
