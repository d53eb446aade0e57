"""The report's figures, drawn by matplotlib without any state outside this module.

Each drawing function takes results (or a part of them) and returns a `Figure`, or None where there
is nothing to show. Blue is the attention-free model, orange the Transformer, grey all else.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from statewise.report import paper, wording
from statewise.report.results import (
    Choice,
    Comparison,
    CurvePoint,
    DevelopmentPoint,
    RunResults,
    SetResult,
    Trial,
)
from statewise.speed import IN_LLAMA_CPP, IN_TORCH, OURS, OURS_IN_TORCH, Bench, memory_break_even

BLUE, ORANGE, GREY, PALE, INK = "#2166ac", "#d6604d", "#7d8791", "#bac2c9", "#2b3137"
ARCHITECTURES = {"statewise": ("Statewise", BLUE), "transformer": ("Transformer", ORANGE)}
# Whose speed was measured, as people say it.
CONTESTANTS = {
    OURS: "Statewise",
    OURS_IN_TORCH: "Statewise in torch",
    IN_LLAMA_CPP: "Transformer in llama.cpp",
    IN_TORCH: "Transformer in torch",
}
_LINES: dict[str, Any] = {
    OURS: {"color": BLUE, "marker": "o", "markersize": 4},
    OURS_IN_TORCH: {"color": BLUE, "marker": "o", "markersize": 3, "linewidth": 1,
                    "linestyle": (0, (2, 1.5))},
    IN_LLAMA_CPP: {"color": ORANGE, "marker": "o", "markersize": 4},
    IN_TORCH: {"color": ORANGE, "marker": "o", "markersize": 3, "linewidth": 1,
               "linestyle": (0, (2, 1.5))},
}  # fmt: skip
# The arms of the comparisons, and the architectures of the trials.
ARMS = {
    "curriculum": BLUE,
    "mixture": GREY,
    "foundation": PALE,
    "no-programs": "#67a9a0",
    "transformer": ORANGE,
    "transformer-compute": "#f0b9a8",
    "transformer-window": "#8c4a3c",
}
TRIED = {"attention-free": BLUE, "transformer": ORANGE, "window": "#8c4a3c"}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
WIDTH = 4.8  # inches: small, so that 9 pt stay readable on a phone
_MEASURED_SHOWN = 6  # sources whose loss is drawn; the table has them all
_LEGEND_LETTERS = 72  # that stand side by side in this width, of the legend's size

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "grid.color": "#e8ebee",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # real text: small files, and the page's own typeface
    "svg.hashsalt": "statewise",  # the same figure has the same bytes
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure as a vector and as pixels."""

    svg: str  # begins at "<svg", so that it can stand in a page
    png: bytes


def draw_all(results: RunResults) -> dict[str, Drawing]:
    """Draw every figure the results have material for, by name."""
    drawings = {}
    # The defaults first: a person's own matplotlibrc must not change a report's bytes.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for name, draw in FIGURES.items():
            figure = draw(results)
            if figure is not None:
                drawings[name] = _render(name, figure)
    return drawings


