"""Composes the report: which parts, in which order.

Every sentence is made from what was measured. A part that is absent is said to be absent; nothing
is estimated, and a claim that failed is printed as plainly as one that held.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from statewise.report.blocks import Block, Page
from statewise.report.claims import claims
from statewise.report.context import published_results, reproduction
from statewise.report.making import answers, examples, funnel, training
from statewise.report.measured import accuracy, headline
from statewise.report.results import RunResults
from statewise.report.wording import large


def compose(results: RunResults, drawn: Collection[str], not_finite: Sequence[str] = ()) -> Page:
    """The whole report as blocks.

    Args:
        results: what was measured, without NaN or infinity.
        drawn: names of the figures that were drawn; no other is referred to.
        not_finite: keys where a NaN or an infinity was found and taken out.
    """
    title = f"{results.name}: " + (
        f"{large(results.model.parameters)} parameters, no attention"
        if results.model
        else "a run without attention"
    )
    blocks: list[Block] = [*headline(results, not_finite)]
    for part in (accuracy, claims, training, funnel, examples, answers):
        blocks += part(results, drawn)
    blocks += published_results(results.name, results.eval, drawn)
    blocks += reproduction(results)
    return Page(title, "Statewise run report", tuple(blocks))
