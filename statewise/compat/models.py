"""The model behind the published commands that sample: its flags, its engine, its chat form."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from statewise.engine.config import EngineConfig
from statewise.errors import DataError, RunError
from statewise.model import checkpoint
from statewise.offline import installed
from statewise.pipeline.samplers import open_sampler
from statewise.records import Completion, content_id, json_bytes, write_atomically
from statewise.sampler import Prompt, Sampler, SamplerConfig, SamplingParams
from statewise.synth.ask import ask


def add_model(commands: argparse.ArgumentParser) -> None:
    """The flags that say which model, with their published defaults."""
    commands.add_argument("--model_path", required=True, help="a model's folder or hub id")
    commands.add_argument("--tokenizer_path", help="where its tokenizer lies, if not there")
    commands.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    commands.add_argument("--n_gpus", type=int, default=8, help="cards for vLLM")


def add_ours(commands: argparse.ArgumentParser) -> None:
    """The flags that say how it is run, which are not published."""
    commands.add_argument("--slots", type=int, default=16, help="sequences at once (not published)")
    commands.add_argument(
        "--by",
        choices=("auto", "statewise", "vllm"),
        default="auto",
        help="whose engine; auto is vLLM where it is installed beside a card (not published)",
    )


def open_model(arguments: argparse.Namespace) -> Sampler:
    """The model that the flags name, as a sampler. Raises as `open_sampler`."""
    by_vllm = arguments.by == "vllm" or (arguments.by == "auto" and installed())
    config = SamplerConfig(
        kind="vllm" if by_vllm else "checkpoint",
        path=arguments.model_path,
        dtype=arguments.dtype,
        tokenizer=arguments.tokenizer_path or "",
        tensor_parallel_size=arguments.n_gpus if by_vllm else 1,
    )
    return open_sampler(config, EngineConfig(slots=arguments.slots), max_tokens=arguments.max_len)


def chat_template(path_or_hub_id: str) -> Callable[[str], str]:
    """The model's own chat form.

    Raises:
        DataError: it has none that transformers can read; so does the form, for a text.
    """
    from transformers import AutoTokenizer

    folder = checkpoint.locate(path_or_hub_id)

    def refused(error: Exception) -> DataError:
        reason = str(error).strip().partition("\n")[0]
        return DataError(
            f"{folder}: transformers finds no chat template that it can use ({reason})"
        )

    try:
        theirs = AutoTokenizer.from_pretrained(folder)
    except Exception as e:  # of a damaged file in any way
        raise refused(e) from None

    def template(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        try:
            made: str = theirs.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception as e:  # a template is a program, and may fail as one
            raise refused(e) from None
        return made

    return template


def answers(
    sampler: Sampler, texts: Sequence[str], params: SamplingParams, output: Path
) -> list[Completion]:
    """One completion of each text, in order; what a kill interrupts is taken up again.

    They are kept as they come in a file beside the output, which is named by what is asked: the
    same command goes on from there. The caller writes the output and then calls `done`.

    Raises:
        RunError: there is an output already, or a text got no answer.
    """
    if output.exists():
        raise RunError(f"{output}: exists; nothing is overwritten")
    prompts = [Prompt(str(i), text) for i, text in enumerate(texts)]
    found = ask(sampler, prompts, params, _partial(output, texts, params))
    return [found[p.id][0] for p in prompts]


def done(
    output: Path, rows: Iterable[Mapping[str, Any]], texts: Sequence[str], params: SamplingParams
) -> None:
    """Write the output, whole, and let go of what `answers` kept."""
    write_atomically(output, b"".join(json_bytes(row) for row in rows))
    _partial(output, texts, params).unlink(missing_ok=True)


def _partial(output: Path, texts: Sequence[str], params: SamplingParams) -> Path:
    asked = content_id(*texts, repr(params))
    return output.with_name(f"{output.name}.{asked}.partial")
