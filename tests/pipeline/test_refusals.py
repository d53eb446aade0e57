"""What a run is refused for: one message that names key, line or file, and what to do."""

import json
import os
import shutil

import pytest
from small_run import (
    command,
    refused,
    report,
    temporary_files,
    without_timing,
    write_recipe,
)

from statewise.errors import RunError
from statewise.pipeline.folder import RunFolder


def torn(data):
    return data[: len(data) // 2]


def second_line_broken(data):
    lines = data.split(b"\n")
    return b"\n".join([lines[0], b'{"prompt": ', *lines[2:]])


def damage(folder, file, how):
    path = folder / file
    path.write_bytes(how(path.read_bytes()))


def reopen(folder, stage):
    """Have a finished stage look unfinished, as if it had been killed near its end."""
    path = folder / "run.json"
    document = json.loads(path.read_text())
    document["stages"][stage]["done"] = False
    path.write_text(json.dumps(document))


CORRUPT = [
    # (unfinished stage, file, how it is damaged, where the message begins, folder to move away)
    ("synth", "synth/sets/foundation/author.jsonl", second_line_broken, ":2: not JSON", "synth"),
    ("train", "synth/sets/composed/examples.jsonl", second_line_broken, ":2: not JSON", "synth"),
    ("eval", "synth/held_out/workbook-1/problems.jsonl", second_line_broken, ":2: not", "synth"),
    ("eval", "eval/after-promptcot/workbook-1/completions.jsonl", second_line_broken, ":2", "eval"),
    ("eval", "eval/after-promptcot/workbook-1/verdicts.jsonl", second_line_broken, ":2", "eval"),
    ("report", "eval/after-promptcot/workbook-1/result.json", torn, ": cannot be read", "eval"),
    ("report", "train/metrics.jsonl", torn, ":", "train"),
    ("report", "train/metrics.jsonl", lambda data: b"", ": holds no step of phase", "train"),
    ("report", "bench/bench.json", torn, ": cannot be read", "bench"),
    ("train", "train/tokenizer/tokenizer.json", torn, ": not a tokenizer file", "train"),
    ("eval", "train/after-promptcot/tokenizer.json", torn, ": not a tokenizer file", "train"),
    ("eval", "train/after-promptcot/config.json", torn, ": cannot be read", "train"),
    ("eval", "train/after-promptcot/model.safetensors", torn, ": truncated", "train"),
    ("bench", "train/after-promptcot/model.safetensors", torn, ": truncated", "train"),
]


@pytest.mark.parametrize(("stage", "file", "how", "says", "away"), CORRUPT)
def test_a_damaged_file_of_the_run_is_named_with_what_to_move_away(
    run, stage, file, how, says, away
):
    recipe, folder = run
    if stage != "report":
        reopen(folder, stage)
    damage(folder, file, how)
    message = refused(stage, recipe, "--out", folder)
    assert message.startswith(f"statewise: error: {folder}/{file}{says}"), message
    assert f"move {folder}/{away} away" in message
    assert not temporary_files(folder)


def test_a_damaged_model_of_the_comparison_is_named_when_it_is_to_be_asked(run):
    recipe, folder = run
    reopen(folder, "compare")
    shutil.rmtree(folder / "compare/seed-0/eval/transformer")
    file = "compare/seed-0/transformer/after-promptcot/model.safetensors"
    damage(folder, file, torn)
    message = refused("compare", recipe, "--out", folder)
    assert message.startswith(f"statewise: error: {folder}/{file}: damaged"), message
    assert f"move {folder}/compare away" in message


@pytest.mark.parametrize(
    ("stage", "file", "how"),
    [
        ("eval", "train/after-promptcot/model.safetensors", torn),
        ("train", "synth/sets/composed/examples.jsonl", second_line_broken),
    ],
)
def test_what_the_message_says_to_do_mends_the_run(run, finished_run, stage, file, how):
    recipe, folder = run
    reopen(folder, stage)
    damage(folder, file, how)
    message = refused("run", recipe, "--out", folder)
    away = file.split("/")[0]
    assert f"move {folder}/{away} away" in message
    (folder / away).rename(folder / "elsewhere")
    code, _, err = command("run", recipe, "--out", folder)
    assert (code, err) == (0, "")
    assert without_timing(report(folder)) == without_timing(report(finished_run[1]))


@pytest.mark.parametrize("file", ["part-00001-of-00001.safetensors", "training.json"])
def test_a_torn_resume_checkpoint_is_put_aside_and_the_one_before_serves(run, finished_run, file):
    recipe, folder = run
    reopen(folder, "train")
    newest = sorted((folder / "train" / "checkpoints").iterdir())[-1]
    damage(newest, file, torn)
    code, told, _ = command("train", recipe, "--out", folder)
    assert code == 0
    (line,) = [line for line in told.splitlines() if "cannot be read" in line]
    assert line.startswith(str(newest))
    assert f"put aside as broken-{newest.name}, and the one before it is tried" in line
    weights = "train/after-promptcot/model.safetensors"
    assert (folder / weights).read_bytes() == (finished_run[1] / weights).read_bytes()


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": []}', '{"stages": {"train": {}}}', "\xff"])
def test_a_run_json_that_is_none_is_never_guessed_around(run, text):
    recipe, folder = run
    (folder / "run.json").write_text(text, encoding="latin-1")
    message = refused("run", recipe, "--out", folder)
    assert message.startswith(f"statewise: error: {folder}/run.json:")
    assert "move the folder away, or choose another --out" in message


def settings(*assignments):
    return [word for a in assignments for word in ("--set", a)]


MISSING = [
    (['synth.imports=[{name="x", file="x.jsonl"}]'], "data/x.jsonl", "synth.imports.0.file"),
    (
        ['train.phases.1.sources=[{path="x.jsonl"}]'],
        "data/x.jsonl",
        "train.phases.1.sources.0.path",
    ),
    (['eval.benchmarks=["aime2024"]'], "data/aime2024.jsonl", "Get it: curl -L -o "),
    (
        ['tokenizer={kind="pretrained", path="no-such-folder"}'],
        "no-such-folder",
        "no such folder",
    ),
]


@pytest.mark.parametrize(("assignments", "file", "hint"), MISSING)
def test_a_missing_file_is_told_before_anything_is_written(
    finished_run, tmp_path, monkeypatch, assignments, file, hint
):
    monkeypatch.chdir(tmp_path)
    message = refused("run", finished_run[0], "--out", "run", *settings(*assignments))
    assert message.startswith(f"statewise: error: {file}: no such f")
    assert hint in message
    assert not (tmp_path / "run").exists()


def test_a_published_file_that_is_another_is_refused_before_anything_is_written(
    finished_run, tmp_path
):
    (tmp_path / "aime2024.jsonl").write_text("{}\n")
    message = refused(
        "run",
        finished_run[0],
        "--out",
        tmp_path / "run",
        *settings(f"data_dir={tmp_path}", 'eval.benchmarks=["aime2024"]'),
    )
    assert "aime2024.jsonl: not the file that benchmark 'aime2024' means" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "source", "told"),
    [
        ("\n \n", "", "x.jsonl: holds no examples; train.phases.0.sources.0.path names it"),
        ('{"q": "a", "a": "b"}', "", "x.jsonl:1: has no column 'prompt'; it has 'q', 'a'. `col"),
        ('{"prompt": 3}', "", "x.jsonl:1: prompt: expected text, found int"),
        ("", ", wieght=2", "train.phases.0.sources.0.wieght: unknown key; did you mean 'train."),
        (
            "",
            ', columns={promt="q"}',
            "sources.0.columns.promt: unknown key; did you mean 'train.",
        ),
    ],
)
def test_a_source_that_cannot_be_trained_on_is_told_before_anything_is_written(
    tmp_path, rows, source, told
):
    (tmp_path / "x.jsonl").write_text(rows)
    sources = f'train.phases.0.sources=[{{path="x.jsonl"{source}}}]'
    out = tmp_path / "run"
    recipe = write_recipe(tmp_path)
    message = refused("train", recipe, "--out", out, *settings(f"data_dir={tmp_path}", sources))
    assert told in message
    assert not out.exists()


