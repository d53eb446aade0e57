"""The stage that trains: the tokenizer on the run's examples, the model through the curriculum."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from statewise.pipeline.folder import content
from statewise.pipeline.stage import Run, Stage
from statewise.records import file_sha256

ELSEWHERE = ("@", "hub:")  # sources that are no files that the recipe names


def _made_from(run: Run) -> tuple[object, ...]:
    from statewise.train.config import INDIFFERENT

    r = run.recipe
    paths = [s.path for p in r.train.phases for s in p.sources if not s.path.startswith(ELSEWHERE)]
    hashes = [file_sha256(run.data_dir / p) for p in paths if (run.data_dir / p).is_file()]
    hashes += [content(place) for place in (r.init, r.tokenizer.path) if place]
    same: dict[str, Any] = {f.name: f.default for f in fields(r.train) if f.name in INDIFFERENT}
    return (r.seed, r.init, r.tokenizer, r.model, replace(r.train, **same), *hashes)


def _check(run: Run) -> None:
    from statewise.errors import DataError
    from statewise.pipeline.training import check_file, get_tokenizer
    from statewise.train import trackers
    from statewise.train.sources import pairs

    trackers.check(run.recipe.train.trackers)
    for i, phase in enumerate(run.recipe.train.phases):
        for j, source in enumerate(phase.sources):
            if not source.path.startswith(ELSEWHERE):
                key, path = f"train.phases.{i}.sources.{j}", run.data_dir / source.path
                check_file(path, f"{key}.path")
                preferences = source.name in run.recipe.train.preferences
                if next(pairs(source, path, preferences=preferences), None) is None:
                    raise DataError(f"{path}: holds no examples; {key}.path names it")
    if run.recipe.tokenizer.kind == "pretrained":
        get_tokenizer(run)


def _work(run: Run, folder: Path) -> None:
    from statewise.pipeline.processes import first_then_others
    from statewise.pipeline.training import development, first_model, fit, get_tokenizer

    r, tokenizer = run.recipe, first_then_others(lambda: get_tokenizer(run))
    measured = development(run, tokenizer)
    fit(run, first_model(r, r.seed), r.train, folder, tokenizer, r.seed, "train", measured)


STAGE = Stage(
    name="train",
    summary="train the tokenizer and the model through the curriculum",
    needs=("synth",),
    made_from=_made_from,
    check=_check,
    work=_work,
    shared=True,
)
