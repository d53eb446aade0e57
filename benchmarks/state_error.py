"""How the error of a long decode grows, by the dtype in which the recurrent state is kept.

The recurrence is stepped in float64, and beside it by `ssd_step` with its state in float32, and
rounded to bfloat16 or float16: to nearest or stochastically, after every step or after every
sixteenth, as deferred writes of the state do. All read the same inputs. Prints a table and, as its
last line, JSON; writes the figure of docs/numerics.md.

    python benchmarks/state_error.py --figure docs/figures/state_error.png
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from statewise.model import ssd_step

BLOCK = 500  # steps whose inputs are drawn at once


@dataclass(frozen=True)
class Sizes:
    """The layer: heads as Mamba-2 initialises them, the rest small."""

    heads: int = 32
    headdim: int = 4
    d_state: int = 32
    dt_min: float = 0.001
    dt_max: float = 0.1


@dataclass(frozen=True)
class Growth:
    """Errors in bins of steps.

    Attributes:
        ends: the step at which each bin ends.
        error: of each form, (bins, seeds, heads): the root mean square error of the outputs over
            that of the exact outputs in the bin.
        memory: (seeds, heads) mean number of steps in which a state falls to 1/e.
    """

    ends: list[int]
    error: dict[str, Tensor]
    memory: Tensor

    def typical(self, form: str, heads: Tensor | None = None) -> Tensor:
        """(bins,) root mean square over seeds and heads, or over those of a mask."""
        error = self.error[form].double()
        chosen = error.flatten(1) if heads is None else error[:, heads]
        return chosen.square().mean(1).sqrt()


def stochastic(state: Tensor, dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    """To one of the two neighbours of a 16-bit dtype, so that the mean is the value itself."""
    bits = state.view(torch.int32)
    dropped = 16 if dtype == torch.bfloat16 else 13  # of float32's 23 bits of fraction
    noise = torch.randint(0, 1 << dropped, state.shape, generator=rng, dtype=torch.int32)
    return (bits + noise & ~((1 << dropped) - 1)).view(torch.float32)


@dataclass(frozen=True)
class Rounded:
    """Leaves in a state what a 16-bit copy of it would keep, after every so many steps."""

    dtype: torch.dtype
    steps: int
    at_random: bool = False

    def __call__(self, state: Tensor, t: int, rng: torch.Generator) -> None:
        """Round in place at step `t`."""
        if t % self.steps == 0:
            kept = stochastic(state, self.dtype, rng) if self.at_random else state.to(self.dtype)
            state.copy_(kept)


FORMS: dict[str, Rounded | None] = {"float32": None}
for _dtype in (torch.bfloat16, torch.float16):
    for _steps in (1, 16):
        for _at_random in (False, True):
            _name = str(_dtype).removeprefix("torch.") + "-stochastic" * _at_random
            _name += f"-every-{_steps}" if _steps > 1 else ""
            FORMS[_name] = Rounded(_dtype, _steps, _at_random)


def edges(steps: int, per_decade: int = 8) -> list[int]:
    """Ends of bins, evenly spaced in the logarithm."""
    count = round(per_decade * math.log10(steps))
    return sorted({round(steps ** (i / count)) for i in range(1, count + 1)})


def measure(steps: int, seeds: list[int], sizes: Sizes, ends: list[int]) -> Growth:
    """Step all forms beside each other, one row a seed."""
    b, h, p, n = len(seeds), sizes.heads, sizes.headdim, sizes.d_state
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=rng) for rng in rngs])

    def uniform(*shape: int) -> Tensor:
        return torch.stack([torch.rand(shape, generator=rng) for rng in rngs])

    # As a fresh model has them; `ssd_step` takes one A for all rows, so the rows share it.
    A = -(1 + 15 * uniform(h)[0])
    low, high = math.log(sizes.dt_min), math.log(sizes.dt_max)
    typical = torch.exp(low + (high - low) * uniform(h))
    dt_bias = typical + torch.log(-torch.expm1(-typical))  # softplus of it is the step size
    exact = torch.zeros(b, h, p, n, dtype=torch.float64)
    states = {form: exact.float() for form in FORMS}
    wrong = {form: torch.zeros(len(ends), b, h, dtype=torch.float64) for form in FORMS}
    power = torch.zeros(len(ends), b, h, dtype=torch.float64)
    decay = torch.zeros(b, h, dtype=torch.float64)
    noise, place = torch.Generator().manual_seed(seeds[0]), 0
    for start in range(0, steps, BLOCK):
        size = min(BLOCK, steps - start)
        x, B, C = (F.silu(normal(size, *shape)) for shape in ((h, p), (1, n), (1, n)))
        dt = F.softplus(dt_bias[:, None] + normal(size, h))
        decay -= (dt * A).double().sum(1)
        x64, dt64, A64, B64, C64 = (t.double() for t in (x, dt, A, B, C))
        for i in range(size):
            t = start + i + 1
            place += t > ends[place]
            y = ssd_step(exact, x64[:, i], dt64[:, i], A64, B64[:, i], C64[:, i])
            power[place] += y.square().sum(-1)
            for form, state in states.items():
                output = ssd_step(state, x[:, i], dt[:, i], A, B[:, i], C[:, i])
                wrong[form][place] += (output - y).square().sum(-1)
                rounded = FORMS[form]
                if rounded is not None:
                    rounded(state, t, noise)
    error = {form: (wrong[form] / power).sqrt() for form in FORMS}
    return Growth(ends, error, steps / decay)


def draw(growth: Growth, slow: Tensor, path: Path) -> None:
    """The figure: error against steps, all heads and the slowest quarter."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    labels = {
        "bfloat16": "bfloat16, rounded every step",
        "bfloat16-every-16": "bfloat16, rounded every 16 steps",
        "float16": "float16, rounded every step",
        "float16-every-16": "float16, rounded every 16 steps",
        "float32": "float32",
    }
    colours = dict(
        zip(labels, ("#b5432f", "#e0a458", "#7b6aa6", "#4d9a6a", "#2166ac"), strict=True)
    )
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for form, label in labels.items():
        every_head, slow_heads = growth.typical(form), growth.typical(form, slow)
        axes.loglog(growth.ends, every_head, color=colours[form], label=label)
        axes.loglog(growth.ends, slow_heads, color=colours[form], linestyle=":")
        axes.annotate(
            f"{every_head[-1]:.0e}",
            (growth.ends[-1], float(every_head[-1])),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colours[form],
        )
    axes.plot([], [], color="#59636d", linestyle=":", label="the slowest quarter of the heads")
    axes.set_xlabel("steps")
    axes.set_ylabel("relative error of the outputs (rms)")
    axes.grid(which="major", color="#dfe3e7")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="center right", bbox_to_anchor=(1, 0.3))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, help="where to write a PNG")
    args = parser.parse_args()
    begun = time.perf_counter()
    sizes = Sizes()
    growth = measure(args.steps, args.seeds, sizes, edges(args.steps))
    slow = growth.memory >= growth.memory.flatten().quantile(0.75)
    lines = [
        f"{'steps':>8}"
        + "".join(f"{f'{form} ({who})':>28}" for form in FORMS for who in ("all", "slow"))
    ]
    for i, end in enumerate(growth.ends):
        cells = [growth.typical(form, who)[i] for form in FORMS for who in (None, slow)]
        lines.append(f"{end:>8,}" + "".join(f"{float(cell):>28.1e}" for cell in cells))
    low, high = growth.memory.min(), growth.memory.max()
    lines.append(f"a state falls to 1/e in {low:.1f} to {high:.0f} steps")
    if args.figure:
        draw(growth, slow, args.figure)
        lines.append(f"wrote {args.figure}")
    result = {
        "benchmark": "state_error",
        "steps": args.steps,
        "seeds": args.seeds,
        "sizes": vars(sizes),
        "ends": growth.ends,
        "error": {form: [float(e) for e in growth.typical(form)] for form in FORMS},
        "error_slowest_quarter": {
            form: [float(e) for e in growth.typical(form, slow)] for form in FORMS
        },
        "error_worst_head": {form: float(growth.error[form][-1].max()) for form in FORMS},
        "memory_steps": {
            "min": float(low),
            "max": float(high),
            "slowest_quarter": float(growth.memory[slow].min()),
        },
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    sys.stdout.write("\n".join([*lines, json.dumps(result)]) + "\n")


if __name__ == "__main__":
    main()
