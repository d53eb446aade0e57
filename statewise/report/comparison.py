"""What stands behind a compared claim: its contrasts, its arms, and how their choices were made."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from statewise.report import paper
from statewise.report.blocks import Block, Column, Fold, Heading, Paragraph, Table, picture
from statewise.report.figures import chosen_in, comparisons, trials_of
from statewise.report.results import (
    Comparison,
    Contrast,
    Role,
    RunResults,
    SetDifference,
    Trial,
)
from statewise.report.wording import (
    ABSENT,
    bare,
    count,
    listed,
    multiple,
    plain,
    points,
    points_interval,
    power_of_ten,
    sentence,
    set_label,
    size,
)

ALL_SETS = "all sets"
# Arms that lack a source of the curriculum, and which.
SOURCES = {"foundation": "the composed problems", "no-programs": "the programs"}


def notes(results: RunResults) -> list[Block]:
    """How every difference below was estimated, and where the miniature differs from the paper."""
    compared = comparisons(results)
    if not compared:
        return []
    return [Paragraph((_intervals(results),), "note"), Paragraph((_miniature(results),), "note")]


def _intervals(results: RunResults) -> str:
    figures = comparisons(results)[0]
    seeds = len({row.seed for row in figures.scores})
    words = (
        "How the intervals were made: every arm was trained once from each seed, and all were "
        f"asked the same problems, at most {count(figures.problems)} of each set, "
        f"{count(figures.samples)} samples a problem. A difference is a mean over seeds and "
        "problems, and its 95 % interval takes both as samples of what might have been: a crossed "
        "two-way random-effects model, variance components by analysis of variance (Searle, "
        "Casella and McCulloch, 1992), degrees of freedom after Satterthwaite (1946). “Would have "
        "shown” is the smallest true difference that as many seeds and problems, varying as these "
        "do, would have told from zero four times in five. Held: the interval lies above zero; "
        "reversed: below; undecided: it includes zero; mixed: sets contradict each other. A set on "
        f"which fewer than two of the models compared reach {bare(figures.reach)} % is too weak to "
        "say anything, and so is a claim with such a set."
    )
    if seeds == 1:
        words += (
            " With one seed the intervals cover problems alone, and no word is stronger than "
            "“indicated”."
        )
    return words


def _miniature(results: RunResults) -> str:
    written = any(role.source == "workbook" for role in _roles(results))
    problems = "problems of templates and numbers" if written else "the recipe's problems"
    return (
        "Where this differs from the paper: there, 7 billion parameters, long reasoning traces, "
        "published benchmarks, and Transformers that others had trained on data of their "
        f"own. Here, models of {_parameters(results)} parameters, each trained from nothing, asked "
        f"{problems}. The words above are about this size and this task."
    )


def _roles(results: RunResults) -> Collection[Role]:
    return results.synth.roles.values() if results.synth else ()


def _parameters(results: RunResults) -> str:
    sizes = [arm.parameters for figures in comparisons(results) for arm in figures.arms.values()]
    return " to ".join(count(n) for n in sorted({min(sizes), max(sizes)})) if sizes else "few"


def evidence(figures: Comparison, results: RunResults, drawn: Collection[str]) -> list[Block]:
    """Contrast by contrast, then what training never had, the arms, and their choices.

    Args:
        figures: of one claim.
        results: they are part of them.
        drawn: names of the figures that were drawn.
    """
    blocks: list[Block] = [_contrast_table(contrast, figures) for contrast in figures.contrasts]
    blocks += _never_trained(figures)
    blocks += _sources(figures)
    blocks += [Heading("What was trained", 4), _arm_table(figures)]
    blocks += _choices(figures, results, drawn)
    if len({row.seed for row in figures.scores}) > 1:
        blocks.append(Fold("Seed by seed", (_seed_table(figures),)))
    return blocks


def _label(figures: Comparison, arm: str) -> str:
    return figures.arms[arm].label if arm in figures.arms else arm


def _contrast_table(contrast: Contrast, figures: Comparison) -> Table:
    first, second = _label(figures, contrast.first), _label(figures, contrast.second)
    columns = (
        Column("set", numeric=False),
        Column(first, "pass@1, %"),
        Column(second, "pass@1, %"),
        *_DIFFERENCE,
    )
    rows = [(set_label(row.set), *_cells(row)) for row in contrast.sets]
    rows.append((ALL_SETS, *_cells(contrast.together)))
    rests = "decides" if contrast.decides else "set beside, decides nothing"
    caption = f"{sentence(first)} minus {second}: {rests}"
    return Table(columns, tuple(rows), caption, frozenset({len(rows) - 1}))


_DIFFERENCE = (
    Column("points", "difference"),
    Column("95 % interval", "difference"),
    Column("would have shown", "difference"),
    Column("word", numeric=False),
)


def _cells(row: SetDifference) -> tuple[str, ...]:
    return (
        bare(row.first),
        bare(row.second),
        points(row.mean),
        points_interval(row.interval),
        bare(row.detectable),
        row.word,
    )


def _never_trained(figures: Comparison) -> list[Block]:
    """The sets that test generalisation; for every arm, since each is in a contrast."""
    tables = [
        _beside_table([k for k in figures.contrasts if k.first == first], figures)
        for first in dict.fromkeys(k.first for k in figures.contrasts if k.beside)
    ]
    if not tables:
        return []
    return [
        Heading("What training never had", 4),
        Paragraph(("These sets test generalisation and decide nothing.",), "note"),
        *tables,
    ]


def _beside_table(contrasts: Sequence[Contrast], figures: Comparison) -> Table:
    first = _label(figures, contrasts[0].first)
    columns = (
        Column("set", numeric=False),
        Column("other arm", numeric=False),
        Column(first, "pass@1, %"),
        Column("other", "pass@1, %"),
        *_DIFFERENCE,
    )
    rows = tuple(
        (set_label(row.set), _label(figures, contrast.second), *_cells(row))
        for name in dict.fromkeys(row.set for k in contrasts for row in k.beside)
        for contrast in contrasts
        for row in contrast.beside
        if row.set == name
    )
    return Table(columns, rows, f"{sentence(first)} minus every other arm")


def _sources(figures: Comparison) -> list[Block]:
    """What is lost on each set by the arms that lack a source: the paper's third table, small."""
    lacking = [k for k in figures.contrasts if k.second in SOURCES]
    if not lacking:
        return []
    columns = [Column("set", numeric=False), Column("with all", "pass@1, %")]
    for contrast in lacking:
        group = f"without {SOURCES[contrast.second]}"
        columns += [
            Column("pass@1, %", group),
            Column("worth", group),
            Column("95 % interval", group),
        ]
    rows = []
    for name in dict.fromkeys(row.set for k in lacking for row in (*k.sets, *k.beside, k.together)):
        found = [
            next((r for r in (*k.sets, *k.beside, k.together) if r.set == name), None)
            for k in lacking
        ]
        cells = [bare(next(r.first for r in found if r))]
        for row in found:
            cells += (
                [bare(row.second), points(row.mean), points_interval(row.interval)]
                if row
                else [ABSENT] * 3
            )
        rows.append((set_label(name) if name else ALL_SETS, *cells))
    rows.sort(key=lambda row: row[0] == ALL_SETS)
    return [
        Heading("What each source is worth", 4),
        Table(
            tuple(columns),
            tuple(rows),
            "The curriculum minus itself without a source, whose tokens the others fill",
            frozenset({len(rows) - 1}),
        ),
        Paragraph((_published_ablation(),), "note"),
    ]


