"""The stage that asks: the finished model everything, earlier phases' the held-out sets."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from statewise.pipeline.stage import Run, Stage


def _work(run: Run, folder: Path) -> None:
    from statewise.eval.benchmarks import load_benchmark
    from statewise.pipeline.asking import ask_model, tell_isolation, written
    from statewise.pipeline.samplers import open_engine
    from statewise.pipeline.training import load_trained, phase_folder

    r = run.recipe
    sets = written(run)
    names = list(sets)
    for name in r.eval.benchmarks:
        problems = load_benchmark(name, run.data_dir, since=r.eval.since, until=r.eval.until)
        sets[name] = problems[: r.eval.problems or None]
    tell_isolation(chain.from_iterable(sets.values()), run.say)
    last = r.train.phases[-1]
    for phase in r.train.phases:
        engine = open_engine(load_trained(run, phase_folder(run.path / "train", phase)), r.engine)
        n = r.eval.samples if phase is last else r.eval.phase_samples
        params = r.eval.params(seed=r.seed, n=n)
        for name in sets if phase is last or r.eval.phase_benchmarks else names:
            ask_model(run, engine, sets[name], params, folder / f"after-{phase.name}" / name, name)


STAGE = Stage(
    name="eval",
    summary="ask the trained model, or one that is there already, held-out sets and benchmarks",
    needs=("train",),
    made_from=lambda run: (run.recipe.eval, run.recipe.engine),
    work=_work,
)
