"""`problem_generation.py`: what a generator of problems writes for each prompt of a file.

Flags and fields are the published ones: in `prompt`, out the row with `completion`. What is sampled
is kept beside the output as it comes; the same command goes on from there after a kill. An output
that is there is not overwritten.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from statewise.compat.flags import true_or_false
from statewise.compat.infer_longcot import read_prompts
from statewise.compat.models import add_model, add_ours, answers, chat_template, done, open_model
from statewise.errors import StatewiseError
from statewise.records import FinishReason
from statewise.sampler import SamplingParams
from statewise.synth.formats import parse_draft

NAME = "problem_generation.py"


def parser() -> argparse.ArgumentParser:
    """Every published flag, with its published default."""
    p = argparse.ArgumentParser(prog=NAME, description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--data_path", type=Path, required=True, help="JSONL with `prompt`")
    p.add_argument("--output_path", type=Path, required=True, help="JSONL; never overwritten")
    add_model(p)
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--top_p", type=float, default=1.0)
    p.add_argument("--repetition_penalty", type=float, default=1.0)
    p.add_argument("--max_len", type=int, default=2048, help="new tokens")
    p.add_argument("--use_chat_template", type=true_or_false, default=False)
    p.add_argument("--seed", type=int, default=42)
    add_ours(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    a = parser().parse_args(argv)
    try:
        rows = read_prompts(a.data_path)
        texts = [row["prompt"] for row in rows]
        if a.use_chat_template:
            template = chat_template(a.tokenizer_path or a.model_path)
            texts = [template(text) for text in texts]
        params = SamplingParams(
            max_tokens=a.max_len,
            temperature=a.temperature,
            top_p=a.top_p,
            repetition_penalty=a.repetition_penalty,
            seed=a.seed,
        )
        found = answers(open_model(a), texts, params, a.output_path)
        pairs = zip(rows, found, strict=True)
        done(a.output_path, [{**row, "completion": c.text} for row, c in pairs], texts, params)
    except (StatewiseError, OSError) as e:
        print(f"{NAME}: error: {e}", file=sys.stderr)
        return 1
    whole = sum(parse_draft(c.text) is not None for c in found)
    cut = sum(c.finish_reason is FinishReason.LENGTH for c in found)
    print(f"{a.output_path}: {len(found)} drafts, {whole} with their four tags, {cut} cut off")
    return 0
