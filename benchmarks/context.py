"""What sharing one row among processes takes: seconds, memory and messages, at growing lengths.

    python -m benchmarks.context --out docs/measurements/DATE-context.json

Trains steps of one row by the loop of a training, once in one process and once in two that read
half of it each, a thread each. First both must give one loss. Beside each figure: what the wave of
R processes through L layers leaves of R times the speed, L / (L + R - 1), and the size of a
message, which is a layer's state and convolution window at every length.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from statewise.model import Mamba2Config, Mamba2LM
from statewise.records import write_json
from statewise.train.config import ParallelConfig, Phase, Source, TrainConfig
from statewise.train.loss import SummedLoss
from statewise.train.packing import Document, pack
from statewise.train.parallel import parallelize

SHAPE = Mamba2Config(d_model=384, n_layer=12, d_state=128, headdim=64, vocab_size=4096)
LENGTHS = (4096, 16_384, 65_536)
PROCESSES = (1, 2)
STEPS = 3  # the first is not counted
AGREE = 1e-4  # of the loss, relative
PHASE = Phase("measured", (Source("x"),), tokens=1, lr=1e-4)


@dataclass(frozen=True)
class Measured:
    """One case.

    Attributes:
        tokens: of the row.
        processes: that share it.
        step_s: the median step.
        peak_bytes: of resident memory, of the process that had the most.
        messages: in a step, of all processes.
        message_bytes: of the largest.
        loss: of the last step.
    """

    tokens: int
    processes: int
    step_s: float
    peak_bytes: int
    messages: int
    message_bytes: int
    loss: float


def rank(tokens: int, steps: int, shape: Mamba2Config) -> dict[str, Any]:
    """Train some steps as one of the processes that the environment names."""
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = TrainConfig(
        phases=(PHASE,),
        batch_tokens=tokens,
        row_tokens=tokens,
        parallel=ParallelConfig(context=world),
    )
    torch.manual_seed(0)
    model = Mamba2LM(shape)
    engine = parallelize(model, SummedLoss(model), config, seed=0)
    sizes = _counted()
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, tokens).astype(np.int32)
    row = pack([Document(ids, 64)], parts=world)
    taken, loss = [], 0.0
    for _ in range(steps):
        sizes.clear()
        begun = time.perf_counter()
        summed = engine.forward(engine.part(row), last=True)
        engine.backward(summed * (engine.world / row.num_targets), last=True)
        engine.update(PHASE.lr)
        taken.append(time.perf_counter() - begun)
        (loss,) = engine.totals(summed.detach())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "step_s": statistics.median(taken[1:]),
        "peak_bytes": peak,
        "messages": len(sizes),
        "message_bytes": max(sizes, default=0),
        "loss": loss / row.num_targets,
    }


def _counted() -> list[int]:
    """The bytes of each message that this process sends from now on."""
    sizes: list[int] = []
    real = dist.isend

    def isend(tensor: torch.Tensor, *args: Any, **more: Any) -> Any:
        sizes.append(tensor.nbytes)
        return real(tensor, *args, **more)

    dist.isend = isend
    return sizes


def measure(tokens: int, processes: int, steps: int, shape: Mamba2Config) -> Measured:
    """Train a case in fresh processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    sizes = json.dumps({n: getattr(shape, n) for n in ("d_model", "n_layer", "d_state", "headdim")})
    command = [sys.executable, "-m", "benchmarks.context", "--rank", str(tokens), str(steps), sizes]
    children = []
    for i in range(processes):
        env = {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(processes)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        env = os.environ | (env if processes > 1 else {"OMP_NUM_THREADS": "1"})
        children.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    told = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a process of {tokens} tokens in {processes} failed")
    found = [json.loads(text.splitlines()[-1]) for text in told]
    return Measured(
        tokens,
        processes,
        max(f["step_s"] for f in found),
        max(f["peak_bytes"] for f in found),
        sum(f["messages"] for f in found),
        max(f["message_bytes"] for f in found),
        found[0]["loss"],
    )


def table(found: Sequence[Measured], layers: int) -> str:
    """As Markdown."""
    lines = [
        "| tokens of the row | processes | tokens/s | of one | of it by the wave | peak memory of "
        "one | messages a step | bytes of one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    alone = {m.tokens: m.step_s for m in found if m.processes == 1}
    for m in found:
        bound = m.processes * layers / (layers + m.processes - 1)
        lines.append(
            f"| {m.tokens:,} | {m.processes} | {m.tokens / m.step_s:,.0f} | "
            f"{alone[m.tokens] / m.step_s:.2f} | {bound:.2f} | {m.peak_bytes / 2**30:.2f} GiB | "
            f"{m.messages} | {m.message_bytes:,} |"
        )
    return "\n".join(lines)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 1 if two cases of one length give different losses."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.rank:
        tokens, steps, sizes = arguments.rank
        shape = Mamba2Config(**json.loads(sizes), vocab_size=SHAPE.vocab_size)
        _tell(json.dumps(rank(int(tokens), int(steps), shape)))
        return 0
    found: list[Measured] = []
    for tokens in arguments.lengths:
        for processes in PROCESSES:
            found.append(measure(tokens, processes, STEPS, SHAPE))
            first = next(m for m in found if m.tokens == tokens)
            if not math.isclose(found[-1].loss, first.loss, rel_tol=AGREE):
                _tell(f"{tokens:,} tokens: the losses are {first.loss} and {found[-1].loss}")
                return 1
    _tell(table(found, SHAPE.n_layer))
    if arguments.out:
        about = {"torch": torch.__version__, "python": platform.python_version()}
        sizes = {n: getattr(SHAPE, n) for n in SHAPE.__slots__}
        write_json(arguments.out, about | {"shape": sizes, "cases": [asdict(m) for m in found]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