def test_a_broken_line_of_published_data_is_named_and_not_called_the_runs_own(
    finished_run, tmp_path
):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    source = settings(f"data_dir={tmp_path}", 'train.phases.0.sources=[{path="x.jsonl"}]')
    message = refused("train", finished_run[0], "--out", tmp_path / "run", *source)
    assert f"{tmp_path}/x.jsonl:2: has no column 'completion'; it has 'prompt'" in message
    assert "move" not in message


def test_a_tokenizer_with_more_entries_than_the_model_is_refused_before_anything_is_written(
    finished_run, tmp_path
):
    recipe, undisturbed = finished_run
    path = undisturbed / "train" / "tokenizer"
    assignments = settings(
        f'tokenizer={{kind="pretrained", path="{path}"}}', "model.vocab_size=290"
    )
    message = refused("run", recipe, "--out", tmp_path / "run", *assignments)
    expected = f"{path}: the tokenizer has 300 entries, but model.vocab_size is 290; raise it"
    assert message == f"statewise: error: {expected}"
    assert not (tmp_path / "run").exists()


def test_a_model_that_no_transformer_matches_is_refused_before_anything_is_written(
    finished_run, tmp_path
):
    small = settings("model.d_model=8", "model.n_layer=1", "model.headdim=8")
    message = refused("compare", finished_run[0], "--out", tmp_path / "run", *small)
    assert message.startswith("statewise: error: transformer: no Qwen2 with a vocabulary of 300")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_to_start_from_with_other_sizes_names_the_key(finished_run, tmp_path):
    recipe, undisturbed = finished_run
    init = undisturbed / "train" / "after-foundation"
    tokenizer = f'tokenizer={{kind="pretrained", path="{init}"}}'
    assignments = settings(f"init={init}", tokenizer, "claims.seeds=[]", "model.n_layer=1")
    message = refused("train", recipe, "--out", tmp_path / "run", *assignments)
    assert f"model.n_layer: 1, but the checkpoint {init} has 2" in message


