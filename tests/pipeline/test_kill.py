"""Killed anywhere and started again, a run ends in the report of an undisturbed one."""

import json

import pytest
from small_run import report, temporary_files, without_timing

APPEND = "statewise.records:JsonlAppender.append"
STEP = "statewise.train.trainer:Trainer._step"
CHECKPOINT = "statewise.train.trainer:Trainer._write_checkpoint"
FINISH = "statewise.train.trainer:Trainer._finish_phase"

# (stage that is killed, before which call of what; counted from the start of that process)
KILLS = [
    ("synth", APPEND, 40),  # between two answers
    ("synth", APPEND, 250),
    ("train", STEP, 3),  # in the first phase, after checkpoints
    ("train", FINISH, 1),  # at its boundary, before it is written down
    ("train", CHECKPOINT, 1),  # the phase's model is written, its checkpoint is not
    ("train", STEP, 2),  # in the second phase
    ("eval", APPEND, 10),
    ("compare", STEP, 4),  # the curriculum's first phase
    ("compare", FINISH, 3),  # the last phase alone
    ("compare", STEP, 6),
    ("compare", APPEND, 20),
    ("compare", APPEND, 36),  # the Transformer is being asked
]


def unfinished(folder):
    stages = json.loads((folder / "run.json").read_text())["stages"]
    return [name for name, record in stages.items() if not record["done"]]


@pytest.mark.timeout(180)
def test_a_run_killed_again_and_again_ends_in_the_same_report(finished_run, forker, tmp_path):
    recipe, undisturbed = finished_run
    folder = tmp_path / "run"
    for stage, at, nth in KILLS:
        result = forker.run("run", recipe, "--out", folder, at=at, nth=nth, signal="SIGKILL")
        assert result == {"code": -9}, (stage, at, nth, result)
        assert unfinished(folder) == [stage], (stage, at, nth)
    result = forker.run("run", recipe, "--out", folder)
    assert result["code"] == 0, result
    assert without_timing(report(folder)) == without_timing(report(undisturbed))
    assert not temporary_files(folder)
