"""The loop: what a step computes, that it learns, and that a kill at any moment changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tolerances import within
from torch.optim.optimizer import register_optimizer_step_pre_hook
from training_doubles import (
    TWO_PHASES,
    document,
    metrics,
    phases,
    raw,
    results,
    small_model,
    some_documents,
    trainer,
)

from statewise import progress
from statewise.errors import CheckpointError, RunError
from statewise.records import JsonlAppender
from statewise.train import checkpoints
from statewise.train import trainer as module
from statewise.train.config import MOST_SKIPPED, TrainConfig
from statewise.train.development import mean_loss
from statewise.train.loss import SummedLoss
from statewise.train.packing import Stream, pack


class Killed(BaseException):
    """Stands for the end of the process: nothing but a kill would raise past `Exception`."""


@pytest.fixture(autouse=True)
def _no_test_cuts_the_power(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def alike(length=12, count=8, seed=0):
    """Documents of one length that differ in how many of their tokens carry loss."""
    rng = np.random.default_rng(seed)
    return [document(rng, length, 1 + i % (length - 1)) for i in range(count)]


@pytest.fixture
def gradients():
    """The gradients that each optimiser step is taken with."""
    seen: list[list[torch.Tensor]] = []

    def look(optimizer, *_):
        if isinstance(optimizer, torch.optim.AdamW):
            groups = optimizer.param_groups
            seen.append([p.grad.clone() for group in groups for p in group["params"]])

    handle = register_optimizer_step_pre_hook(look)
    yield seen
    handle.remove()


def test_how_a_step_is_split_into_rows_changes_neither_its_loss_nor_its_gradient(
    tmp_path, gradients
):
    told = []
    for rows in (1, 2, 4):
        config = TrainConfig(phases(48), batch_tokens=48, row_tokens=48 // rows, clip=1e9)
        trainer(tmp_path / str(rows), config, pools=[[alike()]]).run()
        told.append(metrics(tmp_path / str(rows)))
    whole, *split = gradients
    assert len(split) == 2
    for found in split:
        for actual, expected in zip(found, whole, strict=True):
            within(actual, expected, "model-gradient", "gradient of a step")
    for other in told[1:]:
        for name in ("loss", "grad_norm"):
            within(torch.tensor(other[0][name]), torch.tensor(told[0][0][name]), "model", name)


def test_the_reported_loss_is_the_mean_over_the_steps_targets(tmp_path):
    docs = alike(count=4)
    config = TrainConfig(phases(48), batch_tokens=48, row_tokens=24)
    trainer(tmp_path, config, pools=[[docs]]).run()
    with torch.no_grad():
        row = pack(docs)
        expected = SummedLoss(small_model())(row) / row.num_targets
    (line,) = metrics(tmp_path)
    within(torch.tensor(line["loss"]), expected, "model")


def test_the_gradient_is_clipped_to_its_norm(tmp_path, gradients):
    config = TrainConfig(phases(24), batch_tokens=24, row_tokens=24, clip=1e-3)
    trainer(tmp_path, config, pools=[[alike()]]).run()
    norm = torch.stack([g.norm() for g in gradients[0]]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert metrics(tmp_path)[0]["grad_norm"] > 1e-2


def test_the_metrics_file_holds_every_step_with_its_rate_and_tokens(tmp_path):
    trainer(tmp_path).run()
    lines = metrics(tmp_path)
    assert [m["step"] for m in lines] == list(range(1, len(lines) + 1))
    tokens = [m["tokens"] for m in lines]
    assert tokens == sorted(tokens)
    assert all(b - a <= TWO_PHASES.batch_tokens for a, b in zip([0, *tokens], tokens, strict=False))
    for name, wanted in (("a", 120), ("b", 90)):
        own = [m for m in lines if m["phase"] == name]
        assert [m["lr"] for m in own[:2]] == [0.005, 0.01]
        assert own[-1]["lr"] < 0.005
        first = own[0]["step"] - 2
        read = own[-1]["tokens"] - (tokens[first] if first >= 0 else 0)
        assert wanted <= read < wanted + TWO_PHASES.batch_tokens
    assert all(m["tokens_per_s"] > 0 for m in lines)


def test_each_phases_end_leaves_the_model_and_the_last_is_the_trained_one(tmp_path):
    run = trainer(tmp_path)
    run.run()
    found = results(tmp_path)
    assert run.phase_folder(TWO_PHASES.phases[1]) == tmp_path / "after-b"
    assert found["after-b"] == raw({n: p.detach() for n, p in run.model.named_parameters()})
    assert found["after-a"] != found["after-b"]


def test_only_the_newest_checkpoints_stay(tmp_path):
    trainer(tmp_path, dataclasses.replace(TWO_PHASES, keep=3)).run()
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    last = metrics(tmp_path)[-1]["step"]
    steps = [("01", last - 1), ("01", last), ("02", last)]
    assert left == [f"phase-{phase}-step-{step:08d}" for phase, step in steps]


def test_checkpoints_between_phase_ends_come_by_the_clock(tmp_path, monkeypatch):
    written = []
    write = module.Trainer._write_checkpoint
    monkeypatch.setattr(
        module.Trainer, "_write_checkpoint", lambda self: written.append(1) or write(self)
    )
    trainer(tmp_path, dataclasses.replace(TWO_PHASES, checkpoint_every_s=1e9)).run()
    assert len(written) == 2


def test_checkpoints_come_by_the_step_too(tmp_path):
    config = dataclasses.replace(
        TWO_PHASES, checkpoint_every_s=1e9, checkpoint_every_steps=2, keep=100
    )
    trainer(tmp_path, config).run()
    steps = [int(p.name[-8:]) for p in sorted((tmp_path / "checkpoints").glob("phase-0*"))]
    ends = [0, 0]
    for m in metrics(tmp_path):
        ends["ab".index(m["phase"])] = m["step"]
    assert sorted(set(steps)) == sorted({*range(2, ends[1] + 1, 2), *ends})


def test_muon_steps_along_an_orthogonal_matrix_and_resumes_to_the_same_bits(tmp_path):
    config = dataclasses.replace(TWO_PHASES, optimiser="muon", weight_decay=0.0, keep=100)
    run = trainer(tmp_path / "whole", config)
    weight = run.model.backbone.layers[0].mixer.out_proj.weight
    before = weight.detach().clone()
    update, moved = run._engine.update, []

    def watched(lr):
        found = update(lr)
        moved.append((weight.detach() - before) / lr)
        return found

    run._engine.update = watched
    run.run()
    # Its singular values are alike (Newton and Schulz's five steps leave them near 1), and it is
    # as large as AdamW's steps: 0.2 of the root mean square for each row or column more.
    values = torch.linalg.svdvals(moved[0]) / (0.2 * max(weight.shape) ** 0.5)
    assert values.min() > 0.4
    assert values.max() < 1.4
    with pytest.MonkeyPatch.context() as m:
        kill_at(m, progress.Task, "update", 3)
        with pytest.raises(Killed):
            trainer(tmp_path / "killed", config).run()
    trainer(tmp_path / "killed", config).run()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_it_learns_a_row_by_heart(tmp_path):
    docs = some_documents(4)
    config = TrainConfig(phases(6000), batch_tokens=60, row_tokens=60, weight_decay=0.0)
    trainer(tmp_path, config, pools=[[docs]]).run()
    lines = metrics(tmp_path)
    assert lines[0]["loss"] > 2.5
    assert lines[-1]["loss"] < 0.1


def test_a_finished_training_is_left_as_it_is(tmp_path):
    trainer(tmp_path).run()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/*")}
    model = small_model(seed=9)
    trainer(tmp_path, model=model).run()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/*")} == before
    trained = {n: p.detach() for n, p in model.named_parameters()}
    assert raw(trained) == results(tmp_path)["after-b"]


def test_the_documents_of_a_phase_are_its_own(tmp_path):
    """What the first phase learnt by heart does not help with what only the second one reads."""
    by_heart = some_documents(4, seed=1)
    config = TrainConfig(phases(4000, 60), batch_tokens=60, row_tokens=60)
    trainer(tmp_path, config, pools=[[by_heart], [some_documents(4, seed=2)]]).run()
    lines = metrics(tmp_path)
    assert [m for m in lines if m["phase"] == "a"][-1]["loss"] < 0.5
    assert next(m for m in lines if m["phase"] == "b")["loss"] > 2.0


def test_a_phase_may_begin_with_a_fresh_optimiser(tmp_path):
    """Then its first step is that of a training that starts from the weights before it."""
    first, second = phases(120, 90)
    fresh = dataclasses.replace(second, optimiser="reset")
    both = dataclasses.replace(TWO_PHASES, phases=(first, fresh))
    run = trainer(tmp_path / "both", both)
    run.run()
    begun = small_model()
    begun.load_state_dict(load_file(tmp_path / "both" / "after-a"), strict=False)
    alone = dataclasses.replace(TWO_PHASES, phases=(second,))
    trainer(tmp_path / "alone", alone, model=begun).run()
    ends = [results(tmp_path / name)["after-b"] for name in ("both", "alone")]
    assert ends[0] == ends[1]
    carried = dataclasses.replace(TWO_PHASES, phases=(first, second))
    trainer(tmp_path / "carried", carried).run()
    assert results(tmp_path / "carried")["after-b"] != ends[0]


DEV = {"easy": some_documents(7, seed=4), "hard": some_documents(3, seed=5)}


def measured(folder):
    return [json.loads(line) for line in (folder / "development.jsonl").read_text().splitlines()]


def test_the_loss_on_development_sets_is_measured_at_a_phases_end_and_every_so_often(tmp_path):
    config = dataclasses.replace(TWO_PHASES, measure_every=60)
    run = trainer(tmp_path, config, development=DEV)
    run.run()
    lines = measured(tmp_path)
    assert [m["source"] for m in lines] == ["easy", "hard"] * (len(lines) // 2)
    at = [m["tokens"] for m in lines[::2]]
    ends = [max(m["tokens"] for m in metrics(tmp_path) if m["phase"] == name) for name in "ab"]
    assert set(ends) <= set(at)
    assert len(at) > len(ends)
    assert all(60 <= b - a < 60 + TWO_PHASES.batch_tokens for a, b in pairwise([0, *at[:1]]))
    for line, (name, docs) in zip(lines[-2:], DEV.items(), strict=True):
        expected = mean_loss(run.model, docs, row_tokens=20)
        assert line["source"] == name
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
        assert line["targets"] == sum(len(d.ids) - d.num_prompt for d in docs)
    plain = tmp_path / "plain"
    trainer(plain).run()
    assert results(plain)["after-b"] == results(tmp_path)["after-b"]  # looking changes nothing


def test_a_phase_ends_where_the_development_loss_falls_no_more(tmp_path):
    """Documents of other letters: what is learnt by heart makes them worse before long."""
    first, second = phases(3000, 90)
    config = dataclasses.replace(
        TWO_PHASES,
        phases=(dataclasses.replace(first, patience=2, decay="constant"), second),
        measure_every=100,
        checkpoint_every_s=1e9,
    )
    trainer(tmp_path, config, pools=[[some_documents(3)]] * 2, development=DEV).run()
    of_first = [m for m in measured(tmp_path) if m["phase"] == "a"]
    losses = [
        (a["loss"] * a["targets"] + b["loss"] * b["targets"]) / (a["targets"] + b["targets"])
        for a, b in zip(of_first[::2], of_first[1::2], strict=True)
    ]
    assert 3 <= len(losses) < 28
    assert min(losses) == losses[-3]
    assert [m["phase"] for m in metrics(tmp_path)][-1] == "b"


def test_killed_it_resumes_to_the_same_measurements(tmp_path):
    config = dataclasses.replace(TWO_PHASES, measure_every=60)
    trainer(tmp_path / "whole", config, development=DEV).run()
    for step in (2, 3, 2):
        with pytest.MonkeyPatch.context() as m:
            kill_at(m, progress.Task, "update", step)
            with pytest.raises(Killed):
                trainer(tmp_path / "killed", config, development=DEV).run()
    trainer(tmp_path / "killed", config, development=DEV).run()
    assert measured(tmp_path / "killed") == measured(tmp_path / "whole")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


# Kills.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer(folder).run()
    return results(folder)


def kill_at(monkeypatch, owner, name, call, *, after=False):
    """Let the `call`-th call of a function be the last thing the process does."""
    real, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) < call:
            return real(*args, **kwargs)
        if after:
            real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, dying)


def test_the_test_run_crosses_a_phase_boundary_in_enough_steps(undisturbed):
    steps = [m["phase"] for m in undisturbed["metrics"]]
    assert steps.count("a") >= 3
    assert steps.count("b") >= 3
    assert len(steps) <= 8


@pytest.mark.parametrize("every_s", [0.0, 1e9])
@pytest.mark.parametrize("step", range(1, 8))
def test_stopped_at_any_step_it_resumes_to_the_same_bits(
    tmp_path, monkeypatch, undisturbed, step, every_s
):
    """With a checkpoint at each step, and with none but at the ends of phases."""
    config = dataclasses.replace(TWO_PHASES, checkpoint_every_s=every_s)
    with monkeypatch.context() as m:
        kill_at(m, progress.Task, "update", step)
        try:
            trainer(tmp_path, config).run()
        except Killed:
            pass
        else:
            assert step > len(undisturbed["metrics"])
    trainer(tmp_path, config).run()
    found = results(tmp_path)
    last = max(name for name in undisturbed if name.startswith("phase"))
    for name in ("metrics", "after-a", "after-b", last):
        assert found[name] == undisturbed[name], name


@pytest.mark.parametrize("packing", ["in-order", "best-fit"])
@pytest.mark.parametrize("step", [2, 5])
def test_stopped_and_resumed_it_tells_the_same_of_what_each_phase_read(
    tmp_path, monkeypatch, packing, step
):
    """And ends in the same bits, in the middle of a window too."""
    monkeypatch.setattr("statewise.train.packing.WINDOW", 3)
    config = dataclasses.replace(TWO_PHASES, packing=packing)
    told = {"whole": [], "stopped": []}

    def run(name):
        def ended(phase, rows):
            told[name].append((phase.name, rows.rows, rows.filled, rows.seen()))

        trainer(tmp_path / name, config, ended=ended).run()

    run("whole")
    with monkeypatch.context() as m:
        kill_at(m, progress.Task, "update", step)
        with pytest.raises(Killed):
            run("stopped")
    run("stopped")
    assert told["stopped"] == told["whole"]
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")
    read = [seen.tokens for _, _, _, (seen,) in told["whole"]]
    tokens = {m["phase"]: m["tokens"] for m in metrics(tmp_path / "whole")}
    assert read == [tokens["a"], tokens["b"] - tokens["a"]]


MOMENTS = [
    (module.Trainer, "_finish_phase"),
    (module.Trainer, "_write_checkpoint"),
    (checkpoints, "save_file"),
    (checkpoints, "write_json"),
    (JsonlAppender, "append"),
    (JsonlAppender, "sync"),
    (os, "replace"),
    (shutil, "rmtree"),
]


@given(
    st.sampled_from(MOMENTS),
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=3),
)
@settings(max_examples=20)
def test_killed_again_and_again_around_any_write_it_ends_in_the_same_bits(
    undisturbed, tmp_path_factory, moment, kills
):
    folder = tmp_path_factory.mktemp("killed")
    for call, after in kills:
        with pytest.MonkeyPatch.context() as m:
            kill_at(m, *moment, call, after=after)
            try:
                trainer(folder).run()
            except Killed:
                continue
    trainer(folder).run()
    assert results(folder) == undisturbed
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize("before_the_end", range(1, 6))
def test_killed_before_any_of_the_last_files_came_into_place_it_ends_the_same(
    tmp_path, monkeypatch, undisturbed, before_the_end
):
    """The last phase's end: its model, its checkpoint, and the metrics that nothing follows."""
    moves, real = [], os.replace
    with monkeypatch.context() as m:
        m.setattr(os, "replace", lambda *paths: moves.append(paths) or real(*paths))
        trainer(tmp_path / "counted").run()
    with monkeypatch.context() as m:
        kill_at(m, os, "replace", len(moves) + 1 - before_the_end)
        with pytest.raises(Killed):
            trainer(tmp_path / "killed").run()
    trainer(tmp_path / "killed").run()
    assert results(tmp_path / "killed") == undisturbed


