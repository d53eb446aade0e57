"""Memory and time of a training source on disk, by its number of documents.

For each number a JSONL file of that many documents is written, and a fresh process compares them
with evaluation problems, tokenises them, and then reads packed rows of one pass over them. Prints
the peak of resident memory of both parts beside what the process has before any document is read,
and the rates. The last line is JSON. Needs Linux; a million documents take about 1 GB of disk.

    python -m benchmarks.corpus
    python -m benchmarks.corpus --documents 1000 10000 --packing best-fit
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from statewise.records import json_bytes

MIB = 1 << 20
WORDS = 500  # different ones: most are one token
PROBLEMS = 1_000  # of the evaluation, of which a few documents are copies
CONTAINMENT = 0.6
ROW_TOKENS = 4_096
TOKENIZER_TEXTS = 2_000


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def texts(count: int, seed: int, mean: float, spread: float) -> Iterator[str]:
    """Random texts whose numbers of words are log-normal: few are far longer than the others."""
    rng = Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(WORDS)]
    for _ in range(count):
        length = max(int(mean * rng.lognormvariate(0, spread)), 1)
        yield " ".join(rng.choices(words, k=length))


def problems() -> list[str]:
    """The evaluation's statements."""
    return list(texts(PROBLEMS, seed=1, mean=40, spread=0.3))


def write(file: Path, count: int) -> None:
    """A source of so many documents, of which one in a thousand holds an evaluation problem."""
    known = problems()
    prompts, completions = texts(count, 2, 10, 0.4), texts(count, 3, 20, 1.0)
    with file.open("wb") as f:
        for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if number % 1000 == 500:
                prompt = known[number // 1000 % PROBLEMS]
            f.write(json_bytes({"prompt": prompt, "completion": completion}))


def peak() -> int:
    """The peak of resident memory since `forget`, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def forget() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(file: Path, folder: Path, packing: str) -> dict[str, Any]:
    """What one source takes, in this process."""
    from statewise.pipeline.decontamination import near
    from statewise.records import Problem
    from statewise.synth.dedup import Exams
    from statewise.text import BPETokenizer
    from statewise.train.config import Phase, Source
    from statewise.train.corpus import Corpus, Fitting, make
    from statewise.train.packing import Stream
    from statewise.train.sources import count, pairs

    source = Source(file.name)
    first = [e.prompt + e.completion for e, _ in islice(pairs(source, file), TOKENIZER_TEXTS)]
    tokenizer = BPETokenizer.train(first, vocab_size=2048)
    tests = {"exam": [Problem(str(i), "math", s) for i, s in enumerate(problems())]}
    exams = Exams({"exam": problems()})
    forget()
    figures: dict[str, Any] = {"before_bytes": peak()}
    begun = time.perf_counter()
    total = partial(count, source, file)
    corpus = make(folder, pairs(source, file), tokenizer, marks=exams.marks, total=total)
    copies = [n.document - 1 for n in near(corpus, exams, tests, CONTAINMENT)]
    tokenised_s = time.perf_counter() - begun
    figures |= {
        "documents": len(corpus),
        "tokens": corpus.contents.tokens,
        "copies": len(copies),
        "tokenise_peak_bytes": peak(),
        "tokenise_s": tokenised_s,
    }
    del corpus
    forget()
    begun = time.perf_counter()
    fitting = Fitting(
        Corpus(folder), max_tokens=ROW_TOKENS, long="drop", where=file.name, near=copies
    )
    phase = Phase("one", (source,), 1, 1e-3)
    rows = Stream(phase, [fitting], row_tokens=ROW_TOKENS, seed=0, packing=packing)
    opened_s = time.perf_counter() - begun
    read = 0
    while read < len(fitting):
        read += len(next(rows))
    return figures | {
        "read": read,
        "rows": rows.rows,
        "filled": rows.filled,
        "open_s": opened_s,
        "read_s": time.perf_counter() - begun - opened_s,
        "read_peak_bytes": peak(),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure each number of documents in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--packing", choices=("in-order", "best-fit"), default="in-order")
    parser.add_argument("--folder", type=Path, help="where files are put for a while")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        folder = arguments.measure.with_suffix("")
        say(json.dumps(measure(arguments.measure, folder, arguments.packing)))
        return
    results = []
    say(
        "documents    tokens       before  tokenising  reading rows   documents/s  tokens/s  read/s"
    )
    for count in arguments.documents:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            file = Path(folder) / "source.jsonl"
            write(file, count)
            command = [sys.executable, "-m", "benchmarks.corpus", "--measure", str(file)]
            done = subprocess.run(
                [*command, "--packing", arguments.packing], stdout=subprocess.PIPE, check=True
            )
        result = json.loads(done.stdout.splitlines()[-1])
        results.append(result)
        memory = [
            result[name] / MIB
            for name in ("before_bytes", "tokenise_peak_bytes", "read_peak_bytes")
        ]
        say(
            f"{result['documents']:<12,} {result['tokens']:<12,} {memory[0]:<7,.0f} "
            f"{memory[1]:<11,.0f} {memory[2]:<14,.0f} "
            f"{result['documents'] / result['tokenise_s']:<12,.0f} "
            f"{result['tokens'] / result['tokenise_s']:<9,.0f} "
            f"{result['read'] / result['read_s']:<,.0f}"
        )
    say("peaks of resident memory in MiB")
    say(json.dumps({"machine": platform.processor() or platform.machine(), "results": results}))


if __name__ == "__main__":
    main()
