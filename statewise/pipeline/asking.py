"""What stages of a run ask with: held-out sets, an engine, one set asked and graded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from statewise.engine import Engine
from statewise.engine.slots import Weights
from statewise.eval.benchmarks import BENCHMARKS, load_problems
from statewise.eval.metrics import SetResult
from statewise.eval.runner import evaluate
from statewise.model import Mamba2LM
from statewise.model.ops import place
from statewise.pipeline.stage import Run
from statewise.progress import task
from statewise.recipe import EngineConfig
from statewise.records import Problem, Verdict, to_json, write_json
from statewise.sampler import Sampler, SamplingParams
from statewise.sandbox import isolation
from statewise.text import PUBLISHED_PROMPT, BPETokenizer, PromptConfig

Say = Callable[[str], None]


def held_out(run: Run) -> dict[str, list[Problem]]:
    """The held-out sets that the synth stage wrote."""
    return {
        s.name: load_problems(run.path / "synth" / "held_out" / s.name / "problems.jsonl")
        for s in run.recipe.synth.held_out
    }


def open_engine(
    loaded: tuple[Mamba2LM, BPETokenizer], asked: EngineConfig, weights: Weights = "model"
) -> Engine:
    """The engine that a recipe asks for, over a loaded checkpoint."""
    model, tokenizer = loaded
    model = model.to(place(asked.device))
    model.backend = asked.backend
    return Engine(model, tokenizer, slots=asked.slots, weights=weights, state=asked.state)


def tell_isolation(problems: Iterable[Problem], say: Say) -> None:
    """Before programs are run: what they run behind."""
    if any(p.kind == "code" for p in problems):
        found = isolation()
        say(f"  programs run behind: {found.kind} ({found.detail})")


def ask_model(
    run: Run,
    sampler: Sampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    folder: Path,
    name: str,
) -> dict[str, Any]:
    """Evaluate on one set; the result also lies in the folder as `result.json`."""
    label = f"{folder.parent.name}/{name}"
    found, result = ask_set(
        sampler, problems, params, folder, name, label, attempts=1 + run.recipe.eval.retries
    )
    score = "unscored" if found.pass_at_1 is None else f"{100 * found.pass_at_1:.1f} %"
    spread = "" if found.stderr is None else f" +/- {100 * found.stderr:.1f}"
    vote = "" if found.majority is None else f", majority@{params.n} {100 * found.majority:.1f} %"
    run.say(f"  {label}: pass@1 {score}{spread}{vote}  ({len(problems)} problems)")
    return result


def ask_set(
    sampler: Sampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    folder: Path,
    name: str,
    label: str,
    *,
    prompt: PromptConfig = PUBLISHED_PROMPT,
    attempts: int = 1,
) -> tuple[SetResult, dict[str, Any]]:
    """Evaluate with a progress line; returns the result, and what `result.json` holds of it."""
    checker = BENCHMARKS[name].checker if name in BENCHMARKS else "integer"
    with task(label, len(problems) * params.n, "samples") as shown:

        def progress(done: int, total: int, verdict: Verdict) -> None:
            shown.update(done, verdict.outcome)

        found = evaluate(
            sampler,
            problems,
            params,
            folder,
            checker=checker,
            prompt=prompt,
            attempts=attempts,
            progress=progress,
        )
    result: dict[str, Any] = {**to_json(found), "sampling": to_json(params)}
    write_json(folder / "result.json", result)
    return found, result
