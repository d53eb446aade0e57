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
    CONTESTANTS,
    CURRICULA,
    crossover,
    mean,
)
from statewise.report.results import ClaimResult, RunResults, ScoreRow, SetDifference
from statewise.report.wording import (
    ABSENT,
    NOT_MEASURED,
    bare,
    count,
    percent,
    plain,
    points,
    points_interval,
    set_label,
    size,
    spaced,
)
from statewise.speed import Bench, BenchRow, break_even_told

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
_FACTS = ("parameters", "tokens")


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