def test_a_folder_in_use_by_another_run_is_left_alone(run):
    recipe, folder = run
    before = (folder / "run.json").read_bytes()
    with RunFolder(folder).held():
        message = refused("run", recipe, "--out", folder, "--set", "seed=1")
    assert "another process is at work in this run folder; wait for it" in message
    assert (folder / "run.json").read_bytes() == before
    assert not (folder / "eval.old-1").exists()


def test_a_folder_that_is_no_run_folder_is_left_alone(finished_run, tmp_path):
    (tmp_path / "train").mkdir()
    message = refused("run", finished_run[0], "--out", tmp_path)
    assert f"{tmp_path}: holds 'train' but no run.json" in message
    assert "choose another --out" in message


def test_a_file_where_the_run_folder_should_be_is_refused(finished_run, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        message = refused("run", finished_run[0], "--out", out)
        assert message.startswith(f"statewise: error: {out}: cannot be a run folder (")


def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # the superuser may write anywhere
    try:
        with (
            pytest.raises(RunError, match=r"run: cannot be a run folder \(Permission denied\)"),
            RunFolder(tmp_path / "closed" / "run").held(),
        ):
            pass
    finally:
        os.seteuid(user)


def test_there_is_no_report_of_nothing(finished_run, tmp_path):
    message = refused("report", finished_run[0], "--out", tmp_path / "run")
    assert "holds no finished stage, so there is nothing to report" in message
    assert not (tmp_path / "run").exists()
    message = refused("report", finished_run[0], "--out", finished_run[1], "--set", "seed=9")
    assert "was made from another recipe" in message


def test_an_unknown_concept_and_too_few_of_them_are_refused(finished_run, tmp_path):
    out = ("--out", tmp_path / "run")
    message = refused("synth", finished_run[0], *out, *settings('synth.concepts=["sums"]'))
    assert "synth.concepts.0: unknown concept 'sums'; known are core, all, " in message
    message = refused("synth", finished_run[0], *out, *settings("synth.sets.1.sizes=[50]"))
    assert "set 'composed' composes 50 math concepts" in message


def test_an_error_in_a_grading_thread_is_one_message(run, monkeypatch):
    recipe, folder = run

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("statewise.eval.runner.grade_completion", full)
    message = refused("eval", recipe, "--out", folder, "--set", "eval.samples=3")
    assert message.startswith("statewise: error: /somewhere: No space left on device")
    monkeypatch.undo()
    assert command("eval", recipe, "--out", folder, "--set", "eval.samples=3")[0] == 0
