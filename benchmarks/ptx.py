"""Triton's kernels compiled for cards that are not here: registers, spills and shared memory.

    python -m benchmarks.ptx [--cards 80 90] [--only scan ...] [--out runs/ptx.md]

Shapes are those of the 7B (headdim 64, d_state 128, chunks of 256) in both dtypes. Nothing runs;
what the compiler says of a kernel is the same wherever it is asked.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from statewise.model.triton import conv, norm, scan, step
from statewise.records import write_atomically

FLOATS = {"x", "B", "C", "dt", "A", "D", "z", "y", "out", "sums", "steps", "added", "incoming",
          "final", "state", "taps", "bias", "before", "weight"}  # fmt: skip
LONGS = {"tokens", "carries", "offsets", "lengths", "age", "slots"}
BYTES = {"valid": "*i1", "carried": "*i8"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel at the sizes of the 7B."""

    name: str
    function: Any
    constants: dict[str, Any]
    warps: int = 4


def kernels() -> list[Kernel]:
    """All of them; those with products in both dtypes."""
    found = [Kernel("decays", scan._decays, {"Q": 256, "HEADS": scan.HEADS})]
    for dtype, operands in ((tl.float32, torch.float32), (tl.bfloat16, torch.bfloat16)):
        products = {"ROWS": scan.ROWS[operands], "P": 64, "N": 128, "DTYPE": dtype,
                    "EXACT": scan.PRECISION[operands], "WIDEN": False}  # fmt: skip
        found.append(Kernel(f"added, {dtype}", scan._added, products, scan.WARPS))
        found.append(Kernel(f"outputs, {dtype}", scan._outputs, products, scan.WARPS))
    how = {"K": 4, "BIAS": True, "ROWS": conv.ROWS, "CHANNELS": conv.CHANNELS}
    return [
        *found,
        Kernel("chain", scan._chain, {"TILE": scan.STATE_TILE}),
        Kernel("conv", conv._conv, how),
        Kernel("norm", norm._gated_norm, {"WIDTH": 1024}),
        Kernel("step", step._step, {"P": 16, "N": 128}),
    ]


def describe(kernel: Kernel, card: int) -> str:
    """A table's row: what the compiler made of a kernel for sm_`card`."""
    signature = {}
    for name in kernel.function.arg_names:
        if name in kernel.constants:
            signature[name] = "constexpr"
        elif name in FLOATS:
            signature[name] = "*fp32"
        elif name in LONGS:
            signature[name] = "*i64"
        else:
            signature[name] = BYTES.get(name, "fp32" if name == "eps" else "i32")
    source = ASTSource(fn=kernel.function, signature=signature, constexprs=kernel.constants)
    target = GPUTarget("cuda", card, 32)
    made = triton.compile(source, target=target, options={"num_warps": kernel.warps})
    ptx = made.asm["ptx"]
    name = re.search(r"\.target (\S+?),?\s", ptx)
    assert name is not None
    told = _assembled(ptx, name[1].strip(","))
    registers = re.search(r"Used (\d+) registers", told)
    spills = re.search(r"(\d+) bytes spill stores", told)
    cells = (
        kernel.name, f"sm_{card}", registers[1] if registers else "?",
        spills[1] if spills else "0", f"{made.metadata.shared:,}", str(made.metadata.num_warps),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _assembled(ptx: str, target: str) -> str:
    """What the assembler says; triton brings two, and a newer one's input is too new for the other.

    Raises:
        RuntimeError: neither takes it.
    """
    told = ""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for name in ("ptxas", "ptxas_blackwell"):
            found = getattr(triton.knobs.nvidia, name, None)
            if found is not None:
                command = [found.path, "-v", "--gpu-name", target, file.name, "-o", "/dev/null"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode == 0:
                    return done.stderr
                told = done.stderr
    raise RuntimeError(f"no assembler takes it: {told}")


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and print; the exit code is 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cards", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--only", nargs="+", help="kernels whose names begin so")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(argv)
    lines = [
        "| kernel | card | registers a thread | spilled, bytes | shared memory, bytes | warps |",
        "|---|---|---|---|---|---|",
    ]
    for card in asked.cards:
        for kernel in kernels():
            if asked.only is None or kernel.name.startswith(tuple(asked.only)):
                lines.append(describe(kernel, card))
    page = "\n".join(lines) + "\n"
    sys.stdout.write(page)
    if asked.out is not None:
        write_atomically(asked.out, page.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
