"""The stage behind the claim on efficiency: speed and memory against length."""

from __future__ import annotations

from pathlib import Path

from statewise.pipeline.stage import Run, Stage


def _work(run: Run, folder: Path) -> None:
    from statewise import speed
    from statewise.bench import measure
    from statewise.pipeline import matched
    from statewise.pipeline.training import load_trained, phase_folder

    r = run.recipe
    model, _ = load_trained(run, phase_folder(run.path / "train", r.train.phases[-1]))
    transformer = matched.fresh(matched.shape(r.model), r.seed)
    measured = measure(model, transformer, r.bench, lambda line: run.say(f"  {line}"))
    if measured.not_measured:
        run.say(f"  against torch only: {measured.not_measured}")
    speed.write(folder / "bench.json", measured)


STAGE = Stage(
    name="bench",
    summary="measure speed and memory against length, beside a Transformer",
    needs=("train",),
    made_from=lambda run: (run.recipe.bench,),
    work=_work,
)