def draw_beside_published(name: str, measured: Mapping[str, SetResult]) -> Drawing | None:
    """The figure `beside_published` alone, for a model that no run has trained."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = beside_published(name, measured)
        return None if figure is None else _render("beside-published", figure)


def beside_published(name: str, measured: Mapping[str, SetResult]) -> Figure | None:
    """pass@1 by benchmark: the paper's models as it gives them, and one's own with its interval.

    Args:
        name: of one's own model.
        measured: by benchmark, as `RunResults.eval`; without one of the paper's there is no figure.
    """
    scores = {paper.COLUMNS[n]: r for n, r in measured.items() if n in paper.COLUMNS}
    if not scores:
        return None
    rows = {row: dict(zip(paper.BENCHMARKS, cells, strict=True))
            for row, cells in paper.ROWS}  # fmt: skip
    flagship, *others = paper.TABLES["General"]
    figure = _figure(3.4)
    axes = figure.add_subplot()
    for y, benchmark in enumerate(paper.BENCHMARKS):
        for row in others:
            if isinstance(share := rows[row][benchmark], float):
                axes.plot(share / 100, y - 0.12, marker="|", color=GREY, markersize=9)
        if isinstance(share := rows[flagship][benchmark], float):
            axes.plot(share / 100, y - 0.12, **_OPEN)
        result = scores.get(benchmark)
        if result is not None and result.pass_at_1 is not None:
            share = result.pass_at_1
            low, high = result.interval or (share, share)
            axes.plot([low, high], [y + 0.2] * 2, color=BLUE, linewidth=2.4)
            axes.plot(share, y + 0.2, marker="o", color=BLUE, markersize=5, clip_on=False)
            axes.annotate(
                f"{100 * share:.1f}", (max(high, share), y + 0.2), xytext=(6, 0),
                textcoords="offset points", va="center", color=BLUE, fontsize=8,
            )  # fmt: skip
    _rows(axes, list(paper.BENCHMARKS))
    _share_axis(axes, "pass@1", 1.0)
    mine = Line2D([], [], marker="o", color=BLUE, markersize=5, linewidth=2.4,
                  label=f"{wording.shortened(name)}, measured, 95 % interval")  # fmt: skip
    theirs = Line2D([], [], **_OPEN, label=f"{flagship}, published")
    rest = Line2D([], [], marker="|", linestyle="", color=GREY, markersize=9,
                  label="the paper's other models, published")  # fmt: skip
    _legend(figure, [mine, theirs, rest], ncols=1)
    return figure


_OPEN: dict[str, Any] = {
    "marker": "o",
    "linestyle": "",
    "markersize": 6,
    "markerfacecolor": "white",
    "markeredgecolor": ORANGE,
    "markeredgewidth": 1.4,
}


def _render(name: str, figure: Figure) -> Drawing:
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"font: (?:(\S+) )?([\d.]+px) [^;\"]*", rf"font: \1 \2 {_FONTS}", text)
    # Several figures share one page: their ids must not meet.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = text.replace('href="#', f'href="#{name}-')
    return Drawing(text, png.getvalue())


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=160, layout="constrained")


def _legend(figure: Figure, handles: Sequence[Any], ncols: int | None = None) -> None:
    """A legend above the axes, in as many columns as its labels leave room for."""
    longest = max(len(handle.get_label()) for handle in handles)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=ncols or min(len(handles), max(1, _LEGEND_LETTERS // (longest + 6))),
        handlelength=1.4,
        columnspacing=1.6,
    )


def _swatch(color: str, label: str) -> Line2D:
    return Line2D([], [], marker="s", linestyle="", color=color, markersize=7, label=label)


def _share_axis(axes: Axes, label: str, largest: float) -> None:
    """An axis of shares from zero; it ends at 100 % unless everything is far below."""
    end = next((e for e in (0.02, 0.04, 0.08, 0.2, 0.4) if 1.1 * largest <= e), 1.0)
    axes.set_xlim(0, end)
    axes.set_xticks([end * k / 4 for k in range(5)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _round(wording.percent(v, 2))))
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels=list(labels))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=7)


def phases_of(results: RunResults) -> dict[str, dict[str, SetResult]]:
    """Accuracy by phase as it is drawn: the phases, or else the trained model alone."""
    phases = {name: sets for name, sets in results.eval_by_phase.items() if sets}
    seen = {name for sets in phases.values() for name in sets}
    rest = {name: row for name, row in results.eval.items() if name not in seen}
    return {**phases, "after training": rest} if rest else phases


def _phase_colors(n: int) -> list[str]:
    return [BLUE] if n == 1 else [(PALE, GREY)[i % 2] for i in range(n - 1)] + [BLUE]


def accuracy(results: RunResults) -> Figure | None:
    """pass@1 by set and phase: bars with 95 % intervals, and a diamond for the majority."""
    phases = phases_of(results)
    drawn = {
        phase: {s: r for s, r in sets.items() if r.pass_at_1 is not None}
        for phase, sets in phases.items()
    }
    drawn = {phase: sets for phase, sets in drawn.items() if sets}
    names = list(dict.fromkeys(name for sets in drawn.values() for name in sets))
    if not names:
        return None
    thickness = 0.78 / len(drawn)
    figure = _figure(0.95 + len(names) * max(0.36, 0.23 * len(drawn)))
    axes = figure.add_subplot()
    handles = []
    majority = False
    for i, ((phase, sets), color) in enumerate(
        zip(drawn.items(), _phase_colors(len(drawn)), strict=True)
    ):
        handles.append(_swatch(color, wording.shortened(phase)))
        for y, name in enumerate(names):
            row = sets.get(name)
            if row is None or row.pass_at_1 is None:
                continue
            at = y + (i - (len(drawn) - 1) / 2) * thickness
            share = row.pass_at_1
            axes.barh(at, share, height=thickness * 0.88, color=color, linewidth=0)
            low, high = row.interval or (share, share)
            for ink, width in (("white", 2.6), (INK, 1.1)):  # the line reads on any bar
                axes.plot([low, high], [at, at], color=ink, linewidth=width, solid_capstyle="butt")
            if row.majority is not None:
                majority = True
                axes.plot(row.majority, at, **_DIAMOND)
            axes.annotate(
                f"{100 * share:.1f}",
                (1, at),
                xytext=(26, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="center",
                color=INK,
                fontsize=8 if len(drawn) < 3 else 7,
                annotation_clip=False,
            )
    _rows(axes, [wording.wrapped(wording.set_label(n)) for n in names])
    largest = max(_largest(row) for sets in drawn.values() for row in sets.values())
    _share_axis(axes, "pass@1, with 95 % interval", largest)
    if majority:
        handles.append(Line2D([], [], **_DIAMOND, label="majority of the samples"))
    _legend(figure, handles)
    return figure


_DIAMOND: dict[str, Any] = {
    "marker": "D",
    "linestyle": "",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "markeredgewidth": 1.1,
    "clip_on": False,
    "zorder": 4,
}


def _largest(row: SetResult) -> float:
    high = row.interval[1] if row.interval else row.pass_at_1
    return max(high or 0, row.majority or 0)


def _seed_dots(figures: Comparison | None) -> Figure | None:
    """One dot a seed and a bar at their mean, for every set and arm; what decides stands first."""
    rows = figures.scores if figures else ()
    rows = tuple(r for r in rows if any(score is not None for score in r.scores.values()))
    if not figures or not rows:
        return None
    asked = dict.fromkeys(r.set for r in rows)
    decides = [name for name in asked if name in figures.decides]
    names = decides + [name for name in asked if name not in decides]
    arms = [arm for arm in figures.arms if any(r.scores.get(arm) is not None for r in rows)]
    if not arms:
        return None
    figure = _figure(0.75 + 0.16 * len(arms) + len(names) * 0.18 * (len(arms) + 0.8))
    axes = figure.add_subplot()
    step = 0.72 / len(arms)
    for y, name in enumerate(names):
        for i, arm in enumerate(arms):
            values = [s for r in rows if r.set == name and (s := r.scores.get(arm)) is not None]
            if not values:
                continue
            at = y + (i - (len(arms) - 1) / 2) * step
            color = ARMS.get(arm, INK)
            centre = sum(values) / len(values)
            axes.plot([0, centre], [at, at], color=color, linewidth=1, alpha=0.45, zorder=2)
            axes.plot(
                values,
                [at] * len(values),
                "o",
                color=color,
                markersize=5,
                markeredgecolor="white",
                markeredgewidth=0.7,
                alpha=0.85,
                clip_on=False,
                zorder=3,
            )
            axes.plot(
                [centre, centre],
                [at - 0.42 * step, at + 0.42 * step],
                color=INK,
                linewidth=1.2,
                zorder=4,
            )
            axes.annotate(
                f"{100 * centre:.1f}",
                (1, at),
                xytext=(24, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="center",
                color=INK,
                fontsize=8 if len(arms) < 3 else 7,
                annotation_clip=False,
            )
    _rows(axes, [wording.wrapped(wording.set_label(n)) for n in names])
    if 0 < len(decides) < len(names):
        axes.axhline(len(decides) - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    largest = max(s for r in rows for arm in arms if (s := r.scores.get(arm)) is not None)
    _share_axis(axes, "pass@1: one dot a seed, bar and number at their mean", largest)
    handles = [
        Line2D([], [], marker="o", color=ARMS.get(arm, INK), linewidth=1,
               label=wording.shortened(figures.arms[arm].label, 60))
        for arm in arms
    ]  # fmt: skip
    _legend(figure, handles)
    return figure


def architecture(results: RunResults) -> Figure | None:
    """The arms of the claim on architecture, seed by seed."""
    return _seed_dots(results.claims.architecture.figures if results.claims else None)


def curriculum(results: RunResults) -> Figure | None:
    """The arms of the claim on the curriculum, seed by seed."""
    return _seed_dots(results.claims.curriculum.figures if results.claims else None)


def sweep(results: RunResults) -> Figure | None:
    """Development loss against the peak learning rate, a line for each architecture and shape."""
    tried = [trial for trial in trials_of(results) if any(rate > 0 for rate in trial.peak_rates)]
    losses = [trial.loss for trial in tried if trial.loss is not None and trial.loss > 0]
    if len(losses) < 2:
        return None
    chosen = chosen_in(results)
    figure = _figure(3.2)
    axes = figure.add_subplot()
    handles, shapes = [], dict[str, int]()
    for (architecture, shape), group in groupby(
        tried, key=lambda trial: (trial.architecture, trial.choice.shape)
    ):
        trials = list(group)
        color = TRIED.get(architecture, INK)
        dashes = _DASHES[shapes.get(architecture, 0) % len(_DASHES)]
        shapes[architecture] = shapes.get(architecture, 0) + 1
        warmups = [trial.choice.warmup for trial in trials]
        usual = max(warmups, key=warmups.count)
        line = sorted(
            (max(t.peak_rates), t.loss)
            for t in trials
            if t.choice.warmup == usual and t.loss is not None
        )
        axes.plot([x for x, _ in line], [y for _, y in line], color=color, linestyle=dashes,
                  linewidth=1.4)  # fmt: skip
        for trial in trials:
            if trial.loss is None:
                axes.plot(max(trial.peak_rates), 0.97, color=color, **_LOST,
                          transform=axes.get_xaxis_transform())  # fmt: skip
                continue
            best = (architecture, trial.choice) in chosen
            axes.plot(
                max(trial.peak_rates),
                trial.loss,
                marker="o",
                markersize=8 if best else 4,
                markeredgecolor=INK if best else color,
                color=color if trial.choice.warmup == usual else "white",
                zorder=4 if best else 3,
            )
        handles.append(Line2D([], [], color=color, linestyle=dashes, linewidth=1.4,
                              label=wording.shortened(f"{architecture}, {shape}", 60)))  # fmt: skip
    if chosen:
        handles.append(Line2D([], [], marker="o", linestyle="", markersize=8, color="white",
                              markeredgecolor=INK, label="chosen"))  # fmt: skip
    if any(trial.choice.warmup != tried[0].choice.warmup for trial in tried):
        handles.append(Line2D([], [], marker="o", linestyle="", markersize=4, color="white",
                              markeredgecolor=GREY, label="other warm-up"))  # fmt: skip
    if any(trial.loss is None for trial in tried):
        handles.append(Line2D([], [], color=GREY, **_LOST, label="diverged"))
    axes.set_xscale("log")
    rates = sorted({max(trial.peak_rates) for trial in tried})
    axes.xaxis.set_major_locator(FixedLocator(_apart(rates)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    axes.set_yscale("log")
    _loss_ticks(axes, min(losses), max(losses))
    axes.margins(x=0.08)
    axes.grid(axis="y")
    axes.set_xlabel("peak learning rate (log scale)")
    axes.set_ylabel("loss on the development\nsets, nats a token (log)")
    _legend(figure, handles)
    return figure


_LOST: dict[str, Any] = {"marker": "x", "linestyle": "", "markersize": 5, "markeredgewidth": 1.4}


def _apart(rates: Sequence[float]) -> list[float]:
    """Of rising rates, those that are far enough from each other for a label each."""
    kept: list[float] = []
    for rate in rates:
        if not kept or rate >= 1.25 * kept[-1]:
            kept.append(rate)
    return kept


def comparisons(results: RunResults) -> list[Comparison]:
    """What was compared for the claims on architecture and curriculum, where it was."""
    claims = [results.claims.architecture, results.claims.curriculum] if results.claims else []
    return [claim.figures for claim in claims if claim.figures]


def trials_of(results: RunResults) -> list[Trial]:
    """Every trial that a choice was made by, each once, grouped by architecture and shape."""
    every = dict.fromkeys(trial for figures in comparisons(results) for trial in figures.trials)
    return sorted(every, key=lambda t: (t.architecture, t.choice.shape, max(t.peak_rates)))


def chosen_in(results: RunResults) -> set[tuple[str, Choice]]:
    """What was chosen for each architecture."""
    arms = [arm for figures in comparisons(results) for arm in figures.arms.values()]
    return {(arm.architecture, arm.choice) for arm in arms}


def _length_axis(axes: Axes, lengths: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _length(v)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _length(tokens: float) -> str:
    whole = round(tokens)
    return f"{whole // 1024}k" if whole >= 1024 and whole % 1024 == 0 else str(whole)


def _round(quantity: str) -> str:
    """A tick's label without digits that say nothing: 4.00 MiB is 4 MiB."""
    return re.sub(r"\.?0+(?=\s)", "", quantity) if "." in quantity else quantity


