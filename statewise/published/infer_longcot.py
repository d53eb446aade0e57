"""`infer_longcot.py`: n runs of every prompt of a file, one line a (run, prompt), run by run.

Beyond the published fields a row has `run`, `seed`, `attempts`, `valid` (is the think format
well formed?), `finish_reason`, `prompt_tokens` and `completion_tokens`. What is sampled is kept in
`OUTPUT.partial` as it comes; the same command goes on from there after a kill, and an output that
is whole is not sampled again. Seeds belong to a (run, attempt), so a retry in one run changes no
other run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statewise import progress
from statewise.errors import DataError, RunError, StatewiseError
from statewise.eval.attempts import sample
from statewise.records import Completion, FinishReason, JsonlAppender, iter_rows, write_atomically
from statewise.sampler import Prompt, Sampler, SamplingParams
from statewise.text import well_formed, with_think

Row = dict[str, Any]
Key = tuple[int, int]  # run, row


@dataclass(frozen=True)
class Plan:
    """What is sampled.

    Attributes:
        rows: the rows of the data file.
        prompts: the text of each.
        params: `n` runs.
        max_retries: attempts at a well-formed answer, the first included; 0 counts as 1.
    """

    rows: list[Row]
    prompts: list[str]
    params: SamplingParams
    max_retries: int


def read_prompts(path: Path) -> list[Row]:
    """The rows of a data file.

    Raises:
        DataError: there are none, or one has no text under `prompt`.
    """
    rows = []
    for where, row in iter_rows(path):
        if not isinstance(row.get("prompt"), str) or not row["prompt"]:
            raise DataError(f"{where}: field 'prompt' must be text")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def infer(sampler: Sampler, plan: Plan, output: Path) -> int:
    """Sample all runs and write them; returns how many are well formed.

    Raises:
        RunError: `output` or its partial file holds something else.
    """
    if output.exists():
        return _counted(output, plan)
    partial = output.with_name(output.name + ".partial")
    settings = {"rows": len(plan.rows), "params": _settings(plan)}
    with JsonlAppender(partial) as file:
        done: dict[Key, Row] = {}
        for where, found in iter_rows(partial):
            if "settings" in found:
                if found["settings"] != settings:
                    raise RunError(f"{where}: was begun with other settings; move {partial} away")
            else:
                done[found["run"], found["index"]] = found
        if not done:
            partial.write_bytes(b"")
            file.append({"settings": settings})
        total = plan.params.n * len(plan.rows)
        with progress.task("infer_longcot", total, "completions") as shown:
            shown.start_at(len(done))
            for key, row in _sampled(sampler, plan, set(done)):
                file.append(row)
                done[key] = row
                shown.update(len(done))
    lines = []
    for run, index in sorted(done):
        found = done[run, index]
        kept = {k: v for k, v in found.items() if k != "index"}
        lines.append(json.dumps({**plan.rows[index], **kept}, ensure_ascii=False) + "\n")
    write_atomically(output, "".join(lines).encode())
    partial.unlink()
    return sum(bool(row["valid"]) for row in done.values())


def _settings(plan: Plan) -> dict[str, Any]:
    digest = hashlib.sha256("\x1f".join(plan.prompts).encode()).hexdigest()[:16]
    p = plan.params
    return {
        "prompts": digest,
        "n": p.n,
        "max_tokens": p.max_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "repetition_penalty": p.repetition_penalty,
        "max_retries": plan.max_retries,
    }


def _counted(output: Path, plan: Plan) -> int:
    rows = [row for _, row in iter_rows(output)]
    if len(rows) != plan.params.n * len(plan.rows) or not all("completion" in r for r in rows):
        raise RunError(f"{output}: exists and holds something else; nothing is overwritten")
    return sum(bool(row.get("valid")) for row in rows)


def _sampled(sampler: Sampler, plan: Plan, done: set[Key]) -> Iterator[tuple[Key, Row]]:
    """Everything that is missing."""
    wanted = {
        (str(i), run) for run in range(plan.params.n) for i in range(len(plan.rows))
        if (run, i) not in done
    }  # fmt: skip
    asked = sorted({int(i) for i, _ in wanted})
    prompts = [Prompt(str(i), plan.prompts[i]) for i in asked]
    for completion in sample(
        sampler, prompts, plan.params, wanted, attempts=max(plan.max_retries, 1)
    ):
        key = (completion.sample, int(completion.prompt_id))
        yield key, _row(completion, key)


def _row(completion: Completion, key: Key) -> Row:
    text = with_think(completion.text)
    return {
        "completion": text,
        "run": key[0],
        "index": key[1],
        "seed": completion.seed,
        "attempts": completion.attempts,
        "valid": completion.finish_reason is FinishReason.STOP and well_formed(text),
        "finish_reason": completion.finish_reason.value,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }


def _true(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")


def parser() -> argparse.ArgumentParser:
    """Every published flag, with its published default."""
    found = argparse.ArgumentParser(
        prog="infer_longcot.py", description=(__doc__ or "").partition("\n")[0]
    )
    found.add_argument("--data_path", type=Path, required=True, help="JSONL with `prompt`")
    found.add_argument("--output_path", type=Path, required=True, help="JSONL; never overwritten")
    found.add_argument("--model_path", required=True, help="a model's folder or hub id")
    found.add_argument("--tokenizer_path", help="where its tokenizer lies, if not there")
    found.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    found.add_argument("--n_gpus", type=int, default=8, help="cards for vLLM")
    found.add_argument("--temperature", type=float, default=0.0)
    found.add_argument("--top_p", type=float, default=0.95)
    found.add_argument("--repetition_penalty", type=float, default=1.0)
    found.add_argument("--max_len", type=int, default=32768, help="new tokens")
    found.add_argument("--use_chat_template", type=_true, default=False)
    found.add_argument("--n", type=int, default=8, help="runs")
    found.add_argument("--max_retries", type=int, default=8, help="attempts at a think format")
    found.add_argument("--use_mamba2", type=_true, default=False, help="accepted; it always is")
    found.add_argument("--slots", type=int, default=16, help="sequences at once (not published)")
    found.add_argument(
        "--by",
        choices=("auto", "statewise", "vllm"),
        default="auto",
        help="whose engine; auto is vLLM where it is installed beside a card (not published)",
    )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    asked = parser().parse_args(argv)
    try:
        rows = read_prompts(asked.data_path)
        sampler, template = _engine(asked)
        prompts = [template(row["prompt"]) for row in rows]
        params = SamplingParams(
            n=asked.n,
            max_tokens=asked.max_len,
            temperature=asked.temperature,
            top_p=asked.top_p,
            repetition_penalty=asked.repetition_penalty,
        )
        plan = Plan(rows, prompts, params, asked.max_retries)
        valid = infer(sampler, plan, asked.output_path)
    except StatewiseError as e:
        print(f"infer_longcot.py: error: {e}", file=sys.stderr)
        return 1
    total = asked.n * len(rows)
    print(f"{asked.output_path}: {total} completions, {valid} well formed and complete")
    return 0


def _engine(asked: argparse.Namespace) -> tuple[Sampler, Callable[[str], str]]:
    from statewise.model import checkpoint
    from statewise.offline import VLLMSampler, installed
    from statewise.text import BPETokenizer

    folder = checkpoint.locate(asked.model_path)
    beside = checkpoint.locate(asked.tokenizer_path) if asked.tokenizer_path else folder
    tokenizer = BPETokenizer.load(beside)
    checkpoint.check_tokenizer(tokenizer, checkpoint.read_config(folder), str(beside))
    template = _template(beside) if asked.use_chat_template else str
    if asked.by == "vllm" or (asked.by == "auto" and installed()):
        return VLLMSampler(
            folder,
            tokenizer,
            max_tokens=asked.max_len,
            dtype=asked.dtype,
            tensor_parallel_size=asked.n_gpus,
        ), template
    import torch

    from statewise.engine import Engine

    model = checkpoint.load_model(folder, getattr(torch, asked.dtype))
    if torch.cuda.is_available():
        model = model.cuda()
    return Engine(model, tokenizer, slots=asked.slots), template


def _template(folder: Path) -> Callable[[str], str]:
    """The model's own chat form."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)

    def template(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        made: str = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return made

    return template
