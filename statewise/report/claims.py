"""The paper's three claims: each verdict with the figures behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
    claim_rows,
    crossover,
    mean,
    memory_rows,
)
from statewise.report.results import Json, RunResults
from statewise.report.wording import (
    ABSENT,
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
                    if any(claim_rows(results, c, "difference") for c in CLAIMS)
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
        claim = results.claims.get(key) or {}
        blocks.append(
            Verdict(
                title,
                claim.get("held"),
                claim.get("statement") or default,
                claim.get("reason") or ("" if claim else NOT_MEASURED),
            )
        )
        if claim:
            blocks += evidence[key](results, drawn)
            blocks += _claim_facts(claim)
    return blocks


_ROW_FIGURES = frozenset({"pass_at_1", "difference", "rows"})


def _claim_facts(claim: Json) -> list[Block]:
    pairs = []
    if claim.get("seeds"):
        pairs.append(("seeds", plain(claim["seeds"])))
    for key, value in (claim.get("figures") or {}).items():
        rows = isinstance(value, list) and any(isinstance(v, dict) for v in value)
        if key not in _ROW_FIGURES and not rows:
            pairs.append((spaced(str(key)), plain(value)))
    return [Facts(tuple(pairs))] if pairs else []


def _architecture(results: RunResults, drawn: Collection[str]) -> list[Block]:
    series = {key: label for key, (label, _) in ARCHITECTURES.items()}
    return [
        *picture(
            drawn,
            "architecture",
            "Attention-free model and Transformer at equal parameters and training tokens.",
            "Dot plot of pass@1 by set for both architectures; the numbers are in the table.",
        ),
        *_comparison(results, "architecture", series, "Statewise minus Transformer"),
    ]


def _curriculum(results: RunResults, drawn: Collection[str]) -> list[Block]:
    series = {key: key for key in CURRICULA}
    return [
        *picture(
            drawn,
            "curriculum",
            "After phase 1, after both phases, and phase 2 alone on as many tokens as both.",
            "Dot plot of pass@1 by set for three curricula; the numbers are in the table.",
        ),
        *_comparison(results, "curriculum", series, "phase 1+2 minus phase 2 alone"),
    ]


def _comparison(
    results: RunResults, claim: str, series: dict[str, str], difference: str
) -> list[Block]:
    rows = claim_rows(results, claim, "pass_at_1")
    differences = {(d.get("set") or ""): d for d in claim_rows(results, claim, "difference")}
    names = list(dict.fromkeys([*((r.get("set") or "") for r in rows), *differences]))
    if not names:
        return []
    columns = (
        Column("set", numeric=False),
        *(Column(label, "pass@1, %") for label in series.values()),
        Column("points", difference),
        Column("95 % interval", difference),
    )
    table = []
    for name in names:
        d = differences.get(name, {})
        means = [mean(r.get(key) for r in rows if (r.get("set") or "") == name) for key in series]
        table.append(
            (
                set_label(name),
                *(bare(m) for m in means),
                points(d.get("mean")),
                points_interval(d.get("interval")),
            )
        )
    blocks: list[Block] = [Table(columns, tuple(table))]
    if len({r.get("seed") for r in rows}) > 1:
        blocks.append(Fold("Seed by seed", (_seed_table(rows, series),)))
    return blocks


def _seed_table(rows: Sequence[Json], series: dict[str, str]) -> Table:
    columns = (
        Column("set", numeric=False),
        Column("seed"),
        *(Column(label, "pass@1, %") for label in series.values()),
    )
    cells = tuple(
        (
            set_label((r.get("set") or "")),
            plain(r.get("seed")),
            *(bare(r.get(key)) for key in series),
        )
        for r in rows
    )
    return Table(columns, cells)


def _efficiency(results: RunResults, drawn: Collection[str]) -> list[Block]:
    rows = claim_rows(results, "efficiency", "rows")
    if not rows:
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
    table = []
    for r in rows:
        ours, theirs = r.get("statewise_tokens_per_s"), r.get("transformer_tokens_per_s")
        table.append(
            (
                count(r.get("length")),
                count(r.get("batch")),
                count(ours),
                count(theirs),
                f"{ours / theirs:.2f}×" if ours is not None and theirs else ABSENT,
                size(r.get("statewise_state_bytes")),
                size(r.get("transformer_kv_bytes")),
            )
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
        Table(columns, tuple(table)),
    ]


def _crossover_sentence(results: RunResults) -> str:
    if not any(r.get("transformer_kv_bytes") is not None for r in memory_rows(results)):
        return "The Transformer's KV cache was not measured."
    meet = crossover(results)
    if meet is None:
        return "The KV cache stays below the state up to the longest length measured."
    return f"From about {count(meet)} tokens on, the KV cache is larger than the state."