def ratio(results: RunResults) -> Figure | None:
    """Statewise over the faster Transformer: as measured with equal batches, in a budget, by bytes.

    Below the line at 1 the Transformer is the faster.
    """
    bench = _bench(results)
    if bench is None:
        return None
    lengths = [row.length for row in bench.rows]
    budget = wording.size(bench.budget_bytes)
    series = (
        (bench.rows, BLUE, f"{bench.rows[0].ours.batch} sequences each"),
        (bench.under_budget, INK, f"as many as fit into {_round(budget)}"),
    )
    by_bytes = [row.floor_ratio for row in bench.rows]
    figure = _figure(3.0)
    axes = figure.add_subplot()
    axes.axhline(1, color=ORANGE, linewidth=1.2)
    axes.plot(lengths, by_bytes, color=GREY, linestyle=(0, (2, 1.5)), marker="o", markersize=3)
    every = list(by_bytes)
    for rows, color, _ in series:
        ratios = [row.ratio for row in rows]
        axes.plot(lengths, [r.median for r in ratios], color=color, marker="o", markersize=4)
        for length, r in zip(lengths, ratios, strict=True):
            if r.interval is not None:
                axes.plot([length] * 2, r.interval, color=color, linewidth=3, alpha=0.4)
        every += [bound for r in ratios for bound in (r.median, *(r.interval or ()))]
    axes.set_yscale("log", base=2)
    low, high = min(*every, 0.7) / 1.5, max(*every, 1.4) * 1.5
    axes.set_ylim(low, high)
    steps = [2.0**e for e in range(-12, 13, 1 if high / low < 300 else 2)]
    axes.yaxis.set_major_locator(FixedLocator([s for s in steps if low < s < high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
    _length_axis(axes, lengths)
    axes.margins(x=0.06)
    axes.grid(axis="y")
    axes.set_xlabel("length of the sequences in tokens (log scale)")
    axes.set_ylabel("tokens per second,\nStatewise over Transformer")
    _outside(axes, 1, "Statewise\nfaster", "Transformer\nfaster")
    handles = [
        Line2D([], [], color=color, marker="o", markersize=4, label=label)
        for _, color, label in series
    ]
    bytes_ = Line2D([], [], color=GREY, linestyle=(0, (2, 1.5)), marker="o", markersize=3,
                    label="by the bytes that must be moved, sequences equal")  # fmt: skip
    _legend(figure, [*handles, bytes_], ncols=1)
    return figure


def _outside(axes: Axes, level: float, above: str, below: str) -> None:
    """Words to the right of the axes, on either side of a level."""
    for text, shift, va in ((above, 4, "bottom"), (below, -4, "top")):
        axes.annotate(
            text,
            (1, level),
            xytext=(4, shift),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va=va,
            color=INK,
            fontsize=8,
            annotation_clip=False,
        )


def throughput(results: RunResults) -> Figure | None:
    """Tokens per second against length: as many sequences for all, and as many as fit."""
    bench = _bench(results)
    if bench is None:
        return None
    there = [name for name in CONTESTANTS if name in bench.rows[0].contestants]
    figure = _figure(4.6)
    panels = figure.subplots(2, 1, sharex=True)
    titles = (
        f"{bench.rows[0].ours.batch} sequences each",
        f"as many as fit into {_round(wording.size(bench.budget_bytes))}, at most "
        f"{bench.most_sequences}",
    )
    for axes, rows, title in zip(panels, (bench.rows, bench.under_budget), titles, strict=True):
        speeds = []
        for name in there:
            points = [(r.length, s) for r in rows if (s := r.contestants.get(name))]
            speeds += [s.tokens_per_s for _, s in points]
            lengths = [length for length, _ in points]
            axes.plot(lengths, [s.tokens_per_s for _, s in points], **_LINES[name])
        axes.set_yscale("log")
        low, high = min(speeds) / 1.6, max(speeds) * 1.6
        grid = [m * 10.0**e for e in range(-3, 10) for m in (1, 2, 5)]
        if high / low > 400:
            grid = grid[::3]
        axes.yaxis.set_major_locator(FixedLocator([g for g in grid if low < g < high]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
        axes.set_ylim(low, high)
        _length_axis(axes, [r.length for r in rows])
        axes.margins(x=0.06)
        axes.grid(axis="y")
        axes.set_title(title, loc="left")
    figure.supylabel("tokens per second (log scale)", fontsize=9, color=INK)
    panels[-1].set_xlabel("length of the sequences in tokens (log scale)")
    _legend(
        figure,
        [Line2D([], [], label=CONTESTANTS[name], **_LINES[name]) for name in there],
        ncols=2,
    )
    return figure


def _bench(results: RunResults) -> Bench | None:
    """What was measured of speed and memory."""
    return results.claims.efficiency.figures if results.claims else None


def crossover(results: RunResults) -> float | None:
    """The length at which the Transformer's KV cache grows past the state, in tokens.

    None where nothing was measured or the two do not meet up to the longest length.
    """
    bench = _bench(results)
    if bench is None:
        return None
    meet = memory_break_even(bench.rows[-1])
    return meet if meet <= bench.rows[-1].length else None


def memory(results: RunResults) -> Figure | None:
    """Bytes a sequence occupies against its length: the state is flat, the KV cache grows."""
    bench = _bench(results)
    if bench is None:
        return None
    figure = _figure(2.8)
    axes = figure.add_subplot()
    lengths = [float(r.length) for r in bench.rows]
    state = [float(r.ours.memory_bytes) for r in bench.rows]
    cached = [float(r.theirs.memory_bytes) for r in bench.rows]
    meet = crossover(results)
    ticks = list(lengths)
    if meet is not None and meet < lengths[0]:
        axes.plot([meet, lengths[0]], [state[0], state[0]], color=BLUE, linestyle=(0, (2, 1.5)))
        axes.plot([meet, lengths[0]], [state[0], cached[0]], color=ORANGE, linestyle=(0, (2, 1.5)))
    axes.plot(lengths, state, color=BLUE, marker="o", markersize=4)
    axes.plot(lengths, cached, color=ORANGE, marker="o", markersize=4)
    axes.set_yscale("log")
    _length_axis(axes, ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _round(wording.size(v))))
    low, high = min(state + cached), max(state + cached)
    steps = [2.0**e for e in range(0, 60, 2 if high / low < 300 else 4) if low / 4 < 2.0**e]
    axes.yaxis.set_major_locator(FixedLocator([s for s in steps if s < high * 4]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low / 3, high * 2)
    if meet is not None:
        level = state[0]
        axes.plot([meet, meet], [low / 3, level], color=GREY, linewidth=1, linestyle=":")
        axes.plot([meet], [level], "o", color="white", markeredgecolor=INK, markersize=6, zorder=4)
        axes.annotate(
            f"equal at about {round(meet):,} tokens",
            (meet, low / 3),
            xytext=(5, 6),
            textcoords="offset points",
            color=INK,
        )
    axes.margins(x=0.05)
    axes.grid(axis="y")
    axes.set_xlabel("length of the sequence in tokens (log scale)")
    axes.set_ylabel("memory a sequence (log scale)")
    _legend(
        figure,
        [
            Line2D([], [], color=BLUE, marker="o", markersize=4, label="state (Statewise)"),
            Line2D([], [], color=ORANGE, marker="o", markersize=4, label="KV cache (Transformer)"),
        ],
    )
    return figure


def loss(results: RunResults) -> Figure | None:
    """Training loss against tokens, with the phases' boundaries and the learning rate below.

    Crosses are loss spikes; further lines are the loss on what is not trained on.
    """
    points = results.train.curve if results.train else ()
    curve = [p for p in points if p.loss is not None and p.loss > 0]
    if results.train is None or len(curve) < 2:
        return None
    figure = _figure(3.4)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    tokens = [p.tokens for p in curve]
    losses = [p.loss or 0.0 for p in curve]
    below.plot(tokens, [p.lr for p in curve], color=GREY, linewidth=1.3)
    below.set_ylim(0, max(p.lr for p in curve) * 1.15 or 1)
    below.set_ylabel("rate")
    below.yaxis.set_major_locator(MaxNLocator(2))
    below.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    noisy = len(curve) >= 60
    axes.plot(tokens, losses, color=PALE if noisy else BLUE, linewidth=0.9 if noisy else 1.8)
    if noisy:
        axes.plot(tokens, _smoothed(curve, max(2, len(curve) // 80)), color=BLUE)
    handles = _measured(axes, results.train.development)
    if handles:
        handles = [Line2D([], [], color=BLUE, label="what is trained on"), *handles]
    spikes = [s for s in results.train.spikes if s.loss > 0]
    if spikes:
        style: Any = {"color": ORANGE, "marker": "x", "linestyle": ""}
        axes.plot([s.tokens for s in spikes], [s.loss for s in spikes], **style)
        handles.append(Line2D([], [], label="loss spike", **style))
    losses += [s.loss for s in spikes]
    losses += [p.loss for p in results.train.development if p.loss > 0]
    axes.set_yscale("log")
    _loss_ticks(axes, min(losses), max(losses))
    axes.grid(axis="y")
    axes.set_ylabel("loss in nats a token (log scale)")
    if handles:
        axes.legend(handles=handles, loc="upper right", fontsize=8)
    _name_phases(figure, axes, _phase_starts(curve), tokens[-1])
    below.set_xlim(0, tokens[-1])
    below.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _round(wording.large(v))))
    below.set_xlabel("training tokens")
    return figure


def _measured(axes: Axes, points: Sequence[DevelopmentPoint]) -> list[Line2D]:
    """A line for each source that documents were kept of; the lines, to be named."""
    sources = list(dict.fromkeys(p.source for p in points))
    handles = []
    for number, source in enumerate(sources[:_MEASURED_SHOWN]):
        own = [p for p in points if p.source == source and p.loss > 0]
        style: Any = {
            "color": ORANGE if number % 2 else INK,
            "linewidth": 1.2,
            "linestyle": _DASHES[number // 2 % len(_DASHES)],
            "marker": "." if len(own) < 20 else "",
        }
        axes.plot([p.tokens for p in own], [p.loss for p in own], **style)
        label = wording.shortened(wording.set_label(source), 30)
        handles.append(Line2D([], [], label=f"not trained on: {label}", **style))
    return handles


def _name_phases(
    figure: Figure, axes: Axes, starts: Sequence[tuple[float, str]], end: float
) -> None:
    """A line where each phase begins; the names stand above, where a short one has room too."""
    if len(starts) == 1:
        axes.set_title(wording.shortened(starts[0][1], 60), loc="left")
        return
    line, last = 0, 0.0
    for number, (start, _) in enumerate(starts, 1):
        if number > 1:
            for panel in figure.axes:
                panel.axvline(start, color=GREY, linewidth=1, linestyle=":")
            line = (line + 1) % 3 if start - last < 0.05 * end else 0  # no number upon another
        last = start
        axes.annotate(
            str(number),
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2 - 11 * line),
            textcoords="offset points",
            va="top",
            color=INK,
        )
    names = [f"{n}  {wording.shortened(name, 60)}" for n, (_, name) in enumerate(starts, 1)]
    _legend(figure, [Line2D([], [], linestyle="", label=name) for name in names])


def _smoothed(curve: Sequence[CurvePoint], reach: int) -> list[float]:
    """The mean over `reach` points to either side, never reaching into another phase."""
    out: list[float] = []
    for _, group in groupby(curve, key=lambda p: p.phase):
        losses = [p.loss or 0.0 for p in group]
        for i in range(len(losses)):
            near = losses[max(0, i - reach) : i + reach + 1]
            out.append(sum(near) / len(near))
    return out


def _phase_starts(curve: Sequence[CurvePoint]) -> list[tuple[float, str]]:
    starts: list[tuple[float, str]] = []
    for i, point in enumerate(curve):
        if i == 0 or point.phase != curve[i - 1].phase:
            # A point's tokens are counted at its end: the phase began at the point before.
            starts.append((curve[i - 1].tokens if i else 0, point.phase))
    return starts


def _loss_ticks(axes: Axes, low: float, high: float) -> None:
    grid = [m * 10.0**e for e in range(-6, 4) for m in (1, 2, 5)]
    axes.yaxis.set_major_locator(FixedLocator([g for g in grid if low / 2.5 < g < high * 2.5]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_ylim(low / 1.2, high * 1.5)


def funnel(results: RunResults) -> Figure | None:
    """How many problems each step of the synthesis left over, mathematics and code."""
    steps = results.synth.funnel if results.synth else ()
    kinds = [k for k in ("math", "code") if any(getattr(s, k) for s in steps)]
    if not kinds:
        return None
    figure = _figure(0.9 + 0.36 * len(steps))
    axes = figure.add_subplot()
    colors = {"math": BLUE, "code": GREY}
    largest = max(s.total for s in steps)
    for y, step in enumerate(steps):
        left = 0.0
        for kind in kinds:
            n = getattr(step, kind)
            axes.barh(y, n, left=left, height=0.66, color=colors[kind], linewidth=0)
            left += n
        axes.annotate(
            f"{left:,.0f}",
            (left, y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
        )
    _rows(axes, [wording.wrapped(s.stage) for s in steps])
    axes.set_xlim(0, largest * 1.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axes.set_xlabel("number")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    labels = {"math": "mathematics", "code": "code"}
    _legend(figure, [_swatch(colors[k], labels[k]) for k in kinds])
    return figure


FIGURES: dict[str, Callable[[RunResults], Figure | None]] = {
    "accuracy": accuracy,
    "architecture": architecture,
    "curriculum": curriculum,
    "sweep": sweep,
    "ratio": ratio,
    "throughput": throughput,
    "memory": memory,
    "loss": loss,
    "funnel": funnel,
    "beside-published": lambda results: beside_published(results.name, results.eval),
}
