"""The parts of the report about the model: headline and accuracy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict

from statewise.report.blocks import (
    Block,
    Column,
    Fold,
    Heading,
    Number,
    Numbers,
    Paragraph,
    Table,
    picture,
)
from statewise.report.claims import CLAIMS, claim_of
from statewise.report.context import both_rules
from statewise.report.figures import phases_of
from statewise.report.results import RunResults, SetResult
from statewise.report.wording import (
    NOT_MEASURED,
    OUTCOMES,
    bare,
    count,
    duration,
    interval,
    is_novel,
    large,
    listed,
    novelties,
    percent,
    plain,
    set_label,
    set_phrase,
    size,
)

_ABSENT = Paragraph((NOT_MEASURED,), "absent")


def headline(results: RunResults, not_finite: Sequence[str]) -> list[Block]:
    """Three numbers, and the run in one honest paragraph."""
    blocks: list[Block] = [Numbers(_three_numbers(results))]
    sentences = [_trained(results), *_accurate(results), *_imperfect(results)]
    blocks.append(Paragraph((" ".join(sentences),), "lead"))
    blocks.append(Paragraph((" ".join(_claimed(results)),), "lead"))
    if not_finite:
        keys = ", ".join(not_finite[:6]) + (" and more" if len(not_finite) > 6 else "")
        text = f"{len(not_finite)} figure(s) came out as NaN or infinite and are left out: {keys}."
        blocks.append(Paragraph((text,), "warning"))
    return blocks


def _measured(results: RunResults) -> dict[str, SetResult]:
    return {n: r for n, r in results.eval.items() if r.pass_at_1 is not None}


def _three_numbers(results: RunResults) -> tuple[Number, ...]:
    sets = _measured(results)
    numbers = []
    for name in _first_and_hardest(sets):
        row = sets[name]
        notes = [f"95 % interval {interval(row.interval)}"] if row.interval else []
        if row.majority is not None:
            notes.append(f"majority{_votes(row)}: {percent(row.majority)}")
        numbers.append(
            Number(percent(row.pass_at_1), f"pass@1, {set_phrase(name)}", "; ".join(notes))
        )
    if results.model is not None:
        state = size(results.model.state_bytes_per_sequence)
        numbers.append(Number(state, "state a sequence", "the same at every length"))
    if len(numbers) < 3 and results.model is not None:
        numbers.append(Number(large(results.model.parameters), "parameters"))
    if len(numbers) < 3 and results.wall_s is not None:
        numbers.append(Number(duration(results.wall_s), "whole run"))
    return tuple(numbers[:3])


def _votes(row: SetResult) -> str:
    """ " of n", where each problem has n samples."""
    each, rest = divmod(row.n_samples, row.n_problems or 1)
    return f" of {each}" if each and not rest else ""


def _first_and_hardest(sets: dict[str, SetResult]) -> list[str]:
    """The first set, and the hardest of the mathematical workbook or else the second set."""
    names = list(sets)
    if len(names) < 2:
        return names
    graded = [n for n in names if n.startswith("workbook-") and n.rpartition("-")[2].isdigit()]
    return [graded[0], graded[-1]] if len(graded) > 1 else names[:2]


def _trained(results: RunResults) -> str:
    size_of = results.model and f" of {large(results.model.parameters)} parameters"
    model = f"A Mamba-2 model{size_of or ''}"
    phases = results.train.phases if results.train else ()
    if not phases:
        return f"{model}. Its training was not measured in this run."
    tokens = sum(p.tokens for p in phases)
    names = [p.name for p in phases]
    number = {1: "one phase", 2: "two phases", 3: "three phases"}
    order = number.get(len(names), f"{len(names)} phases")
    words = f"{model} was trained on {large(tokens)} tokens in {order} ({', then '.join(names)})"
    words += f" in {duration(sum(p.wall_s for p in phases))}"
    processor = results.device and (results.device.gpu or results.device.cpu)
    return words + (f" on {processor}." if processor else ".")


def _accurate(results: RunResults) -> list[str]:
    sets = _measured(results)
    if not sets:
        return ["Its accuracy was not measured in this run."]
    parts: dict[bool, list[str]] = {False: [], True: []}
    for name, row in sets.items():
        bounds = f" ({interval(row.interval)})" if row.interval else ""
        told = f"{percent(row.pass_at_1)}{bounds} on {set_phrase(name)}"
        parts[is_novel(name)].append(told)
    openings = {
        False: "Of problems that it was not trained on it solves, at the first attempt,",
        True: "Of problems with what training never had, it solves",
    }
    return [f"{openings[novel]} {listed(told)}." for novel, told in parts.items() if told]


def _imperfect(results: RunResults) -> list[str]:
    """What the accuracy hides: answers cut off, and answers that could not be checked."""
    totals = {key: sum(r.outcomes.get(key, 0) for r in results.eval.values()) for key in OUTCOMES}
    everything = sum(totals.values())
    sentences = []
    if everything and totals["truncated"]:
        sentences.append(
            f"{percent(totals['truncated'] / everything)} of all answers were cut off."
        )
    if everything and totals["unscored"]:
        sentences.append(
            f"{count(totals['unscored'])} of {count(everything)} could not be checked and are "
            "counted apart."
        )
    return sentences


def _claimed(results: RunResults) -> list[str]:
    """Each claim's word, with the set that speaks most against it, in a sentence of its own."""
    told, left_open = [], []
    for key, title in CLAIMS.items():
        claim = claim_of(results, key)
        if claim is None or claim.word is None:
            left_open.append(title.lower())
        else:
            told.append(f"{title}: {claim.headline or claim.word}.")
    if not told:
        return ["The paper's three claims were not tested in this run."]
    if left_open:
        told.append(f"Not tested in this run: {listed(left_open)}.")
    return ["The paper's claims, in miniature.", *told]


