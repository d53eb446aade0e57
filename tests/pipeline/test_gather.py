"""From the files of a run to what its report says."""

from __future__ import annotations

from small_run import write_recipe

from statewise.pipeline.gather import _roles
from statewise.recipe import load_recipe
from statewise.report.results import Role


def test_a_role_is_told_with_its_planted_errors_and_a_model_has_none(tmp_path):
    settings = [
        "synth.author={error=0.25}",
        'synth.teacher={kind="checkpoint", path="org/model", error=0.5}',
    ]
    roles = _roles(load_recipe(write_recipe(tmp_path), settings).synth)
    assert roles["author"] == Role("workbook", "", 0.25)
    assert roles["teacher"] == Role("checkpoint", "org/model", None)
    assert list(roles) == ["author", "judge 1", "judge 2", "verifier", "teacher"]
