"""A stage is done once, and again only when something it is made from has changed."""

import json
import shutil

import pytest
from small_run import command, report, write_recipe

from statewise import speed
from statewise.pipeline.folder import RunFolder, digest
from statewise.verdict import Word

STAGES = ("synth", "train", "eval", "compare", "bench")
SKIPPED = "{}: done before, inputs unchanged"


def done(out):
    """The stages that a command did, and those that it skipped."""
    lines = out.splitlines()
    skipped = [s for s in STAGES if SKIPPED.format(s) in lines]
    return [s for s in (*STAGES, "report") if s in lines], skipped


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_does_nothing_but_write_the_same_report(run):
    recipe, folder = run
    before = {s: stamps(folder / s) for s in STAGES}
    told, records = report(folder), (folder / "run.json").read_text()
    code, out, _ = command("run", recipe, "--out", folder)
    assert code == 0
    assert done(out) == (["report"], list(STAGES))
    assert {s: stamps(folder / s) for s in STAGES} == before
    assert (folder / "run.json").read_text() == records
    assert {**report(folder), "commit": told["commit"]} == told


def test_other_samples_are_asked_for_without_synthesis_or_training(run):
    recipe, folder = run
    before = stamps(folder / "synth") | stamps(folder / "train")
    old = stamps(folder / "eval")
    code, out, _ = command("run", recipe, "--out", folder, "--set", "eval.samples=3")
    assert code == 0
    assert done(out) == (["eval", "report"], ["synth", "train", "compare", "bench"])
    assert stamps(folder / "synth") | stamps(folder / "train") == before
    kept = {folder / "eval.old-1" / p.relative_to(folder / "eval"): t for p, t in old.items()}
    assert stamps(folder / "eval.old-1") == kept
    assert report(folder)["eval"]["workbook-1"]["n_samples"] == 9
    assert "samples = 2" in (folder / "recipe.toml.old-1").read_text()


def test_a_report_leaves_out_what_another_recipe_made(run):
    recipe, folder = run
    code, out, _ = command("report", recipe, "--out", folder, "--set", "eval.samples=3")
    assert code == 0
    assert "eval: unfinished, or made from another recipe: left out of the report" in out
    document = report(folder)
    assert document["eval"] == {}
    assert document["train"]["phases"]
    assert set(document["stages"]) == {"synth", "train", "compare", "bench"}


def test_a_report_says_which_stages_folder_was_moved_away(run):
    recipe, folder = run
    (folder / "eval").rename(folder / "elsewhere")
    code, out, _ = command("report", recipe, "--out", folder)
    assert code == 0
    assert f"eval: {folder}/eval is not there any more: left out of the report" in out
    assert "another recipe" not in out
    assert report(folder)["eval"] == {}


def test_another_seed_redoes_everything_and_keeps_what_was(run):
    recipe, folder = run
    code, out, _ = command("eval", recipe, "--out", folder, "--set", "seed=1")
    assert code == 0
    assert done(out) == (["synth", "train", "eval"], [])
    assert all((folder / f"{s}.old-1").is_dir() for s in ("synth", "train", "eval"))
    assert not (folder / "compare.old-1").exists()  # not asked for yet


def test_a_stage_that_was_moved_away_is_made_again(run):
    recipe, folder = run
    result = (folder / "eval/after-promptcot/workbook-2/result.json").read_text()
    (folder / "eval").rename(folder / "elsewhere")
    code, out, _ = command("run", recipe, "--out", folder)
    assert code == 0
    assert done(out)[0] == ["eval", "report"]
    assert f"  {folder}/eval: was done before, but is not there any more: made again" in out
    assert (folder / "eval/after-promptcot/workbook-2/result.json").read_text() == result


def test_changed_data_redo_the_synthesis(tmp_path):
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    row = {"problem": "What is 2 + 3?", "solution": "2 + 3 = 5", "answer": "5"}
    data = tmp_path / "published.jsonl"
    data.write_text(json.dumps(row) + "\n")
    imported = ("--set", f"data_dir={tmp_path}", "--set", "synth.sets=[]")
    imported += ("--set", 'synth.imports=[{name="published", file="published.jsonl"}]')
    for phase in "01":
        imported += ("--set", f'train.phases.{phase}.sources=[{{path="@published"}}]')
    argv = ("synth", recipe, "--out", folder, *imported)
    assert done(command(*argv)[1]) == (["synth"], [])
    assert done(command(*argv)[1]) == ([], ["synth"])
    data.write_text(json.dumps(row).replace("5", "6") + "\n")
    assert done(command(*argv)[1]) == (["synth"], [])
    assert "\\boxed{6}" in (folder / "synth/sets/published/examples.jsonl").read_text()
    assert (folder / "synth.old-1").is_dir()


