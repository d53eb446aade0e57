"""Decoding on a GPU: one token for each row of a slot table, over states that are rarely written.

`statewise.engine.slots.rings` has the algebra. A state kept in 16 bits is rounded when it is
written, once in RING tokens, which leaves a ninth of the error (`docs/numerics.md`).

Between two projections of a layer there are three kernels: `_read_maps` makes what all heads of a
group share, `_mix` convolves, steps and gates a part of a head, `_group_norm` needs whole groups.
The whole step is one CUDA graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from statewise.engine.slots.protocol import Ints
from statewise.engine.slots.rings import Rings
from statewise.errors import ConfigError
from statewise.model import Mamba2LM, State
from statewise.model.state import StateDtype
from statewise.model.triton.launch import DTYPES, LAUNCH, on_its_device, warps_of

RING = 16  # tokens from one write of a state to the next
# Rows of a state that a program of `_mix` takes, and its warps, by the bytes of an element: enough
# bytes on their way to a processor at once, with what its registers hold (docs/kernels.md).
HEADING = {4: (16, 4), 2: (32, 8)}


@triton.jit
def _convolved(
    zx, conv, taps, bias, row, slot, position, channel, known, width, first, m,
    K: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """This token's input of some channels, and SiLU of their convolution, as the ring keeps it."""
    now = tl.load(zx + row * width + first + channel, mask=known, other=0.0)
    total = now.to(tl.float32) * tl.load(taps + channel * K + K - 1, mask=known, other=0.0)
    for back in tl.static_range(1, K):
        place = (position + K - back) % K
        before = tl.load(conv + (slot * K + place) * m + channel, mask=known, other=0.0)
        weight = tl.load(taps + channel * K + K - 1 - back, mask=known, other=0.0)
        total += before.to(tl.float32) * weight.to(tl.float32)
    if BIAS:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    return now, (total * tl.sigmoid(total)).to(conv.dtype.element_ty)


