"""The paper's three claims: each with its word, and the figures behind it."""

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
from statewise.report.comparison import evidence, notes
from statewise.report.figures import CONTESTANTS, crossover
from statewise.report.results import ClaimResult, RunResults
from statewise.report.wording import (
    ABSENT,
    NOT_MEASURED,
    count,
    listed,
    percent,
    plain,
    size,
)
from statewise.speed import Bench, BenchRow, break_even_told

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


def _claim_facts(claim: ClaimResult[Any]) -> list[Block]:
    return [Facts((("seeds", plain(claim.seeds)),))] if claim.seeds else []


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
    bench = results.claims and results.claims.efficiency.figures
    if not bench:
        return []
    budget = size(bench.budget_bytes)
    alike = f"{bench.rows[0].ours.batch} sequences each"
    within = f"as many sequences as fit into {budget}, at most {bench.most_sequences}"
    columns = (
        Column("length"),
        Column("ratio", alike),
        Column("95 % interval", alike),
        Column("by bytes", alike),
        Column("Statewise", f"sequences in {budget}"),
        Column("Transformer", f"sequences in {budget}"),
        Column("ratio", f"in {budget}"),
        Column("95 % interval", f"in {budget}"),
        Column("state", "memory a sequence"),
        Column("KV cache", "memory a sequence"),
    )
    ratios = tuple(
        (
            count(row.length),
            f"{row.ratio.median:.2f}×",
            _ratio_interval(row),
            f"{row.floor_ratio:.2f}×",
            count(full.ours.batch),
            count(full.theirs.batch),
            f"{full.ratio.median:.2f}×",
            _ratio_interval(full),
            size(row.ours.memory_bytes),
            size(row.theirs.memory_bytes),
        )
        for row, full in zip(bench.rows, bench.under_budget, strict=True)
    )
    return [
        *picture(
            drawn,
            "ratio",
            "How many times as many tokens a second the attention-free model decodes as the faster "
            f"of the Transformer's implementations. {break_even_told(bench)}",
            "Line chart of three ratios against length: measured with equal batches, measured "
            "under a budget of memory, and of the bytes to be moved; the numbers are in the table.",
        ),
        *picture(
            drawn,
            "throughput",
            f"Generation speed against length, with {alike} and with {within}.",
            "Two line charts of tokens per second against length; the numbers are in the tables.",
        ),
        *picture(
            drawn,
            "memory",
            f"Memory one sequence occupies. {_crossover_sentence(results)}",
            "Line chart of bytes a sequence against its length: the state is flat, the KV cache "
            "grows; the numbers are in the table.",
        ),
        Table(columns, ratios, "Statewise over the faster Transformer, tokens per second"),
        _speed_table(bench, bench.rows, alike),
        Paragraph((_conditions(bench),), "note"),
        Fold(
            f"Within {budget}, contestant by contestant",
            (_speed_table(bench, bench.under_budget, within),),
        ),
    ]


def _speed_table(bench: Bench, rows: Sequence[BenchRow], caption: str) -> Table:
    """Every contestant at every length, with the share of its byte floor."""
    columns = (
        Column("contestant", numeric=False),
        Column("length"),
        Column("sequences"),
        Column("tokens/s"),
        Column("lowest to highest"),
        Column("of its floor"),
    )
    table = []
    for name in CONTESTANTS:
        for row in rows:
            if one := row.contestants.get(name):
                table.append(
                    (
                        CONTESTANTS[name],
                        count(row.length),
                        count(one.batch),
                        count(one.tokens_per_s),
                        f"{count(one.batch / max(one.step_s))} to "
                        f"{count(one.batch / min(one.step_s))}",
                        percent(bench.floor_share(one), 0),
                    )
                )
    return Table(columns, tuple(table), caption)


def _conditions(bench: Bench) -> str:
    """How it was measured, and what the floor is."""
    where = (
        f"in torch and in llama.cpp (llama-cpp-python {bench.llama_cpp}), on the same weights"
        if bench.llama_cpp
        else f"in torch only ({bench.not_measured})"
    )
    repeats = len(bench.rows[0].ours.step_s)
    return (
        f"{bench.dtype} weights; threads: {bench.threads}; repeats, in turns: {repeats}; "
        f"the Transformer {where}. The floor is the time to move what a step must move: "
        "the weights, and the states in and out, or the keys and values in, at the speed of a "
        f"plain copy in main memory ({bench.copy_bytes_per_s / 1e9:.1f} GB/s). What stays in the "
        "caches is faster, and the engine writes its states at every eighth step only: shares "
        "above 100 % are no errors."
    )


def _ratio_interval(row: BenchRow) -> str:
    interval = row.ratio.interval
    return ABSENT if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _crossover_sentence(results: RunResults) -> str:
    meet = crossover(results)
    if meet is None:
        return "The KV cache stays below the state up to the longest length measured."
    return f"From about {count(meet)} tokens on, the KV cache is larger than the state."
