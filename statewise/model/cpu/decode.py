"""Decoding: all layers of a step in one compiled call, over states that are rarely written.

A step is bound by memory: the weights are read once for all sequences, and every sequence's state
is read. What can be saved is the state's way back. So the last tokens' inputs are kept in a short
ring beside the state as it was at the last multiple of RING tokens of the sequence,

    y_t = exp(l_t) S C_t + sum over the ring of exp(l_t - l_j) (B_j . C_t) dt_j x_j

with l the running sum of dt A since then; and only every RING-th token writes S. The algebra is the
recurrence's own, nothing is approximated. (The idea is ReplaySSM's, in vLLM.)

Every number of a sequence is a sum whose order depends on the sequence alone: not on the slot, on
how many sequences there are, on when they came, or on the number of threads.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from statewise.errors import ConfigError
from statewise.model.cpu.threads import kernel, num_threads, run, team
from statewise.model.cpu.tile import FLOAT, HALF, INT8, QUANTUM, product, rows_product
from statewise.model.cpu.vector import (
    call_int,
    const,
    exp,
    fma,
    load,
    load1,
    load1_i64,
    load_bf16,
    maximum,
    minimum,
    rounded,
    silu,
    softplus,
    splat,
    store,
    store1,
    total,
    wait,
)
from statewise.model.mamba2 import Mamba2LM
from statewise.model.state import State

RING = 8  # tokens from one write of a state to the next

(
    _TICKET, _THREADS, _YIELD, _THREAD, _TEAM, _ARRIVED,
    _BATCH, _SLOTS, _ALL_SLOTS, _TOKENS, _LAYERS, _TABLE,
    _D, _G, _H, _P, _N, _K, _V, _EMBEDDING, _EMBEDDING_HALF, _FINAL_NORM, _HEAD, _HEAD_SCALES,
    _KIND, _HALF, _LIMITS, _EPS, _POSITION, _FILLED,
    _ZX, _GATED, _SQUARES, _MIXED, _LOGITS, _WORK, _WORK_SIZE,
    _FIELDS,
) = range(38)  # fmt: skip

# Of a layer.
(
    _NORM, _IN, _IN_SCALES, _IN_BIAS, _TAPS, _CONV_BIAS, _DT_BIAS, _A, _SKIP, _GATED_NORM, _OUT,
    _OUT_SCALES, _OUT_BIAS, _SSM, _CONV, _RING_X, _RING_B, _RING_L,
    _LAYER_FIELDS,
) = range(19)  # fmt: skip


@njit(error_model="numpy", inline="always")
def _share(count, thread, threads):  # pragma: no cover (compiled)
    """Where a thread's rows begin: no share is shorter than a tile of 4 unless it is empty."""
    each = ((count + threads - 1) // threads + 15) // 16 * 16
    begin = min(each * thread, count)
    return count if count - begin < 4 else begin


@njit(error_model="numpy")
def _norm(a, residual, weight, out, batch):  # pragma: no cover (compiled)
    d, eps = load1_i64(a, _D), load1(load1_i64(a, _EPS), 0)
    for b in range(batch):
        square = const(0.0)
        for c in range(0, d, 16):
            value = load(residual, b * d + c)
            square = fma(value, value, square)
        inverse = splat(np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps))
        for c in range(0, d, 16):
            store(out, b * d + c, load(residual, b * d + c) * inverse * load(weight, c))


