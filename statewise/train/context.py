"""One row in several processes: each reads a part of it and hands on the state where it ends.

A layer needs nothing of the tokens before a part but the recurrent state and the last d_conv - 1
inputs of the convolution; both are of one size whatever the length (Dao and Gu 2024,
arXiv 2405.21060, section 8.2). So a block takes them from the process before, computes, and hands
its own on to the process behind; in the backward pass their gradients go the other way. Work runs
through the processes as a wave: one is in a layer while the process before it is in the next. Of R
processes and L layers each waits (R - 1) / (L + R - 1) of its time
(`docs/decisions/0027-context-parallel.md`).

Both ends of a block lie on the residual stream, so messages have one order in every process. And
whatever takes the mean of gradients gets those of a block's weights when its message is on the way:
nobody waits for a process that waits for him.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from statewise.errors import ConfigError
from statewise.model.config import Mamba2Config
from statewise.model.language_model import LanguageModel
from statewise.model.layout import Layout
from statewise.model.mamba2 import Block


def share_rows(model: LanguageModel[Any], size: int) -> None:
    """Let blocks read a part of each row, take what was before it and hand on what is behind it.

    Neighbours by number share a row; the first of them reads its beginning. Every process calls
    it, and then reads as many rows as all others, forward and backward in one order.

    Args:
        model: the same in each process.
        size: how many processes share a row.

    Raises:
        ConfigError: `size` does not divide the number of processes, or the model's layers keep no
            state of constant size.
    """
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    if not blocks:
        raise ConfigError(
            "train.parallel.context: only a model whose layers keep a state can read a row in "
            "parts; use 1"
        )
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world % size:
        raise ConfigError(
            f"train.parallel.context: {size} processes shall share a row, and that does not divide "
            f"the number of processes, {world}"
        )
    chain = Chain(size)
    for block in blocks:
        block.forward = _between(block, block.forward, chain)  # type: ignore[method-assign]


class Chain:
    """The processes that share a row, and this one among them: messages one further or one back.

    A message is on its way when `send` returns; its buffer is kept until the next one is sent.

    Args:
        size: how many share a row; it divides the number of processes, which all make theirs.
    """

    def __init__(self, size: int) -> None:
        index, world = dist.get_rank(), dist.get_world_size()
        self.first, self.last = index % size == 0, index % size == size - 1
        self._index = index
        self._sent: tuple[Any, Tensor] | None = None
        # A group of their own: behind a collective of all processes, a message would wait for one
        # that waits for it.
        groups = [dist.new_group(list(range(i, i + size))) for i in range(0, world, size)]
        self._group = groups[index // size]

    def send(self, step: int, *tensors: Tensor) -> None:
        """Send tensors to the process `step` further, +1 or -1, as float32."""
        message = torch.cat([t.detach().float().flatten() for t in tensors])
        if self._sent is not None:
            self._sent[0].wait()
        self._sent = dist.isend(message, self._index + step, group=self._group), message

    def receive(
        self, step: int, shapes: Sequence[torch.Size], device: torch.device
    ) -> list[Tensor]:
        """What the process `step` further sent: float32 tensors of these shapes."""
        counts = [shape.numel() for shape in shapes]
        message = torch.empty(sum(counts), device=device)
        dist.recv(message, self._index + step, group=self._group)
        pieces = message.split(counts)
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _between(block: Block, forward: Callable[..., Any], chain: Chain) -> Callable[..., Any]:
    """A block's forward between taking and handing on; `forward` may compute again."""

    def call(
        residual: Tensor, conv: Tensor | None, ssm: Tensor | None, layout: Layout, *ops: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert (conv, ssm) == (None, None), "what is before a part comes from another process"
        weights = [p for p in block.parameters() if p.requires_grad]
        fresh = layout.derived(_fresh, residual.device)
        before = _Take.apply(  # type: ignore[no-untyped-call]
            chain, block.mixer.config, fresh, residual, *weights
        )
        after = forward(*before, layout, *ops)
        handed: tuple[Tensor, Tensor, Tensor] = _Hand.apply(chain, *after)  # type: ignore[no-untyped-call]
        return handed

    return call


class _Take(torch.autograd.Function):
    """What is before a part, from the process before; its gradient, back there.

    The block's weights are inputs that nothing is read from: so autograd is done with a weight's
    gradient when this has been run backward, behind the message, and not before.
    """

    @staticmethod
    def forward(
        ctx: Any,
        chain: Chain,
        config: Mamba2Config,
        fresh: Tensor,
        residual: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.chain, ctx.fresh, ctx.weights = chain, fresh, len(weights)
        c, b = config, residual.shape[0]
        shapes = [
            torch.Size((b, c.conv_dim, c.d_conv - 1)),
            torch.Size((b, c.nheads, c.headdim, c.d_state)),
        ]
        if chain.first:
            conv, ssm = (residual.new_zeros(s, dtype=torch.float32) for s in shapes)
        else:
            conv, ssm = _without(fresh, *chain.receive(-1, shapes, residual.device))
        return residual, conv, ssm

    @staticmethod
    def backward(
        ctx: Any, residual: Tensor, conv: Tensor, ssm: Tensor
    ) -> tuple[Tensor | None, ...]:
        if not ctx.chain.first:
            ctx.chain.send(-1, *_without(ctx.fresh, conv, ssm))
        return None, None, None, residual, *[None] * ctx.weights


class _Hand(torch.autograd.Function):
    """What is behind a part, to the process behind it; its gradient, from there."""

    @staticmethod
    def forward(
        ctx: Any, chain: Chain, residual: Tensor, conv: Tensor, ssm: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.chain = chain
        if not chain.last:
            chain.send(+1, conv, ssm)
        return residual, conv, ssm

    @staticmethod
    def backward(
        ctx: Any, residual: Tensor, conv: Tensor, ssm: Tensor
    ) -> tuple[None, Tensor, Tensor, Tensor]:
        if not ctx.chain.last:
            of_conv, of_ssm = ctx.chain.receive(+1, [conv.shape, ssm.shape], residual.device)
            conv, ssm = conv + of_conv.to(conv.dtype), ssm + of_ssm
        return None, residual, conv, ssm


def _fresh(layout: Layout, device: torch.device) -> Tensor:
    """(b,) bool: rows whose first document begins there, so that what came before is not its."""
    return torch.from_numpy(layout.position[layout.carries] == 0).to(device)


def _without(fresh: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Tensors (b, ...) with zeros in some rows; not times 0: what is there may be infinite."""
    return [t.masked_fill(fresh.view(-1, *[1] * (t.dim() - 1)), 0.0) for t in tensors]
