"""`rejection_sampling_reward.py`: what a judge says of each draft of a file.

Flags and fields are the published ones: in `foundational_concepts`, `level` and `completion` (a
draft); out the row with the draft as `rationale_and_problem`, the judge's text as `completion`, and
`judgement`: one word, read from the verdict's own line alone, "unreadable" where there is none. A
draft without its four tags is bad by the first criterion, and no judge is asked. `--kind` is ours.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from statewise.compat.flags import true_or_false
from statewise.compat.models import add_model, add_ours, answers, chat_template, done, open_model
from statewise.errors import DataError, StatewiseError
from statewise.records import Draft, Rating, iter_rows
from statewise.sampler import SamplingParams
from statewise.synth.formats import judge_prompt, parse_draft, parse_rating

NAME = "rejection_sampling_reward.py"
TORN = "The draft has not each of the four tags once and in order; no judge was asked."


def read_drafts(path: Path, kind: str) -> tuple[list[dict[str, Any]], list[Draft | None]]:
    """The rows of a file, and of each its draft, None where the four tags are not as they must be.

    Raises:
        DataError: there are none, or one lacks a field.
    """
    rows, drafts = [], []
    for where, row in iter_rows(path):
        concepts, level, text = (
            row.get(name) for name in ("foundational_concepts", "level", "completion")
        )
        if not isinstance(concepts, list) or not all(isinstance(c, str) for c in concepts):
            raise DataError(f"{where}: field 'foundational_concepts' must be a list of texts")
        if not isinstance(level, str) or not isinstance(text, str):
            raise DataError(f"{where}: fields 'level' and 'completion' must be texts")
        parsed = parse_draft(text)
        rows.append(row)
        drafts.append(parsed and Draft(str(len(rows)), kind, tuple(concepts), level, *parsed))
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows, drafts


def parser() -> argparse.ArgumentParser:
    """Every published flag, with its published default."""
    p = argparse.ArgumentParser(prog=NAME, description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--data_path", type=Path, required=True, help="JSONL of drafts")
    p.add_argument("--output_path", type=Path, required=True, help="JSONL; never overwritten")
    add_model(p)
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--max_len", type=int, default=2048, help="new tokens")
    p.add_argument("--use_chat_template", type=true_or_false, default=False)
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--kind", choices=("math", "code"), default="math")
    add_ours(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    a = parser().parse_args(argv)
    try:
        rows, drafts = read_drafts(a.data_path, a.kind)
        texts = [judge_prompt(draft) for draft in drafts if draft is not None]
        if a.use_chat_template:
            template = chat_template(a.tokenizer_path or a.model_path)
            texts = [template(text) for text in texts]
        params = SamplingParams(max_tokens=a.max_len, temperature=a.temperature, seed=a.seed)
        judged = iter(answers(open_model(a), texts, params, a.output_path))
        out = []
        counted: Counter[str] = Counter()
        for row, draft in zip(rows, drafts, strict=True):
            said = TORN if draft is None else next(judged).text
            rating = Rating.BAD if draft is None else parse_rating(said)
            counted[rating.value] += 1
            more = {"judgement": rating.value, "completion": said}
            out.append({**row, "rationale_and_problem": row["completion"], **more})
        done(a.output_path, out, texts, params)
    except (StatewiseError, OSError) as e:
        print(f"{NAME}: error: {e}", file=sys.stderr)
        return 1
    told = ", ".join(f"{n} {word}" for word, n in sorted(counted.items()))
    print(f"{a.output_path}: {len(out)} drafts: {told}")
    return 0