def _published_ablation() -> str:
    cells = {name: dict(zip(paper.BENCHMARKS, row, strict=True)) for name, row in paper.ROWS}
    whole = cells["PromptCoT-Mamba-7B"]
    told = [
        f"without {source} {benchmark} fell from {whole[benchmark]} to {cells[row][benchmark]}"
        for row, source, benchmark in (
            (
                "Mamba-7B without PromptCoT phase",
                "the PromptCoT phase (composed problems)",
                "AIME24",
            ),
            ("Mamba-7B without OpenCodeReasoning", "OpenCodeReasoning (programs)", "LiveCodeBench"),
        )
    ]
    return (
        "In the paper, at 7 billion parameters (arXiv 2505.22425, table 3; the two cells that "
        f"could be recovered, from secondary sources), {listed(told)}. Published figures, not "
        "measured here."
    )


def _arm_table(figures: Comparison) -> Table:
    columns = (
        Column("arm", numeric=False),
        Column("architecture", numeric=False),
        Column("parameters"),
        Column("tokens", "training"),
        Column("FLOP", "training"),
        Column("shape", "chosen", numeric=False),
        Column("rate", "chosen"),
        Column("warm-up", "chosen"),
        Column("memory"),
    )
    rows = tuple(
        (
            arm.label,
            arm.architecture,
            count(arm.parameters),
            count(arm.tokens),
            power_of_ten(arm.flops),
            arm.choice.shape,
            multiple(arm.choice.rate),
            multiple(arm.choice.warmup),
            size(arm.memory_bytes),
        )
        for arm in figures.arms.values()
    )
    caption = "Rates and warm-ups are multiples of the recipe's own; memory is of one sequence"
    return Table(columns, rows, caption)


