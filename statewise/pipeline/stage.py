"""A stage is data; a pipeline is stages in an order that follows from what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from statewise.errors import DataError, RunError
from statewise.pipeline import processes
from statewise.pipeline.folder import RunFolder, StageRecord, digest

if TYPE_CHECKING:
    from statewise.recipe import Recipe

EVERYTHING = "run"  # what is asked for where no single stage is


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its recipe, its folder, the stages it may go through, and whom to tell."""

    recipe: Recipe
    folder: RunFolder
    pipeline: Pipeline
    say: Callable[[str], None]

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def data_dir(self) -> Path:
        """Where data files lie."""
        return Path(self.recipe.data_dir)


def _nothing_to_check(run: Run) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: of the stage, of its folder in the run's, and of its command.
        summary: what it does, in a line.
        work: does it, given the run and the stage's folder. It may find there what it had made of
            the same inputs before it was interrupted, and goes on from that.
        needs: stages that are done before it. What those need need not be repeated.
        made_from: all that it is made from beyond the stages that it needs; what has another
            `repr` makes the stage start anew.
        check: looks, before anything is written, for what will be missing. Raises
            `StatewiseError`.
        shared: where several processes were started, all of them do it; the first alone does what
            is not.
        always: it is made from whatever the folder holds, and made anew each time: after all
            others, in the run's own folder, without a record of its own.
    """

    name: str
    summary: str
    work: Callable[[Run, Path], None]
    needs: tuple[str, ...] = ()
    made_from: Callable[[Run], tuple[object, ...]] = lambda run: ()
    check: Callable[[Run], None] = _nothing_to_check
    shared: bool = False
    always: bool = False


class Pipeline:
    """Stages that stand on each other.

    Args:
        stages: in any order. Where needs leave the order open, it is the one given.

    Raises:
        RunError: two stages have one name, or a need is unknown or leads back to the stage.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        self._stages = in_order(stages)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All of them, in the order in which they are done."""
        return tuple(self._stages.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in that order."""
        return tuple(self._stages)

    def up_to(self, last: str) -> tuple[Stage, ...]:
        """A stage and all that it stands on, in order; "run" is every stage.

        Raises:
            RunError: there is no such stage.
        """
        if last == EVERYTHING:
            return self.stages
        if last not in self._stages:
            raise RunError(f"{last}: no such stage; there are {', '.join(self.names)}")
        wanted = {last}
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= set(stage.needs)
        return tuple(s for s in self.stages if s.name in wanted)

    def inputs(self, run: Run, name: str) -> str:
        """The hash of everything that a stage is made from, the stages that it needs included."""
        hashes: dict[str, str] = {}
        for stage in self.up_to(name):
            needs = [hashes[need] for need in stage.needs]
            hashes[stage.name] = digest(stage.name, *needs, *stage.made_from(run))
        return hashes[name]

    def finished(self, run: Run) -> dict[str, StageRecord]:
        """What `run.json` says of the finished stages that were made from this very recipe."""
        records = run.folder.stages()
        return {
            s.name: records[s.name]
            for s in self.stages
            if s.name in records
            and records[s.name].done
            and (run.path / s.name).is_dir()
            and records[s.name].inputs == self.inputs(run, s.name)
        }

    def do(self, recipe: Recipe, out: Path, last: str, say: Callable[[str], None]) -> None:
        """Do a stage and what it stands on, where it is due.

        Of several processes the first does; the others join it in stages that are shared.

        Args:
            recipe: the run.
            out: its folder.
            last: the stage wanted, or "run" for all.
            say: called with each line for the person who watches.

        Raises:
            StatewiseError: what the recipe asks for is missing, damaged or does not fit.
        """
        wanted = self.up_to(last)
        run = Run(recipe, RunFolder(out, self.names), self, say)
        if processes.index() > 0:
            for stage in wanted:
                if stage.shared and processes.told(None):
                    stage.work(run, run.path / stage.name)
            processes.leave()
            return
        for stage in wanted:
            # What the folder holds is of interest where nothing is added to it before.
            if not stage.always or len(wanted) == 1:
                stage.check(run)
        with run.folder.held(), self._own_files_explained(out):
            run.folder.set_recipe(recipe.toml)
            for stage in wanted:
                self._do_one(run, stage)
        processes.leave()

    def _do_one(self, run: Run, stage: Stage) -> None:
        name, folder = stage.name, run.path / stage.name
        if stage.always:
            run.say(name)
            stage.work(run, run.path)
            return
        record = run.folder.stages().get(name)
        gone = record is not None and record.done and not folder.is_dir()
        with run.folder.stage(name, self.inputs(run, name)) as due:
            run.say(name if due else f"{name}: done before, inputs unchanged")
            if gone:
                run.say(f"  {folder}: was done before, but is not there any more: made again")
            if stage.shared:
                processes.told(due)
            if due:
                stage.work(run, folder)

    @contextmanager
    def _own_files_explained(self, out: Path) -> Iterator[None]:
        """Tell what to do about a damaged file that the run itself has written."""
        try:
            yield
        except DataError as e:
            for name in self.names:
                if str(e).startswith(f"{out / name}/"):
                    raise RunError(
                        f"{e}. The run wrote this file: move {out / name} away, and `statewise "
                        "run` makes it again"
                    ) from None
            raise


def in_order(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Stages by name, each after all that it needs; those that are always due come last.

    Raises:
        RunError: two stages have one name, or a need is unknown or leads back to the stage.
    """
    known: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in known:
            raise RunError(f"{stage.name}: two stages of this name")
        known[stage.name] = stage
    placed: dict[str, Stage] = {}

    def place(stage: Stage, path: tuple[str, ...]) -> None:
        if stage.name in path:
            circle = " -> ".join((*path[path.index(stage.name) :], stage.name))
            raise RunError(f"{stage.name}: needs itself: {circle}")
        for need in stage.needs:
            if need not in known:
                raise RunError(f"{stage.name}: needs {need!r}, which is no stage")
            if known[need].always:
                raise RunError(f"{stage.name}: needs {need!r}, which is done after all others")
            place(known[need], (*path, stage.name))
        placed.setdefault(stage.name, stage)

    for stage in sorted(known.values(), key=lambda s: s.always):
        place(stage, ())
    return placed
