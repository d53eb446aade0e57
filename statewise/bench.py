"""The efficiency claim in miniature: decoding speed and memory against length, of both models.

What is timed: a prompt of random tokens is prefilled alone, its memory is copied to every row of a
batch, and a few tokens are decoded around the length in question. Long sequences are never
generated token by token. All contestants (`statewise.speed`) decode the same tokens, in turns, on
as many threads; sampling is not in the times. Each length is measured twice: with the same number
of sequences for all, and with as many as fit into the same memory.

No parity, no figure: before anything is timed, the decoded logits of every row are compared with
the model's full forward pass, llama.cpp's with that of torch, and a difference is an error.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from statewise import peer
from statewise.baseline import COUNT_TOLERANCE, KVCache, TransformerLM, kv_cache_bytes
from statewise.engine import Slots, open_slots
from statewise.errors import ConfigError, RunError
from statewise.model import Mamba2LM, State
from statewise.model.language_model import LanguageModel
from statewise.speed import IN_LLAMA_CPP, IN_TORCH, OURS, OURS_IN_TORCH, Bench, BenchRow, Speed

GROUP = 8  # steps timed together: the compiled step writes its states every eighth time
DECODE_STEPS = 24  # timed at each length in each repeat
WARM_UP_STEPS = 3
PARITY_STEPS = 4
# Largest difference of logits, as a share of the largest logit (at least 1).
PARITY_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
NARROW_TOLERANCE = 5e-2  # bfloat16 and float16: 8 and 11 bits of mantissa through all layers
COPY_BYTES = 256 * 2**20  # beyond the last-level cache of the machines in reach
MOST_SEQUENCES = 256  # that llama.cpp can run at once

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What is measured.

    Attributes:
        lengths: tokens in a sequence when its decoding is timed.
        batch: sequences decoded at once where all contestants have as many; 256 at most.
        repeats: times each figure is taken, the contestants in turns; the median counts, and fewer
            than six give no interval and so no verdict.
        budget_bytes: memory for running sequences, beside the weights, where each contestant has as
            many as fit; 0: what `batch` sequences of the longest length take of the larger model.
        most_sequences: that run at once, even if more fit into the budget; 256 at most.
    """

    lengths: tuple[int, ...] = (128, 512, 2048, 8192)
    batch: int = 8
    repeats: int = 9
    budget_bytes: int = 0
    most_sequences: int = MOST_SEQUENCES

    def __post_init__(self) -> None:
        """Refuse what cannot be measured. Raises `ConfigError` naming the key."""
        if not self.lengths or min(self.lengths) < 2 or len(set(self.lengths)) < len(self.lengths):
            raise ConfigError(
                f"bench.lengths: must be different lengths of 2 or more, found {self.lengths}"
            )
        if self.repeats < 1:
            raise ConfigError(f"bench.repeats: must be at least 1, found {self.repeats}")
        if self.budget_bytes < 0:
            raise ConfigError(f"bench.budget_bytes: must be 0 or more, found {self.budget_bytes}")
        for name in ("batch", "most_sequences"):
            if not 1 <= getattr(self, name) <= MOST_SEQUENCES:
                raise ConfigError(
                    f"bench.{name}: must be in 1..{MOST_SEQUENCES}, found {getattr(self, name)}"
                )


