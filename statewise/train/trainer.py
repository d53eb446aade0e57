"""The training loop: the same lines for every model, phase and number of processes.

What is promised: killed at any moment, training resumes from its last checkpoint to the same
weights as an undisturbed run, bit for bit on CPU. Nothing in a step draws a random number; the
stream of rows is a function of the recipe; so a checkpoint is the weights, the two moments of
AdamW, and how far the stream had been read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from statewise.errors import CheckpointError, DivergedError
from statewise.model.language_model import LanguageModel
from statewise.progress import Task, task
from statewise.records import write_atomically, write_json
from statewise.train.config import Dtype, Phase, TrainConfig
from statewise.train.optim import build_optimizer, learning_rate
from statewise.train.packing import NO_TARGET, SHAPE_GRAIN, Document, Row, pack, stream

LOGIT_ROWS = 2048  # of logits at a time: at a vocabulary of 32,768 they take 256 MiB


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


class SummedLoss(nn.Module):
    """Cross-entropy summed over a row's targets; logits are computed there and nowhere else.

    The sum is divided by the step's global number of targets outside, so that accumulation, short
    rows and the number of processes cannot bend the loss.
    """

    def __init__(self, model: LanguageModel[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, row: Row) -> Tensor:
        """The summed loss of one packed row, float32."""
        hidden, _ = self.model.hidden(row.tokens, layout=row.layout)
        # Places with a target, filled up with places without one: the head meets few shapes.
        order = torch.argsort(row.targets.flatten() < 0, stable=True)
        count = -(-row.num_targets // SHAPE_GRAIN) * SHAPE_GRAIN
        kept = order[:count]
        hidden, targets = hidden.flatten(0, 1)[kept], row.targets.flatten()[kept]
        if len(kept) <= LOGIT_ROWS:
            return self._sum(hidden, targets)
        pieces = zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
        # Logits are made again in the backward pass: only one piece of them exists at a time.
        return torch.stack([checkpoint(self._sum, *p, use_reentrant=False) for p in pieces]).sum()

    def _sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.head(hidden)
        return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=NO_TARGET)


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


@dataclass
class Progress:
    """How far training has come: what a checkpoint remembers besides tensors."""

    phase: int = 0
    phase_step: int = 0
    phase_rows: int = 0  # what a step reads depends on the number of processes; this does not
    phase_tokens: int = 0
    step: int = 0
    tokens: int = 0
    wall_s: float = 0.0


class Trainer:
    """Trains one model through all phases of a curriculum, in a folder that it can resume from.

    Args:
        model: the language model; trained in place.
        config: curriculum and optimiser.
        pools: for each phase the documents of each of its sources.
        folder: where checkpoints, metrics and finished phases go.
        seed: names the order of the documents.
        save: writes the model into a folder that does not exist yet, whole or not at all.
        label: the model's name in progress lines.
    """

    def __init__(
        self,
        model: LanguageModel[Any],
        config: TrainConfig,
        pools: Sequence[Sequence[Sequence[Document]]],
        folder: Path,
        *,
        seed: int,
        save: Callable[[Path], None],
        label: str = "train",
    ) -> None:
        self.model, self.config, self.pools = model, config, pools
        self.folder, self.seed, self.save, self.label = folder, seed, save, label
        # Autocast is entered in `_step`: accelerate fixes its own once for the whole process, and
        # two trainings of one process may differ in dtype.
        self._accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
        optimizer = build_optimizer(model, config)
        self._loss, self._optimizer = self._accelerator.prepare(SummedLoss(model), optimizer)
        self._mixed = in_bfloat16(config.dtype, self._accelerator.device)
        self._progress = Progress()
        self._metrics: list[Metrics] = []
        self._written_at = time.monotonic()

    def run(self) -> None:
        """Train to the end; a run that is already at its end returns at once.

        Raises:
            DivergedError: the loss is no longer finite.
            CheckpointError: a checkpoint in the folder cannot be read.
        """
        metrics = self._resume()
        self._accelerator.wait_for_everyone()  # no checkpoint goes while another process reads it
        if metrics is not None and self._accelerator.is_main_process:
            self._follow(metrics)  # the kill may have come between the checkpoint and this
        begun_at = time.monotonic() - self._progress.wall_s
        unseen = None if self._accelerator.is_main_process else StringIO()
        with task(self.label, self.config.tokens, "tokens", unseen) as shown:
            shown.start_at(self._progress.tokens)
            while self._progress.phase < len(self.config.phases):
                phase = self.config.phases[self._progress.phase]
                self._run_phase(phase, begun_at, shown)
                self._finish_phase(phase)

    def phase_folder(self, phase: Phase) -> Path:
        """Where the model lies as it was at a phase's end."""
        return self.folder / f"after-{phase.name}"

    def _run_phase(self, phase: Phase, begun_at: float, shown: Task) -> None:
        p, world = self._progress, self._accelerator.num_processes
        pools = self.pools[p.phase]
        rows = stream(phase, pools, row_tokens=self.config.row_tokens, seed=self.seed)
        per_step = max(self.config.batch_tokens // self.config.row_tokens // world, 1) * world
        self._skip_what_was_read(rows)
        while p.phase_tokens < phase.tokens:
            step_at = time.monotonic()
            lr = learning_rate(phase, p.phase_step, p.phase_tokens)
            batch = [next(rows) for _ in range(per_step)]
            loss, norm = self._step(batch, lr)
            num_tokens = sum(len(d.ids) for row in batch for d in row)
            p.phase_step += 1
            p.step += 1
            p.phase_rows += len(batch)
            p.phase_tokens += num_tokens
            p.tokens += num_tokens
            now = time.monotonic()
            p.wall_s = now - begun_at
            rate = num_tokens / (now - step_at)
            self._metrics.append(Metrics(phase.name, p.step, p.tokens, loss, lr, norm, rate))
            shown.update(p.tokens, f"{phase.name}  loss {loss:.3f}  lr {lr:.1e}")
            if now - self._written_at >= self.config.checkpoint_every_s:
                self._write_checkpoint()

    def _skip_what_was_read(self, rows: Iterator[list[Document]]) -> None:
        """Enter the stream of a phase where the checkpoint left it.

        Tokens are counted, and say how many rows they were also to a checkpoint that does not.

        Raises:
            CheckpointError: the rows that were read are not those that stand there now.
        """
        p = self._progress
        remembered, count, read = p.phase_rows, 0, 0
        while read < p.phase_tokens:
            read += sum(len(d.ids) for d in next(rows))
            count += 1
        if read != p.phase_tokens or remembered not in (count, 0):
            raise CheckpointError(
                f"{self.folder}: the checkpoint has read {p.phase_tokens} tokens of phase "
                f"{self.config.phases[p.phase].name!r} in {remembered or 'whole'} rows, but "
                f"{count} rows hold {read} now: the data or their order have changed; move the "
                "folder away to train from the start"
            )
        p.phase_rows = count

    def _step(self, batch: Sequence[Sequence[Document]], lr: float) -> tuple[float, float]:
        a = self._accelerator
        rows = [pack(docs).to(a.device) for docs in batch]
        num_targets = sum(row.num_targets for row in rows)
        mine = rows[a.process_index :: a.num_processes]
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=a.device)
        for i, row in enumerate(mine):
            # Processes exchange gradients once a step, with its last row.
            with a.no_sync(self._loss) if i < len(mine) - 1 else nullcontext():
                with torch.autocast(a.device.type, torch.bfloat16, enabled=self._mixed):
                    summed = self._loss(row)
                total += summed.detach()
                # Gradients are averaged over the processes; the loss is a sum over them.
                a.backward(summed * (a.num_processes / num_targets))
        norm = float(a.clip_grad_norm_(self._loss.parameters(), self.config.clip))
        loss = float(a.reduce(total, "sum")) / num_targets
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"{self.folder}: at step {self._progress.step + 1} the loss is {loss} and the "
                f"gradient's norm {norm}; lower train.phases.*.lr, or raise warmup_steps"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def _finish_phase(self, phase: Phase) -> None:
        if self._accelerator.is_main_process and not self.phase_folder(phase).exists():
            self.save(self.phase_folder(phase))
        self._progress.phase += 1
        self._progress.phase_step = self._progress.phase_rows = self._progress.phase_tokens = 0
        self._write_checkpoint()

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("phase-*"))

    def _write_checkpoint(self) -> None:
        self._written_at = time.monotonic()
        if not self._accelerator.is_main_process:
            return
        # The phase is part of the name: a phase's last step and the beginning of the next one are
        # the same step, and nothing that was written is written over.
        p = self._progress
        final = self.folder / "checkpoints" / f"phase-{p.phase:02d}-step-{p.step:08d}"
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tensors, steps = self._tensors()
        save_file(tensors, temporary / "training.safetensors")
        state = {"progress": asdict(self._progress), "adamw_step": steps}
        write_json(temporary / "training.json", state)
        lines = "".join(json.dumps(asdict(m)) + "\n" for m in self._metrics)
        write_atomically(temporary / "metrics.jsonl", lines.encode())
        with (temporary / "training.safetensors").open("rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, final)
        self._follow(lines)

    def _follow(self, metrics: str) -> None:
        """Bring the folder up to its newest checkpoint, and let go of what that one replaces."""
        write_atomically(self.folder / "metrics.jsonl", metrics.encode())
        for old in self._checkpoints()[: -self.config.keep]:
            shutil.rmtree(old)
        for torn in (self.folder / "checkpoints").glob(".phase-*.tmp"):
            shutil.rmtree(torn, ignore_errors=True)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.model.named_parameters())

    def _tensors(self) -> tuple[dict[str, Tensor], int]:
        tensors: dict[str, Tensor] = {}
        steps = 0
        for name, parameter in self._named():
            tensors[f"model.{name}"] = parameter.detach().contiguous()
            state = self._optimizer.state[parameter]
            if state:
                tensors[f"exp_avg.{name}"] = state["exp_avg"].contiguous()
                tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"].contiguous()
                steps = int(state["step"])
        return tensors, steps

    def _resume(self) -> str | None:
        """Take up the newest checkpoint; its metrics, None if there is no checkpoint."""
        checkpoints = self._checkpoints()
        if not checkpoints:
            return None
        path = checkpoints[-1]
        try:
            tensors = load_file(path / "training.safetensors")
            state = json.loads((path / "training.json").read_text())
            metrics = (path / "metrics.jsonl").read_text()
            with torch.no_grad():
                for name, parameter in self._named():
                    parameter.copy_(tensors[f"model.{name}"])
                    if f"exp_avg.{name}" in tensors:
                        self._optimizer.state[parameter] = {
                            "step": torch.tensor(
                                float(state["adamw_step"]), device=parameter.device
                            ),
                            "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
                        }
            self._progress = Progress(**state["progress"])
            self._metrics = [Metrics(**json.loads(line)) for line in metrics.splitlines()]
        except Exception as e:
            raise CheckpointError(
                f"{path}: cannot resume from this checkpoint ({e}); delete the folder to go back "
                "to the one before it"
            ) from e
        return metrics