@njit(error_model="numpy")
def _convolve(a, layer, b, slot, position, channel, columns, out, keeps):  # pragma: no cover
    """SiLU of the convolution of some channels; writes the inputs into the ring if it `keeps`."""
    K, inner = load1_i64(a, _K), load1_i64(a, _H) * load1_i64(a, _P)
    conv_dim = inner + 2 * load1_i64(a, _G) * load1_i64(a, _N)
    width = inner + conv_dim + load1_i64(a, _H)
    zx, half = load1_i64(a, _ZX), load1_i64(a, _HALF)
    taps, bias, in_bias = (
        load1_i64(layer, _TAPS), load1_i64(layer, _CONV_BIAS), load1_i64(layer, _IN_BIAS)
    )  # fmt: skip
    ring = load1_i64(layer, _CONV) + 4 * slot * K * conv_dim
    oldest, place = (position + 1) % K, position % K * conv_dim
    for c in range(channel, channel + columns, 16):
        now = load(zx, b * width + inner + c)
        if in_bias != 0:
            now = now + load(in_bias, inner + c)
        if half != 0:  # what a State can hold
            now = rounded(now)
        acc = load(bias, c)
        for j in range(K - 1):
            at = oldest + j if oldest + j < K else oldest + j - K
            before = load(ring, at * conv_dim + c)
            acc = fma(load(taps, j * conv_dim + c), before, acc)
        acc = fma(load(taps, (K - 1) * conv_dim + c), now, acc)
        if keeps != 0:
            store(ring, place + c, now)
        store(out, c - channel, silu(acc))


