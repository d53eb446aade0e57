"""The state-space dual (SSD) recurrence three times: as it is defined, in chunks, and by the step.

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T        y_t = S_t C_t

Dao and Gu 2024, "Transformers are SSMs" (arXiv 2405.21060), equation 1 with scalar A per head;
Listing 1 and section 6 for the chunked form. Shapes, one legend for the file:

    b rows    l tokens a row    h heads    p headdim    g groups    n d_state
    c chunks  q tokens a chunk  r = h / g heads a group; head i belongs to group i // r

Everything here is computed in float32 (float64 if the inputs are).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.model.layout import Layout


class SSDOutput(NamedTuple):
    """`y` (b, l, h, p) and `state` (b, h, p, n) after each row's last token."""

    y: Tensor
    state: Tensor


def ssd_recurrent(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> SSDOutput:
    """The definition, one token after the other. Slow; everything else is held to it.

    Args:
        x: (b, l, h, p) inputs.
        dt: (b, l, h) step sizes, after softplus and clamp.
        A: (h,) negative decay rates.
        B: (b, l, g, n) input maps, shared within a group.
        C: (b, l, g, n) output maps, shared within a group.
        state: (b, h, p, n) the state before the first token; zero if None. Not modified.
        seq_idx: (b, l) document number of each token; where it changes, the state starts from zero.

    Returns:
        `SSDOutput(y, state)`.
    """
    b, l, h, p = x.shape
    r = h // B.shape[2]
    S = x.new_zeros(b, h, p, B.shape[3]) if state is None else state
    ys = []
    for t in range(l):
        if seq_idx is not None and t > 0:
            other = seq_idx[:, t] != seq_idx[:, t - 1]
            S = S.masked_fill(other[:, None, None, None], 0.0)
        y, S = _advance(S, x[:, t], dt[:, t], A, B[:, t], C[:, t], r)
        ys.append(y)
    return SSDOutput(torch.stack(ys, dim=1), S)


def _advance(
    S: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, r: int
) -> tuple[Tensor, Tensor]:
    B, C = B.repeat_interleave(r, dim=1), C.repeat_interleave(r, dim=1)
    S = S * torch.exp(dt * A)[..., None, None] + (dt[..., None] * x)[..., None] * B[:, :, None, :]
    return (S * C[:, :, None, :]).sum(-1), S


def ssd_step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One token for every row; the form that decoding uses. Writes `state` in place.

    Args:
        state: (b, h, p, n) float32, overwritten with the state after the token.
        x: (b, h, p) inputs.
        dt: (b, h) step sizes, after softplus and clamp.
        A: (h,) negative decay rates.
        B: (b, g, n) input maps.
        C: (b, g, n) output maps.

    Returns:
        y (b, h, p).
    """
    b, h, p, n = state.shape
    g = B.shape[1]
    r = h // g
    grouped = state.view(b * g, r * p, n)
    state.mul_(torch.exp(dt * A)[..., None, None])
    grouped.addcmul_((dt[..., None] * x).reshape(b * g, r * p, 1), B.reshape(b * g, 1, n))
    return torch.bmm(C.reshape(b * g, 1, n), grouped.transpose(1, 2)).view(b, h, p)


@dataclass(frozen=True)
class ChunkTable:
    """Where documents are cut into chunks, and in what order the chunks are worked on.

    Each document is cut on its own grid, at multiples of the chunk size from its own beginning: its
    chunks depend neither on what stands beside it nor, where it began in an earlier call, on where
    that call ended. A document that goes on inside a chunk has a shorter first one.
    Chunks are ordered by their place in the document first (all first chunks, then all second
    ones, ...) and documents from long to short: the documents that have a k-th chunk are then a
    prefix of those that have a (k-1)-th, and the recurrence over k works on slices.

    Attributes:
        tokens: (c * q,) which token (row * l + column) stands at each place; padding repeats the
            document's nearest token.
        valid: (c, q) whether a place is a real token.
        places: (b * l,) at which place each token stands: the inverse of `tokens`.
        counts: number of documents that have a k-th chunk, for each k.
        carries: (d,) row whose incoming state the document takes; -1: it starts from zero.
        last_chunk: (b,) the chunk in which each row's last document ends.
        starts: for each k, the first of all k-th chunks: document i's k-th is `starts[k] + i`.
        lengths: (d,) chunks of each document.
        ends: (d,) row whose last document this is; -1: of none.
    """

    tokens: Tensor
    valid: Tensor
    places: Tensor
    counts: tuple[int, ...]
    carries: Tensor
    last_chunk: Tensor
    starts: Tensor
    lengths: Tensor
    ends: Tensor

    @classmethod
    def of(cls, layout: Layout, q: int, device: torch.device) -> ChunkTable:
        """The chunks of some rows' documents, `q` tokens a chunk; made once and kept with them."""
        return layout.derived(_chunks, q, device)

    @classmethod
    def build(cls, documents: Layout, q: int) -> ChunkTable:
        """Plan the chunks of some rows' documents, `q` tokens a chunk, on the CPU."""
        b, l = documents.rows, documents.columns
        offset = documents.position % q  # places of the first chunk that were read earlier
        num_chunks = -(-(offset + documents.length) // q)
        order = np.argsort(-num_chunks, kind="stable")
        num_chunks, offset, length = num_chunks[order], offset[order], documents.length[order]
        begin = documents.row[order] * l + documents.start[order]
        counts = tuple(int((num_chunks > k).sum()) for k in range(int(num_chunks.max())))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        doc = np.concatenate([np.arange(count) for count in counts])
        k = np.repeat(np.arange(len(counts)), counts)
        place = (k * q - offset[doc])[:, None] + np.arange(q)[None, :]
        valid = (place >= 0) & (place < length[doc][:, None])
        tokens = begin[doc][:, None] + np.clip(place, 0, length[doc][:, None] - 1)
        places = np.empty(b * l, dtype=np.int64)
        flat = tokens.reshape(-1)[valid.reshape(-1)]
        places[flat] = np.flatnonzero(valid)
        final = np.empty(b, dtype=np.int64)
        last = np.flatnonzero(documents.last[order])
        final[documents.row[order][last]] = offsets[num_chunks[last] - 1] + last
        carries = np.where(documents.carries, documents.row, -1)[order]
        ends = np.where(documents.last, documents.row, -1)[order]
        return cls(
            tokens=torch.as_tensor(tokens.reshape(-1)),
            valid=torch.as_tensor(valid),
            places=torch.as_tensor(places),
            counts=counts,
            carries=torch.as_tensor(carries),
            last_chunk=torch.as_tensor(final),
            starts=torch.as_tensor(offsets[:-1]),
            lengths=torch.as_tensor(num_chunks),
            ends=torch.as_tensor(ends),
        )

    def to(self, device: torch.device) -> ChunkTable:
        """The same table on another device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name in self.__dataclass_fields__
            if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **moved)


def _chunks(layout: Layout, q: int, device: torch.device) -> ChunkTable:
    return ChunkTable.build(layout, q).to(device)


class _ToChunks(torch.autograd.Function):
    """Tokens (b * l, d) -> places (c * q, d). The gradient of padding is dropped."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, table: ChunkTable) -> Tensor:
        ctx.table = table
        return tokens.index_select(0, table.tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.table.places), None


class _FromChunks(torch.autograd.Function):
    """Places (c * q, d) -> tokens (b * l, d). Padding is dropped; its gradient is zero."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, table: ChunkTable) -> Tensor:
        ctx.table = table
        return places.index_select(0, table.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        table = ctx.table
        out = grad.new_zeros(table.tokens.numel(), grad.shape[1])
        return out.index_copy_(0, table.places, grad), None


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    state: Tensor | None = None,
    layout: Layout | None = None,
) -> SSDOutput:
    """The recurrence in chunks: matrix products inside a chunk, a short loop from one to the next.

    Equal to `ssd_recurrent` (same arguments) for any length from any state; `chunk_size` changes
    speed and rounding, never the result beyond `docs/numerics.md`.

    Args:
        x: (b, l, h, p) inputs.
        dt: (b, l, h) step sizes.
        A: (h,) negative decay rates.
        B: (b, l, g, n) input maps.
        C: (b, l, g, n) output maps.
        chunk_size: q, tokens a chunk.
        state: (b, h, p, n) the state before each row's first token; zero if None.
        layout: the documents of the rows; None: one a row.

    Returns:
        `SSDOutput(y, state)`.
    """
    b, l, h, p = x.shape
    g, n = B.shape[2:]
    layout = Layout.whole(b, l) if layout is None else layout
    table = ChunkTable.of(layout, chunk_size, x.device)
    c, q = table.valid.shape
    r = h // g

    def chunks(t: Tensor, width: int) -> Tensor:
        out: Tensor = _ToChunks.apply(t.reshape(b * l, width), table)  # type: ignore[no-untyped-call]
        return out.view(c, q, width)

    # Padding gets dt = 0: it decays nothing and adds nothing.
    dt_c = chunks(dt, h) * table.valid[..., None]
    x_c = chunks(x, h * p).view(c, q, g, r * p)
    B_c, C_c = (chunks(t, g * n).view(c, q, g, n).transpose(1, 2) for t in (B, C))
    log_decay = torch.cumsum(dt_c * A, dim=1)  # (c, q, h), from the chunk's start, inclusive
    xdt = (x_c.view(c, q, h, p) * dt_c[..., None]).transpose(1, 2)  # (c, h, q, p)

    # 1. Within a chunk: y_i += sum over j <= i of (C_i . B_j) exp(decay from j to i) x_j dt_j.
    ld = log_decay.transpose(1, 2)  # (c, h, q)
    later = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)
    segment = (ld[..., :, None] - ld[..., None, :]).masked_fill(later, -torch.inf)
    CB = C_c @ B_c.transpose(2, 3)  # (c, g, q, q), once a group
    M = (CB[:, :, None] * torch.exp(segment).view(c, g, r, q, q)).view(c, h, q, q)
    y = M @ xdt  # (c, h, q, p)

    # 2. What each chunk adds to the state by its end.
    to_end = torch.exp(ld[..., -1:] - ld)  # (c, h, q)
    weighted = (xdt * to_end[..., None]).view(c, g, r, q, p).transpose(3, 4).reshape(c, g, r * p, q)
    added = (weighted @ B_c).view(c, h, p, n)

    # 3. From chunk to chunk, all documents at once.
    decay = torch.exp(ld[..., -1])[..., None, None]  # (c, h, 1, 1)
    before, after = [], []
    S = _initial(state, table, x.new_zeros(1, h, p, n))
    # Split, not sliced: a slice's backward would fill the whole tensor with zeros each time.
    for own_decay, own_added in zip(
        decay.split(table.counts), added.split(table.counts), strict=True
    ):
        count = own_added.shape[0]
        if count < S.shape[0]:
            S = S.split([count, S.shape[0] - count])[0]
        before.append(S)
        S = S * own_decay + own_added
        after.append(S)

    # 4. What the state before the chunk adds to each output.
    incoming = torch.cat(before).view(c, g, r * p, n)
    carried = (C_c @ incoming.transpose(2, 3)).view(c, g, q, r, p).transpose(2, 3)
    y = y + carried.reshape(c, h, q, p) * torch.exp(ld)[..., None]
    flat = y.transpose(1, 2).reshape(c * q, h * p)
    out: Tensor = _FromChunks.apply(flat, table)  # type: ignore[no-untyped-call]
    return SSDOutput(out.view(b, l, h, p), torch.cat(after)[table.last_chunk])


def _initial(state: Tensor | None, table: ChunkTable, zero: Tensor) -> Tensor:
    d = table.counts[0]
    if state is None:
        return zero.expand(d, -1, -1, -1)
    return torch.cat([state, zero.to(state.dtype)])[table.carries]  # -1 is the zero row
