"""The Transformer that decoding is held against: grouped queries, a static cache, CUDA graphs.

Random weights of a published shape. A step reads one token for each row at one context length: the
new keys and values go to the cache's last place, and attention reads the whole of it. The queries
that share a key stand side by side as one product's rows, so the cache is read once; of torch's
attention kernels the fastest on this card is taken.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.card import Card, Transformer

EPS, THETA = 1e-6, 1e6
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class Decoding:
    """Random weights and one flat cache; `step` is one token for every row.

    Args:
        shape: of the model.
        card: where it runs.
        cached: tokens of all rows together that the cache has room for.
    """

    def __init__(self, shape: Transformer, card: Card, cached: int) -> None:
        self.shape, self.card = shape, card
        s, device = shape, card.device

        def weight(*size: int) -> Tensor:
            return torch.empty(size, dtype=torch.bfloat16, device=device).normal_(std=0.02)

        heads = s.heads + 2 * s.kv_heads
        self.layers = [
            {
                "norm": weight(s.width).fill_(1), "qkv": weight(heads * s.headdim, s.width),
                "bias": weight(heads * s.headdim), "out": weight(s.width, s.heads * s.headdim),
                "norm2": weight(s.width).fill_(1), "up": weight(2 * s.inner, s.width),
                "down": weight(s.width, s.inner),
            }
            for _ in range(s.layers)
        ]  # fmt: skip
        self.norm, self.head = weight(s.width).fill_(1), weight(s.vocab, s.width)
        self.embedding = weight(s.vocab, s.width)
        self._cache = weight(cached * s.kv_bytes // 2)
        self.kernel = "math"  # until `seconds` has found a faster one

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        parts = [t for layer in self.layers for t in layer.values()]
        return sum(t.nbytes for t in (*parts, self.norm, self.head, self.embedding))

    def seconds(self, rows: int, context: int) -> tuple[float, str]:
        """A step of `rows` sequences with `context` tokens behind them, and by which attention.

        Raises:
            RuntimeError: none of torch's attention kernels can do it.
        """
        times: dict[str, float] = {}
        for name in KERNELS if self.card.is_gpu else ("math",):
            self.kernel = name
            took = self.card.attempt(lambda: self.card.time(self.record(rows, context)))
            if isinstance(took, float):
                times[name] = took
        if not times:
            raise RuntimeError(f"no attention for {rows} rows of {context} tokens: {took}")
        self.kernel = min(times, key=lambda name: times[name])
        return times[self.kernel], self.kernel

    def record(self, rows: int, context: int) -> Any:
        """A step of this shape as a CUDA graph; the call that replays it."""
        tokens = torch.zeros(rows, dtype=torch.long, device=self.card.device)

        def work() -> None:
            tokens.copy_(self.step(tokens, context))

        if not self.card.is_gpu:
            return work
        aside = torch.cuda.Stream()
        with torch.inference_mode():
            with torch.cuda.stream(aside):
                work()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
        # The graph reads and writes `tokens`, which lies outside its own memory: kept with it.
        return lambda kept=tokens: graph.replay()

    @torch.inference_mode()
    def step(self, tokens: Tensor, context: int) -> Tensor:
        """The most likely next token (rows,) of each row; `context` counts the token read."""
        return self.logits(tokens, context).argmax(-1)

    def cache(self, rows: int, context: int) -> Tensor:
        """(layers, 2, rows, kv_heads, context, headdim) keys and values, where the cache begins."""
        s = self.shape
        size = (s.layers, 2, rows, s.kv_heads, context, s.headdim)
        return self._cache[: math.prod(size)].view(size)

    def logits(self, tokens: Tensor, context: int) -> Tensor:
        """(rows, vocab) bfloat16 after reading tokens (rows,), each its row's last of `context`."""
        s, rows = self.shape, tokens.shape[0]
        angle = self._angle(context - 1)
        x = F.embedding(tokens, self.embedding)
        for layer, cache in zip(self.layers, self.cache(rows, context), strict=True):
            u = F.rms_norm(x, (s.width,), layer["norm"], EPS)
            qkv = F.linear(u, layer["qkv"], layer["bias"]).view(rows, -1, s.headdim)
            q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
            q, k = _turned(q, angle), _turned(k, angle)
            cache[0, :, :, -1], cache[1, :, :, -1] = k, v
            grouped = q.view(rows, s.kv_heads, s.heads // s.kv_heads, s.headdim)
            with sdpa_kernel(KERNELS.get(self.kernel, SDPBackend.MATH)):
                mixed = F.scaled_dot_product_attention(grouped, cache[0], cache[1])
            x = x + F.linear(mixed.reshape(rows, -1), layer["out"])
            u = F.rms_norm(x, (s.width,), layer["norm2"], EPS)
            gate, up = F.linear(u, layer["up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.linear(F.rms_norm(x, (s.width,), self.norm, EPS), self.head)

    def _angle(self, position: int) -> tuple[Tensor, Tensor]:
        half = self.shape.headdim // 2
        rates = torch.exp(-math.log(THETA) / half * torch.arange(half, device=self.card.device))
        angle = (position * rates).to(torch.bfloat16)
        return angle.cos(), angle.sin()


def _turned(x: Tensor, angle: tuple[Tensor, Tensor]) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
