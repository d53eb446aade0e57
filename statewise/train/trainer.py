"""The training loop: the same lines for every model, phase, engine and number of processes.

What is promised: killed at any moment, training resumes from its last checkpoint to the same
weights as an undisturbed run, bit for bit on CPU. Nothing in a step draws a random number; the
stream of rows is a function of the recipe; so a checkpoint is the weights, the two moments of
AdamW, and how far the stream had been read.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from statewise.errors import CheckpointError, DivergedError
from statewise.model.language_model import LanguageModel
from statewise.progress import Task, task
from statewise.records import JsonlAppender
from statewise.train import checkpoints
from statewise.train.config import MOST_SKIPPED, Dtype, Phase, TrainConfig
from statewise.train.loss import SummedLoss
from statewise.train.optim import learning_rate
from statewise.train.packing import Document, Stream, pack
from statewise.train.parallel import parallelize


def in_bfloat16(dtype: Dtype, device: torch.device) -> bool:
    """Whether training runs its linear layers in bfloat16 on a device.

    "auto" takes what is faster there (`docs/log.md` has figures): bfloat16 on a GPU, and on
    processors that multiply it at a higher rate than float32: those with AMX, and AMD's with
    AVX512-BF16. Intel's with AVX512-BF16 alone issue that instruction at half the rate.

    Args:
        dtype: what the recipe says.
        device: where the model is trained.
    """
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.type != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    by_amd = has.get("sse4a", False)  # an instruction that only AMD's processors have
    return bool(has.get("amx_bf16", False) or (by_amd and has.get("avx512_bf16", False)))


@dataclass(frozen=True, slots=True)
class Metrics:
    """One step, as it stands in `metrics.jsonl`."""

    phase: str
    step: int  # over all phases
    tokens: int  # read so far, over all phases
    loss: float  # mean over the step's targets
    lr: float
    grad_norm: float
    tokens_per_s: float
    skipped: int = 0  # steps so far whose loss or gradient was no finite number; they have no line


@dataclass
class Progress:
    """How far training has come: what a checkpoint remembers besides tensors."""

    phase: int = 0
    phase_step: int = 0
    phase_tokens: int = 0
    step: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    stream: dict[str, Any] | None = None  # where the phase's rows are left; None at its beginning


class Trainer:
    """Trains one model through all phases of a curriculum, in a folder that it can resume from.

    Args:
        model: the language model; trained in place.
        config: curriculum and optimiser, and how the model is spread over processes.
        pools: for each phase the documents of each of its sources.
        folder: where checkpoints, metrics and finished phases go; all processes see it.
        seed: names the order of the documents.
        save: writes the model, of which it is given the whole weights by name, into a folder that
            does not exist yet, whole or not at all.
        label: the model's name in progress lines.
        say: tells what went otherwise than it should.
    """

    def __init__(
        self,
        model: LanguageModel[Any],
        config: TrainConfig,
        pools: Sequence[Sequence[Sequence[Document]]],
        folder: Path,
        *,
        seed: int,
        save: Callable[[Path, Mapping[str, Tensor]], None],
        label: str = "train",
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.config, self.pools = model, config, pools
        self.folder, self.seed, self.save, self.label, self.say = folder, seed, save, label, say
        self._engine = parallelize(model, SummedLoss(model), config)
        self._mixed = in_bfloat16(config.dtype, self._engine.device)
        self._progress = Progress()
        self._metrics_bytes = 0
        self._written_at = time.monotonic()

    def run(self) -> None:
        """Train to the end; a run that is already at its end returns at once.

        Raises:
            DivergedError: the loss is no longer finite.
            CheckpointError: a checkpoint in the folder is of another training, or none can be read.
        """
        self._resume()
        if self._progress.phase == len(self.config.phases):
            return
        begun_at = time.monotonic() - self._progress.wall_s
        unseen = None if self._is_main else StringIO()
        with (
            JsonlAppender(self.folder / "metrics.jsonl") if self._is_main else _Nowhere() as log,
            task(self.label, self.config.tokens, "tokens", unseen) as shown,
        ):
            self._log = log
            shown.start_at(self._progress.tokens)
            while self._progress.phase < len(self.config.phases):
                phase = self.config.phases[self._progress.phase]
                self._run_phase(phase, begun_at, shown)
                self._finish_phase(phase)

    @property
    def _is_main(self) -> bool:
        return self._engine.index == 0

    def phase_folder(self, phase: Phase) -> Path:
        """Where the model lies as it was at a phase's end."""
        return self.folder / f"after-{phase.name}"

    def _run_phase(self, phase: Phase, begun_at: float, shown: Task) -> None:
        p, world = self._progress, self._engine.world
        pools = self.pools[p.phase]
        rows = Stream(phase, pools, row_tokens=self.config.row_tokens, seed=self.seed)
        per_step = max(self.config.batch_tokens // self.config.row_tokens // world, 1) * world
        if p.phase_step == 0 and phase.optimiser == "reset":
            self._engine.reset()
        if p.stream is not None:
            try:
                rows.enter(p.stream)
            except (ValueError, KeyError, TypeError) as e:
                raise CheckpointError(
                    f"{self.folder}: the checkpoint cannot go on in phase {phase.name!r}: {e}; the "
                    "data have changed: move the folder away to train from the start"
                ) from e
        while p.phase_tokens < phase.tokens:
            step_at = time.monotonic()
            lr = learning_rate(phase, p.phase_step, p.phase_tokens)
            batch = [next(rows) for _ in range(per_step)]
            taken = self._step(batch, lr)
            num_tokens = sum(len(d.ids) for row in batch for d in row)
            p.phase_step += 1
            p.step += 1
            p.phase_tokens += num_tokens
            p.tokens += num_tokens
            now = time.monotonic()
            p.wall_s = now - begun_at
            rate = num_tokens / (now - step_at)
            if taken is not None:
                loss, norm = taken
                self._log.append(
                    Metrics(phase.name, p.step, p.tokens, loss, lr, norm, rate, p.skipped)
                )
                shown.update(p.tokens, f"{phase.name}  loss {loss:.3f}  lr {lr:.1e}")
            if now - self._written_at >= self.config.checkpoint_every_s:
                p.stream = rows.state()
                self._write_checkpoint()

    def _step(self, batch: Sequence[Sequence[Document]], lr: float) -> tuple[float, float] | None:
        """Loss and gradient norm of a step; None where it was skipped."""
        e, p = self._engine, self._progress
        rows = [pack(docs).to(e.device) for docs in batch]
        num_targets = sum(row.num_targets for row in rows)
        mine = rows[e.index :: e.world]
        total = torch.zeros((), device=e.device)
        for i, row in enumerate(mine):
            with torch.autocast(e.device.type, torch.bfloat16, enabled=self._mixed):
                summed = e.loss(row)
            total += summed.detach()
            # Gradients are averaged over the processes; the loss is a sum over them.
            e.backward(summed * (e.world / num_targets), last=i == len(mine) - 1)
        loss = e.total(total) / num_targets
        if math.isfinite(loss):
            norm = e.update(lr)
        else:
            norm = math.nan
            e.forget()
        if math.isfinite(norm):
            p.skipped_in_a_row = 0
            return loss, norm
        trouble = (
            f"{self.folder}: at step {p.step + 1} the loss is {loss} and the gradient's norm {norm}"
        )
        p.skipped += 1
        p.skipped_in_a_row += 1
        if self.config.nonfinite == "stop" or p.skipped_in_a_row > MOST_SKIPPED:
            raise DivergedError(f"{trouble}; lower train.phases.*.lr, or raise warmup_steps")
        if self._is_main:
            self.say(f"{trouble}; the step is skipped, as train.nonfinite says")
        return None

    def _finish_phase(self, phase: Phase) -> None:
        there = self._is_main and self.phase_folder(phase).exists()
        if not self._engine.total(torch.tensor(float(there))):  # what the first process sees
            weights = {}
            for name, tensor in self._engine.weights():
                if self._is_main:
                    weights[name] = tensor
            if self._is_main:
                self.save(self.phase_folder(phase), weights)
            self._engine.rank.wait()
        self._progress.phase += 1
        self._progress.phase_step = self._progress.phase_tokens = 0
        self._progress.stream = None
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        self._written_at = time.monotonic()
        # The phase is part of the name: a phase's last step and the beginning of the next one are
        # the same step, and nothing that was written is written over.
        p = self._progress
        path = self.folder / "checkpoints" / f"phase-{p.phase:02d}-step-{p.step:08d}"
        state = {
            "progress": asdict(p),
            "optimiser_steps": self._engine.steps,
            "metrics_bytes": self._log.sync(),
        }
        checkpoints.write(path, self._engine.tensors(), state, self._engine.rank)
        if self._is_main:
            checkpoints.let_go(self.folder, self.config.keep)

    def _resume(self) -> None:
        """Take up the newest checkpoint that is whole."""
        rank = self._engine.rank
        rank.wait()  # no process may look while another still lets go of an old one
        found = checkpoints.newest_first(self.folder)
        broken_before = list((self.folder / "checkpoints").glob("broken-*"))
        rank.wait()
        checkpoint, metrics_bytes = None, 0
        for path in found:
            broken = ""
            try:
                checkpoint = checkpoints.read(path, rank)
            except CheckpointError as e:
                broken = str(e)
            if self._engine.total(torch.tensor(float(bool(broken)))) == 0:
                break
            if self._is_main:
                aside = checkpoints.put_aside(path)
                self.say(
                    f"{broken or path}: this checkpoint cannot be read; it is put aside as "
                    f"{aside.name}, and the one before it is tried"
                )
        else:
            if count := len(found) + len(broken_before):
                raise CheckpointError(
                    f"{self.folder}: none of its {count} checkpoints can be read; move "
                    f"{self.folder} away to train from the start"
                )
        if checkpoint is not None:
            try:
                with checkpoint.opened() as tensors:
                    self._engine.restore(tensors, checkpoint.state["optimiser_steps"])
                self._progress = Progress(**checkpoint.state["progress"])
                metrics_bytes = checkpoint.state["metrics_bytes"]
            except (KeyError, TypeError, ValueError, RuntimeError) as e:
                raise CheckpointError(
                    f"{checkpoint.path}: cannot resume from this checkpoint: it is of another "
                    f"training ({e}); move {self.folder} away to train from the start"
                ) from e
        if self._is_main:
            self._cut_metrics(metrics_bytes)
            checkpoints.let_go(self.folder, max(self.config.keep, len(found)))
        rank.wait()

    def _cut_metrics(self, size: int) -> None:
        """Forget the steps that are taken again."""
        path = self.folder / "metrics.jsonl"
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise CheckpointError(
                f"{path}: has {found} bytes, and the checkpoint was written after {size}; put it "
                f"back, or move {self.folder} away to train from the start"
            )
        if found > size:
            os.truncate(path, size)


class _Nowhere:
    """Where metrics go in processes that do not keep them."""

    def append(self, record: object) -> None:
        pass

    def sync(self) -> int:
        return 0

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *exc: object) -> None:
        pass
