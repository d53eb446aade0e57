"""The bytes that training takes, counted from what the code keeps: nothing is computed for it.

A step has moments at which memory may be at its most. At each of them stand the weights, the
moments of AdamW and the buffers of the engine, and beside them what that moment needs:

    the loss, forward       what all blocks keep, the states that go out, logits
    the loss, backward      what all blocks keep, logits with their gradients
    the last block          what all blocks keep, and all that one block needs to go backward
    the first block         nearly all gradients
    the step                all gradients
    the start               the model, whole still, and its pieces

The greatest of these sums is what the device must hold. Rows are counted as one document that
fills them and takes its loss everywhere: a row of many documents takes a few percent more, a long
prompt less. What is counted is what torch's allocator hands out; a CUDA context, what the
allocator cannot use between its pieces, and the scratch of libraries come on top of it.

`python -m benchmarks.memory` holds the figures to measured peaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from statewise.model import Mamba2LM
from statewise.model.config import Mamba2Config
from statewise.train.config import ParallelConfig, TrainConfig
from statewise.train.loss import LOGIT_ROWS

Kernels = Literal["torch", "cpu", "triton"]
F32, BF16 = 4, 2  # bytes of a number

# DeepSpeed 0.19.8 where its configuration says nothing else, in numbers.
REDUCE_BUCKET = 500_000_000
LIVE_WEIGHTS = 1_000_000_000  # ZeRO-3 keeps so many gathered
IN_STEP = "gradient, in the step"  # of ZeRO-3 on the host, when activations are gone
# The kernels' own sizes; `tests/train/test_memory.py` holds them to theirs.
CPU_SPAN = 128  # tokens from one state that the CPU's scan keeps to the next
TRITON_CHUNK = 256
TRITON_TILE = 64  # tokens, of a product of bfloat16


@dataclass(frozen=True, slots=True)
class Line:
    """A part of what a process holds.

    Attributes:
        name: what it is.
        nbytes: how much of it.
        host: it lies in the host's memory, though the model does not.
    """

    name: str
    nbytes: int
    host: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process holds when it holds the most.

    Attributes:
        moment: of a step, at which that is.
        lines: its parts.
    """

    moment: str
    lines: tuple[Line, ...]

    @property
    def device(self) -> int:
        """Bytes where the model is."""
        return sum(line.nbytes for line in self.lines if not line.host)

    @property
    def host(self) -> int:
        """Bytes in the host's memory, for a model that is elsewhere."""
        return sum(line.nbytes for line in self.lines if line.host)


class Block(NamedTuple):
    """Bytes of a row in one block.

    Attributes:
        given: its input, which is all that stays of a block that is computed again.
        kept: what lies between its forward and its backward pass, `given` included.
        peak: the most while it goes backward, `kept` included.
    """

    given: int
    kept: int
    peak: int


class Weights(NamedTuple):
    """Numbers in weights.

    Attributes:
        all: of the model.
        block: of one block.
        blocks: of all of them.
        embedding: of the embedding; of the head as well, tied or not.
        largest: of the largest weight.
    """

    all: int
    block: int
    blocks: int
    embedding: int
    largest: int

    @classmethod
    def of(cls, config: Mamba2Config) -> Weights:
        """Those of a model, which is made without its numbers to be asked."""
        with torch.device("meta"):
            model = Mamba2LM(config)
        return cls(
            sum(p.numel() for p in model.parameters()),
            sum(p.numel() for p in model.blocks[0].parameters()),
            sum(p.numel() for block in model.blocks for p in block.parameters()),
            model.backbone.embeddings.weight.numel(),
            max(p.numel() for p in model.parameters()),
        )


