"""Killed anywhere and started again, a run ends in the report of an undisturbed one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import pytest
from small_run import ROOT, report, temporary_files, without_timing, write_recipe

DATA = ROOT.parent / "shared" / "data"
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
    ("compare", STEP, 4),  # the projection
    ("compare", FINISH, 6),  # a trial
    ("compare", STEP, 80),
    ("compare", APPEND, 5),  # the curriculum is being asked
    ("compare", APPEND, 40),
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


# The same with a larger run in processes of its own, killed from outside as soon as a file shows
# that they are in the middle of a stage.
PROGRAMS = ', {name="programs", kind="code", sizes=[1], count=12}]'
CODE = ', {name="workbook-code", kind="code", sizes=[1], count=4}]'
LARGER = (
    'synth.sets=[{name="foundation", sizes=[1], count=400}, '
    '{name="composed", sizes=[2], count=400}' + PROGRAMS,
    'synth.held_out=[{name="workbook-1", sizes=[1], count=3}, '
    '{name="workbook-2", sizes=[2], count=3}' + CODE,
    "train.phases.0.tokens=60000",
    "train.phases.1.tokens=60000",
    'train.phases.0.sources=[{path="@foundation"}, {path="@programs", weight=0.1}]',
    "train.checkpoint_every_s=0.2",
    "eval.samples=8",
    "eval.phase_samples=8",
    "eval.max_tokens=200",
    "claims.problems=3",
    "claims.samples=8",
)
MOMENTS = [
    # (stage, a file that shows it has come far enough, its least size)
    ("synth", "synth/sets/foundation/author.jsonl", 20_000),
    ("synth", "synth/sets/programs/teacher.jsonl", 1),
    ("train", "train/checkpoints/phase-00-*", 0),
    ("train", "train/after-foundation", 0),
    ("train", "train/checkpoints/phase-01-*", 0),
    ("eval", "eval/after-foundation/workbook-2/completions.jsonl", 1),
    ("eval", "eval/after-promptcot/workbook-1/verdicts.jsonl", 1),
    ("compare", "compare/seed-0/mixture/checkpoints/phase-00-*", 0),
    ("compare", "compare/seed-0/transformer/after-foundation", 0),
    ("compare", "compare/seed-0/eval/curriculum/workbook-1/completions.jsonl", 1),
    ("compare", "compare/seed-0/eval/transformer/workbook-1/completions.jsonl", 1),
]


def started(recipe, folder):
    argv = [sys.executable, "-m", "statewise.cli", "run", str(recipe), "--out", str(folder)]
    argv += [word for a in LARGER for word in ("--set", a)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        argv, env=environment, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True
    )


def wait_for(process, folder, pattern, size):
    """Wait until a file that was not there yet appears, or one that was has grown."""
    before = {p: p.stat().st_size for p in folder.glob(pattern)}
    while process.poll() is None:
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                there = path.stat().st_size
                new = path not in before or there > before[path]
                if new and (path.is_dir() or there >= size):
                    return
        time.sleep(0.002)
    pytest.fail(f"ended before {pattern} appeared: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_killed_from_outside_end_in_the_same_report(tmp_path):
    recipe = write_recipe(tmp_path)
    undisturbed = started(recipe, tmp_path / "undisturbed")
    assert undisturbed.communicate()[1] == ""
    folder = tmp_path / "run"
    for stage, pattern, size in MOMENTS:
        process = started(recipe, folder)
        wait_for(process, folder, pattern, size)
        process.kill()
        process.communicate()
        sys.stdout.write(f"killed in {unfinished(folder)} at {pattern}\n")
        assert (process.returncode, unfinished(folder)) == (-9, [stage]), pattern
    process = started(recipe, folder)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert without_timing(report(folder)) == without_timing(report(tmp_path / "undisturbed"))
    assert not temporary_files(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_at_a_terminal_reaches_all_processes_and_is_one_message(tmp_path):
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    for stage, pattern, size in MOMENTS[1::2]:
        process = started(recipe, folder)
        wait_for(process, folder, pattern, size)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
        message = "statewise: interrupted; the same command goes on where this one stopped\n"
        assert (process.returncode, unfinished(folder), err) == (130, [stage], message)
        assert not temporary_files(folder)
    process = started(recipe, folder)
    assert process.communicate()[1] == ""
    assert "unscored" not in {
        outcome
        for results in report(folder)["eval"].values()
        for outcome, count in results["outcomes"].items()
        if count
    }


EXAMINED = """
name = "killed"
data_dir = "{data}"
[checkpoint]
path = "{path}"
[engine]
slots = 4
[eval]
benchmarks = ["aime2024", "math500"]
problems = 4
samples = 3
max_tokens = 24
retries = 1
"""


@pytest.mark.timeout(180)
def test_an_evaluation_of_a_checkpoint_killed_anywhere_loses_nothing_and_grades_nothing_twice(
    finished_run, forker, tmp_path
):
    if not (DATA / "aime2024.jsonl").is_file():
        pytest.skip(f"no {DATA / 'aime2024.jsonl'}")
    _, run = finished_run
    checkpoint = sorted((run / "train").glob("after-*"))[-1]
    recipe = tmp_path / "r.toml"
    recipe.write_text(EXAMINED.format(data=DATA, path=checkpoint))
    kept = {}
    for name, kills in (("whole", []), ("killed", [1, 2, 7, 5, 11, 9])):
        folder = tmp_path / name
        for nth in kills:
            result = forker.run(
                "eval", recipe, "--out", folder, at=APPEND, nth=nth, signal="SIGKILL"
            )
            assert result == {"code": -9}, (nth, result)
        assert forker.run("eval", recipe, "--out", folder)["code"] == 0
        rows = []
        for path in sorted(folder.glob("*/*.jsonl")):
            lines = path.read_text().splitlines()
            assert len(lines) == 12, path
            rows.append((path.parent.name, path.name, sorted(lines)))
        kept[name] = (rows, (folder / "report.json").read_text())
        assert not temporary_files(folder)
    assert kept["killed"] == kept["whole"]
