"""Published benchmarks for a model that is there already: a checkpoint, or an endpoint.

The folder holds `recipe.toml`, a folder a benchmark as in a run's `eval/`, and `report.md` and
`report.json`: the model's row beside the published ones, and what each score is made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import statewise
from statewise.endpoint import EndpointSampler
from statewise.engine import Engine
from statewise.errors import RunError
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.eval.runner import evaluate
from statewise.model import checkpoint
from statewise.offline import VLLMSampler
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.stages import tell_isolation
from statewise.progress import task
from statewise.recipe import EvalRecipe
from statewise.records import Problem, Verdict, to_json, write_atomically, write_json
from statewise.report import published
from statewise.sampler import Sampler
from statewise.text import BPETokenizer


def examine(recipe: EvalRecipe, out: Path, say: Callable[[str], None]) -> Path:
    """Ask a model what the recipe names; resumes what was begun in `out`.

    Returns:
        The page, `report.md`.

    Raises:
        StatewiseError: a file is missing, the model cannot be had, or `out` holds another recipe's.
    """
    data = Path(recipe.data_dir)
    sets = {
        name: load_benchmark(name, data, since=recipe.eval.since, until=recipe.eval.until)[
            : recipe.eval.problems or None
        ]
        for name in recipe.eval.benchmarks
    }
    folder = RunFolder(out)
    with folder.held():
        held = out / "recipe.toml"
        if held.exists() and held.read_text() != recipe.toml:
            raise RunError(f"{held}: another recipe's; choose another --out")
        folder.set_recipe(recipe.toml)
        tell_isolation(chain.from_iterable(sets.values()), say)
        sampler = _sampler(recipe)
        results = {name: _ask(recipe, sampler, name, sets[name], out, say) for name in sets}
        text = report(recipe, results)
        write_atomically(out / "report.md", text.encode())
        write_json(out / "report.json", {"recipe": recipe.sha256, "results": results})
        say(text)
    return out / "report.md"


def _sampler(recipe: EvalRecipe) -> Sampler:
    asked = recipe.checkpoint
    if asked.is_endpoint:
        return EndpointSampler(asked.path, asked.served_as)
    if asked.by == "vllm":
        folder = checkpoint.locate(asked.path)
        return VLLMSampler(
            folder,
            BPETokenizer.load(folder),
            max_tokens=recipe.eval.max_tokens,
            tensor_parallel_size=asked.tensor_parallel_size,
        )
    model, tokenizer = statewise.load(asked.path)
    return Engine(model, tokenizer, slots=recipe.engine.slots, weights=asked.weights)


def _ask(
    recipe: EvalRecipe,
    sampler: Sampler,
    name: str,
    problems: list[Problem],
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    params = recipe.eval.params(seed=recipe.seed, n=recipe.eval.samples)
    with task(name, len(problems) * params.n, "samples") as shown:

        def progress(done: int, total: int, verdict: Verdict) -> None:
            shown.update(done, verdict.outcome)

        found = evaluate(
            sampler,
            problems,
            params,
            out / name,
            checker=BENCHMARKS[name].checker,
            prompt=recipe.prompt,
            attempts=1 + recipe.eval.retries,
            progress=progress,
        )
    result: dict[str, Any] = {**to_json(found), "sampling": to_json(params)}
    write_json(out / name / "result.json", result)
    say(f"  {name}: {_score(result)}  ({found.n_problems} problems, {found.n_samples} samples)")
    return json.loads(json.dumps(result))


def _score(result: dict[str, Any]) -> str:
    if result["pass_at_1"] is None:
        return "unscored"
    spread = "" if result["stderr"] is None else f" ± {100 * result['stderr']:.1f}"
    return f"{100 * result['pass_at_1']:.1f}{spread}"


def report(recipe: EvalRecipe, results: dict[str, dict[str, Any]]) -> str:
    """The page: what each score is made of, and the row beside the published ones."""
    p = recipe.eval.params(seed=recipe.seed, n=recipe.eval.samples)
    asked = recipe.checkpoint
    lines = [
        f"# {recipe.name}",
        "",
        f"`{asked.served_as or asked.path}`, recipe `{recipe.sha256[:8]}`, seed {recipe.seed}; "
        f"{p.n} samples a problem, temperature {p.temperature}, top-p {p.top_p}, repetition "
        f"penalty {p.repetition_penalty}, at most {p.max_tokens:,} tokens.",
        "",
        "| benchmark | pass@1, % | 95 % interval | majority | truncated | no answer | unscored "
        "| tokens | problems | samples |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        inside = r["interval"]
        cells = [
            published.COLUMNS.get(name, name),
            _score(r),
            "–" if inside is None else f"{100 * inside[0]:.1f} to {100 * inside[1]:.1f}",
            "–" if r["majority"] is None else f"{100 * r['majority']:.1f}",
            *(f"{r['outcomes'][o]:,}" for o in ("truncated", "no_answer", "unscored")),
            "–" if r["mean_tokens"] is None else f"{r['mean_tokens']:,.0f}",
            f"{r['n_problems']:,}",
            f"{r['n_samples']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "The error is over problems (samples of one problem are not independent); the interval is "
        "a bootstrap over problems. Unscored samples are in no figure.",
        "",
        "## Beside the published figures",
        "",
        f"pass@1 in %. All rows but the first are as published ({published.URL}), not measured "
        "here, with other samples and sampling.",
        "",
        "| model | " + " | ".join(published.BENCHMARKS) + " |",
        "|---" * (1 + len(published.BENCHMARKS)) + "|",
    ]
    mine = {published.COLUMNS.get(name, name): _score(r) for name, r in results.items()}
    own = [mine.get(b, "–") for b in published.BENCHMARKS]
    lines.append(f"| **{recipe.name}** (measured) | " + " | ".join(own) + " |")
    for name, row in published.ROWS:
        told = ["–" if cell is None else str(cell) for cell in row]
        lines.append(f"| {name} (published) | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"
