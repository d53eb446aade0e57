"""The card: what it can do at most, how time is taken on it, and what is measured on it."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import triton

from statewise.model import Mamba2Config

GB = 1e9


@dataclass(frozen=True, slots=True)
class Transformer:
    """The shape of a Transformer with grouped queries; the default is Qwen2.5-7B's.

    Its figures are those of the published configuration (28 layers, 4 KV heads).
    """

    layers: int = 28
    width: int = 3584
    heads: int = 28
    kv_heads: int = 4
    headdim: int = 128
    inner: int = 18944
    vocab: int = 152064

    @property
    def kv_bytes(self) -> int:
        """Bytes a token leaves in a 16-bit cache."""
        return 2 * self.layers * self.kv_heads * self.headdim * 2

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in 16 bits."""
        heads = (2 * self.heads + 2 * self.kv_heads) * self.headdim
        bias = (self.heads + 2 * self.kv_heads) * self.headdim
        layer = self.width * (heads + 3 * self.inner + 2) + bias
        return 2 * (self.layers * layer + self.width * (2 * self.vocab + 1))

    def step_bytes(self, rows: int, context: int) -> float:
        """Bytes that a step must read: the weights but the embedding, and the cache."""
        return self._read + rows * context * self.kv_bytes

    def step_flops(self, rows: int, context: int) -> float:
        """Operations of a step."""
        attention = 4.0 * context * self.layers * self.heads * self.headdim
        return rows * (self._read + attention)

    @property
    def _read(self) -> int:
        return self.weight_bytes - 2 * self.width * self.vocab


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and in which sizes."""

    model: Mamba2Config
    stack_layers: int = 4
    tokens: int = 16_384  # of a kernel
    lengths: tuple[int, ...] = (4_096, 16_384, 65_536)
    training: tuple[int, ...] = (4_096, 20_480, 65_536)
    batches: tuple[int, ...] = (1, 4, 16, 64, 256)
    transformer: Transformer = field(default_factory=Transformer)
    contexts: tuple[int, ...] = (512, 2_048, 8_192, 32_768, 65_536)
    generations: tuple[int, ...] = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536)
    budgets: tuple[float, ...] = (24 * GB, 72 * GB)
    overhead: float = 1.5 * GB  # of a budget: workspaces, graphs, the allocator
    prompt: int = 512
    most_rows: int = 256
    checked: int = 1_024  # tokens that are generated where the scheduling model is checked
    window: int = 16  # steps that are timed together: one write of every state
    seconds: float = 0.4  # for each figure


def real() -> Plan:
    """The 7B of the paper, and what is measured of it on one card."""
    return Plan(
        Mamba2Config(
            d_model=4096, n_layer=64, d_state=128, headdim=64, ngroups=8, vocab_size=32768,
            chunk_size=256, tie_embeddings=False,
        )
    )  # fmt: skip


def rehearsal() -> Plan:
    """Sizes for Triton's interpreter: every line runs, and no figure means anything."""
    return Plan(
        Mamba2Config(
            d_model=16, n_layer=2, d_state=16, headdim=16, ngroups=2, vocab_size=32, chunk_size=16,
            tie_embeddings=False,
        ),
        stack_layers=1, tokens=20, lengths=(20,), training=(20,), batches=(1, 2),
        transformer=Transformer(2, 32, 4, 2, 8, 48, 32), contexts=(8, 16), generations=(8, 32),
        budgets=(2e5, 4e5), overhead=1e4, prompt=4, most_rows=2, checked=3, window=1, seconds=0.0,
    )  # fmt: skip


class Card:
    """A device, and the time of work on it.

    Args:
        device: a GPU; or the CPU, for a rehearsal.
        plan: how long is measured.
    """

    def __init__(self, device: torch.device, plan: Plan) -> None:
        self.device, self.plan = device, plan
        self.is_gpu = device.type == "cuda"
        self.bytes_per_s = self.flops = 1.0

    def describe(self) -> dict[str, Any]:
        """Name, memory and versions."""
        facts: dict[str, Any] = {
            "torch": torch.__version__, "triton": triton.__version__,
            "python": platform.python_version(), "cuda": torch.version.cuda,
        }  # fmt: skip
        if self.is_gpu:
            of = torch.cuda.get_device_properties(self.device)
            facts |= {
                "card": of.name, "memory_gb": round(of.total_memory / GB, 1),
                "processors": of.multi_processor_count, "capability": f"{of.major}.{of.minor}",
            }  # fmt: skip
        return facts

    def measure_ceilings(self) -> dict[str, float]:
        """Bytes a second of a large copy (read and written), operations of a large product."""
        size = 2**32 if self.is_gpu else 2**16
        source = torch.empty(size, dtype=torch.uint8, device=self.device).random_()
        target = torch.empty_like(source)
        self.bytes_per_s = 2 * size / self.time(lambda: target.copy_(source))
        n = 8192 if self.is_gpu else 32
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        self.flops = 2 * n**3 / self.time(lambda: a @ b)
        return {"copy_gb_per_s": self.bytes_per_s / GB, "bf16_tflops": self.flops / 1e12}

    def time(self, work: Callable[[], Any], times: int = 1) -> float:
        """Seconds of one of `times` things that `work` does: the median of many runs."""
        if not self.is_gpu:
            begun = time.perf_counter()
            work()
            return (time.perf_counter() - begun) / times
        for _ in range(2):  # compilation, and what is allocated once
            work()
        # So many runs between two events that what Python takes to launch the first is nothing.
        runs = max(1, min(100, int(5e-3 / max(self.once(work), 1e-6))))

        def several() -> None:
            for _ in range(runs):
                work()

        seconds: list[float] = []
        until = time.perf_counter() + self.plan.seconds
        while len(seconds) < 5 or (time.perf_counter() < until and len(seconds) < 200):
            seconds.append(self.once(several))
        return statistics.median(seconds) / (times * runs)

    def once(self, work: Callable[[], Any]) -> float:
        """Seconds of one run of something long."""
        if not self.is_gpu:
            return self.time(work)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def against(self, seconds: float, moved: float, operations: float = 0.0) -> dict[str, float]:
        """A time beside its floor: the bytes and operations at the measured ceilings."""
        floor = max(moved / self.bytes_per_s, operations / self.flops)
        return {
            "ms": seconds * 1e3, "gb": moved / GB, "gflop": operations / 1e9,
            "floor_ms": floor * 1e3, "share_of_floor": floor / seconds,
        }  # fmt: skip

    def free(self) -> None:
        """Give back what is no longer used."""
        if self.is_gpu:
            torch.cuda.empty_cache()

    def attempt(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, or why there is none: a peer may lack memory or a compiler."""
        try:
            return work()
        except torch.OutOfMemoryError:
            return {"failed": "out of memory"}
        except Exception as e:  # whatever a peer may raise is a finding
            return {"failed": f"{type(e).__name__}: {e}"[:300]}
        finally:
            with suppress(RuntimeError):  # a broken device would hide what broke it
                self.free()


def apart(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    off = (values.float() - expected.float()).square().mean().sqrt()
    return float(off / expected.float().square().mean().sqrt())
