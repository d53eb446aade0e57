"""What Statewise costs on this machine's CPU, beside `transformers` and llama.cpp, in one run.

Every contestant has the same random weights and lives in a process of its own, with the allocator's
settings that its user would have; they are asked in turn, round by round, and the figures are
medians. First each must give the logits, gradients and
steps of the plain definition: who does not is not measured. Beside a figure stands its floor: for
prefill and training the time of the bare matrix products, for decoding the bytes that must be moved
over the bandwidth of memory, both measured in the same rounds.

    python -m benchmarks.cpu                  the table, in about 25 minutes
    python -m benchmarks.cpu --quick          a small shape, in three minutes: that it works
    python -m benchmarks.cpu --out FOLDER     also writes cpu.json, cpu.md and two figures

The last line is JSON. `llama-cpp-python` is left out where it is not installed (`make bench`
installs it).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shapes import (
    SHAPES,
    TRAINING_LINEAR,
    TRAINING_SCAN,
    decode_bytes,
    random_model,
    random_tokens,
    save_checkpoint,
    scan_flops,
)
from benchmarks.worker import ContestantError, Worker, installed
from statewise.model import Mamba2Config
from statewise.model.formats.convert import convert
from statewise.records import write_atomically

# Bounds of docs/numerics.md by what is compared; the error is that of `tests/tolerances.py`.
PARITY = {
    "fp32": ("transformers", 1e-4),
    "bf16": ("model-bfloat16", 1e-1),
    "int8": ("llama-cpp-q8", 1e-1),
    "q8_0": ("llama-cpp-q8", 1e-1),
}
GRADIENT_PARITY = {"fp32": ("model-gradient", 1e-3), "bf16": ("model-bfloat16", 1e-1)}
GGUF = {"fp32": "f32", "bf16": "bf16", "q8_0": "q8_0"}
PEERS = {"transformers": ("fp32", "bf16"), "llama.cpp": ("fp32", "bf16", "q8_0")}
BESIDE = {"int8": "q8_0"}  # what of the peers stands in the row of ours
PAUSE_S = 0.1  # threads of the one asked before stop spinning


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    shape: str
    layer: str
    sweep: str
    rounds: int
    slow_rounds: int  # of `transformers`, and of the sweep
    prefill: int
    decode_steps: int
    batches: tuple[int, ...]
    training: tuple[tuple[int, int], ...]  # (rows, length); the first with peers
    lengths: tuple[int, ...]
    peer_lengths: int  # up to here `transformers` is in the sweep
    long_decode: int
    texts: tuple[int, int]


FULL = Plan(
    shape="130M", layer="7B layer", sweep="130M, 2 layers", rounds=7, slow_rounds=3, prefill=2048,
    decode_steps=48, batches=(1, 16), training=((1, 1024), (4, 1024)),
    lengths=(1024, 4096, 16_384, 65_536), peer_lengths=4096, long_decode=65_536, texts=(8, 256),
)  # fmt: skip
QUICK = Plan(
    shape="small", layer="tiny", sweep="tiny", rounds=2, slow_rounds=1, prefill=128,
    decode_steps=8, batches=(1, 4), training=((1, 64), (2, 64)), lengths=(64, 128, 256),
    peer_lengths=128, long_decode=512, texts=(2, 32),
)  # fmt: skip


@dataclass
class Row:
    """One line of the table: seconds of a round by contestant, and the floor."""

    work: str
    dtype: str
    tokens: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    floor_s: float | None = None

    def rate(self, who: str) -> float | None:
        """Tokens a second, of the median round."""
        seconds = self.seconds.get(who)
        return self.tokens / statistics.median(seconds) if seconds else None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "work": self.work,
            "dtype": self.dtype,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_s": {who: self.rate(who) for who in self.seconds},
            "floor_s": self.floor_s,
        }


def say(text: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def error(values: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference in units of max(1, largest expected magnitude)."""
    if values.shape != expected.shape or not np.isfinite(values).all():
        return math.inf
    return float(np.abs(values - expected).max() / max(1.0, np.abs(expected).max()))


