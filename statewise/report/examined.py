"""The report on a model that was there already: its scores, beside the paper's three tables."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from statewise.records import write_atomically
from statewise.report import markdown, page, published
from statewise.report.blocks import (
    Block,
    Column,
    Facts,
    Fold,
    Heading,
    Page,
    Paragraph,
    Quote,
    Table,
)
from statewise.report.context import BESIDE, published_results, score
from statewise.report.figures import draw_beside_published
from statewise.report.results import Json
from statewise.report.wording import ABSENT


@dataclass(frozen=True, slots=True)
class Examined:
    """An evaluation.

    Attributes:
        name: of the recipe.
        model: who was asked.
        recipe_sha256, recipe_toml: the recipe.
        isolation: what programs ran behind; "" if none ran.
        first: so many problems of each benchmark were asked; 0: all.
        results: by benchmark, `SetResult` as JSON with its `sampling`.
    """

    name: str
    model: str
    recipe_sha256: str
    recipe_toml: str
    isolation: str
    first: int
    results: Mapping[str, Json]


def write(found: Examined, out: Path) -> str:
    """Write `report.md`, `report.html`, `report.json` and the figure; returns the Markdown."""
    drawing = draw_beside_published(found.name, found.results)
    drawn = {BESIDE: drawing} if drawing else {}
    story = compose(found, drawn)
    text = markdown.render(story)
    document = {
        "recipe": found.recipe_sha256,
        "model": found.model,
        "isolation": found.isolation,
        "first": found.first,
        "results": found.results,
    }
    outputs = {
        **{f"figures/{name}.svg": d.svg.encode() for name, d in drawn.items()},
        **{f"figures/{name}.png": d.png for name, d in drawn.items()},
        "report.md": text.encode(),
        "report.html": page.render(story, {name: d.svg for name, d in drawn.items()}).encode(),
        "report.json": (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    for name, data in outputs.items():
        write_atomically(out / name, data)
    return text


def compose(found: Examined, drawn: Collection[str]) -> Page:
    """The page."""
    blocks: list[Block] = [
        Paragraph(
            (
                "The error is over problems (samples of one problem are not independent); the "
                "interval is a 95 % bootstrap over problems. Unscored samples are in no figure.",
            ),
        ),
        *_part(found),
        _scores(found.results),
        *published_results(found.name, found.results, drawn),
        Heading("How to get this again"),
        Facts(_facts(found)),
        Fold("The recipe in full, every default written out", (Quote("", found.recipe_toml),)),
    ]
    return Page(found.name, f"Statewise · evaluation of {found.model}", tuple(blocks))


def _part(found: Examined) -> list[Block]:
    if not found.first:
        return []
    told = (
        f"Only the first {found.first:,} problems of each benchmark were asked: these are no "
        "scores of the benchmarks."
    )
    return [Paragraph((told,), "warning")]


def _scores(results: Mapping[str, Json]) -> Table:
    heads = ("pass@1, %", "95 % interval", "pass@n", "majority", "truncated", "no answer",
             "unscored", "tokens", "problems", "samples")  # fmt: skip
    rows = []
    for name, r in results.items():
        inside = r["interval"]
        rows.append(
            (
                published.COLUMNS.get(name, name),
                score(r),
                ABSENT if inside is None else f"{100 * inside[0]:.1f} to {100 * inside[1]:.1f}",
                _best(r),
                ABSENT if r["majority"] is None else f"{100 * r['majority']:.1f}",
                *(f"{r['outcomes'][o]:,}" for o in ("truncated", "no_answer", "unscored")),
                ABSENT if r["mean_tokens"] is None else f"{r['mean_tokens']:,.0f}",
                f"{r['n_problems']:,}",
                f"{r['n_samples']:,}",
            )
        )
    return Table((Column("benchmark", numeric=False), *map(Column, heads)), tuple(rows))


def _best(result: Json) -> str:
    """pass@k for the largest k there is."""
    defined = {int(k): share for k, share in result["pass_at_k"].items() if share is not None}
    if not defined:
        return ABSENT
    k = max(defined)
    return f"{100 * defined[k]:.1f} (n {k})"


def _facts(found: Examined) -> tuple[tuple[str, str], ...]:
    pairs = [
        ("model", found.model),
        ("recipe", found.name),
        ("recipe SHA-256", found.recipe_sha256),
    ]
    for name, r in found.results.items():
        s = r["sampling"]
        pairs.append(
            (
                f"sampling, {name}",
                f"{s['n']} samples, seed {s['seed']}, temperature {s['temperature']}, top-p "
                f"{s['top_p']}, repetition penalty {s['repetition_penalty']}, at most "
                f"{s['max_tokens']:,} tokens",
            )
        )
    if found.isolation:
        pairs.append(("programs ran behind", found.isolation))
    return tuple(pairs)
