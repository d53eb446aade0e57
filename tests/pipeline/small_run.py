"""A whole run in seconds, and what two reports of it may differ in."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from statewise.cli import main

ROOT = Path(__file__).parents[2]
FORKER = Path(__file__).with_name("forker.py")

# Every stage, one or two of everything. `checkpoint_every_s = 0` writes a checkpoint each step.
RECIPE = """
name = "small"

[tokenizer]
vocab_size = 300

[model]
d_model = 32
n_layer = 2
d_state = 16
headdim = 16
chunk_size = 16
vocab_size = 300

[[synth.development]]
name = "development-1"
sizes = [1]
count = 3

[[synth.held_out]]
name = "workbook-1"
sizes = [1]
count = 3

[[synth.held_out]]
name = "workbook-2"
sizes = [2]
count = 3

[[synth.sets]]
name = "foundation"
sizes = [1]
count = 30

[[synth.sets]]
name = "composed"
sizes = [2]
count = 30

[train]
batch_tokens = 1024
row_tokens = 1024
checkpoint_every_s = 0.0

[[train.phases]]
name = "foundation"
tokens = 5000
lr = 3e-3
sources = [{ path = "@foundation" }]

[[train.phases]]
name = "promptcot"
tokens = 5000
lr = 3e-3
decay = "linear"
sources = [{ path = "@composed" }, { path = "@foundation", weight = 0.5 }]

[eval]
samples = 2
phase_samples = 1
max_tokens = 24

[claims]
seeds = [0]
arms = ["curriculum", "mixture", "foundation", "transformer", "transformer-window"]
token_share = 0.5
problems = 2
samples = 2
rates = [0.5, 1.0]
sweep_share = 0.5

[bench]
lengths = [16]
batch = 2
repeats = 1
"""


def write_recipe(folder):
    path = folder / "small.toml"
    path.write_text(RECIPE)
    return path


def command(*argv):
    """The command line in this process: (exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in argv])
    return code, out.getvalue(), err.getvalue()


def refused(*argv):
    """The one message of a command that must fail with a message and nothing else."""
    code, _, err = command(*argv)
    assert_one_message(code, err)
    return err.strip()


def assert_one_message(code, err):
    assert code == 1, (code, err)
    assert "Traceback" not in err, err
    assert err.startswith("statewise: error: "), err
    assert err.count("\n") == 1, err


def temporary_files(folder):
    return [str(p) for p in folder.rglob("*") if p.name.endswith(".tmp")]


def report(folder):
    return json.loads((folder / "report.json").read_text())


def without_timing(document):
    """A report without what depends on the clock, the machine and the checkout. All else stays.

    Left out: `wall_s` of the run, of stages and of phases; `tokens_per_s` of phases and of the loss
    curve; of the efficiency claim the measured times, the rates, the shares of the floor and what
    is concluded from them; `commit`, `versions` and `device`.
    """
    kept = json.loads(json.dumps(document))
    for key in ("wall_s", "commit", "versions", "device"):
        del kept[key]
    for stage in kept["stages"].values():
        del stage["wall_s"]
    for entry in (*kept["train"]["phases"], *kept["train"]["curve"]):
        entry.pop("wall_s", None)
        del entry["tokens_per_s"]
    efficiency = kept["claims"]["efficiency"]
    for key in ("held", "reason"):
        del efficiency[key]
    del efficiency["figures"]["speed_crossover_tokens"]
    for row in efficiency["figures"]["rows"]:
        for key in list(row):
            if key.endswith(("_per_s", "_s", "_floor_share")):
                del row[key]
    return kept


class Forker:
    """Commands in processes that can be killed, without importing torch for each of them."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, str(FORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, *argv, at="", nth=1, signal="", disk=()):
        """Run a command in a fresh process.

        Args:
            argv: the command line.
            at: "module:Class.method"; empty: nothing happens to the process.
            nth: the process is sent `signal` just before this call of it.
            signal: "SIGKILL" or "SIGINT".
            disk: sizes in KiB: the command is run in a mounted file system of each size in turn,
                which is `--out`'s parent; without the right to mount, None is returned.

        Returns:
            `{"code", "out", "err"}`; with `disk` a list of them, each with "torn" (left-over
            temporary files) and the last with "report" (its report.json).
        """
        job = {"argv": [str(a) for a in argv], "at": at, "nth": nth, "signal": signal}
        self._process.stdin.write(json.dumps({**job, "disk": list(disk)}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=10)
