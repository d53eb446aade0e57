"""A row that several processes share is one row: outputs, states, gradients, whole trainings."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from filelock import FileLock
from test_engines import same_training, stopped_after
from tiny_models import tiny_model
from tolerances import within
from training_doubles import TWO_PHASES, VOCAB, metrics, some_documents, trainer

from statewise.baseline import TransformerLM, match_config
from statewise.errors import ConfigError
from statewise.model import Mamba2Config
from statewise.train.config import ParallelConfig
from statewise.train.context import share_rows
from statewise.train.loss import SummedLoss
from statewise.train.packing import Document, pack
from statewise.train.parallel import recompute

pytestmark = pytest.mark.timeout(300)

# By what they are there for, the lengths of a row's documents and of the prompt of each. A part is
# a multiple of 64 tokens, filled up at the end: the first five are cut at 64 and, of three, at 128.
ROWS = {
    "crosses": [(20, 1), (75, 1), (25, 1)],
    "begins-at-a-cut": [(64, 1), (40, 1)],
    "begins-before-a-cut": [(63, 1), (64, 1)],
    "ends-behind-a-cut": [(65, 1), (63, 1)],
    "only-a-prompt": [(120, 110)],
    "through-all": [(10, 1), (170, 1)],
    "long": [(300, 1), (400, 1)],
}
SIZES = Mamba2Config(
    d_model=24, n_layer=3, d_state=5, headdim=6, ngroups=2, chunk_size=8, vocab_size=VOCAB
)
WAYS = ("once", "again")  # what a backward pass does with what blocks computed
# Processes, how many share a row, and the engine.
TRAININGS = (
    (2, 2, "ddp"), (2, 2, "fsdp2"), (2, 2, "zero2"),
    (3, 3, "again"), (4, 2, "ddp"), (4, 2, "fsdp2"),
)  # fmt: skip
PATIENCE_S = 250
DEVELOPMENT = {"seven": some_documents(7, seed=4, longest=170), "one": some_documents(1, seed=5)}


def model_of(way):
    model = tiny_model(SIZES)
    if way == "again":
        recompute(model, ParallelConfig(recompute="block"))
    return model


def row_of(name, parts):
    rng = np.random.default_rng(7)
    documents = [Document(rng.integers(0, VOCAB, n).astype(np.int32), p) for n, p in ROWS[name]]
    return pack(documents, parts)


def found_by(model, row):
    """Logits, state and gradients of a row."""
    with torch.no_grad():
        logits, state = model(row.tokens, layout=row.layout)
    SummedLoss(model)(row).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    after = {"conv": state.conv, "ssm": state.ssm, "position": state.position}
    return {"logits": logits, "gradients": gradients, **after}


def config(parallel):
    """Two phases of rows of 180 tokens, four a step."""
    phases = tuple(dataclasses.replace(p, tokens=1700) for p in TWO_PHASES.phases)
    return dataclasses.replace(
        TWO_PHASES,
        phases=phases,
        batch_tokens=720,
        row_tokens=180,
        parallel=parallel,
        checkpoint_every_s=1e9,
        measure_every=1000,
    )


def train(folder, parallel=None, steps=0, every_s=1e9):
    """A training, which ends after so many steps as a kill would end it; 0: it does not."""
    settings = config(parallel or ParallelConfig())
    settings = dataclasses.replace(settings, checkpoint_every_s=every_s)
    pools = [[some_documents(24, longest=170)]] * 2
    with stopped_after(steps):
        trainer(folder, settings, pools=pools, development=DEVELOPMENT).run()


def parallel_of(context, engine):
    again = {"engine": "ddp", "recompute": "block"}
    return ParallelConfig(context=context, **(again if engine == "again" else {"engine": engine}))


@contextlib.contextmanager
def counted():
    """The bytes of each message that is sent."""
    real, sizes = torch.distributed.isend, []

    def isend(tensor, *args, **more):
        sizes.append(tensor.nbytes)
        return real(tensor, *args, **more)

    torch.distributed.isend = isend
    yield sizes
    torch.distributed.isend = real


def small_buckets():
    """Let ZeRO reduce gradients many times in a backward pass, as it does those of large models."""
    import deepspeed

    real = deepspeed.initialize

    def initialize(*, config, **more):
        config["zero_optimization"]["reduce_bucket_size"] = 300
        return real(config=config, **more)

    deepspeed.initialize = initialize


def one_of(index, world, port, root):
    """What one of several processes does."""
    os.environ |= {
        "WORLD_SIZE": str(world),
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    PartialState(cpu=True)
    small_buckets()
    for way in WAYS if world < 4 else ():
        for row in ROWS:
            model = model_of(way)
            share_rows(model, world)
            with counted() as sizes:
                found = found_by(model, row_of(row, world).part(index, world))
            for gradient in found["gradients"].values():
                torch.distributed.all_reduce(gradient)
            torch.save({"sizes": sizes, **found}, root / f"{world}-{way}-{row}-{index}")
    for processes, context, engine in TRAININGS:
        if processes == world:
            train(root / f"{world}-{context}-{engine}", parallel_of(context, engine))
    if world == 2:
        train(root / "handed", parallel_of(2, "ddp"), steps=3, every_s=0.0)
    torch.distributed.destroy_process_group()


def all_of(root):
    """Several processes at a time, each a copy of this one, which has imported what they need."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401

    for world in (2, 3, 4):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        torch.multiprocessing.start_processes(
            one_of, (world, port, root), nprocs=world, start_method="fork"
        )


