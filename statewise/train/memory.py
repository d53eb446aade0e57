"""The bytes that training takes, counted from what the code keeps: nothing is computed for it.

A step has moments at which memory may be at its most. At each of them stand the weights, the
optimiser's moments and the buffers of the engine, and beside them what that moment needs:

    the loss, forward       what all blocks keep, the states that go out, logits
    the loss, backward      what all blocks keep, logits with their gradients
    the last block          what all blocks keep, and all that one block needs to go backward
    the first block         all gradients but the last, and all that one block needs
    the end of it           nearly all gradients
    the step                all gradients, and what the optimiser makes of them
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
from statewise.train.config import LoraConfig, ParallelConfig, TrainConfig
from statewise.train.loss import LOGIT_ROWS

Kernels = Literal["torch", "cpu", "triton"]
F32, BF16 = 4, 2  # bytes of a number
# In four bits: with a scale of 8 bits for 64 of them, and one of 32 for 256 of these.
NF4 = 1 / 2 + 1 / 64 + F32 / (64 * 256)

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
        between: of `kept`, what does not stay where mixers compute again what is between their
            projections.
        peak: the most while it goes backward, `kept` included.
    """

    given: int
    kept: int
    between: int
    peak: int


class Weights(NamedTuple):
    """Numbers in weights, and bytes that hang on them.

    Attributes:
        all: of the model.
        embedding: of the embedding; of the head as well, tied or not.
        largest: of the largest weight.
        trained: those that have a gradient.
        remembered: of the optimiser's moments.
        nbytes: of all weights as they lie.
        outside: the same of those that are in no block.
        block: the same of one block.
        lies: of a number of the embedding and the head.
        scratch: of stepping the largest matrix, beyond its gradient.
        adapters: numbers that an adapter of one block gives for each token between its matrices.
        read_back: of the largest projection of a block, where it lies in four bits.
    """

    all: int
    embedding: int
    largest: int
    trained: int
    remembered: int
    nbytes: int
    outside: int
    block: int
    lies: int = F32
    scratch: int = 0
    adapters: int = 0
    read_back: int = 0

    @classmethod
    def of(cls, config: Mamba2Config, train: TrainConfig, *, bfloat16: bool) -> Weights:
        """Those of a training, whose model is made without its numbers to be asked."""
        with torch.device("meta"):
            model = Mamba2LM(config)
            narrow = bool(train.lora.rank) and bfloat16
            if narrow:
                model = model.bfloat16()
        sizes = [p.numel() for p in model.parameters()]
        everything, embedding = sum(sizes), model.backbone.embeddings.weight.numel()
        nbytes = sum(p.nbytes for p in model.parameters())
        block = sum(p.nbytes for p in model.blocks[0].parameters())
        outside = nbytes - config.n_layer * block
        first = cls(
            everything, embedding, max(sizes), everything, 2 * everything, nbytes, outside, block
        )
        if train.lora.rank:
            return first._adapted(config, train.lora, BF16 if narrow else F32)
        if train.optimiser == "muon":
            matrices = [p.numel() for b in model.blocks for p in b.parameters() if p.ndim == 2]
            # An update in float32; in bfloat16 the matrix, the one that it becomes, and a product.
            scratch = (F32 + 3 * BF16) * max(matrices)
            return first._replace(remembered=2 * everything - sum(matrices), scratch=scratch)
        return first

    def _adapted(self, config: Mamba2Config, lora: LoraConfig, lies: int) -> Weights:
        """With adapters, which alone are trained."""
        ends = {
            "in_proj": (config.d_model, config.d_in_proj),
            "out_proj": (config.d_inner, config.d_model),
        }
        each = lora.rank * sum(sum(ends[name]) for name in lora.targets)
        block = self.block + F32 * each
        read_back = 0
        if lora.base == "nf4":
            numbers = sum(a * b for a, b in ends.values())
            block -= int((lies - NF4) * numbers)
            read_back = lies * config.d_model * config.d_in_proj
        trained = config.n_layer * each
        return self._replace(
            trained=trained,
            remembered=2 * trained,
            nbytes=self.outside + config.n_layer * block,
            block=block,
            lies=lies,
            adapters=lora.rank * len(lora.targets),
            read_back=read_back,
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
        train: rows, engine, recomputation, optimiser and adapters.
        kernels: who computes the inside of a block: "torch" is the definition.
        bfloat16: products are in bfloat16, under float32 weights.
        world: processes.
        threads: of the CPU's kernels.
    """
    weights = Weights.of(config, train, bfloat16=bfloat16)
    lanes = max(world // train.parallel.context, 1)
    rows = max(train.batch_tokens // train.row_tokens // lanes, 1)
    row = -(-train.row_tokens // train.parallel.context)  # what of a row is read here
    wide = _wide(bfloat16)
    cast = 0 if train.lora.rank else cast_weights(config, wide)
    block = BLOCKS[kernels](config, row, wide, threads, cast)
    if train.lora.rank:
        block = _with_adapters(block, config, weights, row, wide)
    stays = {
        "none": block.kept,
        "scan": block.kept - block.between,
        "block": block.given,
    }[train.parallel.recompute]
    kept = config.n_layer * stays
    working = block.peak - stays
    # A row's hidden layer: of the last norm, and its places with a target.
    width = row * config.d_model
    last = {"torch": 3 * F32 * width, "cpu": (F32 + _wide(bfloat16)) * width}
    hidden = last.get(kernels, 3 * F32 * width)
    logits = F32 * min(row, LOGIT_ROWS) * config.vocab_size
    # A gradient of the head, or of the embedding.
    one = 0 if train.lora.rank else F32 * weights.embedding
    copied = BF16 * weights.embedding if bfloat16 and weights.lies == F32 else 0
    engine = _engine(train.parallel, weights, world, rows)
    head = engine.starts or (one if row > LOGIT_ROWS else 0)
    several = config.tie_embeddings or rows > 1
    # Backward through the log-softmax, then through the head itself.
    through = max(3 * logits, logits + one + copied + (BF16 * logits // F32 if bfloat16 else 0))
    state = config.state_bytes(conv_bytes=_wide(bfloat16))
    # The output projection's is made before the peak.
    out = 0 if train.lora.rank else F32 * config.d_inner * config.d_model
    # What the first block's work does not meet yet: its input projection's, and the embedding's.
    late = F32 * config.d_model * config.d_in_proj + (0 if config.tie_embeddings else one)

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
            "backward, in the first block", max(engine.ends - (0 if rows > 1 else late), 0),
            stays, working, "one block in work",
        ),
        moment(
            "backward, at its end", engine.ends, stays if rows > 1 else 0,
            F32 * width + (one if several else 0), "the embedding's gradient",
        ),
        moment(
            "backward, when a bucket is full", engine.starts, stays, F32 * width, "the residual's",
            engine.full,
        ),
        moment("the optimiser's step", engine.ends, 0, engine.step, "the optimiser's work"),
        *_start(train.parallel, weights, world),
    ]  # fmt: skip
    return max(moments, key=lambda m: m.device)


def _start(parallel: ParallelConfig, weights: Weights, world: int) -> list[Memory]:
    """Engines that shard weights are given a whole model first, on the device."""
    if parallel.engine not in ("fsdp2", "zero3"):
        return []
    whole, piece = weights.nbytes, -(-weights.nbytes // world)
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
    host = parallel.offload
    more = rows > 1
    trained, moments = F32 * weights.trained, F32 * weights.remembered
    if parallel.engine == "ddp":  # it offloads nothing
        # Its buckets are copies of all gradients, and those that it began with stay beside those
        # that it makes anew in the order of the first backward pass.
        lines = _lines(weights.nbytes, moments, buckets=2 * trained if world > 1 else 0)
        return _Engine(lines, trained if more else 0, trained, weights.scratch)
    if parallel.engine == "fsdp2":
        # Gradients stay whole until a step's last row. The root (embedding, head) is gathered all
        # the time, a block while it works and while the next one is on its way.
        gathered = weights.outside + 4 * weights.block
        mine, gradient = -(-weights.nbytes // world), -(-trained // world)
        lines = _lines(mine, -(-moments // world), host=host, gathered=gathered)
        if host:
            lines += (Line("gradients, offloaded", gradient, host=True),)
        ends = 0 if host else gradient
        return _Engine(lines, trained if more else 0, ends, 0 if host else weights.scratch)
    whole, piece = F32 * weights.all, F32 * -(-weights.all // world)
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


def cast_weights(c: Mamba2Config, wide: int) -> int:
    """Of a block: products of bfloat16 with weights of float32 keep a copy of the weight."""
    return BF16 * c.d_model * (c.d_in_proj + c.d_inner) if wide == BF16 else 0


def _torch_block(c: Mamba2Config, t: int, wide: int, threads: int, cast: int) -> Block:
    """The definition: `statewise.model.inside` and `statewise.model.ssd`, by autograd."""
    d, i, m, h = (F32 * t * n for n in (c.d_model, c.d_inner, c.conv_dim, c.nheads))
    maps = F32 * t * c.ngroups * c.d_state  # B, or C
    pairs, products = h * c.chunk_size, F32 * t * c.ngroups * c.chunk_size
    states = h * c.headdim * c.d_state // c.chunk_size
    copies = 4 if c.ngroups > 1 else 2  # of B and C, laid out for products
    narrow = wide == BF16
    normed = 2 * d + wide * t * c.d_model
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
    between = scan + gate - wide * t * c.d_in_proj
    return Block(d, kept, between, max(forward + d, norm, matrices))


def _cpu_block(c: Mamba2Config, t: int, wide: int, threads: int, cast: int) -> Block:
    """The CPU's kernels: `statewise.model.cpu.mixer`, `scan` and `scan_backward`."""
    d, inner, zxbcdt = F32 * t * c.d_model, wide * t * c.d_inner, wide * t * c.d_in_proj
    spans = -(-t // CPU_SPAN)
    scales = F32 * t * c.ngroups
    states = F32 * spans * c.nheads * c.headdim * c.d_state
    kept = d + wide * t * c.d_model + zxbcdt + 2 * inner + scales + states + cast
    # Its backward pass, when the output is gone: the gradients that come and go, float32 ones of
    # the scan's output and input, and of B and C once for each share of the heads.
    shares = min(c.nheads // c.ngroups, threads)
    maps = shares * F32 * t * 2 * c.ngroups * c.d_state
    partial = F32 * -(-t // 64) * c.d_inner
    back = d + zxbcdt + 2 * F32 * t * c.d_inner + maps + partial
    between = inner + scales + states
    return Block(d, kept, between, kept + back)  # the output goes, its gradient comes


def _triton_block(c: Mamba2Config, t: int, wide: int, threads: int, cast: int) -> Block:
    """Triton's kernels: `statewise.model.triton.conv`, `scan_backward` and `norm`."""
    d, h, inner = F32 * t * c.d_model, F32 * t * c.nheads, wide * t * c.d_inner
    zxbcdt, xBC = wide * t * c.d_in_proj, wide * t * c.conv_dim
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
    between = xBC + 2 * h + inner + before
    return Block(d, kept, between, max(scan, norm))


def _with_adapters(block: Block, c: Mamba2Config, weights: Weights, t: int, wide: int) -> Block:
    """What adapters add: what lies between their two matrices, and a result and its gradient.

    A weight is read back from four bits for its product, when the scan's work is done.
    """
    low, wider = wide * t * weights.adapters, wide * t * c.d_in_proj
    product = block.kept + F32 * t * c.d_model + 2 * wider + weights.read_back
    peak = low + max(block.peak + wider, product)
    return Block(block.given, block.kept + low, block.between, peak)


BLOCKS: dict[Kernels, Callable[[Mamba2Config, int, int, int, int], Block]] = {
    "torch": _torch_block,
    "cpu": _cpu_block,
    "triton": _triton_block,
}
