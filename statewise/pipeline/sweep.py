"""What a comparison chooses before it begins: each architecture's own shape, rate and warm-up.

Every trial is the curriculum in short, from the first of the comparison's seeds, and is judged by
its loss on the development sets, which no arm is asked and nothing is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from statewise.errors import DivergedError
from statewise.pipeline.arms import ARCHITECTURES, TRAININGS
from statewise.pipeline.stage import Run
from statewise.pipeline.training import development, fit, get_tokenizer
from statewise.pipeline.workers import side_by_side
from statewise.records import read_record, to_json, write_json
from statewise.report.results import Choice, Trial
from statewise.train import arms
from statewise.train.development import mean_loss


def choices(run: Run, folder: Path) -> dict[str, Choice]:
    """Of every architecture that an arm needs, the best of its trials; without trials, the first.

    Args:
        run: its recipe says what is tried.
        folder: where trials are kept; what is there already is not tried again.
    """
    r = run.recipe
    chosen: dict[str, Choice] = {}
    for name in dict.fromkeys(TRAININGS[arm].architecture for arm in r.claims.arms):
        shapes = list(ARCHITECTURES[name].shapes(r))
        followed = chosen.get(ARCHITECTURES[name].follows)
        if followed is not None:
            shapes = [followed.shape]
        if not r.claims.sweeps:
            chosen[name] = Choice(shapes[0], r.claims.rates[0], r.claims.warmups[0])
            continue
        first = r.claims.warmups[0]
        wanted = [Choice(shape, rate, first) for shape in shapes for rate in r.claims.rates]
        tried = _try(run, name, wanted, folder)
        best = _best(tried)
        wanted = [Choice(best.shape, best.rate, warmup) for warmup in r.claims.warmups[1:]]
        tried += _try(run, name, wanted, folder)
        chosen[name] = _best(tried)
        told = chosen[name]
        run.say(
            f"  {ARCHITECTURES[name].label}: {told.shape}, {told.rate:g} times the rate, "
            f"{told.warmup:g} times the warm-up (best of {len(tried)} trials)"
        )
    return chosen


def trials(folder: Path) -> tuple[Trial, ...]:
    """Every trial that was made, by architecture, shape and rate."""
    paths = sorted(folder.glob("*/*/trial.json"))
    tried = [read_record(path, Trial) for path in paths]
    return tuple(sorted(tried, key=lambda t: (t.architecture, t.choice.shape, t.choice.rate)))


def _best(tried: Sequence[Trial]) -> Choice:
    return min(tried, key=lambda t: math.inf if t.loss is None else t.loss).choice


def _try(run: Run, name: str, wanted: Sequence[Choice], folder: Path) -> list[Trial]:
    jobs = [(name, choice, folder) for choice in wanted]
    return list(side_by_side(run, _trial, jobs, run.recipe.claims.workers))


def _trial(run: Run, name: str, choice: Choice, folder: Path) -> Trial:
    """One short training and its loss on the development sets."""
    r = run.recipe
    tokenizer = get_tokenizer(run)
    folder = folder / name / f"{choice.shape}-rate-{choice.rate:g}-warmup-{choice.warmup:g}"
    if (folder / "trial.json").exists():
        return read_record(folder / "trial.json", Trial)
    seed = r.claims.seeds[0]
    config = arms.shortened(r.train, r.claims.token_share * r.claims.sweep_share)
    config = arms.paced(config, rate=choice.rate, warmup=choice.warmup)
    model = ARCHITECTURES[name].first(r, choice.shape, seed)
    label = f"{name} {choice.shape}, rate {choice.rate:g}, warm-up {choice.warmup:g}"
    loss: float | None
    try:
        fit(run, model, config, folder, tokenizer, seed, label)
    except DivergedError:
        loss = None
    else:
        unseen = [d for documents in development(run, tokenizer).values() for d in documents]
        loss = mean_loss(model, unseen, row_tokens=config.row_tokens)
    trial = Trial(
        architecture=name,
        choice=choice,
        peak_rates=tuple(p.lr for p in config.phases),
        parameters=model.num_params,
        tokens=config.tokens,
        loss=loss,
    )
    write_json(folder / "trial.json", to_json(trial))
    told = "diverged" if loss is None else f"development loss {loss:.4f}"
    run.say(f"  {label}: {told}")
    return trial