def by_several(root):
    train(root / "one")
    train(root / "handed", steps=2, every_s=0.0)
    here = Path(__file__).parent
    paths = [str(here.parents[1]), str(here.parent), str(here)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    program = "import sys, pathlib, test_context; test_context.all_of(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", program, str(root)]
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            command, env=env, stdout=told, stderr=told, start_new_session=True
        )
        try:
            failed = process.wait(timeout=PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # those that it started, too
            process.wait()
        told.seek(0)
        assert failed == 0, told.read()[-4000:]
    (root / "done").touch()
    return root


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What two, three and four processes found."""
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        return by_several(tmp_path_factory.mktemp("context"))
    root = tmp_path_factory.getbasetemp().parent / "context"  # of all workers
    with FileLock(root.with_suffix(".lock")):
        return root if (root / "done").exists() else by_several(root)


def parts(shared, world, way, row):
    files = [shared / f"{world}-{way}-{row}-{i}" for i in range(world)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [2, 3])
def test_a_row_in_parts_has_the_outputs_states_and_gradients_of_the_whole(shared, world, way, row):
    found = parts(shared, world, way, row)
    whole = found_by(model_of(way), row_of(row, world))
    within(torch.cat([part["logits"] for part in found], dim=1), whole["logits"], "model", "logits")
    assert torch.equal(found[-1]["position"], whole["position"])
    for memory in ("conv", "ssm"):
        within(found[-1][memory], whole[memory], "model", memory)
    for parameter, gradient in whole["gradients"].items():
        within(found[0]["gradients"][parameter], gradient, "model-gradient", parameter)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("world", [2, 3])
def test_a_message_is_a_state_and_a_window_however_long_the_row(shared, world, row):
    state = 4 * (SIZES.nheads * SIZES.headdim * SIZES.d_state + SIZES.conv_dim * 3)
    for i, part in enumerate(parts(shared, world, "once", row)):
        # Twice forward, once without gradients, and once backward.
        messages = (2 * (i < world - 1) + (i > 0)) * SIZES.n_layer
        assert part["sizes"] == [state] * messages


@pytest.mark.parametrize(("world", "context", "engine"), TRAININGS)
def test_processes_that_share_rows_train_what_one_does(shared, world, context, engine):
    same_training(shared / f"{world}-{context}-{engine}", shared / "one")


def test_rows_may_be_shared_from_one_step_to_the_next_and_no_longer(shared):
    folder = shared / "handed"
    assert 4 <= len(metrics(folder)) <= 5
    train(folder)
    same_training(folder, shared / "one")


def test_a_row_that_the_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"train.parallel.context: 2 .* does not divide .* 1$"):
        share_rows(tiny_model(SIZES), 2)


def test_a_model_without_a_state_cannot_share_rows():
    sizes = match_config(20_000, vocab_size=24, tie_embeddings=True, n_layer=1)
    with pytest.raises(ConfigError, match="only a model whose layers keep a state"):
        share_rows(TransformerLM(sizes), 1)


@pytest.mark.parametrize(
    ("keys", "told"),
    [({"context": 0}, "at least 1"), ({"context": 2, "engine": "zero3"}, "use the engine 'fsdp2'")],
)
def test_what_cannot_share_rows_is_refused_by_key(keys, told):
    with pytest.raises(ConfigError, match=f"context: .*{told}"):
        ParallelConfig(**keys)
