"""Predicted and measured memory of training, at small sizes.

Two steps of the trainer's own engine are taken under torch's profiler, which sees every block that
torch's allocator hands out and takes back, those inside of operations too: the greatest sum is the
measured peak, weights and moments included. Of the large cases it is also seen by how much the
resident memory grew (VmHWM), each in a process of its own and without the profiler: that has the
allocator's reserve and the libraries' scratch as well, and below some hundreds of megabytes it
means little. The last line is JSON. Needs Linux.

    python -m benchmarks.memory --only ddp
    torchrun --nproc-per-node 1 -m benchmarks.memory --only zero   # DeepSpeed wants a launcher
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from statewise.model import Mamba2Config, Mamba2LM
from statewise.train.config import (
    EngineName,
    LoraConfig,
    ParallelConfig,
    Phase,
    Source,
    TrainConfig,
)
from statewise.train.loss import SummedLoss
from statewise.train.memory import IN_STEP, REDUCE_BUCKET, Memory, training_memory
from statewise.train.packing import Document, pack
from statewise.train.parallel import parallelize

ALLOWED = 0.1  # of the measured peak
MIB = 1 << 20


WITHOUT = LoraConfig()


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        model: its sizes.
        row: tokens of a row.
        rows: rows of a step.
        kernels: whose.
        bfloat16: products are.
        recompute: as in a recipe.
        engine: as in a recipe.
        offload: as in a recipe.
        optimiser: as in a recipe.
        lora: as in a recipe.
    """

    model: Mamba2Config
    row: int
    rows: int = 1
    kernels: Literal["torch", "cpu"] = "cpu"
    bfloat16: bool = False
    recompute: Literal["none", "scan", "block"] = "none"
    engine: EngineName = "ddp"
    offload: bool = False
    optimiser: Literal["adamw", "muon"] = "adamw"
    lora: LoraConfig = WITHOUT

    @property
    def train(self) -> TrainConfig:
        """As a recipe would say it."""
        return TrainConfig(
            phases=(Phase("only", (Source("none"),), tokens=1, lr=1e-3),),
            batch_tokens=self.row * self.rows,
            row_tokens=self.row,
            dtype="bfloat16" if self.bfloat16 else "float32",
            backend=self.kernels,
            parallel=ParallelConfig(self.engine, self.offload, self.recompute),
            optimiser=self.optimiser,
            lora=self.lora,
        )

    @property
    def told(self) -> str:
        """In a line."""
        m = self.model
        how = [f"{m.n_layer} x {m.d_model}, {m.ngroups} group{'s' * (m.ngroups > 1)}"]
        how += [f"{self.rows} x {self.row:,}", self.kernels, "bf16" if self.bfloat16 else "fp32"]
        how += [f"recompute {self.recompute}", self.engine + " offload" * self.offload]
        if self.optimiser != "adamw":
            how.append(self.optimiser)
        if self.lora.rank:
            how.append(f"lora {self.lora.rank} over {self.lora.base}")
        return " | ".join(how)

    def memory(self) -> Memory:
        """By the model."""
        return training_memory(
            self.model,
            self.train,
            kernels=self.kernels,
            bfloat16=self.bfloat16,
            threads=torch.get_num_threads(),
        )

    def predicted(self) -> int:
        """Bytes of this process, where host and device are one."""
        lines = self.memory().lines
        return sum(line.nbytes for line in lines if line.name != IN_STEP) - self.apart

    @property
    def apart(self) -> int:
        """Bytes of a buffer whose size is fixed: beside it nothing of a small model would show."""
        return 4 * REDUCE_BUCKET if self.engine.startswith("zero") else 0


BASE = Mamba2Config(
    d_model=128, n_layer=4, d_state=32, headdim=32, ngroups=1, chunk_size=64, vocab_size=512
)
DEEP = replace(BASE, n_layer=10, ngroups=2, tie_embeddings=False)
WIDE = replace(BASE, d_model=384, n_layer=2, d_state=128, headdim=64, ngroups=2, chunk_size=256)
READS = replace(BASE, n_layer=2, vocab_size=16_384)  # a large vocabulary
LARGE = replace(WIDE, d_model=512, n_layer=6, ngroups=1, vocab_size=4096)
SHARDED = replace(WIDE, d_model=256, vocab_size=1024)

