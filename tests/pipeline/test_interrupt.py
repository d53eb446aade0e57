"""Ctrl-C, a full disk: one message, nothing torn, and the same command goes on."""

import pytest
from small_run import report, temporary_files, without_timing

APPEND = "statewise.records:JsonlAppender.append"
STEP = "statewise.train.trainer:Trainer._step"
MESSAGE = "statewise: interrupted; the same command goes on where this one stopped\n"


@pytest.mark.parametrize(
    ("command", "at", "nth"),
    [("synth", APPEND, 40), ("train", STEP, 3), ("eval", APPEND, 5)],
)
def test_ctrl_c_is_one_message_and_leaves_nothing_torn(run, forker, command, at, nth):
    recipe, folder = run
    anew = ("--set", "seed=1")  # so that there is something to do
    result = forker.run(command, recipe, "--out", folder, *anew, at=at, nth=nth, signal="SIGINT")
    assert (result["code"], result["err"]) == (130, MESSAGE)
    assert not temporary_files(folder)
    result = forker.run(command, recipe, "--out", folder, *anew)
    assert (result["code"], result["err"]) == (0, "")


def test_a_full_disk_is_one_message_and_with_room_the_same_command_ends_alike(
    finished_run, forker, tmp_path
):
    recipe, undisturbed = finished_run
    (tmp_path / "disk").mkdir()
    sizes = [60, 160, 300, 900, 2000, 100_000]
    results = forker.run("run", recipe, "--out", tmp_path / "disk" / "run", disk=sizes)
    if results is None:
        pytest.skip("this machine lets nobody mount a file system of his own")
    messages = [r["err"] for r in results[:-1]]
    for result in results[:-1]:
        assert result["code"] == 1, result
        assert result["err"].startswith(f"statewise: error: {tmp_path}/disk/run/"), result["err"]
        assert result["err"].count("\n") == 1
        assert "No space left on device" in result["err"]
        assert not result["torn"]
    assert len(set(messages)) >= 3, messages  # the disk was full at different places
    assert (results[-1]["code"], results[-1]["err"]) == (0, "")
    assert without_timing(results[-1]["report"]) == without_timing(report(undisturbed))
