"""Killed again and again, alone and among others, a training ends in the same weights."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from training_doubles import results

HERE = Path(__file__).parent
STEP = "statewise.train.trainer:Trainer._step"
MOMENTS = (
    STEP,
    "statewise.train.trainer:Trainer._tell",
    "statewise.train.trainer:Trainer._measure",
    "statewise.train.trainer:Trainer._finish_phase",
    "statewise.train.checkpoints:save_file",
    "statewise.train.checkpoints:write_json",
    "statewise.train.checkpoints:let_go",
)
KILLS = 20
pytestmark = pytest.mark.timeout(300)


class Ranks:
    """Processes that train together and can be killed, without importing torch for each."""

    def __init__(self, folder, world):
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.folder = folder
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(HERE / "rank.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for rank in range(world)
        ]

    def train(self, name, *, victim=None, at="", nth=0):
        """Let them train in a folder, one of them killed just before the nth call of a function.

        Returns:
            Of each what it ended with: "code", what was "said", and "wall_s".
        """
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        world = len(self._processes)
        for rank, process in enumerate(self._processes):
            among = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            job = {
                "folder": str(self.folder / name),
                "env": {**among, **address} if world > 1 else {},
                "at": at if rank == victim else "",
                "nth": nth,
                "answer": str(self.folder / f"answer-{rank}"),
            }
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes]

    def close(self):
        for process in self._processes:
            process.stdin.close()
            process.stdout.close()
            process.wait(timeout=60)


@pytest.fixture(params=[1, 2], ids=["alone", "two"])
def ranks(request, tmp_path):
    found = Ranks(tmp_path, request.param)
    yield found
    found.close()


def test_killed_at_twenty_random_moments_it_ends_in_the_same_bits(ranks, tmp_path):
    assert {r["code"] for r in ranks.train("whole")} == {0}
    world, rng, killed, finished = len(ranks._processes), random.Random(7), 0, 0
    while killed < KILLS:
        victim, at = rng.randrange(world), rng.choice(MOMENTS)
        ended = ranks.train("killed", victim=victim, at=at, nth=rng.randint(1, 3))
        if ended[victim]["code"] == 0:  # it was at its end before it came to that
            assert results(tmp_path / "killed") == results(tmp_path / "whole")
            finished += 1
            (tmp_path / "killed").rename(tmp_path / f"finished-{finished}")
            continue
        assert ended[victim]["code"] == -9
        killed += 1
        for other in ended[:victim] + ended[victim + 1 :]:
            assert other["code"] == 0
            assert (
                other["said"] == "" or "another process of this training is gone" in other["said"]
            )
    assert [r["said"] for r in ranks.train("killed")] == [""] * world
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


def test_where_one_process_dies_the_others_say_so_within_seconds(tmp_path):
    ranks = Ranks(tmp_path, 2)
    one, other = ranks.train("run", victim=1, at=STEP, nth=5)
    ranks.close()
    assert other["code"] == -9
    assert one["said"].startswith(f"{tmp_path / 'run'}: another process of this training is gone (")
    assert one["said"].endswith("The same command goes on from the newest checkpoint")
    assert one["wall_s"] < other["wall_s"] + 10