def accuracy(results: RunResults, drawn: Collection[str]) -> list[Block]:
    """Tables of accuracy and outcomes, and the figure by difficulty and phase."""
    blocks: list[Block] = [Heading("Accuracy")]
    sets = results.eval
    if sets:
        blocks += [_accuracy_table(sets), _outcome_table(sets), _sampling_note(sets)]
        blocks += both_rules(sets)
    else:
        blocks.append(_ABSENT)
    blocks += picture(
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


def _accuracy_table(sets: dict[str, SetResult]) -> Table:
    ks = {name: _largest_k(row.pass_at_k) for name, row in sets.items()}
    k_labels = {k for k in ks.values() if k}
    k_label = f"pass@{next(iter(k_labels))}" if len(k_labels) == 1 else "pass@k"
    columns = (
        Column("set", numeric=False),
        Column("problems"),
        Column("samples"),
        Column("pass@1", "share right, %"),
        Column("95 % interval", "share right, %"),
        Column("std. error", "share right, %"),
        Column("majority", "share right, %"),
        Column(k_label, "share right, %"),
    )
    rows = tuple(
        (
            set_label(name),
            count(row.n_problems),
            count(row.n_samples),
            bare(row.pass_at_1),
            interval(row.interval),
            bare(row.stderr),
            bare(row.majority),
            bare(row.pass_at_k.get(ks[name]))
            + (f" (k = {ks[name]})" if len(k_labels) > 1 and ks[name] else ""),
        )
        for name, row in sets.items()
    )
    return Table(columns, rows)


def _outcome_table(sets: dict[str, SetResult]) -> Table:
    columns = (
        Column("set", numeric=False),
        *(Column(label, "samples by outcome") for label in OUTCOMES.values()),
        Column("mean tokens"),
    )
    rows = tuple(
        (
            set_label(name),
            *(count(row.outcomes.get(key)) for key in OUTCOMES),
            count(row.mean_tokens),
        )
        for name, row in sets.items()
    )
    return Table(columns, rows)


def _largest_k(shares: dict[str, float | None]) -> str:
    """The largest k that has a value."""
    ks = [k for k, share in shares.items() if share is not None and k.isdigit()]
    return max(ks, key=int, default="")


def _sampling_note(sets: dict[str, SetResult]) -> Paragraph:
    by_params: dict[str, list[str]] = {}
    for name, row in sets.items():
        by_params.setdefault(plain(asdict(row.sampling)), []).append(set_label(name))
    words = " ".join([*novelties(sets), ""])
    words += (
        "An answer is right if the last boxed expression after the "
        "thinking is mathematically equal to the reference, or if the program passes every test. "
        "Unscored samples, where the checker itself failed, are left out of the shares."
    )
    if any(row.interval and row.interval[0] == row.interval[1] for row in sets.values()):
        words += (
            " An interval without width means that all problems came out alike, not that the "
            "share is known exactly."
        )
    labels = [f"{set_label(name)} is {name}" for name in sets if set_label(name) != name]
    words += f" In report.json, {listed(labels)}." if labels else ""
    if len(by_params) == 1:
        words += f" Sampled with {next(iter(by_params))}."
    else:
        words += (
            " Sampled with "
            + "; ".join(f"{params} ({listed(names)})" for params, names in by_params.items())
            + "."
        )
    return Paragraph((words,), "note")


def _phase_table(phases: dict[str, dict[str, SetResult]]) -> Table:
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
            bare(row.pass_at_1),
            interval(row.interval),
            bare(row.majority),
        )
        for phase, sets in phases.items()
        for name, row in sets.items()
    )
    return Table(columns, rows)
