"""The parts of the report around the run: the paper's results, and how to get it again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from statewise.eval import metrics
from statewise.report import paper
from statewise.report.blocks import (
    Block,
    Citation,
    Column,
    Facts,
    Fold,
    Heading,
    Paragraph,
    Quote,
    Table,
    picture,
)
from statewise.report.results import RunResults, SetResult, as_json
from statewise.report.wording import ABSENT, NOT_MEASURED, duration, listed, plain, size, spaced

_ABSENT = Paragraph((NOT_MEASURED,), "absent")


BESIDE = "beside-published"


def score(result: SetResult) -> str:
    """pass@1 and its error in percent."""
    if result.pass_at_1 is None:
        return "unscored"
    spread = "" if result.stderr is None else f" ± {100 * result.stderr:.1f}"
    return f"{100 * result.pass_at_1:.1f}{spread}"


def by_rules(result: metrics.SetResult) -> str:
    """pass@1 of programs by each set of rules, in percent and brackets; "" for mathematics."""
    shares = (result.by_rules or {}).items()
    told = [f"{name} {100 * share:.1f}" for name, share in shares if share is not None]
    return f" ({', '.join(told)})" if told else ""


def both_rules(results: Mapping[str, SetResult]) -> list[Block]:
    """Beside the scores of programs: what each set of rules gives."""
    told = [f"{paper.COLUMNS.get(n, n)}{by_rules(r)}" for n, r in results.items() if by_rules(r)]
    if not told:
        return []
    words = (
        f"Programs, pass@1 in % by both sets of rules: {'; '.join(told)}. The official rules are "
        "those of LiveCodeBench's harness: what it has imported (numpy too) and its recursion "
        "limit, exact decimals, a function outside of its class. The strict ones take the program "
        "as it was written and its output line by line."
    )
    return [Paragraph((words,), "note")]


def published_results(
    name: str, measured: Mapping[str, SetResult], drawn: Collection[str]
) -> list[Block]:
    """The paper's tables, marked as what they are, with one's own row where there is one.

    Args:
        name: of one's own model.
        measured: by benchmark or set, as `RunResults.eval`.
        drawn: names of the figures that were drawn.
    """
    mine = {paper.COLUMNS[n]: score(r) for n, r in measured.items()
            if n in paper.COLUMNS}  # fmt: skip
    factors = [f"{f:g}× at {gpu}" for gpu, f in paper.SPEEDUP_OVER_TRANSFORMER.items()]
    return [
        Heading("Beside the paper's results" if mine else "For context: the paper's results"),
        Paragraph(
            (
                "Published figures, not measured here"
                + (", but for the rows that say so" if mine else "")
                + ". They are of models of 3 to 27 billion parameters, with samples and sampling "
                "of their own. Source: ",
                Citation("Scaling Reasoning without Attention, arXiv 2505.22425", paper.URL),
                ". “Not found”: the cell exists in the paper and could not be recovered; the two "
                "cells of the ablation that are shown come from secondary sources. A dash: the "
                "paper reports nothing, or it was not asked here.",
            ),
            "warning",
        ),
        *picture(
            drawn,
            BESIDE,
            "pass@1 by benchmark. Published figures are not measured here.",
            "A row for each benchmark; marks for the paper's models, and a point with its interval "
            "for the model that was asked, where it was.",
        ),
        *(_table(title, rows, name, mine) for title, rows in paper.TABLES.items()),
        Paragraph(
            (
                "Published speed of PromptCoT-Mamba-7B over a 7B Transformer at long generations: "
                f"{listed(factors)} of GPU memory. Published figures, not measured here.",
            ),
            "note",
        ),
    ]


def _table(title: str, names: tuple[str, ...], model: str, mine: Mapping[str, str]) -> Table:
    cells = dict(paper.ROWS)
    rows = [(name, *map(_published_cell, cells[name])) for name in names]
    if mine:
        row = (f"{model} (measured)", *(mine.get(b, ABSENT) for b in paper.BENCHMARKS))
        rows = [row, *((f"{name} (published)", *rest) for name, *rest in rows)]
    columns = (
        Column("model", numeric=False),
        *(Column(b, "" if mine else "pass@1, %, as published") for b in paper.BENCHMARKS),
    )
    caption = f"{title}: pass@1, %" if mine else f"{title}. Published figures, not measured here"
    return Table(columns, tuple(rows), caption, frozenset({0}))


def _published_cell(cell: paper.Cell) -> str:
    return ABSENT if cell is None else cell if isinstance(cell, str) else f"{cell:.1f}"


def reproduction(results: RunResults) -> list[Block]:
    """Recipe, hash, revision, seeds, stage times, model, device and versions."""
    blocks: list[Block] = [Heading("How to get this again")]
    blocks.append(
        Facts(
            (
                ("recipe", results.name),
                ("recipe SHA-256", results.recipe_sha256),
                ("commit", results.commit or "not known"),
                ("seed", plain(results.seed)),
                ("whole run", duration(results.wall_s)),
            )
        )
    )
    blocks.append(
        Fold("The recipe in full, every default written out", (Quote("", results.recipe_toml),))
    )
    blocks.append(Heading("Stages", 3))
    if results.stages:
        columns = (Column("stage", numeric=False), Column("time"))
        rows = tuple((n, duration(stage.wall_s)) for n, stage in results.stages.items())
        blocks.append(Table(columns, rows))
    else:
        blocks.append(_ABSENT)
    for title, part in (
        ("Model", as_json(results.model)),
        ("Device", as_json(results.device)),
        ("Versions", results.versions),
    ):
        blocks.append(Heading(title, 3))
        blocks.append(Facts(_facts(part)) if part else _ABSENT)
    return blocks


def _facts(part: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for key, value in part.items():
        if isinstance(value, dict):
            pairs += [(spaced(str(k)), plain(v)) for k, v in value.items()]
        elif str(key).endswith("_bytes") or "_bytes_" in str(key):
            number = value if isinstance(value, int | float) else None
            pairs.append((spaced(str(key).replace("_bytes", "")), size(number)))
        else:
            pairs.append((spaced(str(key)), plain(value)))
    return tuple(pairs)
