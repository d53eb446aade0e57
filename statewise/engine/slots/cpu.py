"""Decoding on a CPU: all layers of a step in one compiled call, over states rarely written.

`statewise.engine.slots.rings` has the algebra. Every number of a sequence is a sum whose order
depends on the sequence alone: not on the slot, on how many sequences there are, on when they came,
or on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from statewise.engine.slots.protocol import Ints, Weights
from statewise.engine.slots.rings import Rings
from statewise.errors import ConfigError
from statewise.model import Mamba2LM, State
from statewise.model.cpu.scratch import Scratch, Shape, entry, place, thread_table
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

RING = 8  # tokens from one write of a state to the next

(
    _TICKET, _THREADS, _YIELD, _THREAD, _TEAM, _ARRIVED,
    _BATCH, _SLOTS, _ALL_SLOTS, _TOKENS, _LAYERS, _TABLE,
    _D, _G, _H, _P, _N, _K, _V, _EMBEDDING, _EMBEDDING_HALF, _FINAL_NORM, _HEAD, _HEAD_SCALES,
    _KIND, _HALF, _LIMITS, _EPS, _POSITION, _FILLED,
    _LOGITS, _SHARED, _OWN,
    _FIELDS,
) = range(34)  # fmt: skip

# Of a layer.
(
    _NORM, _IN, _IN_SCALES, _IN_BIAS, _TAPS, _CONV_BIAS, _DT_BIAS, _A, _SKIP, _GATED_NORM, _OUT,
    _OUT_SCALES, _OUT_BIAS, _SSM, _CONV, _RING_X, _RING_B, _RING_L,
    _LAYER_FIELDS,
) = range(19)  # fmt: skip


@Scratch
def SHARED(batch: int, d: int, inner: int, width: int, H: int) -> dict[str, Shape]:
    """What the threads hand to one another between two products."""
    return {
        "zx": (batch * width + 16,),  # a vector of steps dt hangs over the last head
        "gated": (batch, inner),
        "squares": (batch, H),
        "mixed": (batch, d),
    }


@Scratch
def OWN(batch: int, d: int, inner: int, H: int, P: int, N: int) -> dict[str, Shape]:
    """What each thread has for itself."""
    return {
        # The residual stream too: that spares a barrier and a cache line's way.
        "residual": (batch, d),
        "u": (batch, max(d, inner)),
        "B": (RING, N),  # the ring's, and this token's
        "C": (N,),
        "x": (P,),
        "y": (P,),
        "xs": (RING, P),
        "scores": (16,),
        "weights": (16,),
        "dt": (H + 15,),
    }


S_PART, PART = SHARED.parts, OWN.parts


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
    zx, half = place(load1_i64(a, _SHARED), S_PART.zx), load1_i64(a, _HALF)
    taps, bias, in_bias = (
        load1_i64(layer, _TAPS), load1_i64(layer, _CONV_BIAS), load1_i64(layer, _IN_BIAS)
    )  # fmt: skip
    ring = load1_i64(layer, _CONV) + 4 * slot * K * conv_dim
    oldest, newest = (position + 1) % K, position % K * conv_dim
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
            store(ring, newest + c, now)
        store(out, c - channel, silu(acc))


@njit(error_model="numpy")
def _mix(a, layer, w, first_head, last_head):  # pragma: no cover (compiled)
    """Convolution, recurrence and gate of some heads, for all sequences of the batch."""
    H, P, N, G = load1_i64(a, _H), load1_i64(a, _P), load1_i64(a, _N), load1_i64(a, _G)
    inner, share = H * P, H // G
    conv_dim = inner + 2 * G * N
    width = inner + conv_dim + H
    batch, shared = load1_i64(a, _BATCH), load1_i64(a, _SHARED)
    zx, gated = place(shared, S_PART.zx), place(shared, S_PART.gated)
    squares = place(shared, S_PART.squares)
    ssm, ring_x, ring_b, ring_l = (
        load1_i64(layer, _SSM), load1_i64(layer, _RING_X), load1_i64(layer, _RING_B),
        load1_i64(layer, _RING_L),
    )  # fmt: skip
    in_bias = load1_i64(layer, _IN_BIAS)
    low, high = load1(load1_i64(a, _LIMITS), 0), load1(load1_i64(a, _LIMITS), 1)
    B, C, x, y = place(w, PART.B), place(w, PART.C), place(w, PART.x), place(w, PART.y)
    xs, scores, weights = place(w, PART.xs), place(w, PART.scores), place(w, PART.weights)
    dts = place(w, PART.dt)
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
            first = 1 if begin == g * share else 0  # of the threads in this group
            for j in range(filled):
                for i in range(0, N, 16):
                    kept = load(ring_b, ((slot * RING + j) * G + g) * N + i)
                    store(B, j * N + i, kept)
            _convolve(
                a, layer, b, slot, position, inner + g * N, N, entry(w, PART.B, filled), first
            )
            _convolve(a, layer, b, slot, position, inner + (G + g) * N, N, C, first)
            if first != 0:
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
                inputs = ring_x + 4 * (slot * RING * H + h) * P  # entry j is j * inner further
                for p in range(0, P, 16):
                    store(inputs, filled * inner + p, load(x, p) * splat(dt))
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
                        value = fma(weight, load(inputs, j * inner + p), value)
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
                            store(xs, j * P + p, load(inputs, j * inner + p) * weight)
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
    shared, w = load1_i64(a, _SHARED), thread_table(load1_i64(a, _OWN), PART, me)
    zx, gated = place(shared, S_PART.zx), place(shared, S_PART.gated)
    squares, mixed = place(shared, S_PART.squares), place(shared, S_PART.mixed)
    residual, u = place(w, PART.residual), place(w, PART.u)
    eps = load1(load1_i64(a, _EPS), 0)
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
            _mix(a, layer, w, first, last)
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

    def __init__(self, model: Mamba2LM, slots: int, *, weights: Weights = "model") -> None:
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
        self._rings = Rings(
            c,
            slots,
            RING,
            device=model.device,
            model=model.dtype,
            inputs=torch.float32,
            state=torch.float32,
            weighted=True,
        )
        self._position, self._filled = self._rings.position.numpy(), self._rings.filled.numpy()
        self._arguments = np.zeros(_FIELDS, dtype=np.int64)
        self._table = np.zeros((c.n_layer, _LAYER_FIELDS), dtype=np.int64)
        self._describe()
        self._batch = self._threads = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all slots' memory, the rings included: fixed, at any length."""
        return self._rings.nbytes

    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
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

    def write_(self, slots: Ints, rows: State) -> None:
        """Put the k sequences of `rows` into the slots (k,), in place of what was there."""
        self._rings.write_(slots, rows)

    def read(self, slots: Ints) -> State:
        """A copy of the sequences in the slots (k,), with what their rings hold written in."""
        return self._rings.read(slots)

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
            block = model.blocks[i]
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
            r = self._rings
            parts = (r.ssm, r.conv, r.x, r.B, r.l)
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
        sizes = {"batch": batch, "d": c.d_model, "inner": c.d_inner, "H": c.nheads}
        self._shared = SHARED.allocate(1, width=c.d_in_proj, **sizes)
        self._per_thread = OWN.allocate(self._threads, P=c.headdim, N=c.d_state, **sizes)
        a[_SHARED], a[_OWN] = self._shared.table.ctypes.data, self._per_thread.table.ctypes.data
        self._logits = torch.empty(batch, c.vocab_size)
        a[_LOGITS] = self._logits.data_ptr()
