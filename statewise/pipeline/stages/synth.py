"""The stage that writes problems: held-out sets, training sets against them, imports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from statewise.pipeline.folder import content
from statewise.pipeline.stage import Run, Stage
from statewise.records import file_sha256, read_record, write_json

if TYPE_CHECKING:
    from statewise.synth.selection import Selector


def _made_from(run: Run) -> tuple[object, ...]:
    from statewise.eval.benchmarks import BENCHMARKS

    r, s = run.recipe, run.recipe.synth
    files = [run.data_dir / name for name in (*(i.file for i in s.imports), *s.selection.files)]
    files += [run.data_dir / BENCHMARKS[name].file for name in r.eval.benchmarks]
    hashes = [file_sha256(f) if f.is_file() else "absent" for f in files]
    roles = (s.author, *s.judges, s.verifier, s.teacher)
    hashes += [content(folder) for role in roles for folder in role.folders]
    return (r.seed, s, r.eval.benchmarks, *hashes)


def _check(run: Run) -> None:
    from statewise.eval.benchmarks import load_benchmark
    from statewise.pipeline.training import check_file

    for i, source in enumerate(run.recipe.synth.imports):
        check_file(run.data_dir / source.file, f"synth.imports.{i}.file")
    for name in run.recipe.synth.selection.files:
        check_file(run.data_dir / name, "synth.selection")
    for name in run.recipe.eval.benchmarks:
        load_benchmark(name, run.data_dir)


def _work(run: Run, folder: Path) -> None:
    """Write the evaluation sets, then the training sets against them, then the imports."""
    from statewise.eval.benchmarks import load_benchmark
    from statewise.pipeline.samplers import open_roles
    from statewise.synth.imports import import_problems
    from statewise.synth.line import Funnel, check_selected, choose_concepts, write_set
    from statewise.synth.overlap import overlap
    from statewise.synth.workbook import CONCEPTS, CORE_CONCEPTS, Partition

    r = run.recipe
    concepts = choose_concepts(r.synth, CONCEPTS, CORE_CONCEPTS)
    selector = _selector(run)
    if selector is not None:
        check_selected(selector.names, r.synth, CONCEPTS)
        run.say(f"  concepts: {len(selector.names)} of {r.synth.selection.seeds}")
    tests = {
        name: [p.statement for p in load_benchmark(name, run.data_dir)]
        for name in r.eval.benchmarks
    }
    roles = open_roles(r)
    partitions: tuple[Partition, ...] = ("development", "held_out")
    for partition in partitions:
        for problem_set in getattr(r.synth, partition):
            problems = write_set(
                problem_set,
                concepts,
                roles(partition, problem_set.novelty),
                r.synth,
                folder / partition / problem_set.name,
                seed=r.seed,
                tests=tests,
                asked=True,
                selector=selector,
            )
            tests[problem_set.name] = [p.statement for p in problems]
            told = "held out" if partition == "held_out" else "for development"
            run.say(f"  {problem_set.name}: {len(problems)} problems {told}")
    training: list[str] = []
    for problem_set in r.synth.sets:
        target = folder / "sets" / problem_set.name
        problems = write_set(
            problem_set,
            concepts,
            roles("train", "none"),
            r.synth,
            target,
            seed=r.seed,
            tests=tests,
            selector=selector,
        )
        training += [p.statement for p in problems]
        count = problem_set.count
        run.say(f"  {problem_set.name}: {len(problems)} of {count} drafts became examples")
    for source in r.synth.imports:
        target = folder / "sets" / source.name
        import_problems(
            run.data_dir / source.file,
            target,
            name=source.name,
            tests=tests,
            jaccard=r.synth.duplicate_jaccard,
            containment=r.synth.contamination,
        )
        steps = read_record(target / "funnel.json", Funnel).steps
        run.say(f"  {source.name}: {steps[-1][1]} of {steps[0][1]} rows became examples")
    write_json(folder / "overlap.json", overlap(tests, training))


def _selector(run: Run) -> Selector | None:
    """What draws the concept sets, where the recipe names seed problems."""
    from statewise.synth.selection import Selector, read_embeddings, read_lists

    how = run.recipe.synth.selection
    if not how.seeds:
        return None
    embeddings = read_embeddings(run.data_dir / how.embeddings) if how.embeddings else None
    lists = read_lists(run.data_dir / how.seeds)
    return Selector(lists, embeddings, temperature=how.temperature)


STAGE = Stage(
    name="synth",
    summary="write and judge problems, solve them, import published ones",
    made_from=_made_from,
    check=_check,
    work=_work,
)
