"""The parts of the report about how the model and its problems were made."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from statewise.report.blocks import (
    Answer,
    Block,
    Column,
    Facts,
    Fold,
    Heading,
    Paragraph,
    Quote,
    Table,
    picture,
)
from statewise.report.results import FunnelStep, RunResults
from statewise.report.wording import (
    ABSENT,
    NOT_MEASURED,
    OUTCOMES,
    count,
    duration,
    percent,
    plain,
    set_label,
    spaced,
)

_ABSENT = Paragraph((NOT_MEASURED,), "absent")


def training(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """The loss curve and the phases."""
    blocks: list[Block] = [Heading("Training")]
    if results.train is None:
        return [*blocks, _ABSENT]
    blocks += picture(
        drawn,
        "loss",
        "Loss on the completions, with the boundary of the phases; below, the learning rate.",
        "Line chart of the training loss against tokens.",
    )
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
            p.name,
            count(p.tokens),
            count(p.steps),
            duration(p.wall_s),
            count(p.tokens_per_s),
            ABSENT if p.final_loss is None else f"{p.final_loss:.4f}",
        )
        for p in results.train.phases
    )
    return [*blocks, Table(columns, rows)]


def funnel(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """What synthesis kept at each step, and what is known of its judges and overlap."""
    blocks: list[Block] = [Heading("Synthesis")]
    synth = results.synth
    if synth is None:
        return [*blocks, _ABSENT]
    blocks += picture(
        drawn,
        "funnel",
        "What was left of the drafts after each step.",
        "Bar chart of the number of problems after each step; the numbers are in the table.",
    )
    if synth.funnel:
        blocks.append(_funnel_table(synth.funnel))
    pairs = []
    if synth.held_out:
        sizes = [f"{set_label(n)} {plain(v)}" for n, v in synth.held_out.items()]
        pairs.append(("held out for evaluation", ", ".join(sizes)))
    pairs += [(f"judges: {spaced(k)}", plain(v)) for k, v in synth.judges.items()]
    pairs += [(f"contamination: {spaced(k)}", plain(v)) for k, v in synth.contamination.items()]
    pairs += [
        (
            f"steps of {set_label(name)} that a training problem solves on its way",
            f"{count(o.steps_trained)} of {count(o.steps)}",
        )
        for name, o in synth.overlap.items()
    ]
    return [*blocks, Facts(tuple(pairs))] if pairs else blocks


def _funnel_table(steps: Sequence[FunnelStep]) -> Table:
    columns = (
        Column("left after", numeric=False),
        Column("mathematics"),
        Column("code"),
        Column("of the step before"),
    )
    rows: list[tuple[str, ...]] = []
    before = 0
    for step in steps:
        share = percent(step.total / before) if before else ABSENT
        rows.append((step.stage, count(step.math), count(step.code), share))
        before = step.total
    return Table(columns, tuple(rows))


def examples(results: RunResults, _: Collection[str]) -> list[Block]:
    """Problems the model was trained on, with rationale and trace."""
    examples = results.synth.examples if results.synth else ()
    blocks: list[Block] = [Heading("Sample problems")]
    if not examples:
        return [*blocks, _ABSENT]
    for example in examples:
        blocks.append(Heading(" + ".join(example.concepts) or "A problem", 3))
        facts = [("level", example.level)] if example.level else []
        if example.answer is not None:
            facts.append(("answer", example.answer))
        blocks += [Facts(tuple(facts))] if facts else []
        if example.rationale:
            blocks.append(Quote("Rationale", example.rationale, prose=True))
        blocks.append(Quote("Problem", example.statement, prose=True))
        blocks.append(_long("The teacher's trace", example.trace))
    return blocks


def _long(label: str, text: str) -> Block:
    """Text as a quote, folded away where it would bury the page."""
    return Quote(label, text) if len(text) <= 1500 else Fold(label, (Quote("", text),))


def answers(results: RunResults, _: Collection[str]) -> list[Block]:
    """Completions of the model with their outcomes; nothing at all where none were given."""
    if not results.samples:
        return []
    blocks: list[Block] = [Heading("What the model wrote")]
    for sample in results.samples:
        quotes = (
            Quote("Prompt", sample.prompt, prose=True),
            _long("Answer of the model", sample.completion),
            Quote("Reference", sample.reference),
        )
        outcome = OUTCOMES.get(sample.outcome, sample.outcome)
        blocks.append(Answer(set_label(sample.set), outcome, quotes))
    return blocks