@triton.jit
def _read_maps(
    zx, slots, positions, filled, conv, taps, bias, ring_B, maps, scores, h, r, p, n, m, width,
    K: tl.constexpr, BIAS: tl.constexpr, RING: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """A group's B, which goes to the ring, its C, and the products of C with the ring's B."""
    groups, inner = h // r, h * p
    group, row = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    slot = tl.load(slots + row)
    if slot >= 0:
        ns, js = tl.arange(0, N), tl.arange(0, RING)
        known = ns < n
        position, count = tl.load(positions + slot), tl.load(filled + slot)
        kept = ring_B + (slot * RING * groups + group) * n
        B_j = tl.load(
            kept + js[:, None] * groups * n + ns[None, :],
            mask=(js < count)[:, None] & known[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        of_B, of_C = inner + group * n + ns, inner + (groups + group) * n + ns
        now_B, B = _convolved(
            zx, conv, taps, bias, row, slot, position, of_B, known, width, inner, m, K, BIAS
        )
        now_C, C = _convolved(
            zx, conv, taps, bias, row, slot, position, of_C, known, width, inner, m, K, BIAS
        )
        here = (slot * K + position % K) * m
        tl.store(conv + here + of_B, now_B, mask=known)
        tl.store(conv + here + of_C, now_C, mask=known)
        tl.store(kept + count * groups * n + ns, B, mask=known)
        C, B = C.to(tl.float32), B.to(tl.float32)
        place = row * groups + group
        tl.store(maps + place * n + ns, C, mask=known)
        along = tl.sum(B_j * C[None, :], axis=1)
        along = tl.where(js == count, tl.sum(B * C), along)
        tl.store(scores + place * RING + js, along)


@triton.jit
def _mix(
    zx, slots, positions, filled, conv, taps, bias, dt_bias, A_log, D, ssm, ring_x, ring_B,
    ring_dt, ring_l, maps, scores, gated, h, r, p, n, m, width, low, high,
    K: tl.constexpr, BIAS: tl.constexpr, LIMITED: tl.constexpr, RING: tl.constexpr,
    PS: tl.constexpr, N: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(p, PS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, row = rest % h, (rest // h).to(tl.int64)
    slot = tl.load(slots + row)
    if slot >= 0:
        group, groups, inner = head // r, h // r, h * p
        ps, ns, js = block * PS + tl.arange(0, PS), tl.arange(0, N), tl.arange(0, RING)
        channels, known = head * p + ps, ps < p
        place = ssm + ((slot * h + head) * p + ps[:, None]) * n + ns[None, :]
        inside = known[:, None] & (ns < n)[None, :]
        S = tl.load(place, mask=inside, other=0.0)  # first: the rest is done while it is on its way
        position, count = tl.load(positions + slot), tl.load(filled + slot)
        now_x, x = _convolved(
            zx, conv, taps, bias, row, slot, position, channels, known, width, inner, m, K, BIAS
        )
        tl.store(conv + (slot * K + position % K) * m + channels, now_x, mask=known)

        raw = tl.load(zx + row * width + inner + m + head).to(tl.float32)
        raw += tl.load(dt_bias + head).to(tl.float32)
        # log(1 + e) loses the digits of a small e when it is added; the quotient gives them back.
        e = tl.exp(tl.minimum(raw, 20))
        one = 1 + e
        dt = tl.where(one == 1, e, tl.log(one) * e / tl.where(one == 1, 1, one - 1))
        dt = tl.where(raw > 20, raw, dt)
        if LIMITED:
            dt = tl.minimum(tl.maximum(dt, low), high)
        ledger = slot * RING * h + head
        decay = -tl.exp(tl.load(A_log + head).to(tl.float32)) * dt
        if count > 0:
            decay += tl.load(ring_l + ledger + (count - 1) * h)

        there = js < count
        l_j = tl.load(ring_l + ledger + js * h, mask=there, other=0.0)
        dt_j = tl.load(ring_dt + ledger + js * h, mask=there, other=0.0)
        weight = tl.where(there, dt_j * tl.exp(tl.minimum(decay - l_j, 0.0)), 0.0)
        x_j = tl.load(
            ring_x + (slot * RING + js[:, None]) * inner + channels[None, :],
            mask=there[:, None] & known[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        shared = row * groups + group
        C = tl.load(maps + shared * n + ns, mask=ns < n, other=0.0)
        along = tl.load(scores + shared * RING + js, mask=there, other=0.0)
        x = x.to(tl.float32)
        S = S.to(tl.float32) * tl.exp(decay)
        y = tl.sum(S * C[None, :], axis=1) + tl.sum((weight * along)[:, None] * x_j, axis=0)
        y += (dt * tl.load(scores + shared * RING + count) + tl.load(D + head).to(tl.float32)) * x
        gate = tl.load(zx + row * width + channels, mask=known, other=0.0).to(tl.float32)
        tl.store(gated + row * inner + channels, y * gate * tl.sigmoid(gate), mask=known)

        if (position + 1) % RING == 0:
            of_B = ring_B + (slot * RING * groups + group) * n + ns
            now_B = tl.load(of_B + count * groups * n, mask=ns < n, other=0.0).to(tl.float32)
            S += (dt * x)[:, None] * now_B[None, :]
            for j in range(count):
                kept_x = tl.load(
                    ring_x + (slot * RING + j) * inner + channels, mask=known, other=0.0
                ).to(tl.float32)
                kept_B = tl.load(of_B + j * groups * n, mask=ns < n, other=0.0).to(tl.float32)
                share = tl.sum(tl.where(js == j, weight, 0.0))
                S += (share * kept_x)[:, None] * kept_B[None, :]
            S = tl.clamp(S, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
            tl.store(place, S.to(ssm.dtype.element_ty), mask=inside)
        else:
            tl.store(ring_x + (slot * RING + count) * inner + channels, x, mask=known)
            if block == 0:
                tl.store(ring_dt + ledger + count * h, dt)
                tl.store(ring_l + ledger + count * h, decay)


@triton.jit
def _group_norm(gated, weight, out, width, groups, eps, WIDTH: tl.constexpr):
    group, row = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    inside = tl.arange(0, WIDTH) < width
    channel = group * width + tl.arange(0, WIDTH)
    value = tl.load(gated + row * groups * width + channel, mask=inside, other=0.0)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value *= scale * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    place = out + row * groups * width + channel
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm(residual, mixed, weight, out, d, eps, ADD: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    inside = at < d
    value = tl.load(residual + row * d + at, mask=inside, other=0.0)
    if ADD:
        value += tl.load(mixed + row * d + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + row * d + at, value, mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / d + eps)
    value *= scale * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * d + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _advance(slots, positions, filled, rows, RING: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slots + row, mask=row < rows, other=-1)
    position = tl.load(positions + slot, mask=slot >= 0, other=0) + 1
    count = tl.load(filled + slot, mask=slot >= 0, other=0) + 1
    tl.store(positions + slot, position, mask=slot >= 0)
    tl.store(filled + slot, tl.where(position % RING == 0, 0, count), mask=slot >= 0)


class Decoder:
    """Running sequences of a model in slots, and the step that reads one token for each.

    The weights are used where they are. A step has one row for each slot and one shape only; rows
    of idle slots are skipped where states are read. So a sequence's numbers depend neither on its
    company nor on its slot. On a GPU the first step is recorded as a CUDA graph, and later ones
    replay it.

    Args:
        model: on a GPU, float32 or bfloat16 (on a CPU under Triton's interpreter).
        slots: how many sequences there is room for.
        state: dtype in which states are kept. Sums are float32 and states are rounded when they are
            written, at every RING-th token of a sequence.

    Raises:
        ConfigError: there are no kernels for this model.
    """

    def __init__(self, model: Mamba2LM, slots: int, *, state: StateDtype = "float32") -> None:
        c = model.config
        if model.dtype not in DTYPES:
            raise ConfigError(f"decoding: Triton has no kernels for weights of {model.dtype}")
        self.model, self.slots = model, slots

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=model.device)

        self._rings = Rings(
            c,
            slots,
            RING,
            device=model.device,
            model=model.dtype,
            inputs=model.dtype,
            state=getattr(torch, state),
            weighted=False,
        )
        self._tokens = zeros(slots, dtype=torch.int64)
        self._active = torch.full_like(self._tokens, -1)
        # Between the kernels of a layer, and over again in the next one.
        self._maps = zeros(slots, c.ngroups, c.d_state, dtype=torch.float32)
        self._scores = zeros(slots, c.ngroups, RING, dtype=torch.float32)
        self._gated = zeros(slots, c.d_inner, dtype=torch.float32)
        self._logits = zeros(slots, c.vocab_size, dtype=torch.float32)
        self._graph: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of all slots' memory, the rings included: fixed, at any length."""
        return self._rings.nbytes

    @property
    def state_element(self) -> int:
        """Bytes of an element of a state."""
        return self._rings.ssm.element_size()

    @torch.inference_mode()
    def step_(self, tokens: Ints, slots: Ints) -> Tensor:
        """Read one token for each of some sequences.

        Args:
            tokens: (b,) token ids.
            slots: (b,) the slots of the sequences, each at most once.

        Returns:
            logits (b, vocab_size) float32; overwritten by the next step.
        """
        ids = np.zeros(self.slots, dtype=np.int64)
        active = np.full(self.slots, -1, dtype=np.int64)
        ids[slots], active[slots] = tokens, slots
        self._tokens.copy_(torch.from_numpy(ids))
        self._active.copy_(torch.from_numpy(active))
        self.replay()
        if np.array_equal(slots, np.arange(self.slots)):
            return self._logits
        return self._logits[torch.from_numpy(slots).to(self._logits.device)]

    @torch.inference_mode()
    def replay(self) -> Tensor:
        """Once more with the tokens and slots of the last `step_`; all rows' logits."""
        if self._logits.is_cuda and self._graph is None:
            on_its_device(lambda _: self._record())(self._logits)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        return self._logits

    def _record(self) -> None:
        """Compile the kernels on idle rows, which change nothing, and record the step."""
        active = self._active.clone()
        self._active.fill_(-1)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._run()
        self._active.copy_(active)

    def _run(self) -> None:
        c, model, rows, rings = self.model.config, self.model, self.slots, self._rings
        residual = model.backbone.embeddings(self._tokens).float()
        normed = residual.new_empty(rows, c.d_model, dtype=model.dtype)
        out = residual.new_empty(rows, c.d_inner, dtype=model.dtype)
        mixed: Tensor | None = None
        dt = rings.dt
        assert dt is not None
        heading, warps = HEADING[self.state_element]
        heading = min(heading, triton.next_power_of_2(c.headdim))
        largest = torch.finfo(rings.ssm.dtype).max
        for i in range(c.n_layer):
            block = model.blocks[i]
            m = block.mixer
            self._norm(residual, mixed, block.norm.weight, normed)
            zx = F.linear(normed, m.in_proj.weight, m.in_proj.bias)
            shared = (
                zx, self._active, rings.position, rings.filled, rings.conv[i], m.conv1d.weight,
                zx if m.conv1d.bias is None else m.conv1d.bias,
            )  # fmt: skip
            sizes = (
                c.nheads, c.nheads // c.ngroups, c.headdim, c.d_state, c.conv_dim, zx.shape[1],
            )  # fmt: skip
            how: dict[str, Any] = {
                "K": c.d_conv, "BIAS": m.conv1d.bias is not None, "RING": RING,
                "N": triton.next_power_of_2(c.d_state), **LAUNCH,
            }  # fmt: skip
            _read_maps[(rows * c.ngroups,)](
                *shared, rings.B[i], self._maps, self._scores, *sizes, **how
            )
            _mix[(rows * c.nheads * triton.cdiv(c.headdim, heading),)](
                *shared, m.dt_bias, m.A_log, m.D, rings.ssm[i], rings.x[i], rings.B[i],
                dt[i], rings.l[i], self._maps, self._scores, self._gated, *sizes,
                c.dt_limit_low, c.dt_limit_high or float("inf"),
                LIMITED=c.dt_limit_low > 0 or c.dt_limit_high > 0, PS=heading, LARGEST=largest,
                **how, num_warps=warps,
            )  # fmt: skip
            width = c.d_inner // c.ngroups
            _group_norm[(rows * c.ngroups,)](
                self._gated, m.norm.weight, out, width, c.ngroups, c.norm_eps,
                WIDTH=triton.next_power_of_2(width), num_warps=warps_of(width), **LAUNCH,
            )  # fmt: skip
            mixed = F.linear(out, m.out_proj.weight, m.out_proj.bias)
        self._norm(residual, mixed, model.backbone.norm_f.weight, normed)
        self._logits.copy_(F.linear(normed, model.lm_head.weight))
        per = min(1024, triton.next_power_of_2(rows))
        _advance[(triton.cdiv(rows, per),)](
            self._active, rings.position, rings.filled, rows, RING=RING, ROWS=per, **LAUNCH
        )

    def _norm(self, residual: Tensor, mixed: Tensor | None, weight: Tensor, out: Tensor) -> None:
        d = self.model.config.d_model
        _add_norm[(self.slots,)](
            residual, residual if mixed is None else mixed, weight, out, d,
            self.model.config.norm_eps, ADD=mixed is not None, WIDTH=triton.next_power_of_2(d),
            num_warps=warps_of(d), **LAUNCH,
        )  # fmt: skip

    def write_(self, slots: Ints, rows: State) -> None:
        """Put the k sequences of `rows` into the slots (k,), in place of what was there."""
        self._rings.write_(slots, rows)

    def read(self, slots: Ints) -> State:
        """A copy of the sequences in the slots (k,), with what their rings hold written in."""
        return self._rings.read(slots)