def _choices(figures: Comparison, results: RunResults, drawn: Collection[str]) -> list[Block]:
    """The trials of the architectures that are compared here; their figure once, where all are."""
    architectures = {arm.architecture for arm in figures.arms.values()}
    tried = [trial for trial in trials_of(results) if trial.architecture in architectures]
    if not tried:
        return []
    first = figures is comparisons(results)[0]
    return [
        Heading("How rates and shapes were chosen", 4),
        Paragraph(
            (
                "By short trainings of each architecture on the curriculum, from one seed, and "
                "their loss on the development sets, which are neither trained on nor held out.",
            ),
            "note",
        ),
        *picture(
            drawn if first else (),
            "sweep",
            "Loss on the development sets after a short training, by peak learning rate; ringed: "
            "chosen.",
            "Line chart of development loss against the peak learning rate for each architecture "
            "and shape; the numbers are in the table.",
        ),
        Fold(f"All {len(tried)} trials", (_trial_table(tried, results),)),
    ]


def _trial_table(tried: Sequence[Trial], results: RunResults) -> Table:
    chosen = chosen_in(results)
    columns = (
        Column("architecture", numeric=False),
        Column("shape", numeric=False),
        Column("rate", "multiple of the recipe's"),
        Column("warm-up", "multiple of the recipe's"),
        Column("peak rates"),
        Column("parameters"),
        Column("tokens"),
        Column("development loss"),
    )
    rows = tuple(
        (
            trial.architecture,
            trial.choice.shape,
            multiple(trial.choice.rate),
            multiple(trial.choice.warmup),
            ", ".join(f"{rate:.3g}" for rate in dict.fromkeys(trial.peak_rates)),
            count(trial.parameters),
            count(trial.tokens),
            "diverged" if trial.loss is None else f"{trial.loss:.4f}",
        )
        for trial in tried
    )
    best = {i for i, t in enumerate(tried) if (t.architecture, t.choice) in chosen}
    return Table(columns, rows, "Strong: chosen", frozenset(best))


def _seed_table(figures: Comparison) -> Table:
    columns = (
        Column("set", numeric=False),
        Column("seed"),
        *(Column(arm.label, "pass@1, %") for arm in figures.arms.values()),
    )
    rows = tuple(
        (
            set_label(row.set),
            plain(row.seed),
            *(bare(row.scores.get(arm)) for arm in figures.arms),
        )
        for name in dict.fromkeys(row.set for row in figures.scores)
        for row in figures.scores
        if row.set == name
    )
    return Table(columns, rows)
