"""Stages as data: their order follows from their needs, their hashes from those of their needs."""

import ast
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_run import RECIPE, ROOT

from statewise.errors import DataError, RunError
from statewise.pipeline import STAGES
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.stage import Pipeline, Run, Stage, in_order
from statewise.recipe import load_recipe


def stage(name, *needs, **rest):
    return Stage(name, summary="", work=lambda run, folder: None, needs=needs, **rest)


def order(*stages):
    return list(in_order(stages))


def test_the_order_of_a_run_follows_from_what_its_stages_need():
    assert list(STAGES) == ["synth", "train", "eval", "compare", "bench", "report"]


@given(st.permutations(range(8)), st.data())
def test_every_stage_comes_after_all_that_it_needs(numbers, data):
    stages = []
    for n in numbers:
        needs = data.draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else set()
        stages.append(stage(f"s{n}", *(f"s{m}" for m in sorted(needs))))
    names = order(*stages)
    assert sorted(names) == sorted(s.name for s in stages)
    for s in stages:
        assert all(names.index(need) < names.index(s.name) for need in s.needs)
    assert names == order(*stages)


def test_where_needs_leave_it_open_the_order_is_the_one_given():
    assert order(stage("c"), stage("a"), stage("b", "d"), stage("d")) == ["c", "a", "d", "b"]


def test_what_is_always_due_comes_after_all_others():
    assert order(stage("told", always=True), stage("b", "a"), stage("a")) == ["a", "b", "told"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((stage("a", "b"), stage("b", "c"), stage("c", "b")), "b: needs itself: b -> c -> b"),
        ((stage("a", "a"),), "a: needs itself: a -> a"),
        ((stage("a", "z"),), "a: needs 'z', which is no stage"),
        ((stage("a"), stage("a")), "a: two stages of this name"),
        ((stage("a", "b"), stage("b", always=True)), "which is done after all others"),
    ],
)
def test_stages_that_have_no_order_are_refused(stages, message):
    with pytest.raises(RunError, match=message):
        Pipeline(stages)


def test_a_stage_that_is_not_there_is_named_beside_those_that_are():
    with pytest.raises(RunError, match="e-9: no such stage; there are e-1, m-1"):
        Pipeline([stage("m-1", "e-1"), stage("e-1")]).up_to("e-9")


# A generator and a model that learn in rounds: e-1, m-1, e-2, m-2, ... Each round of problems is
# written by the model of the round before; each model learns from all rounds of problems.


def rounds(n, made_from, log, fault=None):
    def work(run, folder):
        log.append(folder.name)
        if folder.name == fault and not (folder / "begun").exists():
            (folder / "begun").touch()
            raise KeyboardInterrupt
        (folder / "made").write_text(json.dumps(made_from.get(folder.name, 0)))

    stages = []
    for i in range(1, n + 1):
        problems = (f"e-{j}" for j in range(1, i + 1))
        stages.append(_round(f"m-{i}", problems, made_from, work))
        stages.append(_round(f"e-{i}", [f"m-{i - 1}"] if i > 1 else [], made_from, work))
    told = Stage("told", "", lambda run, folder: log.append("told"), always=True)
    return Pipeline([told, *stages])


def _round(name, needs, made_from, work):
    return Stage(
        name, "", work, needs=tuple(needs), made_from=lambda run: (made_from.get(name, 0),)
    )


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return load_recipe(path)


def said(recipe, out, pipeline, last="run"):
    lines = []
    pipeline.do(recipe, out, last, lines.append)
    return lines


ORDER = ["e-1", "m-1", "e-2", "m-2", "e-3", "m-3"]


def test_rounds_are_stages_done_in_order_and_skipped_when_nothing_changed(recipe, tmp_path):
    log = []
    pipeline = rounds(3, {}, log)
    assert pipeline.names == (*ORDER, "told")
    assert said(recipe, tmp_path / "run", pipeline) == [*ORDER, "told"]
    assert log == [*ORDER, "told"]
    again = said(recipe, tmp_path / "run", pipeline)
    assert again == [*(f"{name}: done before, inputs unchanged" for name in ORDER), "told"]
    assert log == [*ORDER, "told", "told"]


def test_another_round_is_added_without_doing_the_earlier_ones_again(recipe, tmp_path):
    log = []
    said(recipe, tmp_path / "run", rounds(2, {}, log))
    del log[:]
    said(recipe, tmp_path / "run", rounds(3, {}, log), "m-3")
    assert log == ["e-3", "m-3"]