def training_memory(
    config: Mamba2Config,
    train: TrainConfig,
    *,
    kernels: Kernels,
    bfloat16: bool,
    world: int = 1,
    threads: int = 1,
) -> Memory:
    """What each process holds at the most of a training step.

    Args:
        config: the model.
        train: rows, engine and recomputation.
        kernels: who computes the inside of a block: "torch" is the definition.
        bfloat16: products are in bfloat16, under float32 weights.
        world: processes.
        threads: of the CPU's kernels.
    """
    weights, row = Weights.of(config), train.row_tokens
    rows = max(train.batch_tokens // row // world, 1)
    block = BLOCKS[kernels](config, row, BF16 if bfloat16 else F32, threads)
    stays = {"none": block.kept, "block": block.given}[train.parallel.recompute]
    kept = config.n_layer * stays
    working = block.peak - stays
    # A row's hidden layer: of the last norm, and its places with a target.
    width = row * config.d_model
    last = {"torch": 3 * F32 * width, "cpu": (F32 + _wide(bfloat16)) * width}
    hidden = last.get(kernels, 3 * F32 * width)
    logits = F32 * min(row, LOGIT_ROWS) * config.vocab_size
    one = F32 * weights.embedding  # a gradient of the head, or of the embedding
    copied = BF16 * weights.embedding if bfloat16 else 0
    engine = _engine(train.parallel, weights, world, rows)
    head = engine.starts or (one if row > LOGIT_ROWS else 0)
    several = config.tie_embeddings or rows > 1
    # Backward through the log-softmax, then through the head itself.
    through = max(3 * logits, logits + one + copied + (BF16 * logits // F32 if bfloat16 else 0))
    state = config.state_bytes(conv_bytes=_wide(bfloat16))
    out = F32 * config.d_inner * config.d_model  # the output projection's is made before the peak

    def moment(
        name: str, gradients: int, activations: int, work: int, at: str, full: int = 0
    ) -> Memory:
        lines = [
            *engine.lines,
            Line("full bucket, laid out anew", full),
            Line("gradients", gradients),
            Line("activations that are kept", activations),
            Line(at, work),
        ]
        return Memory(name, tuple(line for line in lines if line.nbytes))

    moments = [
        moment(
            "forward, in the loss", engine.starts, kept + hidden, state + 2 * logits + copied,
            "logits, and the states that go out",
        ),
        moment("backward, in the loss", head, kept + hidden, through + copied, "logits"),
        moment(
            "backward, in the last block", engine.starts or one + out, kept, working,
            "one block in work",
            engine.full if weights.all > REDUCE_BUCKET or train.parallel.offload else 0,
        ),
        moment(
            "backward, in the first block", engine.ends, stays if rows > 1 else 0,
            F32 * width + (one if several else 0), "the embedding's gradient",
        ),
        moment(
            "backward, when a bucket is full", engine.starts, stays, F32 * width, "the residual's",
            engine.full,
        ),
        moment("the optimiser's step", engine.ends, 0, engine.step, "flat gradients"),
        *_start(train.parallel, weights, world),
    ]  # fmt: skip
    return max(moments, key=lambda m: m.device)


def _start(parallel: ParallelConfig, weights: Weights, world: int) -> list[Memory]:
    """Engines that shard weights are given a whole model first, on the device."""
    if parallel.engine not in ("fsdp2", "zero3"):
        return []
    whole, piece = F32 * weights.all, F32 * -(-weights.all // world)
    lines = (Line("weights, whole", whole), Line("weights, in pieces", piece))
    return [Memory("the start, before the model is in pieces", lines)]


def _wide(bfloat16: bool) -> int:
    return BF16 if bfloat16 else F32


class _Engine(NamedTuple):
    """What an engine holds at all times, and of gradients.

    Attributes:
        lines: weights, moments, buffers, and what the host has of them.
        starts: bytes of gradients on the device when a step's last row goes backward.
        ends: the same at the end of it.
        step: what the optimiser's step makes of them.
        full: what reducing a full bucket takes. A small model's is full at the end only; with
            offload as much was measured early, too.
    """

    lines: tuple[Line, ...]
    starts: int
    ends: int
    step: int = 0
    full: int = 0


def _engine(parallel: ParallelConfig, weights: Weights, world: int, rows: int) -> _Engine:
    """The engines of `statewise.train.parallel`; `rows` are a process's in a step."""
    whole, piece = F32 * weights.all, F32 * -(-weights.all // world)
    host = parallel.offload
    more = rows > 1
    if parallel.engine == "ddp":  # it offloads nothing
        # Its buckets are copies of all gradients, and those that it began with stay beside those
        # that it makes anew in the order of the first backward pass.
        lines = _lines(whole, 2 * whole, buckets=2 * whole if world > 1 else 0)
        return _Engine(lines, whole if more else 0, whole)
    if parallel.engine == "fsdp2":
        # Gradients stay whole until a step's last row. The root (embedding, head) is gathered all
        # the time, a block while it works and while the next one is on its way.
        root = F32 * (weights.all - weights.blocks)
        lines = _lines(piece, 2 * piece, host=host, gathered=root + 4 * F32 * weights.block)
        if host:
            lines += (Line("gradients, offloaded", piece, host=True),)
        return _Engine(lines, whole if more else 0, 0 if host else piece)
    bucket = F32 * REDUCE_BUCKET
    largest = F32 * weights.largest
    flat = F32 * min(weights.all, REDUCE_BUCKET)  # of a bucket that is being reduced or scattered
    if parallel.engine == "zero2":  # what the optimiser steps on is a copy of the weights' piece
        full = flat if world > 1 else 0
        if not host:
            lines = _lines(whole + piece, 2 * piece, bucket=bucket)
            return _Engine(lines, piece if more else 0, piece * (2 if more else 1), piece, full)
        lines = _lines(whole, bucket=bucket + largest)
        held = 6 + more  # weights twice, moments, a gradient, and one that is added up
        lines += (Line("optimiser", (held - 1) * piece + largest, host=True),)
        return _Engine(lines, 0, 0, 0, full)
    live = F32 * min(weights.all, LIVE_WEIGHTS)
    if not host:
        lines = _lines(piece, 2 * piece, bucket=bucket + flat, gathered=live)
        return _Engine(lines, piece, piece, piece)
    lines = _lines(piece, bucket=bucket + flat, gathered=live)
    lines += (Line("optimiser", 4 * piece, host=True), Line(IN_STEP, piece, host=True))
    return _Engine(lines, 0, 0)


def _lines(
    weights: int, moments: int = 0, *, host: bool = False, **buffers: int
) -> tuple[Line, ...]:
    lines = [Line("weights", weights, host), Line("moments", moments, host)]
    lines += [Line(name, nbytes) for name, nbytes in buffers.items()]
    return tuple(line for line in lines if line.nbytes)


def _torch_block(c: Mamba2Config, t: int, wide: int, threads: int) -> Block:
    """The definition: `statewise.model.inside` and `statewise.model.ssd`, by autograd."""
    d, i, m, h = (F32 * t * n for n in (c.d_model, c.d_inner, c.conv_dim, c.nheads))
    maps = F32 * t * c.ngroups * c.d_state  # B, or C
    pairs, products = h * c.chunk_size, F32 * t * c.ngroups * c.chunk_size
    states = h * c.headdim * c.d_state // c.chunk_size
    copies = 4 if c.ngroups > 1 else 2  # of B and C, laid out for products
    narrow = wide == BF16
    normed = 2 * d + wide * t * c.d_model
    cast = wide * (c.d_model * (c.d_in_proj + c.d_inner)) if narrow else 0
    # Behind the projection: before and after the convolution, step sizes and decays, x four times
    # (in chunks, times dt, and both laid out for products), the chunk's matrices, the states twice.
    scan = 3 * m + 5 * h + 5 * i + copies * maps + 2 * pairs + products + 2 * states
    gate = 4 * i + (i if narrow else wide * t * c.d_in_proj)  # y, gate, both and their norm
    kept = normed + cast + scan + gate + wide * t * c.d_inner
    # While the scan runs, all that it has made is there: its end is one peak. The norm's gradient
    # is another one, and where chunks are long the gradients of their matrices are the third.
    forward = normed + (d if narrow else 0) + cast + wide * t * c.d_in_proj
    forward += (
        3 * m + 6 * h + (10 if c.ngroups > 1 else 8) * i + (copies + 2 * (c.ngroups > 1)) * maps
    )
    forward += 3 * pairs + products + 4 * states
    norm = kept + d - i - wide * t * c.d_inner + 5 * i
    matrices = normed + d + cast + 2 * m + 4 * h + 4 * i + 6 * maps + 4 * pairs + 2 * products
    return Block(d, kept, max(forward + d, norm, matrices))


def _cpu_block(c: Mamba2Config, t: int, wide: int, threads: int) -> Block:
    """The CPU's kernels: `statewise.model.cpu.mixer`, `scan` and `scan_backward`."""
    d, inner, zxbcdt = F32 * t * c.d_model, wide * t * c.d_inner, wide * t * c.d_in_proj
    spans = -(-t // CPU_SPAN)
    cast = wide * c.d_model * (c.d_in_proj + c.d_inner) if wide == BF16 else 0
    scales = F32 * t * c.ngroups
    states = F32 * spans * c.nheads * c.headdim * c.d_state
    kept = d + wide * t * c.d_model + zxbcdt + 2 * inner + scales + states + cast
    # Its backward pass, when the output is gone: the gradients that come and go, float32 ones of
    # the scan's output and input, and of B and C once for each share of the heads.
    shares = min(c.nheads // c.ngroups, threads)
    maps = shares * F32 * t * 2 * c.ngroups * c.d_state
    partial = F32 * -(-t // 64) * c.d_inner
    back = d + zxbcdt + 2 * F32 * t * c.d_inner + maps + partial
    return Block(d, kept, kept + back)  # the output goes, its gradient comes


def _triton_block(c: Mamba2Config, t: int, wide: int, threads: int) -> Block:
    """Triton's kernels: `statewise.model.triton.conv`, `scan_backward` and `norm`."""
    d, h, inner = F32 * t * c.d_model, F32 * t * c.nheads, wide * t * c.d_inner
    zxbcdt, xBC = wide * t * c.d_in_proj, wide * t * c.conv_dim
    cast = wide * c.d_model * (c.d_in_proj + c.d_inner) if wide == BF16 else 0
    before = F32 * c.nheads * c.headdim * c.d_state  # the state before the row
    kept = 2 * d + wide * t * c.d_model + cast + zxbcdt + xBC + 2 * h + 2 * inner + before
    chunks = -(-t // TRITON_CHUNK)
    products = 2 * wide * chunks * c.ngroups * TRITON_CHUNK**2
    states = 2 * wide * chunks * c.nheads * c.headdim * c.d_state
    maps = 2 * wide * t * c.ngroups * c.d_state
    ledgers = 2 * h * TRITON_CHUNK // TRITON_TILE
    # With the norm's gradients of gate, skip and y, output and y are gone.
    scan = kept + d + inner + products + states + maps + ledgers + 6 * h + inner
    norm = kept + d + 3 * inner + F32 * 2 * -(-t // 32) * c.d_inner
    return Block(d, kept, max(scan, norm))


BLOCKS: dict[Kernels, Callable[[Mamba2Config, int, int, int], Block]] = {
    "torch": _torch_block,
    "cpu": _cpu_block,
    "triton": _triton_block,
}
