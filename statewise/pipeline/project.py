"""How long a comparison will take, from a few steps of each of its architectures."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from statewise.pipeline.arms import ARCHITECTURES, TRAININGS, curriculum
from statewise.pipeline.stage import Run
from statewise.pipeline.training import fit, phase_folder
from statewise.pipeline.workers import threads_each
from statewise.records import read_jsonl
from statewise.report.results import Choice
from statewise.text import BPETokenizer
from statewise.train.trainer import Metrics

STEPS = 12  # of a training, and the first half are not counted


def project(run: Run, folder: Path, tokenizer: BPETokenizer, length: float) -> str:
    """How many trainings are left, and about how long they will take, in a sentence.

    Args:
        run: its recipe says what is trained.
        folder: the comparison's; what is there already is not counted.
        tokenizer: the run's.
        length: tokens of a document, in the mean.
    """
    r = run.recipe
    c = r.claims
    names = list(dict.fromkeys(TRAININGS[arm].architecture for arm in c.arms))
    shapes = {name: list(ARCHITECTURES[name].shapes(r)) for name in names}
    tokens = dict.fromkeys(names, 0)
    trials = trainings = 0
    if c.sweeps:
        each = int(r.train.tokens * c.token_share * c.sweep_share)
        for name in names:
            tried = 1 if ARCHITECTURES[name].follows in names else len(shapes[name])
            count = tried * len(c.rates) + len(c.warmups) - 1
            done = len(list((folder / "sweep" / name).glob("*/trial.json")))
            trials += count - done
            tokens[name] += (count - done) * each
    for arm in c.arms:
        name = TRAININGS[arm].architecture
        config = curriculum(r, arm, Choice(shapes[name][0], 1.0, 1.0), length)
        for seed in c.seeds:
            trained = phase_folder(folder / f"seed-{seed}" / arm, config.phases[-1])
            main = arm == "curriculum" and config == r.train and seed == r.seed
            if not (main or trained.exists()):
                trainings += 1
                tokens[name] += config.tokens
    rates = {name: _rate(run, name, shapes[name][0], tokenizer) for name in names if tokens[name]}
    time = sum(tokens[name] / rates[name] for name in rates) / c.workers
    told = ", ".join(f"{ARCHITECTURES[n].label} {rate:,.0f}" for n, rate in rates.items())
    if not rates:
        return "everything is trained"
    return (
        f"{trials} trials and {trainings} trainings are left: about {time / 60:,.0f} minutes of "
        f"training (tokens a second, each: {told}; {c.workers} at a time), and the answers"
    )


def _rate(run: Run, name: str, shape: str, tokenizer: BPETokenizer) -> float:
    """Tokens a second of training."""
    r = run.recipe
    first = r.train.phases[0]
    short = replace(first, tokens=STEPS * r.train.batch_tokens)
    config = replace(r.train, phases=(short,))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_each(r.claims.workers))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "timed"
            model = ARCHITECTURES[name].first(r, shape, r.seed)
            fit(run, model, config, path, tokenizer, r.seed, f"timing {name}")
            steps = read_jsonl(path / "metrics.jsonl", Metrics)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(m.tokens_per_s for m in steps[len(steps) // 2 :])
