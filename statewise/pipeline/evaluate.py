"""Published benchmarks for a model that is there already: a checkpoint, or an endpoint.

The folder holds `recipe.toml`, a folder a benchmark as in a run's `eval/`, and `report.md`,
`report.html` and `report.json`: the model's row beside the published ones, and what each score is
made of.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from statewise.errors import RunError
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.pipeline import STAGES
from statewise.pipeline.asking import ask_set, tell_isolation
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.samplers import open_sampler
from statewise.recipe import EvalRecipe
from statewise.records import Problem
from statewise.report import checkpoint
from statewise.report.context import by_rules, score
from statewise.report.results import SetResult
from statewise.sampler import Sampler
from statewise.sandbox import isolation


def evaluate_checkpoint(recipe: EvalRecipe, out: Path, say: Callable[[str], None]) -> Path:
    """Ask a model what the recipe names; resumes what was begun in `out`.

    Returns:
        The page, `report.html`.

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
    folder = RunFolder(out, STAGES)
    with folder.held():
        before = out / "recipe.toml"
        if before.exists() and before.read_bytes() != recipe.toml.encode():
            raise RunError(f"{before}: another recipe's; choose another --out")
        folder.set_recipe(recipe.toml)
        tell_isolation(chain.from_iterable(sets.values()), say)
        sampler = open_sampler(recipe.checkpoint, recipe.engine, max_tokens=recipe.eval.max_tokens)
        results = {name: _ask(recipe, sampler, name, sets[name], out, say) for name in sets}
        table = recipe.checkpoint
        code = any(p.kind == "code" for problems in sets.values() for p in problems)
        evaluation = checkpoint.Evaluation(
            name=recipe.name,
            model=table.served_as or table.path,
            recipe_sha256=recipe.sha256,
            recipe_toml=recipe.toml,
            isolation=isolation().kind if code else "",
            first=recipe.eval.problems,
            results=results,
        )
        say(checkpoint.write(evaluation, out))
    return out / "report.html"


def _ask(
    recipe: EvalRecipe,
    sampler: Sampler,
    name: str,
    problems: list[Problem],
    out: Path,
    say: Callable[[str], None],
) -> SetResult:
    n = recipe.eval.samples or BENCHMARKS[name].samples
    params = recipe.eval.params(seed=recipe.seed, n=n)
    result = ask_set(
        sampler,
        problems,
        params,
        out / name,
        name,
        label=name,
        prompt=recipe.prompt,
        attempts=1 + recipe.eval.retries,
        rules=recipe.eval.rules or "official",
    )
    size = f"{result.n_problems} problems, {result.n_samples} samples"
    say(f"  {name}: {score(result)}{by_rules(result)}  ({size})")
    return result