@njit(error_model="numpy")
def _mix(a, layer, work, first_head, last_head):  # pragma: no cover (compiled)
    """Convolution, recurrence and gate of some heads, for all sequences of the batch."""
    H, P, N, G = load1_i64(a, _H), load1_i64(a, _P), load1_i64(a, _N), load1_i64(a, _G)
    inner, share = H * P, H // G
    conv_dim = inner + 2 * G * N
    width = inner + conv_dim + H
    batch, zx = load1_i64(a, _BATCH), load1_i64(a, _ZX)
    gated, squares = load1_i64(a, _GATED), load1_i64(a, _SQUARES)
    ssm, ring_x, ring_b, ring_l = (
        load1_i64(layer, _SSM), load1_i64(layer, _RING_X), load1_i64(layer, _RING_B),
        load1_i64(layer, _RING_L),
    )  # fmt: skip
    in_bias = load1_i64(layer, _IN_BIAS)
    low, high = load1(load1_i64(a, _LIMITS), 0), load1(load1_i64(a, _LIMITS), 1)
    B = work  # (RING, N): the ring's, and this token's
    C = B + 4 * RING * N
    x = C + 4 * N
    y = x + 4 * P
    xs = y + 4 * P  # (RING, P)
    scores = xs + 4 * RING * P  # (16,)
    weights = scores + 64  # (16,)
    dts = weights + 64  # (H + 16,)
    for b in range(batch):
        slot = load1_i64(load1_i64(a, _SLOTS), b)
        position = load1_i64(load1_i64(a, _POSITION), slot)
        filled = load1_i64(load1_i64(a, _FILLED), slot)
        writes = (position + 1) % RING == 0
        for h in range(0, H, 16):
            raw = load(zx, b * width + inner + conv_dim + h) + load(load1_i64(layer, _DT_BIAS), h)
            if in_bias != 0:
                raw = raw + load(in_bias, inner + conv_dim + h)
            store(dts, h, minimum(maximum(softplus(raw), splat(low)), splat(high)))
        for g in range(first_head // share, (last_head - 1) // share + 1):
            begin, end = max(g * share, first_head), min((g + 1) * share, last_head)
            owns = 1 if begin == g * share else 0
            for j in range(filled):
                for i in range(0, N, 16):
                    kept = load(ring_b, ((slot * RING + j) * G + g) * N + i)
                    store(B, j * N + i, kept)
            _convolve(a, layer, b, slot, position, inner + g * N, N, B + 4 * filled * N, owns)
            _convolve(a, layer, b, slot, position, inner + (G + g) * N, N, C, owns)
            if owns != 0:
                for i in range(0, N, 16):
                    at = ((slot * RING + filled) * G + g) * N + i
                    store(ring_b, at, load(B, filled * N + i))
            for j in range(filled + 1):
                along = const(0.0)
                for i in range(0, N, 16):
                    along = fma(load(B, j * N + i), load(C, i), along)
                store1(scores, j, total(along))
            for h in range(begin, end):
                _convolve(a, layer, b, slot, position, h * P, P, x, 1)
                dt = load1(dts, h)
                decay = dt * load1(load1_i64(layer, _A), h)
                if filled > 0:
                    decay += load1(ring_l, (slot * RING + filled - 1) * H + h)
                store1(ring_l, (slot * RING + filled) * H + h, decay)
                mine = ring_x + 4 * (slot * RING * H + h) * P  # entry j is j * inner further
                for p in range(0, P, 16):
                    store(mine, filled * inner + p, load(x, p) * splat(dt))
                store(weights, 0, const(0.0))
                for j in range(filled + 1):
                    store1(weights, j, load1(ring_l, (slot * RING + j) * H + h))
                store(weights, 0, exp(minimum(splat(decay) - load(weights, 0), const(0.0))))
                from_state = load1(weights, 15)  # its place in the ring is empty: e^(decay - 0)
                S = ssm + 4 * (slot * H + h) * P * N
                rows_product(FLOAT, S, 0, C, N, 1, 0, P, y, P)
                skip = splat(load1(load1_i64(layer, _SKIP), h))
                square = const(0.0)
                for p in range(0, P, 16):
                    value = fma(splat(from_state), load(y, p), skip * load(x, p))
                    for j in range(filled + 1):
                        weight = splat(load1(weights, j) * load1(scores, j))
                        value = fma(weight, load(mine, j * inner + p), value)
                    z = load(zx, b * width + h * P + p)
                    if in_bias != 0:
                        z = z + load(in_bias, h * P + p)
                    value = value * silu(z)
                    store(gated, b * inner + h * P + p, value)
                    square = fma(value, value, square)
                store1(squares, b * H + h, total(square))
                if writes:
                    for j in range(filled + 1):
                        weight = splat(load1(weights, j))
                        for p in range(0, P, 16):
                            store(xs, j * P + p, load(mine, j * inner + p) * weight)
                    product(xs, 1, P, B, N, filled + 1, S, N, P, N, 0, from_state)


@kernel
def _step(a):  # pragma: no cover (compiled)
    give_way, counter = load1_i64(a, _YIELD), a + 8 * _ARRIVED
    me, threads = 0, 1
    if give_way != 0:
        me, threads = call_int(load1_i64(a, _THREAD)), call_int(load1_i64(a, _TEAM))
    d, G, H, P, N = (
        load1_i64(a, _D), load1_i64(a, _G), load1_i64(a, _H), load1_i64(a, _P), load1_i64(a, _N)
    )  # fmt: skip
    inner, batch, kind = H * P, load1_i64(a, _BATCH), load1_i64(a, _KIND)
    width = 2 * inner + 2 * G * N + H
    zx, gated, squares, mixed = (
        load1_i64(a, _ZX), load1_i64(a, _GATED), load1_i64(a, _SQUARES), load1_i64(a, _MIXED)
    )  # fmt: skip
    eps = load1(load1_i64(a, _EPS), 0)
    # Each thread has the residual stream for itself: that spares a barrier and a cache line's way.
    residual = load1_i64(a, _WORK) + 4 * me * load1_i64(a, _WORK_SIZE)
    u = residual + 4 * batch * d
    work = u + 4 * batch * max(d, inner)
    embedding = load1_i64(a, _EMBEDDING)
    for b in range(batch):
        token = load1_i64(load1_i64(a, _TOKENS), b)
        for c in range(0, d, 16):
            if load1_i64(a, _EMBEDDING_HALF) != 0:
                store(residual, b * d + c, load_bf16(embedding, token * d + c))
            else:
                store(residual, b * d + c, load(embedding, token * d + c))
    for i in range(load1_i64(a, _LAYERS)):
        layer = load1_i64(a, _TABLE) + 8 * i * _LAYER_FIELDS
        _norm(a, residual, load1_i64(layer, _NORM), u, batch)
        first, last = _share(width, me, threads), _share(width, me + 1, threads)
        rows_product(
            kind, load1_i64(layer, _IN), load1_i64(layer, _IN_SCALES), u, d, batch, first, last,
            zx, width,
        )  # fmt: skip
        wait(counter, (3 * i + 1) * threads, give_way)
        first, last = H * me // threads, H * (me + 1) // threads
        if first < last:
            _mix(a, layer, work, first, last)
        wait(counter, (3 * i + 2) * threads, give_way)
        weight = load1_i64(layer, _GATED_NORM)
        for b in range(batch):
            for g in range(G):
                square = np.float32(0)
                for h in range(g * (H // G), (g + 1) * (H // G)):
                    square += load1(squares, b * H + h)
                inverse = np.float32(1) / np.sqrt(square / np.float32(inner // G) + eps)
                for c in range(g * (inner // G), (g + 1) * (inner // G), 16):
                    value = load(gated, b * inner + c) * splat(inverse) * load(weight, c)
                    store(u, b * inner + c, value)
        first, last = _share(d, me, threads), _share(d, me + 1, threads)
        rows_product(
            kind, load1_i64(layer, _OUT), load1_i64(layer, _OUT_SCALES), u, inner, batch, first,
            last, mixed, d,
        )  # fmt: skip
        wait(counter, (3 * i + 3) * threads, give_way)
        bias = load1_i64(layer, _OUT_BIAS)
        for b in range(batch):
            for c in range(0, d, 16):
                value = load(residual, b * d + c) + load(mixed, b * d + c)
                if bias != 0:
                    value = value + load(bias, c)
                store(residual, b * d + c, value)
    _norm(a, residual, load1_i64(a, _FINAL_NORM), u, batch)
    V = load1_i64(a, _V)
    first, last = _share(V, me, threads), _share(V, me + 1, threads)
    rows_product(
        kind, load1_i64(a, _HEAD), load1_i64(a, _HEAD_SCALES), u, d, batch, first, last,
        load1_i64(a, _LOGITS), V,
    )  # fmt: skip


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as int8 with one float32 factor for every QUANTUM of a row, to the nearest.

    Args:
        weight: (m, k), k a multiple of QUANTUM.

    Returns:
        (m, k) int8 of -127 ... 127 and (m, k / QUANTUM) float32; their product is the weight.
    """
    blocks = weight.float().unflatten(1, (-1, QUANTUM))
    scales = blocks.abs().amax(-1) / 127
    whole = torch.round(blocks / scales.clamp(min=1e-30)[..., None])
    return whole.to(torch.int8).flatten(1), scales


class Decoder:
    """Running sequences of a model in slots, and the step that reads one token for each.

    The weights are used where they are (int8 ones are made here): a decoder of a model that is
    trained on must be made anew. The states of all slots are allocated here, once.

    Args:
        model: on the CPU, float32 or bfloat16, of sizes that have kernels (`model.decoder`).
        slots: how many sequences there is room for.
        weights: "model": as they are; "int8": projections and head as int8, one factor for every
            64 weights of a row (d_model and d_inner must be multiples of 64).

    Raises:
        ConfigError: there are no kernels for this model, or it cannot be had as int8.
    """

    def __init__(
        self, model: Mamba2LM, slots: int, *, weights: Literal["model", "int8"] = "model"
    ) -> None:
        c = model.config
        if model.decoder != "cpu":
            raise ConfigError("decoding: there are no compiled kernels for this model; use step_")
        if weights == "int8" and (c.d_model % QUANTUM or c.d_inner % QUANTUM):
            raise ConfigError(
                f"weights: int8 needs d_model and expand * d_model to be multiples of {QUANTUM}, "
                f"found {c.d_model} and {c.d_inner}"
            )
        if c.vocab_size < 4:
            raise ConfigError(f"vocab_size: decoding needs at least 4, found {c.vocab_size}")
        self.model, self.slots = model, slots
        self._kind = (
            INT8 if weights == "int8" else (FLOAT if model.dtype == torch.float32 else HALF)
        )
        self._kept: list[Tensor | np.ndarray] = []
        self._ssm = torch.zeros(c.n_layer, slots, c.nheads, c.headdim, c.d_state)
        self._conv = torch.zeros(c.n_layer, slots, c.d_conv, c.conv_dim)
        self._ring_x = torch.zeros(c.n_layer, slots, RING, c.nheads, c.headdim)
        self._ring_b = torch.zeros(c.n_layer, slots, RING, c.ngroups, c.d_state)
        self._ring_l = torch.zeros(c.n_layer, slots, RING, c.nheads)
        self._position = np.zeros(slots, dtype=np.int64)
        self._filled = np.zeros(slots, dtype=np.int64)
        self._arguments = np.zeros(_FIELDS, dtype=np.int64)
        self._table = np.zeros((c.n_layer, _LAYER_FIELDS), dtype=np.int64)
        self._describe()
        self._batch = self._threads = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all slots' memory, the rings included: fixed, at any length."""
        parts = (self._ssm, self._conv, self._ring_x, self._ring_b, self._ring_l)
        return sum(t.nbytes for t in parts)

    def step_(self, tokens: npt.NDArray[np.int64], slots: npt.NDArray[np.int64]) -> Tensor:
        """Read one token for each of some sequences.

        Args:
            tokens: (b,) token ids.
            slots: (b,) the slots of the sequences, each at most once.

        Returns:
            logits (b, vocab_size) float32; overwritten by the next step.
        """
        batch = len(slots)
        if batch == 0:
            return torch.empty(0, self.model.config.vocab_size)
        if batch > self._batch or num_threads() != self._threads:
            self._make_room(batch)
        tokens, slots = (np.ascontiguousarray(t, dtype=np.int64) for t in (tokens, slots))
        a = self._arguments
        a[_BATCH], a[_TOKENS], a[_SLOTS] = batch, tokens.ctypes.data, slots.ctypes.data
        a[_ARRIVED] = 0
        run(_step, a)
        self._position[slots] += 1
        self._filled[slots] = np.where(self._position[slots] % RING, self._filled[slots] + 1, 0)
        return self._logits[:batch]

    def write_(self, slots: npt.NDArray[np.int64], rows: State) -> None:
        """Put the k sequences of `rows` into the slots (k,), in place of what was there."""
        index = torch.from_numpy(slots)
        k = self.model.config.d_conv - 1
        position = rows.position.numpy()
        self._ssm[:, index] = rows.ssm.float()
        for i, slot in enumerate(slots):
            for j in range(k):
                place = int(position[i] - k + j) % (k + 1)
                self._conv[:, slot, place] = rows.conv[:, i, :, j].float()
        self._position[slots] = position
        self._filled[slots] = 0

    def fork_(self, source: int, targets: npt.NDArray[np.int64]) -> None:
        """Copy the sequence of a slot into others, to the bit: they go on as it would."""
        for t in (self._ssm, self._conv, self._ring_x, self._ring_b, self._ring_l):
            for target in targets.tolist():
                t[:, target] = t[:, source]
        self._position[targets] = self._position[source]
        self._filled[targets] = self._filled[source]

    def read(self, slots: npt.NDArray[np.int64]) -> State:
        """A copy of the sequences in the slots (k,), with what their rings hold written in."""
        c = self.model.config
        index = torch.from_numpy(slots)
        ssm = self._ssm[:, index]
        share = c.nheads // c.ngroups
        conv = torch.empty(c.n_layer, len(slots), c.conv_dim, c.d_conv - 1, dtype=self.model.dtype)
        for i, slot in enumerate(slots.tolist()):
            n = int(self._filled[slot])
            if n:
                decays = self._ring_l[:, slot, :n]  # (layers, n, heads)
                weights = torch.exp(decays[:, -1:] - decays)
                x = self._ring_x[:, slot, :n] * weights[..., None]
                B = self._ring_b[:, slot, :n].repeat_interleave(share, dim=2)
                ssm[:, i] *= torch.exp(decays[:, -1])[..., None, None]
                ssm[:, i] += torch.einsum("ljhp,ljhn->lhpn", x, B)
            for j in range(c.d_conv - 1):
                place = int(self._position[slot] - c.d_conv + 1 + j) % c.d_conv
                conv[:, i, :, j] = self._conv[:, slot, place].to(conv.dtype)
        return State(conv, ssm, torch.from_numpy(self._position[slots]))

    def _address(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        assert tensor.is_contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _vector(self, tensor: Tensor | None) -> int:
        """A small parameter as float32; sixteen zeros behind it for the last vector."""
        if tensor is None:
            return 0
        flat = tensor.detach().float().flatten()
        return self._address(torch.cat([flat, flat.new_zeros(16)]))

    def _matrix(self, weight: Tensor) -> tuple[int, int]:
        if self._kind != INT8:
            return self._address(weight.detach().contiguous()), 0
        whole, scales = quantize(weight.detach())
        return self._address(whole), self._address(scales)

    def _describe(self) -> None:
        model, c, a = self.model, self.model.config, self._arguments
        for row, i in zip(self._table, range(c.n_layer), strict=True):
            block = model.block(i)
            m = block.mixer
            bias = m.conv1d.bias if m.conv1d.bias is not None else torch.zeros(c.conv_dim)
            row[_NORM] = self._vector(block.norm.weight)
            row[_IN], row[_IN_SCALES] = self._matrix(m.in_proj.weight)
            row[_IN_BIAS] = self._vector(m.in_proj.bias)
            row[_TAPS] = self._vector(m.conv1d.weight[:, 0].t())
            row[_CONV_BIAS] = self._vector(bias)
            row[_DT_BIAS] = self._vector(m.dt_bias)
            row[_A] = self._vector(-torch.exp(m.A_log.float()))
            row[_SKIP] = self._vector(m.D)
            row[_GATED_NORM] = self._vector(m.norm.weight)
            row[_OUT], row[_OUT_SCALES] = self._matrix(m.out_proj.weight)
            row[_OUT_BIAS] = self._vector(m.out_proj.bias)
            parts = (self._ssm, self._conv, self._ring_x, self._ring_b, self._ring_l)
            for field, part in zip((_SSM, _CONV, _RING_X, _RING_B, _RING_L), parts, strict=True):
                row[field] = part[i].data_ptr()
        high = c.dt_limit_high if c.dt_limit_high > 0 else float("inf")
        embedding = model.backbone.embeddings.weight
        a[_YIELD], a[_THREAD], a[_TEAM] = team()
        a[_ALL_SLOTS], a[_LAYERS], a[_TABLE] = self.slots, c.n_layer, self._table.ctypes.data
        a[_D], a[_G], a[_H], a[_P] = c.d_model, c.ngroups, c.nheads, c.headdim
        a[_N], a[_K], a[_V] = c.d_state, c.d_conv, c.vocab_size
        a[_EMBEDDING] = self._address(embedding.detach().contiguous())
        a[_EMBEDDING_HALF] = int(embedding.dtype == torch.bfloat16)
        a[_FINAL_NORM] = self._vector(model.backbone.norm_f.weight)
        a[_HEAD], a[_HEAD_SCALES] = self._matrix(model.lm_head.weight)
        a[_KIND], a[_HALF] = self._kind, int(model.dtype == torch.bfloat16)
        a[_LIMITS] = self._vector(torch.tensor([c.dt_limit_low, high]))
        a[_EPS] = self._vector(torch.tensor([c.norm_eps]))
        a[_POSITION], a[_FILLED] = self._position.ctypes.data, self._filled.ctypes.data

    def _make_room(self, batch: int) -> None:
        """Scratch memory for so many sequences at once."""
        c, a = self.model.config, self._arguments
        self._batch, self._threads = batch, num_threads()
        self._scratch = {
            _ZX: torch.empty(batch * c.d_in_proj + 16),
            _GATED: torch.empty(batch * c.d_inner),
            _SQUARES: torch.empty(batch * c.nheads),
            _MIXED: torch.empty(batch * c.d_model),
        }
        self._logits = torch.empty(batch, c.vocab_size)
        own = batch * (c.d_model + max(c.d_model, c.d_inner))
        own += (RING + 1) * c.d_state + (RING + 2) * c.headdim + c.nheads + 64
        self._scratch[_WORK] = torch.empty(self._threads * own)
        a[_WORK_SIZE] = own
        for field, tensor in self._scratch.items():
            a[field] = tensor.data_ptr()
        a[_LOGITS] = self._logits.data_ptr()
