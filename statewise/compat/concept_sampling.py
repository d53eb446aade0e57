"""`concept_sampling.py`: concept sets that go together, with a level and the generator's prompt.

Flags and fields are the published ones; how sets are drawn is `statewise.synth.selection`'s. Beside
the published flags are `--seed`, `--size`, `--temperature` and `--levels`, whose defaults are what
was fixed in the script. Where `--embed_path` is left out and there is no file of the default's
name, concepts are drawn by co-occurrence alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from statewise.errors import DataError, RunError, StatewiseError
from statewise.records import json_bytes, write_atomically
from statewise.synth.formats import concept_block
from statewise.synth.selection import Selector, read_embeddings, read_lists

NAME = "concept_sampling.py"
EMBEDDINGS = "data/embeddings.jsonl"
LEVELS = ("AMC12", "HMMT-Nov", "HMMT-Feb", "AIME", "USAJMO", "USAMO", "USOJMO", "USOMO")
# The released generators were trained with this sentence.
TASK = (
    "Given foundational concepts and difficulty level, identify connections and develop a question "
    "that integrates these concepts with appropriate complexity."
)


def generator_prompt(concepts: Sequence[str], level: str) -> str:
    """The prompt that the released generators of problems know."""
    return f"{TASK}\n\n{concept_block(concepts, level)}"


def parser() -> argparse.ArgumentParser:
    """The published flags, and ours behind them."""
    p = argparse.ArgumentParser(prog=NAME, description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--data_path", required=True, help="JSONL with `concepts` of seed problems")
    p.add_argument("--output_path", type=Path, required=True, help="JSONL; never overwritten")
    p.add_argument("--data_size", type=int, default=2000, help="concept sets")
    p.add_argument("--embed_path", help=f"`sentence`, `embedding`; by default {EMBEDDINGS}")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--size", type=int, default=5, help="concepts a set")
    p.add_argument("--temperature", type=float, default=0.2)
    p.add_argument("--levels", nargs="+", default=list(LEVELS))
    return p


def run(a: argparse.Namespace) -> int:
    """Draw and write; returns how many sets."""
    if a.output_path.exists():
        raise RunError(f"{a.output_path}: exists; nothing is overwritten")
    for flag, least in (("data_size", 1), ("size", 1), ("seed", 0)):
        if getattr(a, flag) < least:
            raise DataError(f"--{flag}: must be at least {least}, found {getattr(a, flag)}")
    if not a.temperature > 0:
        raise DataError(f"--temperature: must be above 0, found {a.temperature}")
    embeddings = None
    if a.embed_path is not None or Path(EMBEDDINGS).is_file():
        embeddings = read_embeddings(Path(a.embed_path or EMBEDDINGS))
    selector = Selector(read_lists(Path(a.data_path)), embeddings, temperature=a.temperature)
    rows = [
        {
            "foundational_concepts": list(names),
            "level": level,
            "prompt": generator_prompt(names, level),
        }
        for names, level in islice(selector.sets(a.size, a.levels, seed=a.seed), a.data_size)
    ]
    write_atomically(a.output_path, b"".join(json_bytes(row) for row in rows))
    by = "co-occurrence" if embeddings is None else "co-occurrence and similarity"
    print(f"{a.output_path}: {len(rows)} sets of {len(selector.names)} concepts, by {by}")
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    try:
        run(parser().parse_args(argv))
    except (StatewiseError, OSError) as e:
        print(f"{NAME}: error: {e}", file=sys.stderr)
        return 1
    return 0
