"""The report on a model that was there already: its scores, beside the paper's three tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from statewise.records import json_bytes, write_atomically
from statewise.report import markdown, page, paper
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
from statewise.report.context import BESIDE, both_rules, published_results, score
from statewise.report.figures import draw_beside_published
from statewise.report.results import SetResult, as_json
from statewise.report.wording import ABSENT, bare, count, interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation.

    Attributes:
        name: of the recipe.
        model: who was asked.
        recipe_sha256, recipe_toml: the recipe.
        isolation: what programs ran behind; "" if none ran.
        first: so many problems of each benchmark were asked; 0: all.
        results: by benchmark.
    """

    name: str
    model: str
    recipe_sha256: str
    recipe_toml: str
    isolation: str
    first: int
    results: Mapping[str, SetResult]


def write(evaluation: Evaluation, out: Path) -> str:
    """Write `report.md`, `report.html`, `report.json` and the figure; returns the Markdown."""
    drawing = draw_beside_published(evaluation.name, evaluation.results)
    drawn = {BESIDE: drawing} if drawing else {}
    story = compose(evaluation, drawn)
    text = markdown.render(story)
    document = {
        "recipe": evaluation.recipe_sha256,
        "model": evaluation.model,
        "isolation": evaluation.isolation,
        "first": evaluation.first,
        "results": as_json(evaluation.results),
    }
    outputs = {
        **{f"figures/{name}.svg": d.svg.encode() for name, d in drawn.items()},
        **{f"figures/{name}.png": d.png for name, d in drawn.items()},
        "report.md": text.encode(),
        "report.html": page.render(story, {name: d.svg for name, d in drawn.items()}).encode(),
        "report.json": json_bytes(document, indent=2),
    }
    for name, data in outputs.items():
        write_atomically(out / name, data)
    return text


def compose(evaluation: Evaluation, drawn: Collection[str]) -> Page:
    """The page."""
    blocks: list[Block] = [
        Paragraph(
            (
                "The error is over problems (samples of one problem are not independent); the "
                "interval is a 95 % bootstrap over problems. Unscored samples are in no figure.",
            ),
        ),
        *_part(evaluation),
        _scores(evaluation.results),
        *both_rules(evaluation.results),
        *published_results(evaluation.name, evaluation.results, drawn),
        Heading("How to get this again"),
        Facts(_facts(evaluation)),
        Fold("The recipe in full, every default written out", (Quote("", evaluation.recipe_toml),)),
    ]
    return Page(evaluation.name, f"Statewise · evaluation of {evaluation.model}", tuple(blocks))


def _part(evaluation: Evaluation) -> list[Block]:
    if not evaluation.first:
        return []
    told = (
        f"Only the first {evaluation.first:,} problems of each benchmark were asked: these are no "
        "scores of the benchmarks."
    )
    return [Paragraph((told,), "warning")]


def _scores(results: Mapping[str, SetResult]) -> Table:
    heads = ("pass@1, %", "95 % interval", "pass@n", "majority", "truncated", "no answer",
             "unscored", "tokens", "problems", "samples")  # fmt: skip
    rows = []
    for name, r in results.items():
        rows.append(
            (
                paper.COLUMNS.get(name, name),
                score(r),
                interval(r.interval),
                _best(r),
                bare(r.majority),
                *(count(r.outcomes[o]) for o in ("truncated", "no_answer", "unscored")),
                count(r.mean_tokens),
                count(r.n_problems),
                count(r.n_samples),
            )
        )
    return Table((Column("benchmark", numeric=False), *map(Column, heads)), tuple(rows))


def _best(result: SetResult) -> str:
    """pass@k for the largest k there is."""
    defined = {int(k): share for k, share in result.pass_at_k.items() if share is not None}
    if not defined:
        return ABSENT
    k = max(defined)
    return f"{100 * defined[k]:.1f} (n {k})"


def _facts(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    pairs = [
        ("model", evaluation.model),
        ("recipe", evaluation.name),
        ("recipe SHA-256", evaluation.recipe_sha256),
    ]
    for name, r in evaluation.results.items():
        s = r.sampling
        pairs.append(
            (
                f"sampling, {name}",
                f"{s.n} samples, seed {s.seed}, temperature {s.temperature}, top-p {s.top_p}, "
                f"repetition penalty {s.repetition_penalty}, at most {s.max_tokens:,} tokens",
            )
        )
    if evaluation.isolation:
        pairs.append(("programs ran behind", evaluation.isolation))
    return tuple(pairs)
