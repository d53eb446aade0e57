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
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from statewise.engine.slots import triton as decode
from statewise.model.triton import conv, launch, norm, scan, scan_backward, step
from statewise.records import write_atomically

INT64 = {"tokens", "carries", "ends", "starts", "lengths", "age", "slots", "positions", "filled"}
BYTES = {"valid": "*i1", "carried": "*i8"}
SIZES = {"h", "r", "q", "p", "n", "l", "m", "d", "rows", "width", "headdim"}  # multiples of 16
# What lies in memory in the operands' dtype; all other floats are float32.
OF_OPERANDS = {"x", "B", "C", "y", "dy", "dx", "z", "dz", "out", "grad", "values", "other",
               "primal", "products", "incoming", "outgoing", "states", "grad_products", "before",
               "dbefore", "taps", "bias", "weight", "zx", "conv", "ring_x", "ring_B",
               "mixed"}  # fmt: skip
COUNTS = {"g", "tiles", "blocks", "programs", "groups"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel at the sizes of the 7B."""

    name: str
    function: Any
    constants: dict[str, Any]
    operands: torch.dtype = torch.float32
    warps: int = 4
    ssm: str = "*fp32"

    @property
    def signature(self) -> dict[str, str]:
        """The type of each argument."""
        return {name: self._type(name) for name in self.function.arg_names}

    @property
    def aligned(self) -> dict[tuple[int], list[list[Any]]]:
        """What the launcher finds: addresses, strides and sizes are multiples of 16."""
        hint = ["tt.divisibility", 16]
        return {
            (i,): [hint]
            for i, name in enumerate(self.function.arg_names)
            if self._type(name).startswith("*") or name in SIZES or name.endswith("stride")
        }

    def _type(self, name: str) -> str:
        if name in self.constants:
            return "constexpr"
        if name in BYTES:
            return BYTES[name]
        if name in INT64:
            return "*i64"
        if name in SIZES | COUNTS or name.endswith("stride"):
            return "i32"
        if name in ("eps", "low", "high"):
            return "fp32"
        if name == "ssm":
            return self.ssm
        half = self.operands == torch.bfloat16 and name in OF_OPERANDS
        return "*bf16" if half else "*fp32"


def kernels() -> list[Kernel]:
    """All of them; those that read or write activations in both dtypes."""
    all_kernels = [
        Kernel("decays", scan._decays, {"Q": 256, "HEADS": scan.HEADS}),
        Kernel("steps", scan_backward._steps, {"Q": 256, "HEADS": scan.HEADS, "ROWS": 32}),
        Kernel("step", step._step, {"P": 16, "N": 128}),
        Kernel("advance", decode._advance, {"RING": decode.RING, "ROWS": 256}),
    ]
    for operands, tiles in scan.TILES.items():
        how = {"DTYPE": launch.DTYPES[operands], "EXACT": scan.PRECISION[operands], "WIDEN": False}
        walk = {**how, "ROWS": tiles.walk, "PS": tiles.heading, "N": 128, "STATE": True,
                "FINAL": True}  # fmt: skip
        pair = {**how, "ROWS": tiles.rows, "P": 64}
        whole = {**pair, "N": 128}
        taps = {"K": 4, "BIAS": True, "PACKED": True, "ROWS": conv.ROWS,
                "CHANNELS": conv.CHANNELS}  # fmt: skip
        mix = {"K": 4, "BIAS": True, "LIMITED": True, "RING": decode.RING, "N": 128,
               "LARGEST": 6e4}  # fmt: skip
        entries = [
            ("products", scan._products, {**how, "ROWS": tiles.rows, "N": 128}, tiles.warps),
            ("states", scan._states, walk, tiles.warps),
            ("outputs", scan._outputs, whole, tiles.warps),
            ("states_backward", scan_backward._states_backward, walk, tiles.warps),
            ("pairs", scan_backward._pairs, pair, tiles.warps),
            ("maps, dC", scan_backward._maps, {**whole, "BACK": False},
             scan_backward.MAPS_WARPS),
            ("maps, dB", scan_backward._maps, {**whole, "BACK": True},
             scan_backward.MAPS_WARPS),
            ("inputs", scan_backward._inputs, whole, tiles.warps),
            ("conv", conv._conv, taps, 4),
            ("conv_backward", conv._conv_backward,
             {**taps, "CHANNELS": conv.BACKWARD_CHANNELS, "TILES": conv.SPAN // conv.ROWS,
              "KINDS": 8}, 4),
            ("norm", norm._gated_norm, {"WIDTH": 1024}, launch.warps_of(1024)),
            ("norm_backward", norm._gated_norm_backward,
             {"WIDTH": 1024, "TOKENS": norm.TOKENS}, 4),
            ("mix", decode._mix, {**mix, "PS": decode.HEADING[4][0]}, decode.HEADING[4][1]),
            ("read_maps", decode._read_maps,
             {"K": 4, "BIAS": True, "RING": decode.RING, "N": 128}, 4),
            ("group_norm", decode._group_norm, {"WIDTH": 1024}, 4),
            ("add_norm", decode._add_norm, {"WIDTH": 4096, "ADD": True}, launch.warps_of(4096)),
        ]  # fmt: skip
        name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[operands]
        all_kernels += [Kernel(f"{n}, {name}", f, c, operands, w) for n, f, c, w in entries]
        heading, warps = decode.HEADING[2]
        small = {**mix, "PS": heading}
        all_kernels.append(
            Kernel(f"mix, {name}, fp16 states", decode._mix, small, operands, warps, "*fp16")
        )
    return all_kernels


def describe(kernel: Kernel, card: int) -> str:
    """A table's row: what the compiler made of a kernel for sm_`card`."""
    source = ASTSource(
        fn=kernel.function, signature=kernel.signature, constexprs=kernel.constants,
        attrs=kernel.aligned,
    )  # fmt: skip
    target = GPUTarget("cuda", card, 32)
    made = triton.compile(
        source, target=target, options={"num_warps": kernel.warps, **launch.LAUNCH}
    )
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
            tool = getattr(triton.knobs.nvidia, name, None)
            if tool is not None:
                command = [tool.path, "-v", "--gpu-name", target, file.name, "-o", "/dev/null"]
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
    arguments = parser.parse_args(argv)
    lines = [
        "| kernel | card | registers a thread | spilled, bytes | shared memory, bytes | warps |",
        "|---|---|---|---|---|---|",
    ]
    for card in arguments.cards:
        for kernel in kernels():
            if arguments.only is None or kernel.name.startswith(tuple(arguments.only)):
                lines.append(describe(kernel, card))
    page = "\n".join(lines) + "\n"
    sys.stdout.write(page)
    if arguments.out is not None:
        write_atomically(arguments.out, page.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
