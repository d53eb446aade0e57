"""Whether a trained model answers as well when its recurrent states are kept in 16 bits.

    python -m benchmarks.state_quality runs/<run> --out runs/state-quality.json

Asks the run's last model its held-out sets of mathematics, greedily, with states kept in float32,
rounded as `statewise.engine.slots.triton` rounds them (every 16th token of a sequence), and rounded
after every token; the rest of the step is the definition's, so no GPU is needed. Differences in
accuracy are paired by problem, with a 95 % interval (bootstrap over problems).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import statewise
from statewise.engine import Engine
from statewise.engine.slots import Ints
from statewise.engine.slots.plain import PlainSlots
from statewise.eval.benchmarks import load_problems
from statewise.eval.metrics import paired_difference
from statewise.eval.runner import evaluate
from statewise.model import Mamba2LM
from statewise.records import write_atomically
from statewise.sampler import SamplingParams

FORMS = {
    "float32": (torch.float32, 1),
    "bfloat16, every 16th token": (torch.bfloat16, 16),
    "float16, every 16th token": (torch.float16, 16),
    "bfloat16, every token": (torch.bfloat16, 1),
    "float8 (e4m3), every token": (torch.float8_e4m3fn, 1),  # shows that the gate can close
}


class RoundedSlots(PlainSlots):
    """Plain slots whose states lose, at every so many tokens, what a 16-bit copy would not keep."""

    def __init__(self, model: Mamba2LM, slots: int, dtype: torch.dtype, every: int) -> None:
        super().__init__(model, slots)
        self._dtype, self._every = dtype, every

    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
        """As `PlainSlots.step_`, then round the sequences whose position is a multiple."""
        logits = super().step_(tokens, slots)
        due = (self._state.position % self._every == 0).nonzero()[:, 0]
        ssm = self._state.ssm
        ssm[:, due] = ssm[:, due].to(self._dtype).float()
        return logits


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, compare, print; the exit code is 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    phases = json.loads((arguments.run / "run.json").read_text())["stages"]
    sets = {
        path.parent.name: load_problems(path)
        for path in sorted((arguments.run / "synth" / "held_out").glob("*/problems.jsonl"))
    }
    problems = [p for rows in sets.values() for p in rows if p.kind == "math"]
    last = max((arguments.run / "train").glob("after-*"), key=lambda p: p.stat().st_mtime)
    model, tokenizer = statewise.load(last)
    model.use("torch")
    params = SamplingParams(n=1, max_tokens=arguments.max_tokens, temperature=0.0)
    means: dict[str, dict[str, float]] = {}
    forms: dict[str, dict[str, Any]] = {}
    for name, (dtype, every) in FORMS.items():
        engine = Engine(model, tokenizer, slots=arguments.slots)
        # In place of its own.
        engine._rows.memory = RoundedSlots(model, arguments.slots, dtype, every)
        with tempfile.TemporaryDirectory() as folder:
            evaluation = evaluate(engine, problems, params, Path(folder), checker="integer")
        means[name] = evaluation.per_problem
        apart = paired_difference(means[name], means["float32"])
        forms[name] = {
            "accuracy": evaluation.pass_at_1,
            "difference": apart.mean,
            "interval_95": apart.interval,
            "answers_that_turned": sum(means[name][p] != q for p, q in means["float32"].items()),
        }
        sys.stdout.write(f"{name}: {forms[name]}\n")
        sys.stdout.flush()
    result = {
        "benchmark": "state_quality", "checkpoint": last.name, "problems": len(problems),
        "sets": {name: len(rows) for name, rows in sets.items()}, "stages": sorted(phases),
        "temperature": 0.0, "max_tokens": arguments.max_tokens, "slots": arguments.slots, "seed": 0,
        "torch": torch.__version__, "forms": forms,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    if arguments.out is not None:
        write_atomically(arguments.out, (json.dumps(result, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
