"""The pictures of a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLOURS = {"statewise": "#2166ac", "llama.cpp": "#e0a458", "transformers": "#8a929a"}
INK, FAINT = "#24292f", "#dfe3e7"


def draw(result: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Bars of all rows, and lines against length, as far as they were measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    if result["rows"]:
        yield _bars(result, folder / "cpu.png")
    if "length" in result:
        yield _lines(result, folder / "cpu-length.png")


def _bars(result: dict[str, Any], path: Path) -> Path:
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if "statewise" in row["tokens_per_s"]]
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(rows) + 1.2), layout="constrained")
    named = set()
    for i, row in enumerate(rows):
        ours = row["tokens_per_s"]["statewise"]
        for j, (who, colour) in enumerate(COLOURS.items()):
            rate = row["tokens_per_s"].get(who)
            if rate is None:
                continue
            y = i + 0.26 * (j - 1)
            label = None if who in named else who.replace("statewise", "Statewise")
            named.add(who)
            axes.barh(y, rate / ours, height=0.24, color=colour, label=label)
            axes.text(rate / ours + 0.01, y, f"{rate:,.0f}", va="center", fontsize=7.5, color=INK)
        if row["floor_s"]:
            most = row["tokens"] / row["floor_s"] / ours
            axes.plot([most, most], [i - 0.4, i + 0.4], color="#b5432f", linewidth=1.5)
    axes.plot([], [], color="#b5432f", label="the machine's limit")
    axes.set_yticks(range(len(rows)), [f"{row['work']}, {row['dtype']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("tokens/s, in units of Statewise's (figures: tokens/s)")
    axes.grid(axis="x", color=FAINT)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=8)
    figure.legend(frameon=False, loc="outside upper center", ncols=4, fontsize=8.5)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _lines(result: dict[str, Any], path: Path) -> Path:
    import matplotlib.pyplot as plt

    measured = result["length"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    titles = {"prefill": "prefill", "training": f"training ({measured['training shape']})"}
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        for who, rates in measured[part].items():
            lengths = measured["lengths"][: len(rates)]
            axes.plot(
                lengths, rates, marker="o", color=COLOURS[who],
                label=who.replace("statewise", "Statewise"),
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(measured["lengths"], [f"{n:,}" for n in measured["lengths"]])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens in one sequence")
        axes.set_ylabel("tokens/s")
        axes.set_title(title, fontsize=10)
        axes.grid(color=FAINT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