class Bench:
    """One run."""

    def __init__(
        self,
        plan: Plan,
        place: Path,
        threads: int,
        peers: Sequence[str],
        *,
        same_allocator: bool,
    ) -> None:
        self.plan, self.place, self.threads = plan, place, threads
        self.same_allocator = same_allocator
        self.peers = [p for p in peers if p != "llama.cpp" or installed("llama-cpp-python")]
        self.rows: list[Row] = []
        self.parity: dict[str, float] = {}
        self.left_out: list[str] = [f"{p}: not installed" for p in peers if p not in self.peers]
        self.figures: dict[str, Any] = {}

    def folder(self, shape: str, *, gguf: bool) -> Path:
        """The checkpoint of a shape, made when it is first asked for."""
        folder = self.place / shape.replace(" ", "-").replace(",", "")
        if not folder.exists():
            save_checkpoint(random_model(SHAPES[shape], seed=0), folder)
        for dtype in GGUF if gguf and "llama.cpp" in self.peers else ():
            path = folder / f"model-{dtype}.gguf"
            if not path.exists():
                convert(folder, path, "gguf", GGUF[dtype])  # type: ignore[arg-type]
        return folder

    def start(self, stack: ExitStack, kind: str, dtype: str, folder: Path) -> Worker:
        """A contestant that ends with the stack."""
        tuned = self.same_allocator or "statewise" in kind
        return stack.enter_context(Worker(kind, dtype, folder, self.threads, tuned=tuned))

    def entered(
        self, stack: ExitStack, folder: Path, config: Mamba2Config
    ) -> tuple[list[Worker], np.ndarray]:
        """Contestants of inference that compute what the definition does, and some text."""
        text = random_tokens(config, 200, seed=1)
        steps = random_tokens(config, 3, 24, seed=2)
        with Worker("definition", "fp32", folder, self.threads) as definition:
            read = definition.ask("logits", tokens=text)
            rows = definition.ask("rows", tokens=steps)
        wanted = [("statewise", d) for d in ("fp32", "bf16", "int8")]
        wanted += [(p, d) for p in self.peers for d in PEERS[p]]
        entered = []
        for kind, dtype in wanted:
            worker = self.start(stack, kind, dtype, folder)
            try:
                worst = max(
                    error(worker.ask("stepped", tokens=steps), rows),
                    # our int8 is of decoding alone
                    0.0 if dtype == "int8" else error(worker.ask("logits", tokens=text), read),
                )
            except ContestantError as e:
                self.left_out.append(str(e))
                continue
            self.parity[f"{folder.name}: {worker.name}"] = worst
            if self.allowed(worker.name, worst, PARITY[dtype][1]):
                entered.append(worker)
        return entered, text

    def allowed(self, name: str, gap: float, bound: float) -> bool:
        """Whether a contestant computes the right thing; if not, it is told."""
        fits = gap <= bound
        say(f"  {name:<22} error {gap:.1e}, bound {bound:.0e}{'' if fits else ': not measured'}")
        if not fits:
            self.left_out.append(f"{name}: error {gap:.1e} above {bound:.0e}")
        return fits

    def rounds(self, askers: Iterable[tuple[str, int, Any]]) -> dict[str, list[float]]:
        """Seconds by contestant: each (name, how often, question) in turn; the first is warm-up."""
        askers = list(askers)
        seconds: dict[str, list[float]] = {name: [] for name, _, _ in askers}
        for i in range(max(n for _, n, _ in askers) + 1):
            for name, n, ask in askers:
                if i <= n:
                    time.sleep(PAUSE_S)
                    duration = ask()
                    if i:
                        seconds[name].append(duration)
        return seconds

    def times(self, worker: Worker) -> int:
        """How many rounds a contestant is in."""
        slow = worker.kind in ("transformers", "training transformers")
        return self.plan.slow_rounds if slow else self.plan.rounds

    def inference(self, shape: str, prefill: int, batches: Sequence[int]) -> None:
        """Prefill and decoding of one shape: a row a dtype."""
        config = SHAPES[shape]
        folder = self.folder(shape, gguf=True)
        say(f"\n{shape}: the same logits?")
        with ExitStack() as stack:
            workers, _ = self.entered(stack, folder, config)
            bare = {d: self.start(stack, "bare", d, folder) for d in ("fp32", "bf16")}
            askers: list[tuple[str, int, Any]] = [
                (w.name, self.times(w), partial(w.ask, "prefill", tokens=prefill))
                for w in workers
                if w.dtype != "int8"
            ]
            askers += [
                (f"bare {d}", self.plan.rounds,
                 lambda w=w: w.ask("linears", tokens=prefill, logits=1))
                for d, w in bare.items()
            ]  # fmt: skip
            askers.append(("flops", self.plan.rounds, partial(bare["fp32"].ask, "flops")))
            seconds = self.rounds(askers)
            flops = statistics.median(seconds.pop("flops"))
            self.figures[f"{shape}: flops/s"] = flops
            scan = scan_flops(config) * prefill / flops
            for dtype in ("fp32", "bf16", "q8_0"):
                floor = (
                    None if dtype == "q8_0" else statistics.median(seconds[f"bare {dtype}"]) + scan
                )
                self.add(f"{shape}: prefill of {prefill:,} tokens", dtype, prefill, seconds, floor)
            for batch in batches:
                steps = self.plan.decode_steps
                askers = [
                    (w.name, self.times(w), partial(self.decoded, w, batch, steps)) for w in workers
                ]
                askers.append(("memory", self.plan.rounds, partial(bare["fp32"].ask, "memory")))
                seconds = self.rounds(askers)
                memory = statistics.median(seconds.pop("memory"))
                self.figures[f"{shape}: bytes/s of memory, {batch}"] = memory
                for dtype in ("fp32", "bf16", "int8"):
                    floor = steps * decode_bytes(config, dtype, batch) / memory
                    work = f"{shape}: decoding, {batch} sequence{'s' if batch > 1 else ''}"
                    self.add(work, dtype, batch * steps, seconds, floor)

    def decoded(self, worker: Worker, batch: int, steps: int) -> float:
        """Seconds of that many steps; of `transformers` a few are measured, and scaled."""
        few = steps // 8 if worker.kind == "transformers" else steps
        seconds: float = worker.ask("decode", batch=batch, steps=few)
        return seconds * steps / few

    def add(
        self, work: str, dtype: str, tokens: int, seconds: dict[str, list[float]],
        floor: float | None,
    ) -> None:  # fmt: skip
        """A row, told as soon as it is there."""
        row = Row(work, dtype, tokens, floor_s=floor)
        for kind in ("statewise", "llama.cpp", "transformers"):
            theirs = dtype if kind == "statewise" else BESIDE.get(dtype, dtype)
            if f"{kind} {theirs}" in seconds:
                row.seconds[kind] = seconds[f"{kind} {theirs}"]
        if row.seconds:
            self.rows.append(row)
            say(_line(row))

    def training(self) -> None:
        """A step of the first size beside `transformers`, and ours at the others; with memory."""
        plan, config = self.plan, SHAPES[self.plan.shape]
        folder = self.folder(plan.shape, gguf=False)
        (rows, length), *others = plan.training
        say(f"\n{plan.shape}: the same gradients?")
        kinds = ["training statewise"]
        kinds += ["training transformers"] if "transformers" in self.peers else []
        with ExitStack() as stack:
            with Worker("training definition", "fp32", folder, self.threads) as definition:
                expected = definition.ask("gradient", rows=2, length=min(100, length))
            entered = []
            for kind in kinds:
                for dtype in ("fp32", "bf16"):
                    worker = self.start(stack, kind, dtype, folder)
                    gradients = worker.ask("gradient", rows=2, length=min(100, length))
                    worst = max(
                        float(np.abs(gradients[n] - e).max() / max(np.abs(e).max(), 1e-30))
                        for n, e in expected.items()
                    )
                    self.parity[f"{folder.name}: {worker.name}"] = worst
                    if self.allowed(worker.name, worst, GRADIENT_PARITY[dtype][1]):
                        entered.append(worker)
            bare = {d: self.start(stack, "bare", d, folder) for d in ("fp32", "bf16")}
            tokens = rows * length
            seconds = self.rounds(
                [(w.name.removeprefix("training "), self.times(w),
                  lambda w=w: sum(w.ask("step", rows=rows, length=length)[k]
                                  for k in ("seconds", "optimizer_s")))
                 for w in entered]
                + [(f"bare {d}", plan.rounds,
                    lambda w=w: w.ask("linears", tokens=tokens, logits=tokens))
                   for d, w in bare.items()]
                + [("flops", plan.rounds, lambda: bare["fp32"].ask("flops"))]
            )  # fmt: skip
            scan = scan_flops(config) * tokens / statistics.median(seconds.pop("flops"))
            for dtype in ("fp32", "bf16"):
                products = statistics.median(seconds[f"bare {dtype}"])
                floor = TRAINING_LINEAR * products + TRAINING_SCAN * scan
                name = f"{plan.shape}: training step, {rows} x {length:,}"
                self.add(name, dtype, tokens, seconds, floor)
            self.figures["training memory"] = {
                f"{w.name.removeprefix('training ')}, {rows} x {length:,}": w.ask("peak")
                for w in entered
            }
        for more, long in others:
            with ExitStack() as stack:
                worker = self.start(stack, "training statewise", "bf16", folder)
                steps = range(2 + plan.slow_rounds)  # the first two touch the memory they take
                answers = [worker.ask("step", rows=more, length=long) for _ in steps][2:]
                row = Row(f"{plan.shape}: training step, {more} x {long:,}", "bf16", more * long)
                row.seconds["statewise"] = [f["seconds"] + f["optimizer_s"] for f in answers]
                self.rows.append(row)
                say(_line(row))
                name = f"statewise bf16, {more} x {long:,}"
                self.figures["training memory"][name] = worker.ask("peak")

    def sweep(self) -> None:
        """Tokens a second against length: prefill of the shape, training of a shallow one."""
        plan = self.plan
        say("\nlength")
        folder = self.folder(plan.shape, gguf=True)
        rates: dict[str, dict[str, list[float]]] = {"prefill": {}, "training": {}}
        with ExitStack() as stack:
            workers = [self.start(stack, k, "bf16", folder) for k in ("statewise", *self.peers)]
            for length in plan.lengths:
                for w in workers:
                    if w.kind == "transformers" and length > plan.peer_lengths:
                        continue
                    n = plan.slow_rounds if length < 16_384 else 1
                    if not rates["prefill"].get(w.kind):
                        w.ask("prefill", tokens=plan.lengths[0])
                    seconds = statistics.median(w.ask("prefill", tokens=length) for _ in range(n))
                    rates["prefill"].setdefault(w.kind, []).append(length / seconds)
                    say(f"  prefill of {length:>6,}: {w.kind:<13} {length / seconds:,.0f} tokens/s")
        shallow = self.folder(plan.sweep, gguf=False)
        with ExitStack() as stack:
            worker = self.start(stack, "training statewise", "bf16", shallow)
            worker.ask("step", rows=1, length=plan.lengths[0])
            for length in plan.lengths:
                steps = [
                    worker.ask("step", rows=1, length=length)["seconds"]
                    for _ in range(1 + plan.slow_rounds)
                ][1:]  # the first touches its memory for the first time
                rate = length / statistics.median(steps)
                rates["training"].setdefault("statewise", []).append(rate)
                say(f"  training, 1 x {length:>6,}: statewise     {rate:,.0f} tokens/s")
        self.figures["length"] = {"lengths": plan.lengths, "training shape": plan.sweep, **rates}

    def long_decode(self) -> None:
        """Resident memory while one sequence grows."""
        folder = self.folder(self.plan.shape, gguf=False)
        with ExitStack() as stack:
            worker = self.start(stack, "statewise", "bf16", folder)
            n = self.plan.long_decode
            trace = worker.ask("decode_rss", batch=1, steps=n, samples=64)
        first, *_, last = trace["bytes"]
        growth = max(trace["bytes"]) / first - 1
        self.figures["long decode"] = {**trace, "growth": growth}
        say(f"\ndecoding {n:,} tokens: resident {first / 1e6:,.1f} MB after {trace['steps'][0]:,}, "
            f"{last / 1e6:,.1f} MB at the end: at most {100 * growth:+.2f} %")  # fmt: skip

    def quantised(self) -> None:
        """What int8 weights cost in quality: the loss on texts that the model itself wrote."""
        folder = self.folder(self.plan.shape, gguf=True)
        rows, length = self.plan.texts
        with Worker("statewise", "fp32", folder, self.threads) as worker:
            texts = worker.ask("draw", batch=rows, steps=length)
        losses = {}
        contestants = [("statewise", d) for d in ("fp32", "bf16", "int8")]
        contestants += [("llama.cpp", "q8_0")] if "llama.cpp" in self.peers else []
        for kind, dtype in contestants:
            with Worker(kind, dtype, folder, self.threads) as worker:
                logits = torch.from_numpy(worker.ask("stepped", tokens=texts))[:, :-1]
            targets = torch.from_numpy(texts)[:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            losses[f"{kind} {dtype}"] = float(loss)
        base = losses["statewise fp32"]
        say(f"\nperplexity of {rows} x {length} tokens that the float32 model wrote: "
            f"{math.exp(base):,.2f}; " + ", ".join(
                f"{who} {100 * math.expm1(loss - base):+.3f} %"
                for who, loss in losses.items() if who != "statewise fp32"))  # fmt: skip
        self.figures["perplexity"] = {
            "tokens": rows * (length - 1),
            "change": {who: math.expm1(loss - base) for who, loss in losses.items()},
        }


def _line(row: Row) -> str:
    cells = [f"{who} {row.rate(who):,.0f}" for who in row.seconds]
    return f"  {row.work}, {row.dtype}: {', '.join(cells)} tokens/s"


def table(rows: Sequence[Row]) -> str:
    """Markdown: tokens a second, the share of the floor, and how many times a peer's figure."""
    lines = [
        "| work | weights | Statewise | of its floor | llama.cpp | ratio | transformers | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row.rate("statewise")
        weights = (
            f"{row.dtype} / Q8_0" if row.dtype == "int8" else row.dtype.replace("q8_0", "Q8_0")
        )
        cells = [row.work, weights, "–" if ours is None else f"**{ours:,.0f}**"]
        share = row.floor_s and ours and row.floor_s / (row.tokens / ours)
        cells.append(f"{100 * share:.0f} %" if share else "–")
        for peer in ("llama.cpp", "transformers"):
            theirs = row.rate(peer)
            cells.append("–" if theirs is None else f"{theirs:,.0f}")
            cells.append(f"{ours / theirs:.2f} x" if theirs and ours else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine(threads: int) -> dict[str, Any]:
    """Where it ran, and with what."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    packages = ("torch", "numba", "transformers", "llama-cpp-python", "gguf", "numpy")
    return {
        "processor": model,
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in packages},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if Statewise itself does not compute what its definition does."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a small shape, in three minutes")
    parser.add_argument("--out", type=Path, help="a folder for cpu.json, cpu.md and the figures")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts of the measurement"
    )
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument(
        "--same-allocator",
        action="store_true",
        help="ask of malloc for the peers too what `statewise` asks for itself at its start",
    )
    arguments = parser.parse_args(argv)
    plan = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="statewise-bench-") as place:
        bench = Bench(
            plan,
            Path(place),
            arguments.threads,
            arguments.peers,
            same_allocator=arguments.same_allocator,
        )
        for part in arguments.only:
            PARTS[part](bench)
    where = machine(arguments.threads)
    written = table(bench.rows)
    say(f"\ntokens/s on {where['processor']}, {where['threads']} threads\n\n{written}\n")
    for told in bench.left_out:
        say(f"left out: {told}")
    for who, peak in bench.figures.get("training memory", {}).items():
        say(f"peak memory, training: {who}: {peak / 1e9:.2f} GB")
    result = {
        "benchmark": "cpu",
        "date": datetime.date.today().isoformat(),
        "quick": arguments.quick,
        "same_allocator": arguments.same_allocator,
        "machine": where,
        "rows": [row.as_json() for row in bench.rows],
        "parity": bench.parity,
        "left_out": bench.left_out,
        **bench.figures,
    }
    if arguments.out:
        from benchmarks.figures import draw

        arguments.out.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.out / "cpu.json", (json.dumps(result, indent=1) + "\n").encode())
        write_atomically(arguments.out / "cpu.md", (written + "\n").encode())
        for path in draw(result, arguments.out):
            say(f"wrote {path}")
    say(json.dumps(result))
    return 1 if any(told.startswith("statewise") for told in bench.left_out) else 0


PARTS = {
    "shape": lambda bench: bench.inference(
        bench.plan.shape, bench.plan.prefill, bench.plan.batches
    ),
    "training": Bench.training,
    "layer": lambda bench: bench.inference(bench.plan.layer, bench.plan.prefill, (1,)),
    "length": Bench.sweep,
    "long": Bench.long_decode,
    "quantised": Bench.quantised,
}


if __name__ == "__main__":
    sys.exit(main())
