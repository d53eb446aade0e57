"""Speed on a GPU: kernels beside their floors, peers beside each other, decoding, the efficiency.

    python -m benchmarks.gpu [--out runs/bench-gpu] [--only kernels stack ...] [--minutes 9.5]
    python -m benchmarks.gpu --rehearse     every line in miniature, on a CPU; its figures are void
    python -m benchmarks.gpu --limit 4.3 790     arithmetic alone, at so many TB/s and TFLOP/s

Needs torch and triton and nothing else; `mamba_ssm`, `fla` and `transformers` take part where they
can be imported. Writes gpu.json after each part, gpu.md, and efficiency.png (with matplotlib). What
does not fit into the time is told as left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

PARTS = ("decoding", "efficiency", "kernels", "stack")
LEAST_S = {"kernels": 30, "stack": 60, "decoding": 60, "efficiency": 90}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print; the exit code is 0, 1 if a part failed, and 2 without a GPU."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--limit", type=float, nargs=2, metavar=("TB_S", "TFLOP_S"))
    arguments = parser.parse_args(argv)
    if arguments.limit is not None:
        return _tell_limit(arguments.out, *arguments.limit)
    if arguments.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    import torch

    from benchmarks.gpu import card as cards

    if not arguments.rehearse and not torch.cuda.is_available():
        sys.stderr.write("torch sees no GPU here; --rehearse goes through all of it without one\n")
        return 2
    torch.manual_seed(0)
    begun = time.monotonic()

    def time_left() -> float:
        return 60 * float(arguments.minutes) - (time.monotonic() - begun)

    plan = cards.rehearsal() if arguments.rehearse else cards.real()
    card = cards.Card(torch.device("cpu" if arguments.rehearse else "cuda"), plan)
    result: dict[str, Any] = {
        "benchmark": "gpu", "date": date.today().isoformat(), "seed": 0,
        "rehearsal": arguments.rehearse, **card.describe(), "ceilings": card.measure_ceilings(),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, part in _parts(card, result, time_left).items():
        if name not in arguments.only:
            continue
        started = time.monotonic()
        if time_left() < LEAST_S[name]:
            result[name] = {"left_out": f"only {time_left():.0f} s were left"}
        else:
            sys.stdout.write(f"{name} ... ")
            sys.stdout.flush()
            try:
                result[name] = part()
            except Exception:  # the other parts are not lost with it
                failed = traceback.format_exc()
                result[name] = {**result.get(name, {}), "failed": failed}
                sys.stdout.write(failed)
            sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")
        _write(arguments.out / "gpu.json", json.dumps(result, indent=1) + "\n")
        with suppress(RuntimeError):  # after a broken part the device may be lost to the next
            card.free()
    page = as_page(result)
    _write(arguments.out / "gpu.md", page)
    sys.stdout.write(page)
    if "curves" in result.get("efficiency", {}):
        from benchmarks.gpu.efficiency import draw

        try:
            draw(result["efficiency"], arguments.out / "efficiency.png")
        except ImportError:
            sys.stdout.write("no figure: matplotlib is not installed\n")
    result["seconds"] = round(time.monotonic() - begun, 1)
    _write(arguments.out / "gpu.json", json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if any("failed" in result.get(name, {}) for name in PARTS) else 0


def _tell_limit(out: Path, terabytes: float, teraflops: float) -> int:
    """What bytes and operations alone allow: tables and the figure; nothing is measured."""
    from benchmarks.gpu.card import real
    from benchmarks.gpu.efficiency import draw, limit

    result = limit(real(), terabytes * 1e12, teraflops * 1e12)
    title = f"not measured: the limit at {terabytes:g} TB/s and {teraflops:g} TFLOP/s"
    sys.stdout.write("\n".join([f"# {title}", *_efficiency(result)]) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    draw(result, out / "limit.png", title)
    return 0


def _parts(
    card: Any, result: dict[str, Any], time_left: Callable[[], float]
) -> dict[str, Callable[[], dict[str, Any]]]:
    import torch

    from benchmarks.gpu import decoding, efficiency, kernels, stack

    whole: list[Any] = []

    def model() -> Any:
        """The 7B, made once: decoding and efficiency share it."""
        if not whole:
            whole.append(stack.random_model(card.plan.model, card.device, torch.bfloat16))
        return whole[0]

    def efficient() -> dict[str, Any]:
        figures = efficiency.measure(card, model())
        whole.clear()
        card.free()
        result["efficiency"] = figures  # kept if the Transformer should fail
        efficiency.measure_transformer(card, figures, time_left)
        return figures

    return {
        "decoding": lambda: decoding.measure(card, model()),
        "efficiency": efficient,
        "kernels": lambda: kernels.measure(card, time_left),
        "stack": lambda: stack.measure(card, time_left),
    }


def as_page(result: dict[str, Any]) -> str:
    """The result as Markdown tables."""
    ceilings = result["ceilings"]
    lines = [
        f"# {result.get('card', 'a rehearsal')}, {result['date']}",
        "",
        f"torch {result['torch']}, triton {result['triton']}. Measured ceilings: "
        f"{ceilings['copy_gb_per_s']:,.0f} GB/s, {ceilings['bf16_tflops']:,.0f} TFLOP/s.",
    ]
    kernels = result.get("kernels", {})
    if "kernels" in kernels:
        rows = [
            [r["name"], f"{r['ms']:.3f}", f"{r['floor_ms']:.3f}", f"{r['share_of_floor']:.0%}",
             f"{r['apart_from_definition']:.1e}"] for r in kernels["kernels"]
        ]  # fmt: skip
        for name, scan in kernels["scan"].items():
            for way in ("forward", "backward"):
                if way in scan:
                    r, off = scan[way], scan["apart_from_definition"]
                    rows.append([f"scan, {name}, {way}", f"{r['ms']:.3f}", f"{r['floor_ms']:.3f}",
                                 f"{r['share_of_floor']:.0%}", f"{off:.1e}"])  # fmt: skip
            if "failed" in scan:
                rows.append([f"scan, {name}", scan["failed"], "", "", ""])
        title = f"Kernels of a layer, {kernels['tokens']:,} tokens, bfloat16"
        lines += _table(title, ["kernel", "ms", "floor, ms", "share", "apart"], rows)
    stack = result.get("stack", {})
    for part, share in (("prefill", "share_of_products"), ("training", "mfu_of_measured")):
        rows = []
        for name, by_length in stack.get(part, {}).items():
            for length, r in by_length.items():
                if isinstance(r, dict):
                    cells = [r["failed"], ""] if "failed" in r else [
                        f"{r['tokens_per_s']:,.0f}", f"{r[share]:.0%}"]  # fmt: skip
                    rows.append([name, length, *cells])
            if "failed" in by_length:
                rows.append([name, "", by_length["failed"], ""])
        if rows:
            title = f"{part.capitalize()} of {stack['layers']} layers"
            lines += _table(title, ["path", "tokens", "tokens/s", "of measured products"], rows)
    rows = [
        [r["state"], str(r["batch"]), r["failed"], "", ""] if "failed" in r else
        [r["state"], str(r["batch"]), f"{r['tokens_per_s']:,.0f}", f"{r['ms']:.2f}",
         f"{r['share_of_floor']:.0%}"] for r in result.get("decoding", {}).get("rows", [])
    ]  # fmt: skip
    if rows:
        lines += _table(
            "Decoding of the whole model, one CUDA graph a step",
            ["state", "batch", "tokens/s", "ms a step", "share of the roof"], rows,
        )  # fmt: skip
    efficiency = result.get("efficiency", {})
    if "curves" in efficiency:
        lines += _efficiency(efficiency)
        rows = [
            [c["name"], str(c["rows"]), f"{c['seconds']:.2f}", f"{c['predicted']:.2f}",
             f"{c['measured_over_predicted']:.2f}"] for c in efficiency["checks"]
        ]  # fmt: skip
        heads = ["generated to the end", "rows", "seconds", "predicted", "ratio"]
        lines += _table("The scheduling model against whole generations", heads, rows)
    return "\n".join(lines) + "\n"


def _efficiency(result: dict[str, Any]) -> list[str]:
    """Rows, roofs and break-even lengths; the curves; and one over the other."""
    free = {(f["budget_gb"], f["state"]): f for f in result["attention_free"]}
    ours = [f for f in result["curves"] if "state" in f]
    rows = []
    for f in ours:
        of = free[f["budget_gb"], f["state"]]
        lengths = ["" if f[f"break_even_{p}"] is None else f"{f[f'break_even_{p}']:,.0f}"
                   for p in ("reserve", "continuous")]  # fmt: skip
        cells = [f"{f['budget_gb']:g} GB", f["state"], str(of["rows"]), f"{of['ms']:.2f}"]
        share, rate = f"{of['share_of_floor']:.0%}", f"{of['tokens_per_s']:,.0f}"
        rows.append([*cells, share, rate, *lengths])
    heads = ["budget", "state", "rows", "ms a step", "share of the roof", "tokens/s",
             "break-even, reserve", "continuous"]  # fmt: skip
    lines = _table("Attention-free in a budget, at any length", heads, rows)
    rows = [
        [str(f["rows"]), f"{f['context']:,}", f["failed"], "", ""]
        if "failed" in f
        else [
            str(f["rows"]),
            f"{f['context']:,}",
            f"{f['ms']:.2f}",
            f"{f['share_of_floor']:.0%}",
            f["attention"],
        ]
        for f in result["transformer"]
    ]
    if rows:
        heads = ["rows", "context", "ms", "share of the roof", "attention by"]
        lines += _table("A step of the Transformer", heads, rows)
    lengths = [f"{g:,}" for g in result["generations"]]
    rows = [
        [f"{f['budget_gb']:g} GB, {f['who']}, {f.get('state') or f['policy']}",
         *(f"{r:,.0f} ({n})" for r, n in zip(f["tokens_per_s"], f["rows"], strict=True))]
        for f in result["curves"]
    ]  # fmt: skip
    title = "Tokens a second (rows) against tokens generated"
    lines += _table(title, ["", *lengths], rows)
    rows = [
        [f"{f['budget_gb']:g} GB, {f['state']}, over {p}",
         *("" if r is None else f"{r:.2f}" for r in f[f"over_{p}"])]
        for f in ours for p in ("reserve", "continuous")
    ]  # fmt: skip
    return lines + _table("Attention-free over Transformer", ["", *lengths], rows)


def _table(title: str, heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["", f"## {title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _write(path: Path, text: str) -> None:
    from statewise.records import write_atomically

    write_atomically(path, text.encode())


if __name__ == "__main__":
    sys.exit(main())
