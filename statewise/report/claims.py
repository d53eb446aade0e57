"""The paper's three claims: each verdict with the figures behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from statewise.report.blocks import (
    Block,
    Column,
    Facts,
    Fold,
    Heading,
    Paragraph,
    Table,
    Verdict,
    picture,
)
from statewise.report.figures import (
    ARCHITECTURES,
    CURRICULA,
    crossover,
    mean,
)
from statewise.report.results import ClaimResult, RunResults, ScoreRow, SetDifference
from statewise.report.wording import (
    NOT_MEASURED,
    bare,
    count,
    plain,
    points,
    points_interval,
    set_label,
    size,
    spaced,
)

CLAIMS = {
    "architecture": (
        "Architecture",
        "At equal parameters and training tokens, a model without attention reasons at least as "
        "well as a Transformer.",
    ),
    "curriculum": (
        "Curriculum",
        "Foundations first, then composed problems, is better than composed problems alone at "
        "equal tokens.",
    ),
    "efficiency": (
        "Efficiency",
        "Memory a sequence stays flat and generation does not slow down as the text grows, unlike "
        "a Transformer with its KV cache.",
    ),
}

VERDICTS: dict[bool | None, str] = {True: "held", False: "did not hold", None: "not measured"}


def claims(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """All three claims, measured or not."""
    blocks: list[Block] = [
        Heading("The three claims"),
        Paragraph(
            (
                "What the paper claims for 7 billion parameters, tried in miniature."
                + (
                    " Differences are paired: both models answer the same problems."
                    if results.claims
                    and (results.claims.architecture.figures or results.claims.curriculum.figures)
                    else ""
                ),
            ),
            "note",
        ),
    ]
    evidence = {
        "architecture": _architecture,
        "curriculum": _curriculum,
        "efficiency": _efficiency,
    }
    for key, (title, default) in CLAIMS.items():
        claim = claim_of(results, key)
        if claim is None:
            blocks.append(Verdict(title, None, default, NOT_MEASURED))
            continue
        blocks.append(Verdict(title, claim.held, claim.statement, claim.reason))
        blocks += evidence[key](results, drawn)
        blocks += _claim_facts(claim)
    return blocks


def claim_of(results: RunResults, key: str) -> ClaimResult[Any] | None:
    """One of the three claims by its name, where the results have them."""
    return results.claims.by_name()[key] if results.claims else None


# Of a claim's figures, what is told as a plain value.
_FACTS = ("parameters", "tokens", "memory_crossover_tokens", "speed_crossover_tokens")


def _claim_facts(claim: ClaimResult[Any]) -> list[Block]:
    pairs = [("seeds", plain(claim.seeds))] if claim.seeds else []
    names = [name for name in _FACTS if hasattr(claim.figures, name)]
    pairs += [(spaced(name), plain(getattr(claim.figures, name))) for name in names]
    return [Facts(tuple(pairs))] if pairs else []


def _architecture(results: RunResults, drawn: Collection[str]) -> list[Block]:
    figures = results.claims and results.claims.architecture.figures
    if not figures:
        return []
    series = {key: label for key, (label, _) in ARCHITECTURES.items()}
    return [
        *picture(
            drawn,
            "architecture",
            "Attention-free model and Transformer at equal parameters and training tokens.",
            "Dot plot of pass@1 by set for both architectures; the numbers are in the table.",
        ),
        *_comparison(figures.pass_at_1, figures.difference, series, "Statewise minus Transformer"),
    ]


def _curriculum(results: RunResults, drawn: Collection[str]) -> list[Block]:
    figures = results.claims and results.claims.curriculum.figures
    if not figures:
        return []
    series = {key: key for key in CURRICULA}
    return [
        *picture(
            drawn,
            "curriculum",
            "After phase 1, after both phases, and phase 2 alone on as many tokens as both.",
            "Dot plot of pass@1 by set for three curricula; the numbers are in the table.",
        ),
        *_comparison(
            figures.pass_at_1, figures.difference, series, "phase 1+2 minus phase 2 alone"
        ),
    ]


def _comparison(
    rows: Sequence[ScoreRow],
    differences: Sequence[SetDifference],
    series: dict[str, str],
    subtraction: str,
) -> list[Block]:
    columns = (
        Column("set", numeric=False),
        *(Column(label, "pass@1, %") for label in series.values()),
        Column("points", subtraction),
        Column("95 % interval", subtraction),
    )
    by_set = {d.set: d for d in differences}
    table = []
    for name in dict.fromkeys(r.set for r in rows):
        means = [mean(r.scores[key] for r in rows if r.set == name) for key in series]
        d = by_set[name]
        table.append(
            (
                set_label(name),
                *(bare(m) for m in means),
                points(d.mean),
                points_interval(d.interval),
            )
        )
    blocks: list[Block] = [Table(columns, tuple(table))]
    if len({r.seed for r in rows}) > 1:
        blocks.append(Fold("Seed by seed", (_seed_table(rows, series),)))
    return blocks


def _seed_table(rows: Sequence[ScoreRow], series: dict[str, str]) -> Table:
    columns = (
        Column("set", numeric=False),
        Column("seed"),
        *(Column(label, "pass@1, %") for label in series.values()),
    )
    cells = tuple(
        (
            set_label(r.set),
            plain(r.seed),
            *(bare(r.scores[key]) for key in series),
        )
        for r in rows
    )
    return Table(columns, cells)


def _efficiency(results: RunResults, drawn: Collection[str]) -> list[Block]:
    figures = results.claims and results.claims.efficiency.figures
    if not figures:
        return []
    columns = (
        Column("length"),
        Column("batch"),
        Column("Statewise", "tokens per second"),
        Column("Transformer", "tokens per second"),
        Column("ratio", "tokens per second"),
        Column("state", "memory a sequence"),
        Column("KV cache", "memory a sequence"),
    )
    table = tuple(
        (
            count(r.length),
            count(r.batch),
            count(r.statewise.tokens_per_s),
            count(r.transformer.tokens_per_s),
            f"{r.statewise.tokens_per_s / r.transformer.tokens_per_s:.2f}×",
            size(r.statewise.memory_bytes),
            size(r.transformer.memory_bytes),
        )
        for r in figures.rows
    )
    return [
        *picture(
            drawn,
            "throughput",
            "Generation speed against the length generated.",
            "Line chart of tokens per second against length; the numbers are in the table.",
        ),
        *picture(
            drawn,
            "memory",
            f"Memory one sequence occupies. {_crossover_sentence(results)}",
            "Line chart of bytes a sequence against its length: the state is flat, the KV cache "
            "grows; the numbers are in the table.",
        ),
        Table(columns, table),
    ]


def _crossover_sentence(results: RunResults) -> str:
    meet = crossover(results)
    if meet is None:
        return "The KV cache stays below the state up to the longest length measured."
    return f"From about {count(meet)} tokens on, the KV cache is larger than the state."