def test_killed_before_an_old_checkpoint_went_it_goes_with_the_next_command(
    tmp_path, monkeypatch, undisturbed
):
    gone, real = [], shutil.rmtree
    with monkeypatch.context() as m:
        m.setattr(shutil, "rmtree", lambda *a, **k: gone.append(a) or real(*a, **k))
        trainer(tmp_path / "counted").run()
    with monkeypatch.context() as m:
        kill_at(m, shutil, "rmtree", len(gone))
        with pytest.raises(Killed):
            trainer(tmp_path / "killed").run()
    assert results(tmp_path / "killed") != undisturbed
    trainer(tmp_path / "killed").run()
    assert results(tmp_path / "killed") == undisturbed


SCRIPT = """
import sys
from pathlib import Path
from training_doubles import trainer
from statewise.progress import Task
real = Task.update
def slowly(self, done, note=""):
    print(int(done), flush=True)
    sys.stdin.readline()
    real(self, done, note)
Task.update = slowly
trainer(Path(sys.argv[1])).run()
"""


def test_a_process_that_is_really_killed_resumes_to_the_same_bits(tmp_path, undisturbed):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parents[1]), str(here)])
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        for _ in range(3):  # it waits for a line after each step
            process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert list((tmp_path / "checkpoints").glob("phase-*"))
    assert not (tmp_path / "after-b").exists()
    trainer(tmp_path).run()
    assert results(tmp_path) == undisturbed


