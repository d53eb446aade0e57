"""Others are told of a training, and nobody is told of what did not happen."""

from __future__ import annotations

import dataclasses

import pytest
from training_doubles import TWO_PHASES, metrics, some_documents, trainer

from statewise import progress
from statewise.errors import ConfigError
from statewise.train import trackers

DEVELOPMENT = {"seven": some_documents(7, seed=4)}
TRACKED = dataclasses.replace(TWO_PHASES, trackers=("tensorboard",), measure_every=80)


def told(folder):
    """By name what TensorBoard shows: (step, value) pairs."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder / "trackers" / "statewise"))
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_tensorboard_shows_what_metrics_hold(tmp_path):
    pytest.importorskip("tensorboard")
    trainer(tmp_path, TRACKED, development=DEVELOPMENT).run()
    shown, kept = told(tmp_path), metrics(tmp_path)
    for name in ("loss", "lr", "grad_norm", "tokens"):
        expected = [(m["step"], pytest.approx(m[name], rel=1e-6)) for m in kept]
        assert shown[f"train/{name}"] == expected, name
    assert len(shown["development/seven"]) >= 2


def test_after_a_kill_tensorboard_shows_each_step_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    config = dataclasses.replace(TRACKED, checkpoint_every_s=1e9, checkpoint_every_steps=2)
    real, left = progress.Task.update, [3]

    def update(task, done, note=""):
        real(task, done, note)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Task, "update", update)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, config, development=DEVELOPMENT).run()
    trainer(tmp_path, config, development=DEVELOPMENT).run()
    steps = [m["step"] for m in metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    assert [step for step, _ in told(tmp_path)["train/loss"]] == steps


def test_a_tracker_that_nobody_knows_or_has_is_told_with_what_to_do():
    with pytest.raises(ConfigError, match=r"'tensorbored' is none of .*tensorboard"):
        trackers.check(["tensorbored"])
    accelerate = pytest.importorskip("accelerate.tracking")
    if "aim" not in {str(name) for name in accelerate.get_available_trackers()}:
        with pytest.raises(ConfigError, match="pip install aim"):
            trackers.check(["aim"])
