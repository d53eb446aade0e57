"""Each kernel of a 7B layer beside its floor, and the scan beside whoever else computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.card import Card, apart
from statewise.errors import ConfigError
from statewise.model import triton as ours
from statewise.model.conv import causal_conv_silu
from statewise.model.layout import Layout
from statewise.model.norm import skip_gate_norm
from statewise.model.ops import parts_of
from statewise.model.ssd import ssd_chunked, ssd_step
from statewise.model.triton.scan import TILES
from statewise.model.triton.step import step_triton

BF16 = torch.bfloat16


def measure(card: Card, time_left: Callable[[], float]) -> dict[str, Any]:
    """Rows of kernels, and of the scan's contestants."""
    rows = [*_convolution(card), *_norm(card), *_step(card)]
    return {"tokens": card.plan.tokens, "kernels": rows, "scan": _scans(card, time_left)}


def _both(
    card: Card,
    name: str,
    work: Callable[..., Any],
    inputs: list[Tensor],
    slope: Tensor,
    *,
    moved: tuple[float, float],
    operations: tuple[float, float] = (0.0, 0.0),
) -> Iterator[dict[str, Any]]:
    """A kernel forward; and backward, as what both take less the forward."""

    def there_and_back() -> None:
        out = work(*inputs)
        torch.autograd.grad(out, inputs, slope)

    with torch.no_grad():
        forward = card.time(lambda: work(*inputs))
    whole = card.time(there_and_back)
    yield {"name": f"{name}, forward", **card.against(forward, moved[0], operations[0])}
    yield {
        "name": f"{name}, backward",
        **card.against(max(whole - forward, 1e-9), moved[1], operations[1]),
    }


def _convolution(card: Card) -> Iterator[dict[str, Any]]:
    c, l = card.plan.model, card.plan.tokens
    new = partial(torch.randn, device=card.device)
    wide = new(1, l, c.d_in_proj, dtype=BF16)
    x = wide[..., c.d_inner : c.d_inner + c.conv_dim].requires_grad_()
    before = new(1, c.d_conv - 1, c.conv_dim, dtype=BF16).requires_grad_()
    taps, bias = (
        new(*s, dtype=BF16).requires_grad_() for s in ((c.conv_dim, c.d_conv), (c.conv_dim,))
    )
    slope = new(1, l, c.conv_dim, dtype=BF16)
    how = {"layout": Layout.whole(*x.shape[:2])}
    work = partial(ours.conv_silu, dtype=BF16, **how)
    with torch.no_grad():
        off = apart(work(x, before, taps, bias), causal_conv_silu(x, before, taps, bias, **how))
    each = 2.0 * l * c.conv_dim
    rows = _both(
        card, "convolution", work, [x, before, taps, bias], slope, moved=(2 * each, 3 * each)
    )
    for row in rows:
        yield {**row, "apart_from_definition": off}


def _norm(card: Card) -> Iterator[dict[str, Any]]:
    c, l = card.plan.model, card.plan.tokens
    new = partial(torch.randn, device=card.device)
    heads = (1, l, c.nheads, c.headdim)
    y, x = (new(heads, dtype=BF16).requires_grad_() for _ in range(2))
    z = new(1, l, c.d_in_proj, dtype=BF16)[..., : c.d_inner].requires_grad_()
    D, weight = new(c.nheads).requires_grad_(), new(c.d_inner, dtype=BF16).requires_grad_()
    how: dict[str, Any] = {"groups": c.ngroups, "eps": c.norm_eps}
    slope = new(1, l, c.d_inner, dtype=BF16)
    work = partial(ours.gated_norm, **how)
    with torch.no_grad():
        off = apart(work(y, x, D, z, weight), skip_gate_norm(y, x, D, z, weight, **how))
    each = 2.0 * l * c.d_inner
    for row in _both(
        card, "gated norm", work, [y, x, D, z, weight], slope, moved=(4 * each, 7 * each)
    ):
        yield {**row, "apart_from_definition": off}


def _step(card: Card) -> Iterator[dict[str, Any]]:
    c = card.plan.model
    new = partial(torch.randn, device=card.device)
    for b in card.plan.batches:
        state = new(b, c.nheads, c.headdim, c.d_state)
        x, dt = new(b, c.nheads, c.headdim), new(b, c.nheads).sigmoid()
        A = -torch.rand(c.nheads, device=card.device)
        B, C = new(b, c.ngroups, c.d_state), new(b, c.ngroups, c.d_state)
        twin = state.clone()
        rows = torch.arange(b, device=card.device)
        off = apart(step_triton(state, rows, x, dt, A, B, C), ssd_step(twin, x, dt, A, B, C))
        took = card.time(lambda: step_triton(state, rows, x, dt, A, B, C))  # noqa: B023
        yield {
            "name": f"recurrence of one token, {b} rows",
            **card.against(took, 2.0 * state.nbytes),
            "apart_from_definition": off,
        }