# What goes wrong.


PART = "part-00001-of-00001.safetensors"


def a_bit_flipped(data):
    """In the last tensor, where no format would notice."""
    return data[:-1] + bytes([data[-1] ^ 16])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (PART, lambda b: b[: len(b) // 2]),
        (PART, a_bit_flipped),
        (PART, None),
        ("training.json", lambda b: b[:20]),
        ("training.json", lambda b: b.replace(b"crc32", b"crc33")),
        ("training.json", None),
    ],
)
def test_a_corrupt_checkpoint_is_named_and_the_one_before_it_serves(
    tmp_path, undisturbed, file, damage
):
    trainer(tmp_path).run()
    before, newest = sorted((tmp_path / "checkpoints").iterdir())
    path = newest / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    told = []
    trainer(tmp_path, say=told.append).run()
    (line,) = told
    assert line.startswith(str(newest))
    aside = newest.with_name(f"broken-{newest.name}")
    assert f"put aside as {aside.name}, and the one before it is tried" in line
    found = results(tmp_path)
    assert {name: found[name] for name in undisturbed} == undisturbed
    assert before.exists()
    assert aside.exists()


def test_where_no_checkpoint_can_be_read_nothing_is_trained_over(tmp_path):
    trainer(tmp_path).run()
    for path in (tmp_path / "checkpoints").iterdir():
        (path / PART).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"none of its 2 checkpoints .* move {tmp_path} "):
            trainer(tmp_path, say=lambda _: None).run()


