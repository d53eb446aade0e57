"""The paper's three claims: each with its word, and the figures behind it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from statewise.report.blocks import (
    Block,
    Column,
    Facts,
    Heading,
    Paragraph,
    Table,
    Verdict,
    picture,
)
from statewise.report.comparison import evidence, notes
from statewise.report.figures import crossover
from statewise.report.results import ClaimResult, RunResults
from statewise.report.wording import (
    NOT_MEASURED,
    count,
    listed,
    plain,
    size,
    spaced,
)

CLAIMS = {
    "architecture": "Architecture",
    "curriculum": "Curriculum",
    "efficiency": "Efficiency",
}


def claims(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """What was measured of the three claims; what was left out for one reason, in one line."""
    left_open: dict[str, list[str]] = {}
    measured: list[Block] = []
    for key, title in CLAIMS.items():
        claim = claim_of(results, key)
        if claim is None or claim.word is None:
            reason = claim.reason if claim and claim.reason else NOT_MEASURED
            left_open.setdefault(reason, []).append(title.lower())
            continue
        measured.append(Verdict(title, claim.word, claim.statement, claim.headline, claim.reason))
        measured += _evidence(results, key, claim, drawn)
        measured += _claim_facts(claim)
    return [
        Heading("The three claims"),
        Paragraph(("What the paper claims for 7 billion parameters, tried in miniature.",), "note"),
        *(
            Paragraph((f"Left open: {listed(titles)}. {reason}",), "absent")
            for reason, titles in left_open.items()
        ),
        *measured,
        *notes(results),
    ]


def claim_of(results: RunResults, key: str) -> ClaimResult[Any] | None:
    """One of the three claims by its name, where the results have them."""
    return results.claims.by_name()[key] if results.claims else None


# Of a claim's figures, what is told as a plain value.
_FACTS = ("memory_crossover_tokens", "speed_crossover_tokens")


def _claim_facts(claim: ClaimResult[Any]) -> list[Block]:
    pairs = [("seeds", plain(claim.seeds))] if claim.seeds else []
    names = [name for name in _FACTS if hasattr(claim.figures, name)]
    pairs += [(spaced(name), plain(getattr(claim.figures, name))) for name in names]
    return [Facts(tuple(pairs))] if pairs else []


def _evidence(
    results: RunResults, key: str, claim: ClaimResult[Any], drawn: Collection[str]
) -> list[Block]:
    if key == "efficiency":
        return _efficiency(results, drawn)
    figures = claim.figures
    if not figures:
        return []
    return [
        *picture(
            drawn,
            key,
            "pass@1 of every arm, seed by seed. Below the dotted line: what training never had, "
            "which decides nothing.",
            "Dot plot of pass@1 by set for every arm; the numbers are in the tables.",
        ),
        *evidence(figures, results, drawn),
    ]


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
