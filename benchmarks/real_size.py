"""A model of the published 7B shape on a machine with 24 GB: written, loaded by map, generating.

Random bfloat16 weights are written in shards, one tensor in memory at a time. A fresh process loads
them, reads a prompt, decodes a few tokens and reads the whole once more as a check; another one may
convert the checkpoint. Reports the peak of resident memory of each beside the bytes of the weights.
The last line is JSON. Needs Linux, and as much free disk as the weights take (twice with
--convert).

    python benchmarks/real_size.py --folder SOMEWHERE_WITH_15_GB
    python benchmarks/real_size.py --folder small --layers 2 --d-model 256 --vocab-size 512
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.engine.slots.cpu import Decoder
from statewise.model import Mamba2Config
from statewise.model.checkpoint import load_model
from statewise.model.formats.configs import to_hf
from statewise.model.formats.convert import convert
from statewise.model.formats.source import HEAD, expected_shapes
from statewise.model.formats.write import MAX_SHARD_BYTES, Planned, write_safetensors
from statewise.records import write_json

ALLOWED = 1.1  # peak of resident memory over the bytes of the weights, after load and generation
AGREEMENT = 0.05  # a decoded token's logits against those of one forward, in bfloat16


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def config_of(arguments: argparse.Namespace) -> Mamba2Config:
    """The 7B but for what the command line changes; the head is not tied."""
    return Mamba2Config(
        d_model=arguments.d_model,
        n_layer=arguments.layers,
        d_state=128,
        headdim=64,
        ngroups=arguments.groups,
        chunk_size=256,
        vocab_size=arguments.vocab_size,
        tie_embeddings=False,
    )


def drawn(name: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """A random weight of about the size that training begins with."""
    weight = torch.empty(shape, dtype=torch.bfloat16)
    if name.endswith("A_log"):
        return weight.uniform_(0, math.log(16), generator=rng)
    if name.endswith("dt_bias"):
        return weight.uniform_(-6, -2, generator=rng)
    if name.endswith(("norm.weight", "norm_f.weight", ".D")):
        return weight.uniform_(0.9, 1.1, generator=rng)
    std = 0.02 if "embeddings" in name else shape[-1] ** -0.5
    return weight.normal_(std=std, generator=rng)


def build(folder: Path, config: Mamba2Config) -> int:
    """Write the checkpoint; the bytes of its weights."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", to_hf(config, eos_id=None, dtype=torch.bfloat16))
    planned = [Planned(n, s, torch.bfloat16) for n, s in expected_shapes(config).items()]
    assert HEAD in {one.name for one in planned}
    rng = torch.Generator().manual_seed(0)
    shapes = {one.name: one.shape for one in planned}
    shard = min(MAX_SHARD_BYTES, 1 + sum(one.nbytes for one in planned) // 3)
    write_safetensors(
        folder, planned, lambda name: drawn(name, shapes[name], rng), max_shard_bytes=shard
    )
    return sum(one.nbytes for one in planned)


def resident() -> dict[str, int]:
    """Bytes resident now, and at most since this program began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {"now": 1024 * int(fields["VmRSS"]), "peak": 1024 * int(fields["VmHWM"])}


@torch.no_grad()
def generate(folder: Path, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """Load, read a prompt, decode greedily: seconds and memory after each."""
    before = resident()["now"]
    begun = time.perf_counter()
    model = load_model(folder).eval()
    result: dict[str, Any] = {"load_s": time.perf_counter() - begun, "before": before}
    result["after_load"] = resident()["peak"]
    vocab = model.config.vocab_size
    tokens = torch.randint(vocab, (1, prompt_tokens), generator=torch.Generator().manual_seed(1))
    begun = time.perf_counter()
    logits, state = model(tokens, logits_to_keep=1)
    result |= {"prompt_s": time.perf_counter() - begun, "after_prompt": resident()["peak"]}
    decoder, slot = Decoder(model, slots=1), np.zeros(1, dtype=np.int64)
    decoder.write_(slot, state)
    last, seconds = logits[:, -1], []
    for _ in range(new_tokens):
        tokens = torch.cat([tokens, last.argmax(-1, keepdim=True)], dim=1)
        begun = time.perf_counter()
        last = decoder.step_(tokens[:, -1].numpy(), slot)
        seconds.append(time.perf_counter() - begun)
    result |= {"token_s": seconds, "peak": resident()["peak"]}
    whole = model(tokens, logits_to_keep=1).logits[:, -1]
    result["error"] = ((last - whole).abs().max() / whole.abs().max()).item()
    result["tokens"] = tokens[0, prompt_tokens:].tolist()
    return result


def converted(folder: Path, target: Path, to: str) -> dict[str, Any]:
    """Convert the checkpoint as it is stored: seconds and memory."""
    begun = time.perf_counter()
    written = convert(folder, target, to)  # type: ignore[arg-type]
    return {
        "to": to,
        "seconds": time.perf_counter() - begun,
        "nbytes": written.nbytes,
        "peak": resident()["peak"],
    }


def fresh(arguments: Sequence[str]) -> dict[str, Any]:
    """The last line's JSON of this script in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Build, measure, delete; exit code 1 if memory or agreement is not as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="new; deleted at the end")
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--d-model", type=int, default=4096)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--convert", choices=("hf", "mamba_ssm", "gguf"), help="convert it as well")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint where it is")
    parser.add_argument("--step", choices=("generate", "convert"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    target = folder.with_name(folder.name + "-converted")
    if arguments.step == "generate":
        say(json.dumps(generate(folder, arguments.prompt_tokens, arguments.new_tokens)))
        return 0
    if arguments.step == "convert":
        say(json.dumps(converted(folder, target, arguments.convert)))
        return 0
    if folder.exists() or target.exists():
        parser.error(f"--folder {folder}: it or {target.name} exists already; nothing is deleted")
    config = config_of(arguments)
    same = ["--folder", str(folder)]
    try:
        begun = time.perf_counter()
        weights = build(folder, config)
        built = time.perf_counter() - begun
        say(f"{config.num_params:,} parameters, {weights:,} bytes, written in {built:.0f} s")
        sizes = ["--prompt-tokens", str(arguments.prompt_tokens)]
        sizes += ["--new-tokens", str(arguments.new_tokens)]
        run = fresh([*same, "--step", "generate", *sizes])
        turned = (
            fresh([*same, "--step", "convert", "--convert", arguments.convert])
            if arguments.convert
            else None
        )
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
    if not run["error"] <= AGREEMENT:
        say(f"decoding and one forward differ by {run['error']:.3f}: no figures")
        return 1
    share = run["peak"] / weights
    second = statistics.median(run["token_s"])
    say(
        f"loaded by map in {run['load_s']:.2f} s\n"
        f"prompt of {arguments.prompt_tokens} tokens, first touch of all pages: "
        f"{run['prompt_s']:.1f} s\n"
        f"decoding: {second:.3f} s a token (median of {arguments.new_tokens}), "
        f"{weights / second / 1e9:.1f} GB/s of weights\n"
        f"resident: {run['before'] / 1e9:.2f} GB before, {run['after_load'] / 1e9:.2f} after "
        f"loading, at most {run['peak'] / 1e9:.2f} GB = {share:.3f} x the weights"
    )
    if turned:
        say(
            f"converted to {turned['to']} in {turned['seconds']:.0f} s, resident at most "
            f"{turned['peak'] / 1e9:.2f} GB"
        )
    result = {
        "parameters": config.num_params,
        "weights_bytes": weights,
        "built_s": built,
        "resident_share": share,
        "allowed": ALLOWED,
        **run,
        "converted": turned,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "torch": torch.__version__,
        },
    }
    say(json.dumps(result))
    return 0 if share <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