def test_each_stage_is_a_command_that_does_what_it_needs_first(tmp_path, finished_run):
    recipe, undisturbed = finished_run
    folder = tmp_path / "run"
    steps = [
        ("synth", ["synth"], []),
        ("train", ["train"], ["synth"]),
        ("report", ["report"], []),
        ("eval", ["eval"], ["synth", "train"]),
        ("bench", ["bench"], ["synth", "train"]),
        ("report", ["report"], []),
    ]
    for name, did, skipped in steps:
        code, out, err = command(name, recipe, "--out", folder)
        assert (code, err) == (0, ""), (name, err)
        assert done(out) == (did, skipped)
    document, whole = report(folder), report(undisturbed)
    assert document["eval"] == whole["eval"]
    measured = speed.read(folder / "bench" / "bench.json")
    told, decision = document["claims"]["efficiency"], speed.decide(measured)
    assert decision.word is Word.TOO_WEAK  # one repeat
    assert (told["word"], told["reason"]) == (decision.word, decision.reason)
    assert [row["length"] for row in told["figures"]["rows"]] == [r.length for r in measured.rows]
    assert measured.rows
    assert document["claims"]["architecture"]["word"] is None
    assert "compare stage was not run" in document["claims"]["architecture"]["reason"]


def interrupted(folder, inputs, work):
    with folder.stage("eval", inputs) as due:
        assert due
        work()
        raise KeyboardInterrupt


def test_a_stage_is_entered_again_until_it_is_left_in_peace(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        with pytest.raises(KeyboardInterrupt):
            interrupted(folder, "a", lambda: (folder.path / "eval" / "begun").touch())
        with folder.stage("eval", "a") as due:
            assert due
            assert (folder.path / "eval" / "begun").exists()
        with folder.stage("eval", "a") as due:
            assert not due
        for n in (1, 2):
            with folder.stage("eval", f"b{n}") as due:
                assert due
                assert not list((folder.path / "eval").iterdir())
            assert (folder.path / f"eval.old-{n}").is_dir()
        assert folder.stages()["eval"].done


def test_time_spent_before_an_interruption_is_counted(tmp_path, monkeypatch):
    clock = []
    monkeypatch.setattr("statewise.pipeline.folder.time.monotonic", lambda: sum(clock))
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        with pytest.raises(KeyboardInterrupt):
            interrupted(folder, "a", lambda: clock.append(5.0))
        with folder.stage("eval", "a"):
            clock.append(2.0)
        assert folder.stages()["eval"].wall_s == 7.0


def test_a_digest_tells_its_parts_apart():
    assert digest("a", "bc") != digest("ab", "c")
    assert digest("eval", 1, (2,)) == digest("eval", 1, (2,))


def test_temporary_files_of_a_killed_process_are_swept_away_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "run", ["train"])
    with folder.held(), folder.stage("train", "a"):
        pass
    train = folder.path / "train"
    (train / ".after-x.tmp").mkdir()
    (train / ".after-x.tmp" / "model.safetensors").touch()
    (folder.path / ".run.json.123.tmp").touch()
    (train / "kept.tmp").touch()
    (folder.path / "mine").mkdir()
    (folder.path / "mine" / ".draft.tmp").touch()
    with folder.held():
        pass
    left = {str(p.relative_to(folder.path)) for p in folder.path.rglob("*")}
    assert left == {"run.json", ".lock", "train", "train/kept.tmp", "mine", "mine/.draft.tmp"}


def test_how_often_training_is_saved_is_no_reason_to_train_again(run):
    recipe, folder = run
    saving = ("--set", "train.checkpoint_every_s=9.0", "--set", "train.keep=1")
    code, out, _ = command("train", recipe, "--out", folder, *saving)
    assert (code, done(out)) == (0, ([], ["synth", "train"]))


def test_a_changed_checkpoint_to_start_from_is_a_reason_to_train_again(finished_run, tmp_path):
    recipe, undisturbed = finished_run
    init = tmp_path / "init"
    shutil.copytree(undisturbed / "train" / "after-foundation", init)
    argv = ["train", recipe, "--out", tmp_path / "run", "--set", f"init={init}"]
    argv += ["--set", f'tokenizer={{kind="pretrained", path="{init}"}}', "--set", "claims.seeds=[]"]
    assert done(command(*argv)[1]) == (["synth", "train"], [])
    assert done(command(*argv)[1]) == ([], ["synth", "train"])
    other = undisturbed / "train" / "after-promptcot" / "model.safetensors"
    shutil.copy(other, init / "model.safetensors")
    assert done(command(*argv)[1]) == (["train"], ["synth"])
    assert (tmp_path / "run" / "train.old-1").is_dir()