def measure(
    model: Mamba2LM,
    transformer: TransformerLM,
    config: BenchConfig,
    progress: Progress | None = None,
) -> Bench:
    """Time and weigh both models at every length of `config`.

    Args:
        model: the attention-free model; put into evaluation mode.
        transformer: the model beside it, of the same vocabulary, device and dtype.
        config: lengths, batch, repeats and the budget of memory.
        progress: called with a sentence after each length.

    Raises:
        ConfigError: the two models cannot be compared, or not one sequence fits into the budget.
        RunError: a model's decoding does not agree with its own forward pass, or llama.cpp's with
            that of torch; nothing is reported.
    """
    _check_comparable(model, transformer)
    model, transformer = model.eval(), transformer.eval()
    lengths, threads = sorted(config.lengths), torch.get_num_threads()
    budget = config.budget_bytes or config.batch * max(_weigh(model, transformer, lengths[-1]))
    if max(_weigh(model, transformer, lengths[-1])) > budget:
        raise ConfigError(
            f"bench.budget_bytes: {budget} bytes do not hold one sequence of {lengths[-1]} tokens"
        )
    plain = copy.copy(model)  # the same weights
    plain.use("torch")
    why_not = peer.missing(transformer)
    llama = nullcontext() if why_not else closing(peer.LlamaCpp(transformer, threads))
    rows, under_budget = [], []
    with llama as opened:
        contestants: dict[str, _Contestant] = {
            OURS: _Slotted(model),
            OURS_IN_TORCH: _Slotted(plain),
            IN_TORCH: _Cached(transformer),
        }
        if opened is not None:
            contestants[IN_LLAMA_CPP] = opened
        for length in lengths:
            ours, theirs = (
                min(budget // each, config.most_sequences)
                for each in _weigh(model, transformer, length)
            )
            alike = dict.fromkeys(contestants, config.batch)
            full = {n: ours if n == OURS else theirs for n in contestants if n != OURS_IN_TORCH}
            most = {n: max(config.batch, full.get(n, 0)) for n in contestants}
            at = _AtLength(model, transformer, contestants, length, most)
            rows.append(at.row(alike, config.repeats))
            under_budget.append(at.row(full, config.repeats))
            if progress is not None:
                progress(f"at {length} tokens: {_told(rows[-1])}; {_told(under_budget[-1])}")
    return Bench(
        threads=threads,
        dtype=str(model.dtype).removeprefix("torch."),
        copy_bytes_per_s=copy_bandwidth(model.device),
        llama_cpp="" if opened is None else opened.version,
        not_measured=why_not,
        rows=tuple(rows),
        budget_bytes=budget,
        most_sequences=config.most_sequences,
        under_budget=tuple(under_budget),
    )


def _told(row: BenchRow) -> str:
    speeds = (f"{name} {s.tokens_per_s:,.0f}" for name, s in row.contestants.items())
    return f"in batches of {row.ours.batch} and {row.theirs.batch}, tokens/s: {', '.join(speeds)}"


def _weigh(model: Mamba2LM, transformer: TransformerLM, length: int) -> tuple[int, int]:
    """Bytes of one running sequence of this length: the state, and keys and values."""
    return model.zero_state(1).nbytes, _kv_bytes(transformer, length)


class _Rows(Protocol):
    """Running sequences, equal to each other."""

    def rewind(self) -> None:
        """Every row is again where the prompt ended."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Read one token a row (b,); logits (b, vocab_size)."""
        ...


class _Contestant(Protocol):
    """A model, and the way in which it decodes here."""

    def read(self, prompt: Tensor, most: int, places: int) -> Any:
        """Read a prompt (l,) that up to `most` rows will go on from, to `places` tokens each."""
        ...

    def rows(self, read: Any, batch: int) -> _Rows:
        """A batch that has read it."""
        ...


@dataclass(frozen=True, slots=True)
class _Slotted:
    """As the engine decodes: over slots."""

    model: Mamba2LM

    def read(self, prompt: Tensor, most: int, places: int) -> State:
        return self.model(prompt[None], logits_to_keep=1).state

    def rows(self, read: State, batch: int) -> _InSlots:
        return _InSlots(open_slots(self.model, batch), read, np.arange(batch))


@dataclass(frozen=True, slots=True)
class _InSlots:
    memory: Slots
    state: State
    every: np.ndarray[Any, np.dtype[np.int64]]

    def rewind(self) -> None:
        for row in range(len(self.every)):
            self.memory.write_(self.every[row : row + 1], self.state)

    def step(self, ids: Tensor) -> Tensor:
        return self.memory.step_(ids.cpu().numpy(), self.every)


@dataclass(frozen=True, slots=True)
class _Cached:
    """By `step_` over a cache that is large enough from the start."""

    model: TransformerLM

    def read(self, prompt: Tensor, most: int, places: int) -> KVCache:
        state = self.model(prompt[None], logits_to_keep=1).state
        assert state is not None, "gradients are off"
        state.reserve(places)
        return state

    def rows(self, read: KVCache, batch: int) -> _InCache:
        memory = self.model.zero_state(batch)
        memory.reserve(read.capacity)  # growing would be timed as if it were decoding
        for row in range(batch):
            memory.write_(torch.tensor([row], device=self.model.device), read)
        return _InCache(self.model, memory, int(read.lengths[0]))


@dataclass(frozen=True, slots=True)
class _InCache:
    model: TransformerLM
    memory: KVCache
    prompt: int

    def rewind(self) -> None:
        self.memory.lengths.fill_(self.prompt)

    def step(self, ids: Tensor) -> Tensor:
        return self.model.step_(ids, self.memory)


class _AtLength:
    """All contestants at one length: they have read the same prompt, and read on together."""

    @torch.inference_mode()
    def __init__(
        self,
        model: Mamba2LM,
        transformer: TransformerLM,
        contestants: dict[str, _Contestant],
        length: int,
        most: dict[str, int],
    ) -> None:
        self._models = (model, transformer)
        self._contestants, self._length = contestants, length
        self._prompt = max(1, length - WARM_UP_STEPS - DECODE_STEPS // 2)
        # The same tokens in every run: no figure depends on a draw.
        self._tokens = torch.randint(
            model.vocab_size,
            (self._prompt + WARM_UP_STEPS + DECODE_STEPS,),
            generator=torch.Generator().manual_seed(length),
        ).to(model.device)
        end = self._prompt + PARITY_STEPS
        ours, theirs = (
            one(self._tokens[None, :end], logits_to_keep=PARITY_STEPS).logits[0]
            for one in self._models
        )
        self._full = {name: ours if name in (OURS, OURS_IN_TORCH) else theirs
                      for name in contestants}  # fmt: skip
        prompt, places = self._tokens[: self._prompt], len(self._tokens)
        self._read = {n: c.read(prompt, most[n], places) for n, c in contestants.items()}

    @torch.inference_mode()
    def row(self, batches: dict[str, int], repeats: int) -> BenchRow:
        """Parity, then the times, in turns.

        Args:
            batches: of each contestant that takes part.
            repeats: times each is taken.
        """
        rows = {
            name: self._contestants[name].rows(self._read[name], batch)
            for name, batch in batches.items()
        }
        parities = {n: self._check_parity(n, rows[n], batch) for n, batch in batches.items()}
        times: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(repeats):
            for name, batch in batches.items():
                times[name].append(self._time(rows[name], batch))
        return BenchRow(
            self._length,
            {
                name: self._speed(name, batch, tuple(times[name]), parities[name])
                for name, batch in batches.items()
            },
        )

    def _speed(self, name: str, batch: int, step_s: tuple[float, ...], parity: float) -> Speed:
        whose = 0 if name in (OURS, OURS_IN_TORCH) else 1
        return Speed(
            batch=batch,
            step_s=step_s,
            memory_bytes=_weigh(*self._models, self._length)[whose],
            floor_bytes=bytes_moved(*self._models, self._length, batch)[whose],
            parity=parity,
        )

    def _time(self, rows: _Rows, batch: int) -> float:
        """Seconds of a step that reads the same token in every row: the median over groups.

        The median, because one interruption of the process is not a cost of decoding; of groups,
        because some steps write what others put off. The first few steps are not timed.
        """
        device = self._tokens.device
        rows.rewind()
        steps = self._tokens[self._prompt :, None].expand(-1, batch).contiguous()
        for ids in steps[:WARM_UP_STEPS]:
            rows.step(ids)
        times = [_now(device)]
        for group in steps[WARM_UP_STEPS:].split(GROUP):
            for ids in group:
                rows.step(ids)
            times.append(_now(device))
        return statistics.median(after - before for before, after in pairwise(times)) / GROUP

    def _check_parity(self, name: str, rows: _Rows, batch: int) -> float:
        """The largest difference between any decoded row and one full forward pass.

        Raises:
            RunError: it is beyond the tolerance.
        """
        rows.rewind()
        full, difference = self._full[name], 0.0
        for i in range(PARITY_STEPS):
            logits = rows.step(self._tokens[self._prompt + i].expand(batch).contiguous())
            # What is no number stays none: `max` of Python's would drop it.
            worst = torch.stack([torch.tensor(difference), (logits - full[i]).abs().max().cpu()])
            difference = float(worst.max())
        tolerance = PARITY_TOLERANCE.get(self._models[0].dtype, NARROW_TOLERANCE)
        allowed = tolerance * max(1.0, float(full.abs().max()))
        if not difference <= allowed:  # a NaN fails too
            raise RunError(
                f"bench: at {self._length} tokens the decoded logits of {name!r} differ from the "
                f"full forward pass by {difference:.2g} (allowed: {allowed:.2g}); no figure is "
                "reported. The weights are damaged, or decoding is wrong on this device"
            )
        return difference


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _check_comparable(model: Mamba2LM, transformer: TransformerLM) -> None:
    """Refuse a pair that would make an unfair figure. Raises `ConfigError`."""
    ours, theirs = model.num_params, transformer.num_params
    pairs = {
        "vocabulary": (model.vocab_size, transformer.vocab_size),
        "dtype": (model.dtype, transformer.dtype),
        "device": (model.device, transformer.device),
    }
    for name, (a, b) in pairs.items():
        if a != b:
            raise ConfigError(f"bench: the two models differ in {name}: {a} and {b}")
    if abs(theirs / ours - 1) > COUNT_TOLERANCE:
        raise ConfigError(
            f"bench: {ours} and {theirs} parameters are not the same size; "
            "build the Transformer with match_config"
        )


def copy_bandwidth(device: torch.device | str = "cpu", num_bytes: int = COPY_BYTES) -> float:
    """Memory bandwidth of a plain copy, in bytes read plus written a second; the best of five.

    Args:
        device: where the buffers lie.
        num_bytes: size of each of the two buffers; well beyond the caches.
    """
    device = torch.device(device)
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.zeros_like(source)
    best = math.inf
    for _ in range(6):  # the first touches the pages and is never the best
        start = _now(device)
        target.copy_(source)
        best = min(best, _now(device) - start)
    return 2 * source.nbytes / best


def bytes_moved(
    model: Mamba2LM, transformer: TransformerLM, length: int, batch: int
) -> tuple[int, int]:
    """Bytes that one decoding step of either model moves, if each step writes the state it makes.

    The weights once for the whole batch (of an untied embedding only a few rows: not counted), and
    for each sequence: the state in and out; or the keys and values in, and one token's out.
    The compiled step writes a state every eighth time only and can come out ahead of this.
    """
    ours = _weight_bytes(model, model.lm_head, model.config.tie_embeddings)
    theirs = _weight_bytes(
        transformer, transformer.qwen2.lm_head, transformer.config.tie_word_embeddings
    )
    ours += 2 * model.zero_state(batch).nbytes
    theirs += batch * (_kv_bytes(transformer, length) + _kv_bytes(transformer, 1))
    return ours, theirs


def _weight_bytes(model: LanguageModel[Any], head: nn.Linear, tied: bool) -> int:
    every = sum(p.nbytes for p in model.parameters())
    return every if tied else every - head.weight.nbytes  # the embedding is as large as the head


def _kv_bytes(transformer: TransformerLM, length: int) -> int:
    return kv_cache_bytes(transformer.config, length, transformer.dtype.itemsize)
