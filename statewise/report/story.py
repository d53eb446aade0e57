"""Composes the report: which blocks, in which order, with which words and figures.

Every sentence is made from what was measured. A part that is absent is said to be absent; nothing
is estimated, and a claim that failed is printed as plainly as one that held.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from statewise.report import published
from statewise.report.blocks import (
    Answer,
    Block,
    Citation,
    Column,
    Facts,
    Fold,
    Heading,
    Number,
    Numbers,
    Page,
    Paragraph,
    Picture,
    Quote,
    Table,
    Verdict,
)
from statewise.report.figures import (
    ARCHITECTURES,
    CURRICULA,
    claim_rows,
    crossover,
    mean,
    memory_rows,
    phases_of,
)
from statewise.report.results import Json, RunResults
from statewise.report.wording import (
    ABSENT,
    NBSP,
    NOT_MEASURED,
    OUTCOMES,
    count,
    duration,
    interval,
    large,
    listed,
    percent,
    plain,
    points,
    points_interval,
    set_label,
    set_phrase,
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

_ABSENT = Paragraph((NOT_MEASURED,), "absent")


def compose(results: RunResults, drawn: Collection[str], not_finite: Sequence[str] = ()) -> Page:
    """The whole report as blocks.

    Args:
        results: what was measured, without NaN or infinity.
        drawn: names of the figures that were drawn; no other is referred to.
        not_finite: keys where a NaN or an infinity was found and taken out.
    """
    parameters = results.model.get("parameters")
    title = f"{results.name}: " + (
        f"{large(parameters)} parameters, no attention" if parameters else "a run without attention"
    )
    blocks: list[Block] = [*_headline(results, not_finite)]
    for part in (_accuracy, _claims, _training, _funnel, _examples, _answers):
        blocks += part(results, drawn)
    blocks += _published()
    blocks += _reproduction(results)
    return Page(title, "Statewise run report", tuple(blocks))


def _picture(drawn: Collection[str], name: str, caption: str, alt: str) -> list[Block]:
    return [Picture(name, caption, alt)] if name in drawn else []


def _headline(results: RunResults, not_finite: Sequence[str]) -> list[Block]:
    blocks: list[Block] = [Numbers(_three_numbers(results))]
    sentences = [_trained(results), *_accurate(results), *_imperfect(results), _verdicts(results)]
    blocks.append(Paragraph((" ".join(s for s in sentences if s),), "lead"))
    if not_finite:
        keys = ", ".join(not_finite[:6]) + (" and more" if len(not_finite) > 6 else "")
        text = f"{len(not_finite)} figure(s) came out as NaN or infinite and are left out: {keys}."
        blocks.append(Paragraph((text,), "warning"))
    return blocks


def _measured(results: RunResults) -> dict[str, Json]:
    return {n: r for n, r in results.eval.items() if r and r.get("pass_at_1") is not None}


def _three_numbers(results: RunResults) -> tuple[Number, ...]:
    sets = _measured(results)
    numbers = []
    for name in _first_and_hardest(sets):
        row = sets[name]
        notes = [f"95 % interval {interval(row.get('interval'))}"] if row.get("interval") else []
        if row.get("majority") is not None:
            notes.append(f"majority of {row.get('n_samples', 'n')}: {percent(row['majority'])}")
        numbers.append(
            Number(percent(row["pass_at_1"]), f"pass@1, {set_phrase(name)}", "; ".join(notes))
        )
    state = _state_bytes(results)
    if state is not None:
        numbers.append(Number(size(state), "state a sequence", "the same at every length"))
    if len(numbers) < 3 and results.model.get("parameters"):
        numbers.append(Number(large(results.model["parameters"]), "parameters"))
    if len(numbers) < 3 and results.wall_s is not None:
        numbers.append(Number(duration(results.wall_s), "whole run"))
    return tuple(numbers[:3])


def _first_and_hardest(sets: dict[str, Json]) -> list[str]:
    """The first set, and the hardest of the mathematical workbook or else the second set."""
    names = list(sets)
    if len(names) < 2:
        return names
    graded = [n for n in names if n.startswith("workbook-") and n.rpartition("-")[2].isdigit()]
    return [graded[0], graded[-1]] if len(graded) > 1 else names[:2]


def _state_bytes(results: RunResults) -> int | None:
    return results.model.get("state_bytes_per_sequence")


def _trained(results: RunResults) -> str:
    parameters = results.model.get("parameters")
    model = "A Mamba-2 model" + (f" of {large(parameters)} parameters" if parameters else "")
    phases = results.train.get("phases") or []
    if not phases:
        return f"{model}. Its training was not measured in this run."
    tokens = sum(p.get("tokens") or 0 for p in phases)
    names = [str(p.get("name", "?")) for p in phases]
    number = {1: "one phase", 2: "two phases", 3: "three phases"}
    order = number.get(len(names), f"{len(names)} phases")
    words = f"{model} was trained on {large(tokens)} tokens in {order} ({', then '.join(names)})"
    spent = sum(p.get("wall_s") or 0 for p in phases)
    words += f" in {duration(spent)}" if spent else ""
    processor = results.device.get("gpu") or results.device.get("cpu")
    return words + (f" on {processor}." if processor else ".")


def _accurate(results: RunResults) -> list[str]:
    sets = _measured(results)
    if not sets:
        return ["Its accuracy was not measured in this run."]
    parts = []
    for name, row in sets.items():
        bounds = f" ({interval(row['interval'])})" if row.get("interval") else ""
        parts.append(f"{percent(row['pass_at_1'])}{bounds} on {set_phrase(name)}")
    return [f"Of held-out problems it solves, at the first attempt, {listed(parts)}."]


def _imperfect(results: RunResults) -> list[str]:
    """What the accuracy hides: answers cut off, and answers that could not be checked."""
    totals = {
        key: sum((r.get("outcomes") or {}).get(key) or 0 for r in results.eval.values() if r)
        for key in OUTCOMES
    }
    everything = sum(totals.values())
    said = []
    if everything and totals["truncated"]:
        said.append(f"{percent(totals['truncated'] / everything)} of all answers were cut off.")
    if everything and totals["unscored"]:
        said.append(
            f"{count(totals['unscored'])} of {count(everything)} could not be checked and are "
            "counted apart."
        )
    return said


def _verdicts(results: RunResults) -> str:
    said: dict[str, list[str]] = {"held": [], "did not hold": [], "not measured": []}
    for key in CLAIMS:
        held = (results.claims.get(key) or {}).get("held")
        said[_VERDICT[held]].append(key)
    if len(said["not measured"]) == len(CLAIMS):
        return "The paper's three claims were not tested in this run."
    parts = [f"{listed(names)} {verdict}" for verdict, names in said.items() if names]
    return f"Of the paper's three claims, in miniature: {'; '.join(parts)}."


_VERDICT: dict[bool | None, str] = {True: "held", False: "did not hold", None: "not measured"}


def _accuracy(results: RunResults, drawn: Collection[str]) -> list[Block]:
    blocks: list[Block] = [Heading("Accuracy")]
    sets = {name: row for name, row in results.eval.items() if row}
    if sets:
        blocks += [_accuracy_table(sets), _outcome_table(sets), _sampling_note(sets)]
    else:
        blocks.append(_ABSENT)
    blocks += _picture(
        drawn,
        "accuracy",
        "Accuracy by difficulty and phase. Bars: pass@1, the share of samples that are right. "
        "Lines: 95 % intervals. Diamonds: share of problems whose most frequent answer is right.",
        "Bar chart of pass@1 by evaluation set and training phase; the numbers are in the table.",
    )
    phases = phases_of(results)
    if results.eval_by_phase and phases:
        blocks.append(Fold("Accuracy after each phase, as a table", (_phase_table(phases),)))
    return blocks


def _accuracy_table(sets: dict[str, Json]) -> Table:
    ks = {n: max((r.get("pass_at_k") or {"": 0}), key=_as_int, default="") for n, r in sets.items()}
    k_labels = {k for k in ks.values() if k}
    k_label = f"pass@{next(iter(k_labels))}" if len(k_labels) == 1 else "pass@k"
    columns = (
        Column("set", numeric=False),
        Column("problems"),
        Column("samples each"),
        Column("pass@1", "share right, %"),
        Column("95 % interval", "share right, %"),
        Column("std. error", "share right, %"),
        Column("majority", "share right, %"),
        Column(k_label, "share right, %"),
    )
    rows = tuple(
        (
            set_label(name),
            count(row.get("n_problems")),
            count(row.get("n_samples")),
            _bare(row.get("pass_at_1")),
            interval(row.get("interval")),
            _bare(row.get("stderr")),
            _bare(row.get("majority")),
            _bare((row.get("pass_at_k") or {}).get(ks[name]))
            + (f" (k = {ks[name]})" if len(k_labels) > 1 and ks[name] else ""),
        )
        for name, row in sets.items()
    )
    return Table(columns, rows)


def _outcome_table(sets: dict[str, Json]) -> Table:
    columns = (
        Column("set", numeric=False),
        *(Column(label, "samples by outcome") for label in OUTCOMES.values()),
        Column("mean tokens"),
    )
    rows = tuple(
        (
            set_label(name),
            *(count((row.get("outcomes") or {}).get(key)) for key in OUTCOMES),
            count(row.get("mean_tokens")),
        )
        for name, row in sets.items()
    )
    return Table(columns, rows)


def _as_int(key: str) -> int:
    return int(key) if str(key).isdigit() else 0


def _bare(share: float | None) -> str:
    return percent(share).removesuffix(f"{NBSP}%")


def _sampling_note(sets: dict[str, Json]) -> Paragraph:
    by_params: dict[str, list[str]] = {}
    for name, row in sets.items():
        params = row.get("sampling")
        if params:
            by_params.setdefault(plain(params), []).append(set_label(name))
    words = (
        "An answer is right if the last boxed expression after the "
        "thinking is mathematically equal to the reference, or if the program passes every test. "
        "Unscored samples, where the checker itself failed, are left out of the shares."
    )
    own = [f"{set_label(name)} is {name}" for name in sets if set_label(name) != name]
    words += f" In report.json, {listed(own)}." if own else ""
    if len(by_params) == 1:
        words += f" Sampled with {next(iter(by_params))}."
    elif by_params:
        words += (
            " Sampled with "
            + "; ".join(f"{params} ({listed(names)})" for params, names in by_params.items())
            + "."
        )
    return Paragraph((words,), "note")


def _phase_table(phases: dict[str, dict[str, Json]]) -> Table:
    columns = (
        Column("phase", numeric=False),
        Column("set", numeric=False),
        Column("pass@1, %"),
        Column("95 % interval"),
        Column("majority, %"),
    )
    rows = tuple(
        (
            phase,
            set_label(name),
            _bare((row or {}).get("pass_at_1")),
            interval((row or {}).get("interval")),
            _bare((row or {}).get("majority")),
        )
        for phase, sets in phases.items()
        for name, row in sets.items()
    )
    return Table(columns, rows)


def _claims(results: RunResults, drawn: Collection[str]) -> list[Block]:
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
        *_picture(
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
        *_picture(
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
                *(_bare(m) for m in means),
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
            *(_bare(r.get(key)) for key in series),
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
        *_picture(
            drawn,
            "throughput",
            "Generation speed against the length generated.",
            "Line chart of tokens per second against length; the numbers are in the table.",
        ),
        *_picture(
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


def _training(results: RunResults, drawn: Collection[str]) -> list[Block]:
    blocks: list[Block] = [Heading("Training")]
    phases = results.train.get("phases") or []
    if not phases and "loss" not in drawn:
        return [*blocks, _ABSENT]
    blocks += _picture(
        drawn,
        "loss",
        "Loss on the completions, with the boundary of the phases; below, the learning rate.",
        "Line chart of the training loss against tokens.",
    )
    if phases:
        columns = (
            Column("phase", numeric=False),
            Column("tokens"),
            Column("steps"),
            Column("time"),
            Column("tokens/s"),
            Column("final loss"),
        )
        rows = tuple(
            (
                str(p.get("name", "?")),
                count(p.get("tokens")),
                count(p.get("steps")),
                duration(p.get("wall_s")),
                count(p.get("tokens_per_s")),
                ABSENT if p.get("final_loss") is None else f"{p['final_loss']:.4f}",
            )
            for p in phases
        )
        blocks.append(Table(columns, rows))
    return blocks


def _funnel(results: RunResults, drawn: Collection[str]) -> list[Block]:
    blocks: list[Block] = [Heading("Synthesis")]
    synth = results.synth
    steps = synth.get("funnel") or []
    if not any(synth.get(k) for k in ("funnel", "judges", "held_out", "contamination")):
        return [*blocks, _ABSENT]
    blocks += _picture(
        drawn,
        "funnel",
        "What was left of the drafts after each step.",
        "Bar chart of the number of problems after each step; the numbers are in the table.",
    )
    if steps:
        blocks.append(_funnel_table(steps))
    pairs = []
    if synth.get("held_out"):
        sizes = [f"{set_label(n)} {plain(v)}" for n, v in synth["held_out"].items()]
        pairs.append(("held out for evaluation", ", ".join(sizes)))
    for part, title in (("judges", "judges"), ("contamination", "contamination")):
        value = synth.get(part)
        if isinstance(value, dict):
            pairs += [(f"{title}: {spaced(str(k))}", plain(v)) for k, v in value.items()]
        elif value is not None:
            pairs.append((title, plain(value)))
    return [*blocks, Facts(tuple(pairs))] if pairs else blocks


def _funnel_table(steps: Sequence[Json]) -> Table:
    kinds = [k for k in ("math", "code") if any(s.get(k) is not None for s in steps)]
    columns = (
        Column("left after", numeric=False),
        *(Column({"math": "mathematics", "code": "code"}[k]) for k in kinds),
        Column("of the step before"),
    )
    rows: list[tuple[str, ...]] = []
    before = 0
    for step in steps:
        total = sum(step.get(k) or 0 for k in kinds)
        share = percent(total / before) if before else ABSENT
        rows.append((str(step.get("stage", "?")), *(count(step.get(k)) for k in kinds), share))
        before = total
    return Table(columns, tuple(rows))


def _examples(results: RunResults, _: Collection[str]) -> list[Block]:
    examples = results.synth.get("examples") or []
    blocks: list[Block] = [Heading("Sample problems")]
    if not examples:
        return [*blocks, _ABSENT]
    for example in examples:
        concepts = example.get("concepts") or example.get("concept") or []
        concepts = [concepts] if isinstance(concepts, str) else concepts
        title = " + ".join(str(c) for c in concepts) or "A problem"
        level = example.get("level")
        blocks.append(Heading(title, 3))
        facts = [("level", plain(level))] if level else []
        if example.get("answer") is not None:
            facts.append(("answer", plain(example["answer"])))
        blocks += [Facts(tuple(facts))] if facts else []
        quotes = [
            Quote(label, str(example[key]), prose=True)
            for key, label in (("rationale", "Rationale"), ("statement", "Problem"))
            if example.get(key)
        ]
        blocks += quotes
        if example.get("trace"):
            blocks.append(_long("The teacher's trace", str(example["trace"])))
    return blocks


def _long(label: str, text: str) -> Block:
    """Text as a quote, folded away where it would bury the page."""
    return Quote(label, text) if len(text) <= 1500 else Fold(label, (Quote("", text),))


def _answers(results: RunResults, _: Collection[str]) -> list[Block]:
    if not results.samples:
        return []
    blocks: list[Block] = [Heading("What the model wrote")]
    for sample in results.samples:
        outcome = str(sample.get("outcome") or "")
        quotes: list[Block] = [Quote("Prompt", str(sample.get("prompt") or ""), prose=True)]
        quotes.append(_long("Answer of the model", str(sample.get("completion") or "")))
        if sample.get("reference") is not None:
            quotes.append(Quote("Reference", str(sample["reference"])))
        title = set_label(str(sample["set"])) if sample.get("set") else "A held-out problem"
        blocks.append(Answer(title, OUTCOMES.get(outcome, outcome), tuple(quotes)))
    return blocks


def _published() -> list[Block]:
    columns = (
        Column("model", numeric=False),
        *(Column(b, "pass@1, %, as published") for b in published.BENCHMARKS),
    )
    rows = tuple((name, *(_published_cell(c) for c in cells)) for name, cells in published.ROWS)
    factors = [f"{f:g}× at {gpu}" for gpu, f in published.SPEEDUP_OVER_TRANSFORMER.items()]
    return [
        Heading("For context: the paper's results"),
        Paragraph(
            (
                "Published figures, not measured here. They are of models of 3 to 27 billion "
                "parameters and say nothing about this run. Source: ",
                Citation("Scaling Reasoning without Attention, arXiv 2505.22425", published.URL),
                ". “Not found”: the cell exists in the paper and could not be recovered; the two "
                "cells of the ablation that are shown come from secondary sources. A dash: the "
                "paper reports nothing.",
            ),
            "warning",
        ),
        Table(columns, rows, "Published figures, not measured here", frozenset({0})),
        Paragraph(
            (
                "Published speed of PromptCoT-Mamba-7B over a 7B Transformer at long generations: "
                f"{listed(factors)} of GPU memory. Published figures, not measured here.",
            ),
            "note",
        ),
    ]


def _published_cell(cell: published.Cell) -> str:
    return ABSENT if cell is None else cell if isinstance(cell, str) else f"{cell:.1f}"


def _reproduction(results: RunResults) -> list[Block]:
    blocks: list[Block] = [Heading("How to get this again")]
    blocks.append(
        Facts(
            (
                ("recipe", results.name),
                ("recipe SHA-256", results.recipe_sha256),
                ("commit", results.commit or "not known"),
                ("seed", plain(results.seed)),
                *((("started", results.started_at),) if results.started_at else ()),
                ("whole run", duration(results.wall_s)),
            )
        )
    )
    blocks.append(
        Fold("The recipe in full, every default written out", (Quote("", results.recipe_toml),))
    )
    blocks.append(Heading("Stages", 3))
    if results.stages:
        columns = (Column("stage", numeric=False), Column("time"), Column("", numeric=False))
        rows = tuple(
            (
                name,
                duration((stage or {}).get("wall_s")),
                "unchanged, not run again" if (stage or {}).get("skipped") else "",
            )
            for name, stage in results.stages.items()
        )
        blocks.append(Table(columns, rows))
    else:
        blocks.append(_ABSENT)
    for title, part in (
        ("Model", results.model),
        ("Device", results.device),
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
