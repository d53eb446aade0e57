"""The command line: every command and flag, and what is said when something is not right."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import statewise
from statewise import catalog
from statewise.cli import build_parser, main
from statewise.model import Mamba2Config, Mamba2LM
from statewise.text import BPETokenizer

ROOT = Path(__file__).parents[1]
MINI = str(catalog.locate("mini"))

RUN_FLAGS = {"--help", "--out", "--sandbox", "--set", "RECIPE"}
SAMPLING_FLAGS = {
    "--backend",
    "--device",
    "--state",
    "--help",
    "--kind",
    "--max-tokens",
    "--seed",
    "--temperature",
    "--top-p",
    "--weights",
}
COMMANDS = {  # frozen: a change here is a change of the interface, and belongs in CHANGELOG
    "run": RUN_FLAGS,
    "synth": RUN_FLAGS,
    "train": RUN_FLAGS,
    "eval": RUN_FLAGS,
    "compare": RUN_FLAGS,
    "bench": RUN_FLAGS,
    "report": RUN_FLAGS,
    "check": RUN_FLAGS - {"--out", "--sandbox"} | {"--device-memory", "--world"},
    "recipes": {"--help"},
    "generate": SAMPLING_FLAGS | {"CHECKPOINT", "PROBLEM"},
    "chat": SAMPLING_FLAGS | {"CHECKPOINT"},
    "convert": {"--dtype", "--help", "--to", "DST", "SRC"},
    "grade": {"--form", "--help", "--kind", "--out", "FILE"},
    "paired": {"--help", "--out", "A", "B"},
    "sandbox": {"--help"},
}


def words(action):
    """An argument as it is typed: its long flag, or its place."""
    flags = [f for f in action.option_strings if f.startswith("--")]
    return flags[-1] if flags else (action.metavar or action.dest).upper()


def test_the_commands_and_flags_are_these():
    parser = build_parser()
    commands = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                commands[name] = {words(a) for a in command._actions}
        else:
            assert words(action) in ("--help", "--version")
    assert commands == COMMANDS


def test_every_command_and_flag_is_explained():
    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    assert [c.dest for c in commands._choices_actions] == list(commands.choices)
    for name, command in commands.choices.items():
        assert command.description, name
        for action in command._actions:
            assert action.help or words(action) in SAMPLING_FLAGS, (name, action.dest)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"statewise {statewise.__version__}\n"


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 2
    assert "usage: statewise" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["rnu"], ["run", "--ot", "x"], ["generate"], ["run", "--set"]])
def test_an_unknown_command_or_flag_is_exit_code_2_with_usage(argv, capsys):
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2
    assert capsys.readouterr().err.startswith("usage: statewise")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["check", "nowhere.toml"], "nowhere.toml: no such recipe"),
        (["check", str(ROOT)], f"{ROOT}: is a folder; a recipe is a .toml file"),
        (
            ["check", "clams"],
            "clams: no recipe of the package has this name; did you mean 'claims'",
        ),
        (
            ["check", "benchmarks"],
            f"{catalog.locate('benchmarks')}: checkpoint: is of a model that",
        ),
        (
            ["check", MINI, "--set", "modle.d_model=1"],
            "--set modle.d_model=1: modle: unknown key; did you mean 'model'?",
        ),
        (
            ["check", MINI, "--set", "train.phases.0.warmup_step=1"],
            "--set train.phases.0.warmup_step=1: train.phases.0.warmup_step: unknown key; did you "
            "mean 'train.phases.0.warmup_steps'?",
        ),
        (
            ["check", MINI, "--set", "model.d_model=big"],
            "--set model.d_model=big: model.d_model: expected a whole number, found 'big'",
        ),
        (
            ["check", MINI, "--set", "seed=1", "--set", "seed=2"],
            "--set seed=2: undoes --set seed=1",
        ),
        (["check", MINI, "--set", "seed"], "--set seed: expected dotted.key=value"),
        (["check", MINI, "--set", "=1"], "--set =1: expected dotted.key=value"),
        (["check", MINI, "--set", "name.x=1"], "--set name.x=1: nothing lies below 'name'"),
        (
            ["check", MINI, "--set", "train.phases.7.lr=1"],
            "--set train.phases.7.lr=1: '7' is not an index of 2 elements",
        ),
        (["generate", "nowhere", " "], "PROBLEM: is empty; write the problem's text after the"),
        (["generate", "nowhere", "1 + 1"], "nowhere: no such folder, and not a hub id of the form"),
        (["generate", MINI, "1 + 1"], f"{MINI}: is a file; a checkpoint is the folder around it"),
        (["chat", "nowhere"], "nowhere: no such folder, and not a hub id of the form"),
    ],
)
def test_a_refusal_is_one_line_that_names_what_is_wrong(argv, message, capsys):
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"statewise: error: {message}")
    assert err.count("\n") == 1


def test_a_recipe_is_taken_by_name_or_by_path_and_mini_without_either(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # an empty folder
    (tmp_path / "mine.toml").write_text('base = "mini"\nname = "mine"\n')
    for argv, name in (
        ([], "mini"),
        (["claims"], "claims"),
        ([MINI], "mini"),
        (["mine.toml"], "mine"),
    ):
        assert main(["check", *argv]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: recipe ")


def test_the_recipes_of_the_package_are_listed_with_what_they_need_and_how_long_they_take(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "statewise eval benchmarks\n" in listed
    for recipe in catalog.shipped():
        block = listed.partition(f"statewise {recipe.command} {recipe.name}\n")[2].split("\n\n")[0]
        told = [line.strip() for line in block.strip().splitlines()]
        about = recipe.about
        assert told == [about.what, f"needs  {about.needs}", f"takes  {about.takes}"]


@pytest.mark.parametrize(("text", "line"), [("name = \n", "line 1"), ("a = 1\n]\n", "line 2")])
def test_a_recipe_that_is_not_toml_is_told_with_its_line(tmp_path, capsys, text, line):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    assert main(["check", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"statewise: error: {path}: ")
    assert line in err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder with one small checkpoint in it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = Mamba2Config(d_model=16, n_layer=1, d_state=8, headdim=8, chunk_size=8, vocab_size=280)
    tokenizer = BPETokenizer.train(["1 + 1 = 2"], vocab_size=280)
    Mamba2LM(config).save(folder / "train" / "after-only", tokenizer)
    (folder / "run.json").write_text('{"stages": {}}')
    return folder


def test_generate_streams_one_answer_that_its_seed_names(trained, capsys):
    argv = ["generate", str(trained / "train" / "after-only"), "1 + 1", "--max-tokens", "8"]
    answers = []
    for seed in ("0", "0", "1"):
        assert main([*argv, "--seed", seed]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]
    assert answers[0].endswith("\n")


def test_generate_names_the_checkpoints_of_a_runs_folder(trained, capsys):
    assert main(["generate", str(trained), "1 + 1"]) == 1
    err = capsys.readouterr().err
    assert f"{trained}: is a run's folder; its checkpoints: {trained}/train/after-only" in err


def test_generate_names_a_torn_checkpoint(trained, tmp_path, capsys):
    source, torn = trained / "train" / "after-only", tmp_path / "torn"
    torn.mkdir()
    for path in source.iterdir():
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            data = data[:-10]
        (torn / path.name).write_bytes(data)
    assert main(["generate", str(torn), "1 + 1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"statewise: error: {torn}/model.safetensors: truncated: ends before")


def test_generate_names_a_tokenizer_that_does_not_fit(trained, tmp_path, capsys):
    source, foreign = trained / "train" / "after-only", tmp_path / "foreign"
    foreign.mkdir()
    for path in source.iterdir():
        (foreign / path.name).write_bytes(path.read_bytes())
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    assert main(["generate", str(foreign), "1 + 1"]) == 1
    err = capsys.readouterr().err
    assert f"{foreign}/tokenizer.json: the tokenizer has " in err
    assert "the model's vocab_size is 100" in err


def test_chat_answers_line_by_line_and_ends_with_the_input(trained, capsys, monkeypatch):
    typed = iter(["1 + 1", "  ", "2 + 2"])

    def ask(prompt):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    assert main(["chat", str(trained / "train" / "after-only"), "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.count("\n") >= 2


def test_ctrl_c_while_answering_is_one_message(trained, capsys, monkeypatch):
    def interrupt(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert main(["chat", str(trained / "train" / "after-only")]) == 130
    assert capsys.readouterr().err == "statewise: interrupted\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "runs/x/eval.jsonl"), "runs/x/eval.jsonl: No spac"),
        (PermissionError(13, "Permission denied", "x.toml"), "x.toml: Permission denied; what was"),
        (OSError("no number, no file"), "no number, no file; what was written before is kept"),
    ],
)
def test_what_the_operating_system_refuses_is_one_message(error, said, capsys, monkeypatch):
    def refuse(arguments):
        raise error

    monkeypatch.setattr("statewise.cli._dispatch", refuse)
    assert main(["check", MINI]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"statewise: error: {said}")
    assert err.count("\n") == 1


def test_a_reader_that_leaves_ends_the_command_quietly():
    program = (
        "import sys, statewise.cli as c\n"
        "def many(arguments):\n"
        "    for i in range(100_000):\n"
        "        print('line', flush=True)\n"
        "c._dispatch = many\n"
        "sys.exit(c.main(['check']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=20) == 1