def test_metrics_that_were_cut_are_told(tmp_path):
    with pytest.MonkeyPatch.context() as m:
        kill_at(m, progress.Task, "update", 4)
        with pytest.raises(Killed):
            trainer(tmp_path).run()
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: has 0 bytes"):
        trainer(tmp_path).run()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="cannot resume"):
        trainer(tmp_path, model=small_model(d_state=8)).run()
    with pytest.raises(CheckpointError, match="cannot resume"):
        trainer(tmp_path, model=small_model(n_layer=3)).run()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_saved(tmp_path):
    with pytest.MonkeyPatch.context() as m:
        kill_at(m, progress.Task, "update", 4)
        with pytest.raises(Killed):
            trainer(tmp_path).run()
    run = trainer(tmp_path)
    run._resume()
    kept = results(tmp_path)
    with torch.no_grad():
        next(iter(run.model.parameters()))[:] = float("nan")
    run._resume = lambda: None
    with pytest.raises(RunError, match=rf"^{tmp_path}: at step 4 the loss is nan .* lower train"):
        run.run()
    assert results(tmp_path) == kept


def test_a_step_that_is_no_number_is_skipped_and_told_where_the_recipe_says_so(tmp_path):
    told = []
    run = trainer(tmp_path, dataclasses.replace(TWO_PHASES, nonfinite="skip"), say=told.append)
    update, norms = run._engine.update, []

    def second_fails(lr):
        norms.append(update(lr) if len(norms) != 1 else run._engine.forget())
        return norms[-1] if norms[-1] is not None else float("nan")

    run._engine.update = second_fails
    run.run()
    (line,) = told
    assert line.startswith(f"{tmp_path}: at step 2 the loss is 3.")
    assert "the gradient's norm nan; the step is skipped, as train.nonfinite says" in line
    lines = metrics(tmp_path)
    assert [m["step"] for m in lines[:2]] == [1, 3]
    assert [m["skipped"] for m in lines] == [0] + [1] * (len(lines) - 1)


