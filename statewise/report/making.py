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
from statewise.report.results import Json, RunResults
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
    phases = results.train.get("phases") or []
    if not phases and "loss" not in drawn:
        return [*blocks, _ABSENT]
    blocks += picture(
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


def funnel(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """What synthesis kept at each step, and what is known of its judges and overlap."""
    blocks: list[Block] = [Heading("Synthesis")]
    synth = results.synth
    steps = synth.get("funnel") or []
    if not any(synth.get(k) for k in ("funnel", "judges", "held_out", "contamination")):
        return [*blocks, _ABSENT]
    blocks += picture(
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


def examples(results: RunResults, _: Collection[str]) -> list[Block]:
    """Problems the model was trained on, with rationale and trace."""
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


def answers(results: RunResults, _: Collection[str]) -> list[Block]:
    """Completions of the model with their outcomes; nothing at all where none were given."""
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
