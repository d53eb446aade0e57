"""The stage that tells what the folder holds."""

from __future__ import annotations

from pathlib import Path

from statewise.errors import RunError
from statewise.pipeline.stage import Run, Stage


def _check(run: Run) -> None:
    """Tell what will be missing from the report; refuse one that would hold nothing."""
    records, finished = run.folder.stages(), run.pipeline.finished(run)
    if not finished:
        why = "was made from another recipe" if records else "holds no finished stage"
        raise RunError(
            f"{run.path}: {why}, so there is nothing to report; give the recipe, --set and --out "
            "that `statewise run` was given"
        )
    for name in (n for n in records if n not in finished):
        if (run.path / name).is_dir():
            why = "unfinished, or made from another recipe"
        else:
            why = f"{run.path / name} is not there any more"
        run.say(f"{name}: {why}: left out of the report")


def _work(run: Run, folder: Path) -> None:
    from statewise.pipeline.gather import gather
    from statewise.report import write_report

    write_report(gather(run), folder)


STAGE = Stage(
    name="report",
    summary="write report.md, report.json and report.html from what the folder holds",
    check=_check,
    work=_work,
    always=True,
)
