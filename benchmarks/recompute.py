"""What recomputation saves of memory and costs of speed, at the published 130M shape.

    python -m benchmarks.recompute --out docs/measurements/DATE-recompute.json

Trains steps of one packed row, each case in a process of its own: forward, backward and AdamW by
the very loop of a training. Beside each figure: the peak of resident memory (the kernel's count),
what weights, gradients and moments alone take, and the share of the speed without recomputation
where that fits.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.shapes import SHAPES
from statewise.model import Mamba2LM
from statewise.records import write_json
from statewise.train.config import ParallelConfig, Phase, Source, TrainConfig
from statewise.train.loss import SummedLoss
from statewise.train.packing import Document, pack
from statewise.train.parallel import parallelize

SHAPE = "130M"
VOCABULARY = 50_288
CASES = (  # tokens of the row, what is computed again, and steps, the first of them not counted
    (4096, "none", 4), (4096, "scan", 4), (4096, "block", 4),
    (16_384, "none", 3), (16_384, "scan", 3), (16_384, "block", 3),
    (65_536, "block", 2),
)  # fmt: skip
DOCUMENT = 2048  # tokens of each document in the row
PHASE = Phase("measured", (Source("x"),), tokens=1, lr=1e-4)


@dataclass(frozen=True)
class Measured:
    """One case.

    Attributes:
        tokens: of the row.
        recompute: what is computed again.
        steps_s: seconds of each step behind the first.
        peak_bytes: of resident memory.
        fixed_bytes: weights, gradients and moments.
        loss: of the last step, which recomputation must not change.
    """

    tokens: int
    recompute: str
    steps_s: list[float]
    peak_bytes: int
    fixed_bytes: int
    loss: float

    @property
    def tokens_per_s(self) -> float:
        """By the median step."""
        return self.tokens / statistics.median(self.steps_s)


def measure(tokens: int, recompute: str, steps: int) -> Measured:
    """Train some steps in this process."""
    torch.manual_seed(0)
    model = Mamba2LM(replace(SHAPES[SHAPE], vocab_size=VOCABULARY))
    config = TrainConfig(
        phases=(PHASE,),
        batch_tokens=tokens,
        row_tokens=tokens,
        parallel=ParallelConfig(recompute=recompute),  # type: ignore[arg-type]
    )
    engine = parallelize(model, SummedLoss(model), config, seed=0)
    rng = np.random.default_rng(0)
    documents = [
        Document(rng.integers(0, VOCABULARY, min(DOCUMENT, tokens)).astype(np.int32), 64)
        for _ in range(max(tokens // DOCUMENT, 1))
    ]
    row, taken, loss = pack(documents), [], 0.0
    for _ in range(steps):
        begun = time.perf_counter()
        summed = engine.loss(row)
        engine.backward(summed / row.num_targets, last=True)
        engine.update(PHASE.lr)
        taken.append(time.perf_counter() - begun)
        loss = float(summed.detach()) / row.num_targets
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(tokens, recompute, taken[1:], peak, 16 * model.num_params, loss)


def table(found: Sequence[Measured]) -> str:
    """As Markdown."""
    lines = [
        "| tokens of the row | computed again | peak memory | tokens/s | of the speed without |",
        "|---|---|---|---|---|",
    ]
    whole = {m.tokens: m.tokens_per_s for m in found if m.recompute == "none"}
    for m in found:
        share = f"{m.tokens_per_s / whole[m.tokens]:.2f}" if m.tokens in whole else "does not fit"
        lines.append(
            f"| {m.tokens:,} | {m.recompute} | {m.peak_bytes / 2**30:.1f} GiB | "
            f"{m.tokens_per_s:,.0f} | {share} |"
        )
    return "\n".join(lines)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recompute", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--case", nargs=3, metavar=("TOKENS", "RECOMPUTE", "STEPS"))
    parser.add_argument("--most", type=int, default=CASES[-1][0], help="leave out longer rows")
    arguments = parser.parse_args(argv)
    if arguments.case:
        tokens, how, steps = arguments.case
        _tell(json.dumps(asdict(measure(int(tokens), how, int(steps)))))
        return 0
    found = []
    for tokens, how, steps in CASES:
        if tokens > arguments.most:
            continue
        case = [str(tokens), how, str(steps)]
        command = [sys.executable, "-m", "benchmarks.recompute", "--case", *case]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(Measured(**json.loads(done.stdout.splitlines()[-1])))
        _tell(table(found[-1:]).splitlines()[-1])
    _tell(table(found))
    if arguments.out:
        about = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "shape": SHAPE,
            "cases": [asdict(m) for m in found],
        }
        write_json(arguments.out, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
