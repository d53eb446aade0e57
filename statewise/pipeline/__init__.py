"""The pipeline: a recipe's stages, in order, in a folder that remembers what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from statewise.errors import DataError, RunError
from statewise.pipeline import stages
from statewise.pipeline.folder import STAGES, RunFolder
from statewise.pipeline.gather import gather
from statewise.pipeline.stages import Run, check_inputs, current_stages, stage_inputs
from statewise.recipe import Recipe
from statewise.report import write_report

__all__ = ["STAGES", "run_stages"]

_WORK: dict[str, Callable[[Run], None]] = {
    "synth": stages.synth,
    "train": stages.train,
    "eval": stages.run_eval,
    "compare": stages.compare,
    "bench": stages.bench,
}
# What a stage stands on: `statewise eval` first does what is missing of these.
_NEEDS: dict[str, tuple[str, ...]] = {
    "synth": (),
    "train": ("synth",),
    "eval": ("synth", "train"),
    "compare": ("synth", "train"),
    "bench": ("synth", "train"),
    "report": (),
}


def run_stages(recipe: Recipe, out: Path, last: str, say: Callable[[str], None]) -> Path:
    """Do a stage of a run and what it stands on; `run` does all of them.

    A stage whose inputs have not changed since it was done is skipped; one that was interrupted
    goes on where it stopped. The report is written anew each time: it is cheap, and it tells what
    the folder holds.

    Args:
        recipe: the run.
        out: its folder.
        last: the stage wanted, or "run" for all.
        say: called with each line for the person who watches.

    Returns:
        The folder.

    Raises:
        StatewiseError: what the recipe asks for is missing, damaged or does not fit; the message
            says what to do. What was done before stays, and the same call goes on from there.
    """
    wanted = STAGES if last == "run" else (*_NEEDS[last], last)
    run = Run(recipe, RunFolder(out), say)
    if last == "report":
        _check_report(run)
    else:
        check_inputs(run, wanted)
    with run.folder.held(), _own_files_explained(out):
        run.folder.set_recipe(recipe.toml)
        for name in wanted:
            if name == "report":
                say("report")
                write_report(gather(run), run.path)
                continue
            with run.folder.stage(name, stage_inputs(run, name)) as due:
                say(name if due else f"{name}: done before, inputs unchanged")
                if due:
                    _WORK[name](run)
    return out


def _check_report(run: Run) -> None:
    """Tell what will be missing from the report; refuse one that would hold nothing."""
    known, current = run.folder.stages(), current_stages(run)
    if not current:
        why = "was made from another recipe" if known else "holds no finished stage"
        raise RunError(
            f"{run.path}: {why}, so there is nothing to report; give the recipe, --set and --out "
            "that `statewise run` was given"
        )
    for name in (n for n in known if n not in current):
        run.say(f"{name}: unfinished, or made from another recipe: left out of the report")


@contextmanager
def _own_files_explained(out: Path) -> Iterator[None]:
    """Tell what to do about a damaged file that the run itself has written."""
    try:
        yield
    except DataError as e:
        for name in STAGES:
            if str(e).startswith(f"{out / name}/"):
                raise RunError(
                    f"{e}. The run wrote this file: move {out / name} away, and `statewise run` "
                    "makes it again"
                ) from None
        raise
