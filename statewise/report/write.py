"""Writes a run's report: one JSON document, and one page in Markdown and in HTML."""

from __future__ import annotations

import json
from pathlib import Path

from statewise.errors import RunError
from statewise.records import write_atomically
from statewise.report import markdown, page, paper
from statewise.report.claims import CLAIMS, claim_of
from statewise.report.figures import FIGURES, draw_all
from statewise.report.results import Json, RunResults, SetResult, as_json, finite
from statewise.report.story import compose
from statewise.report.wording import NOT_MEASURED


def write_report(results: RunResults, out: Path) -> None:
    """Write `figures/*.svg`, `figures/*.png`, `report.md`, `report.html` and `report.json`.

    The same results give the same bytes. Each file appears whole or not at all, and `report.json`
    last: where it stands, the rest stands too. A figure without material is not drawn, and one
    left by an earlier report is removed.

    Args:
        results: what was measured; absent parts are reported as not measured.
        out: the run's folder; made if absent.

    Raises:
        DataError: a part of the results is not a JSON value; the message names its key.
        RunError: a file cannot be written.
    """
    results, not_finite = finite(results)
    document = as_document(results, not_finite)
    drawings = draw_all(results)
    story = compose(results, drawings.keys(), not_finite)
    outputs: dict[str, bytes] = {}
    for name, drawing in drawings.items():
        outputs[f"figures/{name}.svg"] = drawing.svg.encode()
        outputs[f"figures/{name}.png"] = drawing.png
    outputs["report.md"] = markdown.render(story).encode()
    svgs = {name: drawing.svg for name, drawing in drawings.items()}
    outputs["report.html"] = page.render(story, svgs).encode()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    outputs["report.json"] = (text + "\n").encode()
    for name, data in outputs.items():
        path = out / name
        try:
            write_atomically(path, data)
        except OSError as e:
            reason = e.strerror or e
            raise RunError(
                f"{path}: cannot be written ({reason}); make room or choose another --out, then "
                "run the report stage again"
            ) from e
    for name in FIGURES.keys() - drawings.keys():
        for suffix in ("svg", "png"):
            (out / "figures" / f"{name}.{suffix}").unlink(missing_ok=True)


def as_document(results: RunResults, not_finite: tuple[str, ...] = ()) -> Json:
    """The report for programs: the results, every claim by name, and the published figures.

    A part that is absent is an empty object; of sets, what came of each problem is left out.
    """
    document: Json = as_json(results)
    for part in ("device", "model", "synth", "train"):
        document[part] = document[part] or {}
    document["eval"] = _sets(results.eval)
    document["eval_by_phase"] = {p: _sets(sets) for p, sets in results.eval_by_phase.items()}
    model = results.model
    document["state_bytes_per_sequence"] = model.state_bytes_per_sequence if model else None
    document["not_finite"] = list(not_finite)
    document["claims"] = {
        key: {"word": None, "reason": NOT_MEASURED, "seeds": []}
        | (as_json(claim_of(results, key)) or {})
        for key in CLAIMS
    }
    for claim in document["claims"].values():
        claim["figures"] = claim.get("figures") or {}
    document["published"] = {
        "note": "published figures, not measured here",
        "source": paper.URL,
        "pass_at_1_percent": {
            name: dict(zip(paper.BENCHMARKS, cells, strict=True)) for name, cells in paper.ROWS
        },
        "speedup_over_transformer": paper.SPEEDUP_OVER_TRANSFORMER,
    }
    return document


def _sets(results: dict[str, SetResult]) -> Json:
    sets = as_json(results)
    for result in sets.values():
        del result["per_problem"]  # it stands in result.json
    return sets
