"""What stages of a run ask with: held-out sets, and one set asked and graded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from statewise.eval.benchmarks import BENCHMARKS, load_problems
from statewise.eval.rules import Rules
from statewise.eval.runner import evaluate
from statewise.pipeline.stage import Run
from statewise.progress import task
from statewise.records import Problem, Verdict, to_json, write_json
from statewise.report.context import by_rules
from statewise.report.results import SetResult
from statewise.sampler import Sampler, SamplingParams
from statewise.sandbox import isolation
from statewise.text import PUBLISHED_PROMPT, PromptConfig

Say = Callable[[str], None]


def written(run: Run) -> dict[str, list[Problem]]:
    """The evaluation sets that the synth stage wrote and the recipe asks: `eval.on`."""
    part = run.recipe.eval.on
    return {
        s.name: load_problems(run.path / "synth" / part / s.name / "problems.jsonl")
        for s in getattr(run.recipe.synth, part)
    }


def tell_isolation(problems: Iterable[Problem], say: Say) -> None:
    """Before programs are run: what they run behind."""
    if any(p.kind == "code" for p in problems):
        wall = isolation()
        say(f"  programs run behind: {wall.kind} ({wall.detail})")


def ask_model(
    run: Run,
    sampler: Sampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    folder: Path,
    name: str,
    who: str = "",
) -> None:
    """Evaluate on one set; the result lies in the folder as `result.json`.

    Args:
        run: says how answers are graded.
        sampler: answers.
        problems: the set.
        params: of sampling.
        folder: the set's.
        name: the set's.
        who: what the progress line calls the model; the name of the folder above, if not given.
    """
    label = f"{who or folder.parent.name}/{name}"
    asked = run.recipe.eval
    result = ask_set(
        sampler,
        problems,
        params,
        folder,
        name,
        label,
        attempts=1 + asked.retries,
        rules=asked.rules or "official",
    )
    score = "unscored" if result.pass_at_1 is None else f"{100 * result.pass_at_1:.1f} %"
    spread = "" if result.stderr is None else f" +/- {100 * result.stderr:.1f}"
    vote = "" if result.majority is None else f", majority@{params.n} {100 * result.majority:.1f} %"
    run.say(
        f"  {label}: pass@1 {score}{spread}{by_rules(result)}{vote}  ({len(problems)} problems)"
    )


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
    rules: Rules = "official",
) -> SetResult:
    """Evaluate with a progress line; what is returned also lies in `result.json`."""
    checker = BENCHMARKS[name].checker if name in BENCHMARKS else "integer"
    with task(label, len(problems) * params.n, "samples") as shown:

        def progress(done: int, total: int, verdict: Verdict) -> None:
            shown.update(done, verdict.outcome)

        figures = evaluate(
            sampler,
            problems,
            params,
            folder,
            checker=checker,
            prompt=prompt,
            attempts=attempts,
            rules=rules,
            progress=progress,
        )
    result = SetResult(
        **{f.name: getattr(figures, f.name) for f in fields(figures)}, sampling=params
    )
    write_json(folder / "result.json", to_json(result))
    return result
