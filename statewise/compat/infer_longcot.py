"""`infer_longcot.py`: n runs of every prompt of a file, one line a (run, prompt), run by run.

Beyond the published fields a row has `run`, `seed`, `attempts`, `valid` (is the think format
well formed?), `finish_reason`, `prompt_tokens` and `completion_tokens`. What is sampled is kept in
`OUTPUT.partial` as it comes; the same command goes on from there after a kill, and an output that
is whole is not sampled again. Seeds belong to a (run, attempt), so a retry in one run changes no
other run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statewise import progress
from statewise.compat.flags import true_or_false
from statewise.compat.models import add_model, add_ours, chat_template, open_model
from statewise.errors import DataError, RunError, StatewiseError
from statewise.eval.attempts import sample
from statewise.log import Log
from statewise.records import (
    Completion,
    FinishReason,
    content_id,
    iter_rows,
    json_bytes,
    write_atomically,
)
from statewise.sampler import Prompt, Sampler, SamplingParams
from statewise.text import well_formed, with_think

Row = dict[str, Any]
Key = tuple[int, int]  # run, row
SETTINGS = "settings"


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
    settings = {SETTINGS: {"rows": len(plan.rows), "params": _settings(plan)}}
    with Log(partial, dict, key=_key) as log:
        if not log:
            log.append(settings)
        elif log.get(SETTINGS) != settings:
            raise RunError(f"{partial}: was begun with other settings; move it away")
        keys = [(run, i) for run in range(plan.params.n) for i in range(len(plan.rows))]
        missing = log.missing(keys)
        with progress.task("infer_longcot", len(keys), "completions") as shown:
            shown.start_at(len(keys) - len(missing))
            for row in _sampled(sampler, plan, missing):
                log.append(row)
                shown.advance()
        rows = [log[key] for key in keys]
    lines = []
    for row in rows:
        sampled = {k: v for k, v in row.items() if k != "index"}
        lines.append(json_bytes({**plan.rows[row["index"]], **sampled}))
    write_atomically(output, b"".join(lines))
    partial.unlink()
    return sum(bool(row["valid"]) for row in rows)


def _key(row: Row) -> Key | str:
    """The first line holds the settings, the others what was sampled."""
    return SETTINGS if SETTINGS in row else (row["run"], row["index"], row["valid"])[:2]


def _settings(plan: Plan) -> dict[str, Any]:
    p = plan.params
    return {
        "prompts": content_id(*plan.prompts),
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


def _sampled(sampler: Sampler, plan: Plan, missing: Sequence[Key]) -> Iterator[Row]:
    """Everything that is missing."""
    prompts = [Prompt(str(i), plan.prompts[i]) for i in sorted({i for _, i in missing})]
    wanted = {(str(i), run) for run, i in missing}
    for completion in sample(
        sampler, prompts, plan.params, wanted, attempts=max(plan.max_retries, 1)
    ):
        yield _row(completion, (completion.sample, int(completion.prompt_id)))


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


def parser() -> argparse.ArgumentParser:
    """Every published flag, with its published default."""
    commands = argparse.ArgumentParser(
        prog="infer_longcot.py", description=(__doc__ or "").partition("\n")[0]
    )
    commands.add_argument("--data_path", type=Path, required=True, help="JSONL with `prompt`")
    commands.add_argument(
        "--output_path", type=Path, required=True, help="JSONL; never overwritten"
    )
    add_model(commands)
    commands.add_argument("--temperature", type=float, default=0.0)
    commands.add_argument("--top_p", type=float, default=0.95)
    commands.add_argument("--repetition_penalty", type=float, default=1.0)
    commands.add_argument("--max_len", type=int, default=32768, help="new tokens")
    commands.add_argument("--use_chat_template", type=true_or_false, default=False)
    commands.add_argument("--n", type=int, default=8, help="runs")
    commands.add_argument("--max_retries", type=int, default=8, help="attempts at a think format")
    commands.add_argument(
        "--use_mamba2", type=true_or_false, default=False, help="accepted; it always is"
    )
    add_ours(commands)
    return commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    arguments = parser().parse_args(argv)
    try:
        rows = read_prompts(arguments.data_path)
        template: Callable[[str], str] = str
        if arguments.use_chat_template:
            template = chat_template(arguments.tokenizer_path or arguments.model_path)
        prompts = [template(row["prompt"]) for row in rows]
        params = SamplingParams(
            n=arguments.n,
            max_tokens=arguments.max_len,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            repetition_penalty=arguments.repetition_penalty,
        )
        plan = Plan(rows, prompts, params, arguments.max_retries)
        valid = infer(open_model(arguments), plan, arguments.output_path)
    except (StatewiseError, OSError) as e:
        print(f"infer_longcot.py: error: {e}", file=sys.stderr)
        return 1
    total = arguments.n * len(rows)
    print(f"{arguments.output_path}: {total} completions, {valid} well formed and complete")
    return 0