def floors(card: Card) -> dict[str, tuple[float, float]]:
    """Bytes and operations of a layer's scan, forward and backward.

    "least": each input and result once. "own": what each of our kernels reads and writes, one after
    the other, for nothing of 16,384 tokens stays in a cache until the next (`docs/kernels.md`).
    """
    c, l, q = card.plan.model, card.plan.tokens, ours.CHUNK
    inner, maps, states = c.d_inner, c.ngroups * c.d_state, c.nheads * c.headdim * c.d_state
    x, BC, dt = 2.0 * inner, 2.0 * maps, 4.0 * c.nheads  # bytes a token, x and one of B and C
    S, G = 2.0 * states / q, 2.0 * c.ngroups * q  # a state a chunk, C B^T
    tiles = -(-q // TILES[BF16].rows)
    pairs = 4.0 * c.nheads * (tiles + 1) / 2  # a ledger of what tokens receive, or send
    forward = {
        "decays": 3 * dt, "products": 2 * BC + G, "states": x + BC + 2 * dt + S,
        "outputs": 2 * x + BC + 2 * dt + S + G,
    }  # fmt: skip
    backward = {
        "again": sum(forward.values()) - forward["outputs"],
        "states": x + BC + dt + 2 * S,
        "pairs": 2 * x + 2 * dt + 2 * G + 2 * pairs,
        "maps": 2 * (x + 3 * BC + S + G) + 5 * dt,
        "inputs": 3 * x + BC + 3 * dt + S + G,
        "steps": 2 * pairs + 5 * dt,
    }  # fmt: skip
    operations = q * (maps + inner) + 4.0 * states
    operations_back = 3 * q * maps + 2 * q * inner + 10.0 * states
    return {
        "least": (l * (2 * x + 2 * BC + dt), l * (3 * x + 4 * BC + 2 * dt)),
        "own": (l * sum(forward.values()), l * sum(backward.values())),
        "operations": (l * operations, l * operations_back),
    }


def _scans(card: Card, time_left: Callable[[], float]) -> dict[str, Any]:
    c, l = card.plan.model, card.plan.tokens
    new = partial(torch.randn, device=card.device)
    shapes = (
        (1, l, c.nheads, c.headdim),
        (1, l, c.ngroups, c.d_state),
        (1, l, c.ngroups, c.d_state),
    )
    x, B, C = (new(s, dtype=BF16).requires_grad_() for s in shapes)
    dt = new(1, l, c.nheads).sigmoid().mul_(0.1).requires_grad_()
    A = (-torch.rand(c.nheads, device=card.device) * 15 - 1).requires_grad_()
    state = torch.zeros(1, c.nheads, c.headdim, c.d_state, device=card.device)
    slope = new(1, l, c.nheads, c.headdim, dtype=BF16)
    contestants: dict[str, tuple[int, Callable[..., Any]]] = {}
    for name in ("triton", "mamba_ssm", "fla"):
        try:
            contestants[name] = ours.CHUNK, parts_of(name, card.plan.model, card.device, BF16).scan
        except ConfigError as e:
            contestants[name] = 0, partial(_absent, str(e))
    contestants["torch"] = 64, partial(_definition, ssd_chunked)
    # Its loop over chunks is unrolled: compiling takes a second and a half a chunk with gradients.
    compiled = torch.compile(ssd_chunked, dynamic=False)
    contestants["torch.compile"] = l // 32, partial(_definition, compiled)
    moved = floors(card)
    result: dict[str, Any] = {"floors": moved}
    for name, (q, scan) in contestants.items():
        if name == "torch.compile" and time_left() < 150:
            result[name] = {"failed": "left out: too little time to compile"}
            continue
        result[name] = card.attempt(
            partial(_one_scan, card, scan, q, [x, dt, A, B, C], state, slope, moved)
        )
    return result


def _definition(form: Callable[..., Any], *inputs: Tensor, **how: Any) -> Any:
    """The torch form, which computes in float32."""
    return form(*(t.float() for t in inputs), **how)


def _absent(reason: str, *_: Any, **__: Any) -> None:
    raise ConfigError(reason)


def _one_scan(
    card: Card, scan: Callable[..., Any], q: int, inputs: list[Tensor], state: Tensor,
    slope: Tensor, moved: dict[str, tuple[float, float]],
) -> dict[str, Any]:  # fmt: skip
    l = inputs[0].shape[1]
    parts = [t if t.dim() == 1 else t[:, : min(l, 1024)] for t in inputs]
    check = Layout.whole(1, parts[0].shape[1])
    how: dict[str, Any] = {"chunk_size": max(q, 1), "state": state}
    with torch.no_grad():
        exact = ssd_chunked(*(t.float() for t in parts), **how, layout=check)
        off = apart(scan(*parts, **how, layout=check).y, exact.y)
    layout = Layout.whole(1, l)

    def work(*inputs: Tensor) -> Tensor:
        y: Tensor = scan(*inputs, **how, layout=layout).y
        return y.to(slope.dtype)

    floor = {"moved": moved["own"], "operations": moved["operations"]}
    rows = list(_both(card, "scan", work, inputs, slope, **floor))
    return {"apart_from_definition": off, "forward": rows[0], "backward": rows[1]}