CASES = [
    Case(BASE, 2048),
    Case(BASE, 2048, bfloat16=True, recompute="block"),
    Case(DEEP, 1024, rows=2),
    Case(DEEP, 1024, rows=2, bfloat16=True),
    Case(DEEP, 4096, recompute="block"),
    Case(WIDE, 1024, bfloat16=True),
    Case(WIDE, 1024, rows=2, recompute="block"),
    Case(READS, 512),
    Case(READS, 3072, recompute="block"),
    Case(BASE, 2048, kernels="torch"),
    Case(BASE, 2048, kernels="torch", bfloat16=True, recompute="block"),
    Case(DEEP, 512, kernels="torch", rows=2, bfloat16=True),
    Case(WIDE, 1024, kernels="torch"),
    Case(WIDE, 1024, kernels="torch", recompute="block"),
    Case(LARGE, 4096),
    Case(LARGE, 4096, recompute="block"),
    Case(LARGE, 4096, bfloat16=True, recompute="block"),
    Case(BASE, 2048, recompute="scan"),
    Case(DEEP, 1024, bfloat16=True, recompute="scan"),
    Case(WIDE, 1024, kernels="torch", recompute="scan"),
    Case(WIDE, 512, recompute="block", optimiser="muon"),
    Case(LARGE, 512, recompute="block", lora=LoraConfig(rank=16)),
    Case(LARGE, 1024, bfloat16=True, lora=LoraConfig(rank=16)),
    Case(LARGE, 1024, bfloat16=True, recompute="block", lora=LoraConfig(rank=16)),
    Case(LARGE, 512, bfloat16=True, recompute="block", lora=LoraConfig(rank=16, base="nf4")),
    Case(LARGE, 512, rows=2, lora=LoraConfig(rank=16, base="nf4")),
    Case(SHARDED, 256, engine="fsdp2", recompute="block"),
    Case(SHARDED, 256, rows=2, engine="fsdp2", recompute="block"),
    Case(SHARDED, 256, engine="zero2", recompute="block"),
    Case(SHARDED, 256, rows=2, engine="zero2", recompute="block"),
    Case(SHARDED, 256, rows=2, engine="zero2", offload=True, recompute="block"),
    Case(SHARDED, 256, rows=2, engine="zero3", recompute="block"),
    Case(SHARDED, 256, rows=2, engine="zero3", offload=True, recompute="block"),
]


def train(case: Case, steps: int = 2) -> None:
    """Steps of a case, each row a document of random tokens."""
    torch.manual_seed(0)
    if case.lora.rank and case.bfloat16:  # as from a checkpoint, which is never whole in float32
        with torch.device("meta"):
            model = Mamba2LM(case.model, backend=case.kernels).bfloat16()
        model = model.to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
    else:
        model = Mamba2LM(case.model, backend=case.kernels)
    engine = parallelize(model, SummedLoss(model), case.train, seed=0)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        for i in range(case.rows):
            ids = draw.integers(0, case.model.vocab_size, case.row + 1).astype(np.int32)
            row = pack([Document(ids[: case.row], 1)])
            with torch.autocast("cpu", torch.bfloat16, enabled=case.bfloat16, cache_enabled=False):
                loss = engine.loss(row)
            engine.backward(loss / case.row, last=i == case.rows - 1)
        engine.update(1e-3)


def counted(case: Case) -> int:
    """The most bytes that torch's allocator had handed out at once while a case was trained."""
    gc.collect()  # what is let go of later would count as less
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        train(case)
    tree = seen.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    events = sorted(_allocations(tree), key=lambda event: event.start_time_ns)
    # The allocator's own running total: an event that the profiler loses does no harm.
    first = events[0].extra_fields
    before = first.total_allocated - first.alloc_size
    peak = max(event.extra_fields.total_allocated for event in events) - before
    return int(peak) - case.apart


def _allocations(tree: Sequence[Any]) -> Iterator[Any]:
    waiting = list(tree)
    while waiting:
        event = waiting.pop()
        if event.tag == _EventType.Allocation:
            yield event
        waiting += event.children


def resident(case: Case) -> int:
    """By how much the resident memory of this process grew at most while a case was trained."""
    small = replace(case.model, d_model=64, n_layer=1, vocab_size=64, ngroups=1)
    train(replace(case, model=small, row=64, rows=1, engine="ddp"))  # kernels, libraries
    before = _status("VmRSS")
    train(case)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def fresh(number: int) -> int:
    """`resident` of a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--resident", str(number)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; exit code 1 if a prediction is off by more than ALLOWED."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose line has this text")
    parser.add_argument("--resident", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.resident is not None:
        sys.stdout.write(f"{resident(CASES[arguments.resident])}\n")
        return 0
    rows, worst = [], 0.0
    for number, case in enumerate(CASES):
        if arguments.only not in case.told:
            continue
        predicted, measured = case.predicted(), counted(case)
        grown = fresh(number) if case.model is LARGE else None
        off = predicted / measured - 1
        worst = max(worst, abs(off))
        told = f"{grown / MIB:,.0f}" if grown else "-"
        sys.stdout.write(
            f"{case.told} | {predicted / MIB:,.1f} | {measured / MIB:,.1f} | {off:+.1%} | {told} | "
            f"{case.memory().moment}\n"
        )
        sys.stdout.flush()
        figures = {"predicted": predicted, "counted": measured, "resident": grown}
        rows.append({**asdict(case), **figures, "moment": case.memory().moment})
    sys.stdout.write(json.dumps({"allowed": ALLOWED, "worst": worst, "rows": rows}) + "\n")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