def test_a_changed_round_is_moved_aside_with_all_rounds_that_stand_on_it(recipe, tmp_path):
    log, made_from, out = [], {}, tmp_path / "run"
    pipeline = rounds(3, made_from, log)
    said(recipe, out, pipeline)
    del log[:]
    made_from["e-2"] = 7
    said(recipe, out, pipeline)
    assert log == ["e-2", "m-2", "e-3", "m-3", "told"]
    assert json.loads((out / "e-2.old-1" / "made").read_text()) == 0
    assert json.loads((out / "e-2" / "made").read_text()) == 7
    assert sorted(p.name for p in out.glob("*.old-1")) == [f"{n}.old-1" for n in sorted(log[:4])]


def test_a_round_that_was_interrupted_goes_on_and_keeps_its_folder(recipe, tmp_path):
    log, out = [], tmp_path / "run"
    pipeline = rounds(2, {}, log, fault="e-2")
    with pytest.raises(KeyboardInterrupt):
        said(recipe, out, pipeline)
    assert log == ["e-1", "m-1", "e-2"]
    said(recipe, out, pipeline)
    assert log == ["e-1", "m-1", "e-2", "e-2", "m-2", "told"]
    assert (out / "e-2" / "begun").exists()
    assert not (out / "e-2.old-1").exists()


def test_a_single_round_does_first_what_it_stands_on_and_nothing_else(recipe, tmp_path):
    log = []
    said(recipe, tmp_path / "run", rounds(3, {}, log), "e-2")
    assert log == ["e-1", "m-1", "e-2"]


def test_the_hash_of_a_stage_depends_on_its_name_its_makings_and_its_needs(recipe, tmp_path):
    made_from = {}
    pipeline = rounds(2, made_from, [])
    run = _run_of(recipe, tmp_path, pipeline)
    before = {name: pipeline.inputs(run, name) for name in pipeline.names}
    assert len(set(before.values())) == len(before)
    made_from["m-1"] = 1
    after = {name: pipeline.inputs(run, name) for name in pipeline.names}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"m-1", "e-2", "m-2"}


def _run_of(recipe, tmp_path, pipeline):
    return Run(recipe, RunFolder(tmp_path / "run", pipeline.names), pipeline, lambda line: None)


def test_what_a_stage_will_miss_is_told_before_the_folder_is_made(recipe, tmp_path):
    def check(run):
        raise DataError("x.jsonl: no such file")

    stages = [stage("e-1"), replace(stage("m-1", "e-1"), check=check)]
    with pytest.raises(DataError, match=r"x\.jsonl"):
        said(recipe, tmp_path / "run", Pipeline(stages))
    assert not (tmp_path / "run").exists()
    said(recipe, tmp_path / "run", Pipeline(stages), "e-1")


def test_a_folder_with_a_rounds_folder_but_no_record_of_it_is_left_alone(recipe, tmp_path):
    (tmp_path / "run" / "e-1").mkdir(parents=True)
    with pytest.raises(RunError, match=r"holds .e-1. but no run\.json"):
        said(recipe, tmp_path / "run", rounds(1, {}, []))


def test_a_round_whose_folder_was_moved_is_made_again_and_the_move_is_told(recipe, tmp_path):
    log, out = [], tmp_path / "run"
    pipeline = rounds(2, {}, log)
    said(recipe, out, pipeline)
    (out / "e-2").rename(tmp_path / "elsewhere")
    del log[:]
    lines = said(recipe, out, pipeline)
    assert log == ["e-2", "told"]
    told = [line for line in lines if "not there any more" in line]
    assert told == [f"  {out / 'e-2'}: was done before, but is not there any more: made again"]


def test_a_damaged_file_of_a_round_is_named_with_the_folder_to_move_away(recipe, tmp_path):
    def work(run, folder):
        raise DataError(f"{folder}/made: not JSON")

    pipeline = Pipeline([replace(stage("e-1"), work=work)])
    out = tmp_path / "run"
    with pytest.raises(RunError, match=rf"e-1/made: not JSON.*move {out / 'e-1'} away"):
        said(recipe, out, pipeline)


def test_knowing_the_stages_imports_no_torch():
    heavy = {"torch", "numpy", "transformers", "matplotlib", "tokenizers"}
    program = "import sys, statewise.pipeline; "
    program += f"sys.exit(str(set(sys.modules) & {heavy!r} or ''))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr.strip() == ""


def test_each_stage_has_a_module_of_its_name_and_each_module_a_stage():
    modules = {p.stem: p for p in (ROOT / "statewise" / "pipeline" / "stages").glob("*.py")}
    del modules["__init__"]
    assert modules.keys() == STAGES.keys()
    for path in modules.values():
        names = [t.id for n in ast.parse(path.read_text()).body if isinstance(n, ast.Assign)
                 for t in n.targets]  # fmt: skip
        assert names.count("STAGE") == 1
