"""How full packed rows are: in order and by best fit, on real lengths and on long-tailed ones.

Real lengths are those of the worked solutions of GSM8K and MATH, tokenised as they are trained on.
Traces of reasoning are drawn log-normal, with the median and the spread that are given. Of each
kind a number of rows is read and the share of their places told that hold a document's token.
The last line is JSON.

    python -m benchmarks.packing --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from statewise.errors import DataError
from statewise.records import Example, iter_rows
from statewise.text import BPETokenizer, chat_prompt
from statewise.train.config import Packing, Phase, Source
from statewise.train.packing import Document, Stream, tokenise

ROWS = 2_000
VOCABULARY = 4_096
NAMES = (("GSM8K", "gsm8k_train.jsonl"), ("MATH", "math_train_solutions.jsonl"))
TRACES = (("traces", 4_000, 1.0), ("long traces", 12_000, 0.6))  # median, spread of the logarithm


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Lengths(Sequence[Document]):
    """Documents of which only the lengths matter."""

    def __init__(self, lengths: np.ndarray, row_tokens: int) -> None:
        self.lengths = lengths[lengths <= row_tokens]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Document:  # type: ignore[override]
        return Document(np.empty(0, np.int32), 1)


def solutions(path: Path) -> np.ndarray:
    """Tokens of the worked solutions of a file of published problems."""
    examples = []
    for where, row in iter_rows(path):
        statement, solution = row.get("problem") or row.get("question"), row.get("solution")
        if not isinstance(statement, str) or not isinstance(solution or row.get("answer"), str):
            raise DataError(f"{where}: holds no problem with its solution")
        examples.append(Example(chat_prompt(statement), solution or row["answer"]))
    tokenizer = BPETokenizer.train([e.completion for e in examples], vocab_size=VOCABULARY)
    return np.array([len(d.ids) for d in tokenise(examples, tokenizer)])


def kinds(data: Path | None) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """Names, lengths, and the rows that they are put into."""
    for name, file in NAMES if data else ():
        yield name, solutions(data / file), [512, 1_024, 2_048, 4_096]
    rng = np.random.default_rng(0)
    for name, median, spread in TRACES:
        lengths = np.exp(rng.normal(np.log(median), spread, 100_000)).astype(np.int64) + 2
        yield name, lengths, [16_384, 20_480, 32_768]


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the published files")
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args(argv)
    results = []
    say("documents     median   longest  row      in order  best fit  longer than a row")
    for name, lengths, sizes in kinds(arguments.data):
        for row_tokens in sizes:
            pool = Lengths(lengths, row_tokens)
            filled, took_s = {}, {}
            for packing in get_args(Packing):
                phase = Phase("one", (Source(name),), 1, 1e-3)
                rows = Stream(phase, [pool], row_tokens=row_tokens, seed=0, packing=packing)
                begun = time.perf_counter()
                for _ in range(arguments.rows):
                    next(rows)
                took_s[packing] = (time.perf_counter() - begun) / arguments.rows
                filled[packing] = rows.filled
            longer = 1 - len(pool) / len(lengths)
            say(
                f"{name:<13} {np.median(lengths):<8,.0f} {lengths.max():<8,} {row_tokens:<8,} "
                f"{100 * filled['in-order']:<9.2f} {100 * filled['best-fit']:<9.2f} "
                f"{100 * longer:.1f} %"
            )
            row = {"kind": name, "row_tokens": row_tokens, "filled": filled, "row_s": took_s}
            results.append(row | {"longer": longer, "documents": len(pool)})
    say("shares of the rows' places that hold a document's token, in %")
    say(json.dumps(results))


if __name__ == "__main__":
    main()
