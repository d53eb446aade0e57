"""The efficiency claim in miniature: decoding speed and memory against length, of both models.

What is timed: a prompt of random tokens is prefilled alone, its memory is copied to every row of a
batch, and a few tokens are decoded around the length in question. Long sequences are never
generated token by token; what that would take is integrated from the steps at the lengths measured.
Both models run the same batch, in turns, on the same threads; sampling is not in the times.

No parity, no figure: before anything is timed at a length, the decoded logits of both models are
compared with their own full forward pass, and a difference is an error.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from statewise.baseline import COUNT_TOLERANCE, KVCache, TransformerLM, kv_cache_bytes
from statewise.engine import Slots, open_slots
from statewise.errors import ConfigError, RunError
from statewise.model import Mamba2LM, State
from statewise.model.language_model import LanguageModel
from statewise.speed import BenchRow, Speed

GROUP = 8  # steps timed together: the compiled step writes its states every eighth time
DECODE_STEPS = 24  # timed at each length in each repeat
WARM_UP_STEPS = 3
PARITY_STEPS = 4
# Largest difference of logits, as a share of the largest logit (at least 1).
PARITY_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
NARROW_TOLERANCE = 5e-2  # bfloat16 and float16: 8 and 11 bits of mantissa through all layers
COPY_BYTES = 256 * 2**20  # beyond the last-level cache of the machines in reach

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What is measured.

    Attributes:
        lengths: tokens in a sequence when its decoding is timed.
        batch: sequences decoded at once.
        repeats: times each figure is taken, the models in turns; the median counts.
    """

    lengths: tuple[int, ...] = (128, 512, 2048)
    batch: int = 8
    repeats: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be measured. Raises `ConfigError` naming the key."""
        if not self.lengths or min(self.lengths) < 2 or len(set(self.lengths)) < len(self.lengths):
            raise ConfigError(
                f"bench.lengths: must be different lengths of 2 or more, found {self.lengths}"
            )
        for name in ("batch", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"bench.{name}: must be at least 1, found {getattr(self, name)}")


def measure(
    model: Mamba2LM,
    transformer: TransformerLM,
    config: BenchConfig,
    progress: Progress | None = None,
) -> list[BenchRow]:
    """Time and weigh both models at every length of `config`.

    Args:
        model: the attention-free model; put into evaluation mode.
        transformer: the model beside it, of the same vocabulary, device and dtype.
        config: lengths, batch and repeats.
        progress: called with a sentence after each length.

    Returns:
        One row a length, from short to long.

    Raises:
        ConfigError: the two models cannot be compared.
        RunError: a model's decoding does not agree with its own forward pass; nothing is reported.
    """
    _check_comparable(model, transformer)
    pair = (_Slotted(model.eval()), _Cached(transformer.eval()))
    bandwidth = copy_bandwidth(model.device)
    lengths = sorted(config.lengths)
    timings: list[list[_Timing]] = []
    for length in lengths:
        timings.append(_at(length, pair, config))
        if progress is not None:
            ours, theirs = (config.batch / t.step_s for t in timings[-1])
            progress(
                f"at {length} tokens: {ours:,.0f} tokens/s attention-free, {theirs:,.0f} "
                "Transformer"
            )
    generate_s = [integrate(lengths, [both[i].step_s for both in timings]) for i in range(2)]
    rows = []
    for at, length in enumerate(lengths):
        memory = (model.zero_state(1).nbytes, _kv_bytes(transformer, length))
        floors = [n / bandwidth for n in bytes_moved(model, transformer, length, config.batch)]
        speeds = [
            _speed(timings[at][i], config.batch, memory[i], generate_s[i][at], floors[i])
            for i in range(2)
        ]
        rows.append(BenchRow(length, config.batch, bandwidth, *speeds))
    return rows


def _speed(
    timing: _Timing, batch: int, memory_bytes: int, generate_s: float, floor_s: float
) -> Speed:
    return Speed(
        tokens_per_s=batch / timing.step_s,
        memory_bytes=memory_bytes,
        step_s=timing.step_s,
        prefill_tokens_per_s=timing.prefill_tokens_per_s,
        generate_s=generate_s,
        floor_s=floor_s,
        floor_share=floor_s / timing.step_s,
        parity=timing.parity,
    )


class _Timing(NamedTuple):
    step_s: float
    prefill_tokens_per_s: float
    parity: float


class _Decoding(Protocol):
    """A model, and the way in which it decodes here."""

    @property
    def model(self) -> LanguageModel[Any]:
        """The weights."""
        ...

    def room(self, batch: int, places: int) -> Any:
        """Memory for `batch` sequences with room for all that will be decoded."""
        ...

    def stepper(self, memory: Any, state: Any, batch: int) -> Callable[[Tensor], Tensor]:
        """Put the same sequence into every row; what reads a token (b,) for all of them."""
        ...


@dataclass(frozen=True, slots=True)
class _Slotted:
    """As the engine decodes: over slots."""

    model: Mamba2LM

    def room(self, batch: int, places: int) -> Slots:
        return open_slots(self.model, batch)

    def stepper(self, memory: Slots, state: State, batch: int) -> Callable[[Tensor], Tensor]:
        every = np.arange(batch)
        for row in range(batch):
            memory.write_(every[row : row + 1], state)
        return lambda ids: memory.step_(ids.cpu().numpy(), every)


@dataclass(frozen=True, slots=True)
class _Cached:
    """By `step_` over a cache that is large enough from the start."""

    model: TransformerLM

    def room(self, batch: int, places: int) -> KVCache:
        memory = self.model.zero_state(batch)
        memory.reserve(places)  # growing in the middle would be timed as if it were decoding
        return memory

    def stepper(self, memory: KVCache, state: KVCache, batch: int) -> Callable[[Tensor], Tensor]:
        for row in range(batch):
            memory.write_(torch.tensor([row], device=self.model.device), state)
        return lambda ids: self.model.step_(ids, memory)


@torch.inference_mode()
def _at(length: int, pair: Sequence[_Decoding], config: BenchConfig) -> list[_Timing]:
    """Parity, then the times of both models, in turns, at one length."""
    prompt = max(1, length - WARM_UP_STEPS - DECODE_STEPS // 2)
    # The same tokens in every run: no figure depends on a draw.
    tokens = torch.randint(
        pair[0].model.vocab_size,
        (prompt + WARM_UP_STEPS + DECODE_STEPS,),
        generator=torch.Generator().manual_seed(length),
    ).to(pair[0].model.device)
    parities = [_check_parity(one, tokens, prompt, length) for one in pair]
    memories = [one.room(config.batch, len(tokens)) for one in pair]
    prefill_s: list[list[float]] = [[], []]
    step_s: list[list[float]] = [[], []]
    for _ in range(config.repeats):
        for i, one in enumerate(pair):
            state, seconds = _prefill(one.model, tokens[:prompt])
            prefill_s[i].append(seconds)
            step_s[i].append(_decode(one, state, memories[i], config.batch, tokens[prompt:]))
    return [
        _Timing(statistics.median(s), prompt / statistics.median(p), parity)
        for s, p, parity in zip(step_s, prefill_s, parities, strict=True)
    ]


def _prefill(model: LanguageModel[Any], tokens: Tensor) -> tuple[Any, float]:
    """Read one prompt (l,) alone: the memory of one sequence, and the seconds it took."""
    start = _now(model.device)
    state = model(tokens[None], logits_to_keep=1).state
    return state, _now(model.device) - start


def _decode(one: _Decoding, state: Any, memory: Any, batch: int, tokens: Tensor) -> float:
    """Seconds of a step that reads the same token in every row: the median over groups of steps.

    The median, because one interruption of the process is not a cost of decoding; of groups,
    because some steps write what others put off.

    Args:
        one: either model.
        state: the memory of one prefilled sequence: where every row starts.
        memory: the memory of the batch, overwritten.
        batch: rows.
        tokens: (steps,) what is read; the first few are not timed.
    """
    device = one.model.device
    step = one.stepper(memory, state, batch)
    steps = tokens[:, None].expand(-1, batch).contiguous()
    for ids in steps[:WARM_UP_STEPS]:
        step(ids)
    times = [_now(device)]
    for group in steps[WARM_UP_STEPS:].split(GROUP):
        for ids in group:
            step(ids)
        times.append(_now(device))
    return statistics.median(after - before for before, after in pairwise(times)) / GROUP


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _check_parity(one: _Decoding, tokens: Tensor, prompt: int, length: int) -> float:
    """The largest difference between decoding and one full forward pass, on (l,) tokens.

    Raises:
        RunError: it is beyond the tolerance.
    """
    model, end = one.model, prompt + PARITY_STEPS
    full = model(tokens[None, :end], logits_to_keep=PARITY_STEPS).logits[0]
    state: Any = model(tokens[None, :prompt], logits_to_keep=1).state
    step = one.stepper(one.room(1, end), state, 1)
    decoded = torch.cat([step(tokens[i : i + 1]).clone() for i in range(prompt, end)])
    difference = float((decoded - full).abs().max())
    tolerance = PARITY_TOLERANCE.get(model.dtype, NARROW_TOLERANCE)
    allowed = tolerance * max(1.0, float(full.abs().max()))
    if not difference <= allowed:  # a NaN fails too
        raise RunError(
            f"bench: at {length} tokens {type(model).__name__}'s decoded logits differ from its "
            f"full forward pass by {difference:.2g} (allowed: {allowed:.2g}); no figure is "
            "reported. The weights are damaged, or decoding is wrong on this device"
        )
    return difference


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


def integrate(lengths: Sequence[int], step_s: Sequence[float]) -> list[float]:
    """Seconds to decode up to each length, from the seconds of one step at each of them.

    Trapezia between the lengths measured; before the first, its own step time: that is exact for
    a constant memory, and for a growing one too long by little.

    Args:
        lengths: tokens, rising.
        step_s: seconds of one step at each length.
    """
    total = lengths[0] * step_s[0]
    totals = [total]
    for at in range(1, len(lengths)):
        total += (lengths[at] - lengths[at - 1]) * (step_s[at] + step_s[at - 1]) / 2
        totals.append(total)
    return totals
