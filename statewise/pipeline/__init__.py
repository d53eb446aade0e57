"""The pipeline: a recipe's stages, in order, in a folder that remembers what is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from statewise.pipeline.stages import PIPELINE

if TYPE_CHECKING:
    from statewise.recipe import Recipe

__all__ = ["STAGES", "run_stages"]

STAGES: dict[str, str] = {stage.name: stage.summary for stage in PIPELINE.stages}


def run_stages(recipe: Recipe, out: Path, last: str, say: Callable[[str], None]) -> Path:
    """Do a stage of a run and what it stands on; `run` does all of them.

    A stage whose inputs have not changed since it was done is skipped; one that was interrupted
    goes on where it stopped. The report is written anew each time: it is cheap, and it tells what
    the folder holds.

    Args:
        recipe: the run.
        out: its folder.
        last: the stage wanted, one of `STAGES`, or "run" for all.
        say: called with each line for the person who watches.

    Returns:
        The folder.

    Raises:
        StatewiseError: what the recipe asks for is missing, damaged or does not fit; the message
            says what to do. What was done before stays, and the same call goes on from there.
    """
    PIPELINE.do(recipe, out, last, say)
    return out
