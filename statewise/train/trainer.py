"""The training loop: the same lines for every model, phase, engine and number of processes.

What is promised: killed at any moment, training resumes from its last checkpoint to the same
weights as an undisturbed run, bit for bit on CPU. Nothing in a step draws a random number; the
stream of rows is a function of the recipe; so a checkpoint is the weights that are trained, the two
moments of AdamW, and how far the stream had been read.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from statewise.errors import CheckpointError, DivergedError
from statewise.model.language_model import LanguageModel
from statewise.progress import Task, task
from statewise.records import JsonlAppender
from statewise.train import checkpoints, lora
from statewise.train.config import MOST_SKIPPED, Dtype, Phase, TrainConfig
from statewise.train.optim import learning_rate
from statewise.train.packing import Document, Row, Stream, rows_of
from statewise.train.parallel import parallelize
from statewise.train.preference import Pair, RowLoss, packed, with_reference
from statewise.train.spikes import Spikes
from statewise.train.trackers import Trackers


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
    loss: float  # mean over the step's targets, or its pairs
    lr: float
    grad_norm: float
    tokens_per_s: float
    skipped: int = 0  # steps so far whose loss or gradient was no finite number; they have no line
    accuracy: float | None = None  # of pairs: how often the chosen one has the higher reward
    margin: float | None = None  # of pairs: its reward less the rejected one's, mean


@dataclass(frozen=True, slots=True)
class Measured:
    """The loss on documents that are not trained on, as it stands in `development.jsonl`."""

    phase: str
    step: int
    tokens: int
    source: str
    loss: float  # nats a target
    targets: int


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
    measured: int = 0  # tokens, when the development sets were last looked at
    best: float | None = None  # loss on them in this phase
    since_best: int = 0  # how often they were looked at since


METRICS, DEVELOPMENT = LOGS = ("metrics.jsonl", "development.jsonl")


class Trainer:
    """Trains one model through all phases of a curriculum, in a folder that it can resume from.

    Args:
        model: the language model; trained in place.
        config: curriculum and optimiser, and how the model is spread over processes.
        pools: for each phase the documents of each of its sources.
        folder: where checkpoints, metrics and finished phases go; all processes see it.
        seed: names the order of the documents, and what adapters begin with.
        development: by name, documents that are not trained on: their loss is measured.
        save: writes the model, of which it is given the whole weights by name, into a folder that
            does not exist yet, whole or not at all.
        ended: told, in the first process, of each phase that is over and of its rows.
        base: folder or hub id of the model, for those who read its adapters alone.
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
        development: Mapping[str, Sequence[Document]] | None = None,
        ended: Callable[[Phase, Stream], None] = lambda phase, rows: None,
        base: str = "",
        label: str = "train",
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.config, self.pools, self._base = model, config, pools, base
        self.folder, self.seed, self.save, self.label, self.say = folder, seed, save, label, say
        self._ended = ended
        self._development = {
            name: list(rows_of(documents, config.row_tokens))
            for name, documents in (development or {}).items()
        }
        self._engine = parallelize(model, RowLoss(model), config, seed)
        self._mixed = in_bfloat16(config.dtype, self._engine.device)
        self._progress = Progress()
        self._written_at = time.monotonic()
        self._spikes = Spikes()

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
        with ExitStack() as stack:
            shown = stack.enter_context(task(self.label, self.config.tokens, "tokens", unseen))
            self._logs = {name: stack.enter_context(self._log(name)) for name in LOGS}
            names = self.config.trackers if self._is_main else ()
            told = Trackers(names, self.folder, self.label, self._progress.step)
            self._trackers = stack.enter_context(told)
            shown.start_at(self._progress.tokens)
            while self._progress.phase < len(self.config.phases):
                phase = self.config.phases[self._progress.phase]
                rows = self._run_phase(phase, begun_at, shown)
                self._finish_phase(phase, rows)

    def _log(self, name: str) -> JsonlAppender:
        return JsonlAppender(self.folder / name) if self._is_main else _Nowhere()

    def _pack(self, documents: Sequence[Document]) -> Row:
        beta = self.config.phases[self._progress.phase].beta
        return packed(documents, beta, self.config.parallel.context)

    @property
    def _is_main(self) -> bool:
        return self._engine.index == 0

    def phase_folder(self, phase: Phase) -> Path:
        """Where the model lies as it was at a phase's end."""
        return self.folder / f"after-{phase.name}"

    def _run_phase(self, phase: Phase, begun_at: float, shown: Task) -> Stream:
        p, lanes = self._progress, self._engine.lanes
        rows = Stream(
            phase,
            self._pools(phase),
            row_tokens=self.config.row_tokens,
            seed=self.seed,
            packing=self.config.packing,
        )
        per_step = max(self.config.batch_tokens // self.config.row_tokens // lanes, 1) * lanes
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
        patience = phase.patience or math.inf
        while p.phase_tokens < phase.tokens and p.since_best < patience:
            step_at = time.monotonic()
            lr = learning_rate(phase, p.phase_step, p.phase_tokens)
            batch = [next(rows) for _ in range(per_step)]
            # One clock decides for all processes, and it is asked for with the loss.
            late = step_at - self._written_at >= self.config.checkpoint_every_s
            taken, due = self._step(batch, lr, float(late and self._is_main))
            num_tokens = sum(len(d.ids) for row in batch for d in row)
            p.phase_step += 1
            p.step += 1
            p.phase_tokens += num_tokens
            p.tokens += num_tokens
            now = time.monotonic()
            p.wall_s = now - begun_at
            rate = num_tokens / (now - step_at)
            if taken is not None:
                (loss, *of_pairs), norm = taken
                line = Metrics(phase.name, p.step, p.tokens, loss, lr, norm, rate, p.skipped)
                if of_pairs:
                    line = replace(line, accuracy=of_pairs[0], margin=of_pairs[1])
                self._tell(line)
                shown.update(p.tokens, f"{phase.name}  loss {loss:.3f}  lr {lr:.1e}")
            if self.config.measure_every and p.tokens - p.measured >= self.config.measure_every:
                self._measure(phase)
            every = self.config.checkpoint_every_steps
            if due or (every and p.step % every == 0):
                p.stream = rows.state()
                self._write_checkpoint()
        return rows

    def _tell(self, m: Metrics) -> None:
        """Write a step down, and let those know who watch."""
        self._logs[METRICS].append(m)
        numbers = {
            k: v for k, v in asdict(m).items() if k not in ("phase", "step") and v is not None
        }
        self._trackers.tell({f"train/{k}": v for k, v in numbers.items()}, m.step)
        median = self._spikes.take(m.phase, m.loss)
        if median is not None and self._is_main:
            self.say(
                f"  {self.label}: a loss spike at step {m.step}: {m.loss:.3f}, after {median:.3f} "
                "in the median of the steps before"
            )

    def _pools(self, phase: Phase) -> Sequence[Sequence[Document]]:
        """The documents of a phase's sources, or their pairs with what the loss compares with."""
        p = self._progress
        pools = self.pools[p.phase]
        # Of adapters that begin with the phase, the reference is the model without them.
        if phase.loss != "dpo" or (self.config.lora.rank and p.phase == 0):
            return pools
        found = []
        for i, pairs in enumerate(pools):
            with self._products():
                found.append(
                    with_reference(
                        cast(Sequence[Pair], pairs),
                        self.folder / "reference" / f"{phase.name}-{i}",
                        self._engine,
                        row_tokens=self.config.row_tokens,
                        begun=p.phase_step > 0,
                    )
                )
        return found

    @torch.no_grad()
    def _measure(self, phase: Phase) -> None:
        """The loss on the development sets, their rows dealt out to the processes."""
        e, p = self._engine, self._progress
        p.measured = p.tokens
        losses = targets = 0.0
        for name, rows in self._development.items():
            found = [torch.zeros((), device=e.device), torch.zeros((), device=e.device)]
            for first in range(0, len(rows), e.lanes):
                mine = first + e.lane
                # Every process reads as many rows: what is sharded is made whole by all of them.
                row = e.part(self._pack(rows[min(mine, len(rows) - 1)]))
                with self._products():
                    (summed,) = e.loss(row)
                if mine < len(rows):
                    found[0] += summed
                    found[1] += row.num_targets
            loss, count = e.totals(*found)
            self._logs[DEVELOPMENT].append(
                Measured(phase.name, p.step, p.tokens, name, loss / count, int(count))
            )
            self._trackers.tell({f"development/{name}": loss / count}, p.step)
            losses, targets = losses + loss, targets + count
        e.settle()
        if targets:
            better = p.best is None or losses / targets < p.best
            p.best = losses / targets if better else p.best
            p.since_best = 0 if better else p.since_best + 1

    def _products(self) -> torch.autocast:
        """In which dtype products are. Casts of weights are not kept beyond their use.

        Autocast would hold them to the end of the forward pass, of all blocks at once: half of the
        weights' bytes again, under engines that shard the weights too. A row uses each once.
        """
        device = self._engine.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._mixed, cache_enabled=False)

    def _step(
        self, batch: Sequence[Sequence[Document]], lr: float, word: float
    ) -> tuple[tuple[list[float], float] | None, bool]:
        """A step.

        Args:
            batch: its rows, of all processes.
            lr: the rate.
            word: above 0 where this process has something to tell all of them.

        Returns:
            Means of what `RowLoss` sums and the gradient's norm, or None where the step was
            skipped; whether a process had.
        """
        e, p = self._engine, self._progress
        rows = [self._pack(docs) for docs in batch]
        num_terms = sum(row.num_terms for row in rows)
        mine = [e.part(row) for row in rows[e.lane :: e.lanes]]
        total = torch.zeros((), device=e.device)
        for i, row in enumerate(mine):
            last = i == len(mine) - 1
            with self._products():
                summed = e.forward(row, last=last)
            total = total + summed.detach()
            # Gradients are averaged over the processes; the loss is a sum over them.
            e.backward(summed[0] * (e.world / num_terms), last=last)
        *sums, words = e.totals(*total, word)
        means = [summed_up / num_terms for summed_up in sums]
        loss = means[0]
        if math.isfinite(loss):
            norm = e.update(lr)
        else:
            norm = math.nan
            e.forget()
        if math.isfinite(norm):
            p.skipped_in_a_row = 0
            return (means, norm), words > 0
        trouble = (
            f"{self.folder}: at step {p.step + 1} the loss is {loss} and the gradient's norm {norm}"
        )
        p.skipped += 1
        p.skipped_in_a_row += 1
        if self.config.nonfinite == "stop" or p.skipped_in_a_row > MOST_SKIPPED:
            raise DivergedError(f"{trouble}; lower train.phases.*.lr, or raise warmup_steps")
        if self._is_main:
            self.say(f"{trouble}; the step is skipped, as train.nonfinite says")
        return None, words > 0

    def _finish_phase(self, phase: Phase, rows: Stream) -> None:
        if self._progress.measured != self._progress.tokens:
            self._measure(phase)
        there = self._is_main and self.phase_folder(phase).exists()
        if self._engine.totals(float(there)) == [0.0]:  # what the first process sees
            weights = {}
            for name, tensor in self._engine.weights():
                if self._is_main:
                    weights[name] = tensor
            if self._is_main:
                if self.config.lora.rank:
                    adapters = self.folder / f"adapters-{phase.name}"
                    lora.save(adapters, weights, self.config.lora, self._base)
                    weights = lora.merged(weights, self.config.lora)
                self.save(self.phase_folder(phase), weights)
            self._engine.rank.wait()
        if self._is_main:
            self._ended(phase, rows)
        self._progress.phase += 1
        self._progress.phase_step = self._progress.phase_tokens = 0
        self._progress.stream = self._progress.best = None
        self._progress.since_best = 0
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
            "bytes": {name: log.sync() for name, log in self._logs.items()},
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
        checkpoint, sizes = None, dict.fromkeys(LOGS, 0)
        for path in found:
            broken = ""
            try:
                checkpoint = checkpoints.read(path, rank)
            except CheckpointError as e:
                broken = str(e)
            if self._engine.totals(float(bool(broken))) == [0.0]:
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
                sizes = checkpoint.state["bytes"]
            except (KeyError, TypeError, ValueError, RuntimeError) as e:
                raise CheckpointError(
                    f"{checkpoint.path}: cannot resume from this checkpoint: it is of another "
                    f"training ({e}); move {self.folder} away to train from the start"
                ) from e
        if self._is_main:
            for name in LOGS:
                self._cut(self.folder / name, sizes[name])
            checkpoints.let_go(self.folder, self.config.keep)  # the kill may have come before
        rank.wait()

    def _cut(self, path: Path, size: int) -> None:
        """Forget what is said of the steps that are taken again."""
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise CheckpointError(
                f"{path}: has {found} bytes, and the checkpoint was written after {size}; put it "
                f"back, or move {self.folder} away to train from the start"
            )
        if found > size:
            os.truncate(path, size)


class _Nowhere(JsonlAppender):
    """Where records go in processes that do not keep them."""

    def __init__(self) -> None:
        pass

    def append(self, record: object) -> None:
        pass

    def sync(self) -> int:
        return 0

    def __exit__(self, *exc: object) -> None:
        pass