def test_what_is_skipped_again_and_again_stops_the_run(tmp_path):
    config = dataclasses.replace(TWO_PHASES, phases=phases(10_000), nonfinite="skip")
    run = trainer(tmp_path, config, say=lambda _: None)
    with torch.no_grad():
        next(iter(run.model.parameters()))[:] = float("nan")
    with pytest.raises(RunError, match=f"at step {MOST_SKIPPED + 1} the loss is nan"):
        run.run()


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path):
    run = trainer(tmp_path)
    weight = next(iter(run.model.parameters()))
    weight.register_hook(lambda grad: grad * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(RunError, match="gradient's norm"):
        run.run()
    assert torch.equal(weight, before)


def test_bfloat16_computes_in_bfloat16_and_keeps_weights_and_moments_in_float32(tmp_path):
    seen = set()
    model = small_model()
    for name, part in model.named_modules():
        if name.endswith("in_proj"):
            part.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    config = dataclasses.replace(TWO_PHASES, dtype="bfloat16")
    run = trainer(tmp_path / "bfloat16", config, model)
    run.run()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {t.dtype for _, t in run._engine.tensors()} == {torch.float32}
    trainer(tmp_path / "float32").run()  # in the same process
    half, full = metrics(tmp_path / "bfloat16"), metrics(tmp_path / "float32")
    assert half[0]["loss"] != full[0]["loss"]
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], abs=0.1)


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({}, False),
        ({"avx512_bf16": True}, False),  # Intel's without AMX: at half of float32's rate
        ({"avx512_bf16": True, "amx_bf16": True}, True),
        ({"sse4a": True}, False),
        ({"sse4a": True, "avx512_bf16": True}, True),  # AMD's
    ],
)
def test_the_faster_dtype_is_taken_where_the_recipe_leaves_it_open(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    cpu = torch.device("cpu")
    assert module.in_bfloat16("auto", cpu) is expected
    assert module.in_bfloat16("auto", torch.device("cuda"))
    assert module.in_bfloat16("bfloat16", cpu)
    assert not module.in_bfloat16("float32", torch.device("cuda"))


def test_a_dtype_left_open_trains_as_the_one_it_comes_to(tmp_path, monkeypatch):
    for name, has in (("float32", {}), ("bfloat16", {"amx_bf16": True})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        for dtype in ("auto", name):
            config = dataclasses.replace(TWO_PHASES, dtype=dtype)
            trainer(tmp_path / name / dtype, config).run()
        assert results(tmp_path / name / "auto") == results(tmp_path / name / name)
    assert results(tmp_path / "float32" / "auto") != results(tmp_path / "bfloat16" / "auto")


# Other numbers of processes.


def rows_read(folder, monkeypatch, *, world, steps):
    """Train some steps as if by so many processes: the documents of the rows that were read."""
    rows = []

    def step(self, batch, lr, word):
        rows.extend([tuple(d.ids) for d in row] for row in batch)
        return ([1.0], 1.0), word > 0

    with monkeypatch.context() as m:
        m.setattr(module.Trainer, "_step", step)
        kill_at(m, progress.Task, "update", steps, after=True)
        m.setattr(module.Trainer, "_written_at", 0.0, raising=False)
        run = trainer(folder, dataclasses.replace(TWO_PHASES, phases=phases(10_000), **THREE))
        m.setattr(type(run._engine), "world", world)
        m.setattr(type(run._engine), "rank", checkpoints.Rank())
        with pytest.raises(Killed):
            run.run()
    return rows


THREE = {"batch_tokens": 60}  # three rows a step, but two by two processes


def test_a_training_that_changes_its_number_of_processes_reads_each_row_once(tmp_path, monkeypatch):
    read = []
    for world, rows in ((1, 3), (2, 2), (1, 3)):
        found = rows_read(tmp_path, monkeypatch, world=world, steps=3)
        # The last of three steps was not written down: it is read again.
        assert len(found) == 3 * rows
        read += found[: 2 * rows]
    config = dataclasses.replace(TWO_PHASES, phases=phases(10_000))
    every = Stream(config.phases[0], [some_documents()], row_tokens=20, seed=3)
    assert read == [[tuple(d.ids) for d in row] for row in islice(every, len(read))]


def test_a_checkpoint_whose_rows_are_no_longer_there_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        kill_at(m, progress.Task, "update", 4)
        with pytest.raises(Killed):
            trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="the data have changed"):
        trainer(tmp_path, pools=[[some_documents(longest=5)]] * 2).run()
