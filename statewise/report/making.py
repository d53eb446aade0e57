"""The parts of the report about how the model and its problems were made."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

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
from statewise.report.results import (
    FunnelStep,
    PhaseRead,
    Role,
    RunResults,
    SynthFigures,
    TrainFigures,
)
from statewise.report.wording import (
    ABSENT,
    NOT_MEASURED,
    OUTCOMES,
    count,
    duration,
    has_reserved_wording,
    listed,
    percent,
    plain,
    set_label,
    spaced,
)

_SPIKES_TOLD = 5
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
    return [
        *blocks,
        Table(columns, rows),
        *_jumps(results.train),
        *_not_trained_on(results.train),
        *_read(results.train.read),
    ]


def _jumps(train: TrainFigures) -> list[Block]:
    """Which steps stood out, and how many were left out."""
    told = []
    if train.spikes:
        first = ", ".join(
            f"step {count(s.step)} ({s.loss:.2f} after {s.before:.2f})"
            for s in train.spikes[:_SPIKES_TOLD]
        )
        more = len(train.spikes) - _SPIKES_TOLD
        told.append(
            f"Loss spikes, with the median of the steps before: {first}"
            + (f", and {count(more)} more." if more > 0 else ".")
        )
    if train.skipped:
        told.append(
            f"{count(train.skipped)} steps were skipped: their loss or gradient was no finite "
            "number."
        )
    return [Paragraph((" ".join(told),), "warning")] if told else []


def _not_trained_on(train: TrainFigures) -> list[Block]:
    """Loss and perplexity at each phase's end on documents that were kept from training."""
    last = {(p.phase, p.source): p for p in train.development}
    if not last:
        return []
    columns = (
        Column("after phase", numeric=False),
        Column("not trained on", numeric=False),
        Column("targets"),
        Column("loss"),
        Column("perplexity"),
    )
    rows = tuple(
        (phase, set_label(source), count(p.targets), f"{p.loss:.4f}", f"{_perplexity(p.loss):,.3f}")
        for (phase, source), p in last.items()
    )
    return [
        Paragraph(("The same loss on documents that were kept from training, in nats a target:",)),
        Table(columns, rows),
    ]


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _read(read: Mapping[str, PhaseRead]) -> list[Block]:
    """What the phases read of their sources, and why of some documents nothing."""
    if not read:
        return []
    columns = (
        Column("phase", numeric=False),
        Column("source", numeric=False),
        Column("samples"),
        Column("tokens"),
        Column("documents"),
        Column("passes"),
        Column("left out"),
        Column("cut"),
        Column("held out"),
    )
    rows = tuple(
        (
            name,
            s.source,
            count(s.samples),
            count(s.tokens),
            count(s.documents),
            f"{s.passes:.2f}",
            count(sum(s.left_out.values())),
            count(s.cut),
            count(s.held_out),
        )
        for name, phase in read.items()
        for s in phase.sources
    )
    filled = listed([f"{percent(phase.filled)} ({name})" for name, phase in read.items()])
    told = f"Rows were filled to {filled} with documents."
    why = {s.source: s.left_out for phase in read.values() for s in phase.sources}
    reasons = [
        f"{source}: {listed([f'{count(n)} {reason}' for reason, n in left_out.items() if n])}"
        for source, left_out in why.items()
        if any(left_out.values())
    ]
    if reasons:
        told += f" Left out of {'; of '.join(reasons)}."
    return [Heading("What was read", 3), Table(columns, rows), Paragraph((told,))]


def funnel(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """What synthesis kept at each step, and what is known of its judges and overlap."""
    blocks: list[Block] = [Heading("Synthesis")]
    synth = results.synth
    if synth is None:
        return [*blocks, _ABSENT]
    blocks += _played(synth)
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
    blocks += [Facts(tuple(pairs))] if pairs else []
    return [*blocks, *_distance(synth)]


def _played(synth: SynthFigures) -> list[Block]:
    """Who played the roles; where it was a program, what that makes of the figures below."""
    if not synth.roles:
        return []
    workbook = {name: role for name, role in synth.roles.items() if role.source == "workbook"}
    models = {name: role for name, role in synth.roles.items() if name not in workbook}
    blocks: list[Block] = []
    if models:
        told = "; ".join(f"{name}, {r.model} ({r.source})" for name, r in models.items())
        blocks.append(Paragraph((f"Played by a model: {told}.",)))
    if workbook:
        blocks.append(Paragraph((_by_the_workbook(workbook, every=not models),), "warning"))
    return blocks


def _by_the_workbook(roles: Mapping[str, Role], *, every: bool) -> str:
    who = "every role" if every else f"the {listed(list(roles))}"
    words = f"A template program, the workbook, played {who}"
    words += "; no language model wrote, judged or solved anything here." if every else "."
    if "author" in roles:
        words += " The problems are its templates filled with numbers."
    errors = [f"{name} in {percent(role.error)}" for name, role in roles.items() if role.error]
    if not errors:
        return words
    words += (
        " So that judging and checking have work it errs on purpose, as often as the recipe says: "
        f"{listed(errors)} of its answers."
    )
    judges = [role.error for name, role in roles.items() if name.startswith("judge")]
    if len(judges) > 1 and all(judges):
        right = [1 - error for error in judges if error]
        factors = " × ".join(f"{share:.3g}" for share in right)
        words += (
            f" So the judges' agreement is about {factors} = {math.prod(right):.3f}, and measures "
            "nothing else."
        )
    teacher = roles.get("teacher")
    if teacher and teacher.error:
        words += (
            " What is solved and verified of the step before is about "
            f"1 − {teacher.error:g} = {percent(1 - teacher.error, 0)} where one solution a problem "
            "is asked for: the slips that were put in, found."
        )
    return words


def _distance(synth: SynthFigures) -> list[Block]:
    """How far the evaluation problems are from what was trained on, by steps and by words."""
    names = list(dict.fromkeys([*synth.overlap, *synth.contamination]))
    if not names:
        return []
    columns = (
        Column("set", numeric=False),
        Column("problems"),
        Column("with every step trained"),
        Column("steps"),
        Column("steps trained"),
        Column("largest containment"),
    )
    rows = []
    for name in names:
        o, nearest = synth.overlap.get(name), synth.contamination.get(name)
        cells = (o.problems, o.problems_trained, o.steps, o.steps_trained) if o else [None] * 4
        contained = ABSENT if nearest is None else f"{nearest:.3f}"
        rows.append((set_label(name), *map(count, cells), contained))
    return [
        Heading("How far the evaluation is from training", 3),
        Paragraph((_distance_told(synth),)),
        Table(columns, tuple(rows)),
    ]


def _distance_told(synth: SynthFigures) -> str:
    parts = []
    if synth.overlap:
        steps = sum(o.steps for o in synth.overlap.values())
        trained = sum(o.steps_trained for o in synth.overlap.values())
        parts.append(
            f"Of {count(steps)} steps that these problems take, each a concept with its numbers, "
            + (
                f"training problems solve {count(trained)} on their way."
                if trained
                else "no training problem holds one."
            )
        )
        reserved = any(has_reserved_wording(name) for name in synth.overlap)
        parts.append(
            "Their wordings (templates) were seen in training"
            + (", but for the set of reserved wordings." if reserved else ".")
        )
    if synth.contamination:
        parts.append(
            "Containment is the largest share of a problem's 8-grams, weighted by rarity, that one "
            "training statement holds."
        )
    return " ".join(parts)


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
