"""The stages of a run, one short function each: read files, call the component, write files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import statewise
from statewise.baseline import TransformerLM, TransformerSampler, match_config
from statewise.bench import decide, measure
from statewise.engine import Engine
from statewise.errors import ConfigError, DataError
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark, load_problems
from statewise.eval.runner import evaluate
from statewise.model import Mamba2LM, checkpoint
from statewise.pipeline.folder import RunFolder, digest
from statewise.progress import task
from statewise.recipe import Recipe
from statewise.records import (
    Example,
    Problem,
    Verdict,
    file_sha256,
    from_json,
    iter_rows,
    read_jsonl,
    to_json,
    write_json,
)
from statewise.sampler import Sampler, SamplingParams
from statewise.synth.config import Role
from statewise.synth.line import Cast, choose_concepts, write_set
from statewise.synth.published import import_problems
from statewise.synth.workbook import CONCEPTS, CORE_CONCEPTS, Workbook
from statewise.text import BPETokenizer
from statewise.train.config import Phase, TrainConfig
from statewise.train.packing import Document, encode
from statewise.train.trainer import Trainer

Say = Callable[[str], None]
STAGES = ("synth", "train", "eval", "compare", "bench", "report")
TOKENIZER_TEXTS = 20_000  # examples that a trained tokenizer reads, evenly from all sets


@dataclass(frozen=True)
class Run:
    """One run: its recipe, its folder, and whom to tell."""

    recipe: Recipe
    folder: RunFolder
    say: Say

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def data_dir(self) -> Path:
        """Where data files lie."""
        return Path(self.recipe.data_dir)


# Inputs: what each stage is made from. A change upstream changes everything downstream.


def _synth_inputs(run: Run) -> str:
    r = run.recipe
    files = [run.data_dir / i.file for i in r.synth.imports]
    files += [run.data_dir / BENCHMARKS[name].file for name in r.eval.benchmarks]
    hashes = [file_sha256(f) if f.is_file() else "absent" for f in files]
    return digest("synth", r.seed, r.synth, r.eval.benchmarks, *hashes)


def _train_inputs(run: Run) -> str:
    r = run.recipe
    own = [s.path for p in r.train.phases for s in p.sources if not s.path.startswith("@")]
    hashes = [file_sha256(run.data_dir / p) for p in own if (run.data_dir / p).is_file()]
    return digest(
        "train", _synth_inputs(run), r.seed, r.init, r.tokenizer, r.model, r.train, *hashes
    )


def stage_inputs(run: Run, stage: str) -> str:
    """The hash of everything a stage is made from."""
    r = run.recipe
    if stage == "synth":
        return _synth_inputs(run)
    train = _train_inputs(run)
    return {
        "train": train,
        "eval": digest("eval", train, r.eval, r.engine),
        "compare": digest("compare", train, r.claims, r.eval, r.engine),
        "bench": digest("bench", train, r.bench),
        "report": digest("report", train, r.toml),
    }[stage]


# synth


def synth(run: Run) -> None:
    """Write the held-out sets, then the training sets against them, then the imports."""
    r, path = run.recipe, run.path / "synth"
    concepts = choose_concepts(r.synth, CONCEPTS, CORE_CONCEPTS)
    tests = {
        name: [p.statement for p in load_benchmark(name, run.data_dir)]
        for name in r.eval.benchmarks
    }
    own = _cast(r, "held_out")
    for wanted in r.synth.held_out:
        folder = path / "held_out" / wanted.name
        problems = write_set(
            wanted, concepts, own, r.synth, folder, seed=r.seed, tests=tests, held_out=True
        )
        tests[wanted.name] = [p.statement for p in problems]
        run.say(f"  {wanted.name}: {len(problems)} problems held out")
    cast = _cast(r, "train")
    for wanted in r.synth.sets:
        folder = path / "sets" / wanted.name
        problems = write_set(wanted, concepts, cast, r.synth, folder, seed=r.seed, tests=tests)
        run.say(f"  {wanted.name}: {len(problems)} of {wanted.count} drafts became examples")
    for source in r.synth.imports:
        folder = path / "sets" / source.name
        import_problems(
            run.data_dir / source.file,
            folder,
            name=source.name,
            tests=tests,
            jaccard=r.synth.duplicate_jaccard,
            containment=r.synth.contamination,
        )
        steps = json.loads((folder / "funnel.json").read_text())["steps"]
        run.say(f"  {source.name}: {steps[-1][1]} of {steps[0][1]} rows became examples")


def _cast(r: Recipe, partition: str) -> Cast:
    roles = [r.synth.author, *r.synth.judges, r.synth.verifier, r.synth.teacher]
    samplers = [_sampler(r, role, partition, i) for i, role in enumerate(roles)]
    return Cast(samplers[0], tuple(samplers[1:-2]), samplers[-2], samplers[-1])


def _sampler(r: Recipe, role: Role, partition: str, index: int) -> Sampler:
    if role.kind == "checkpoint":
        model, tokenizer = statewise.load(role.path)
        return Engine(model, tokenizer, slots=r.engine.slots)
    return Workbook(
        seed=r.seed * 100 + index,
        partition="held_out" if partition == "held_out" else "train",
        author_error=role.error,
        judge_error=role.error,
        teacher_error=role.error,
    )


def held_out(run: Run) -> dict[str, list[Problem]]:
    """The held-out sets that the synth stage wrote."""
    return {
        s.name: load_problems(run.path / "synth" / "held_out" / s.name / "problems.jsonl")
        for s in run.recipe.synth.held_out
    }


# train


def train(run: Run) -> None:
    """Train the tokenizer on the run's examples, then the model through the curriculum."""
    tokenizer = get_tokenizer(run)
    model = first_model(run.recipe, run.recipe.seed)
    fit(run, model, run.recipe.train, run.path / "train", tokenizer, run.recipe.seed, "train")


def first_model(r: Recipe, seed: int) -> Mamba2LM:
    """The model that training starts with: drawn from a seed, or the checkpoint of `init`.

    Raises:
        ConfigError: the checkpoint's sizes are not the recipe's.
    """
    if not r.init:
        torch.manual_seed(seed)
        return Mamba2LM(r.model)
    model, _ = statewise.load(r.init)
    for name in r.model.__slots__:
        wanted, found = getattr(r.model, name), getattr(model.config, name)
        if wanted != found and name != "chunk_size":  # a matter of speed, not of the weights
            raise ConfigError(f"model.{name}: {wanted}, but the checkpoint {r.init} has {found}")
    return model


def get_tokenizer(run: Run) -> BPETokenizer:
    """The run's tokenizer; trained on the run's examples when first asked for.

    Raises:
        DataError: it has more entries than the model's vocabulary.
    """
    r, folder = run.recipe, run.path / "train" / "tokenizer"
    if r.tokenizer.kind == "pretrained":
        tokenizer = BPETokenizer.load(checkpoint.locate(r.tokenizer.path))
    elif (folder / "tokenizer.json").exists():
        tokenizer = BPETokenizer.load(folder)
    else:
        paths = sorted({s.path for p in r.train.phases for s in p.sources})
        each = max(TOKENIZER_TEXTS // len(paths), 1)
        texts = [e.prompt + e.completion for p in paths for e in _examples(run, p)[:each]]
        tokenizer = BPETokenizer.train(texts, vocab_size=r.tokenizer.vocab_size)
        tokenizer.save(folder)
    if tokenizer.vocab_size > r.model.vocab_size:
        raise DataError(
            f"{r.tokenizer.path or folder}: the tokenizer has {tokenizer.vocab_size} entries, but "
            f"model.vocab_size is {r.model.vocab_size}; raise it"
        )
    return tokenizer


def _examples(run: Run, path: str) -> list[Example]:
    if path.startswith("@"):
        return read_jsonl(run.path / "synth" / "sets" / path[1:] / "examples.jsonl", Example)
    file = run.data_dir / path
    wanted = dict.fromkeys(("prompt", "completion"), True)
    return [  # published files carry other fields beside these two
        from_json(Example, {k: v for k, v in row.items() if k in wanted}, where)
        for where, row in iter_rows(file)
    ]


def _pools(run: Run, config: TrainConfig, tokenizer: BPETokenizer) -> list[list[list[Document]]]:
    cached: dict[str, list[Document]] = {}
    for path in sorted({s.path for p in config.phases for s in p.sources}):
        documents, left_out = encode(
            _examples(run, path), tokenizer, max_tokens=config.row_tokens, where=path
        )
        cached[path] = documents
        if left_out:
            run.say(f"  {path}: {left_out} examples longer than {config.row_tokens} left out")
    return [[cached[s.path] for s in phase.sources] for phase in config.phases]


def fit(
    run: Run,
    model: nn.Module,
    config: TrainConfig,
    folder: Path,
    tokenizer: BPETokenizer,
    seed: int,
    label: str,
) -> None:
    """Train a model in a folder; a folder whose training is finished is left as it is."""

    def save(target: Path) -> None:
        if isinstance(model, Mamba2LM):
            checkpoint.save(model, tokenizer, target)
        elif isinstance(model, TransformerLM):
            model.save(target)
            tokenizer.save(target)

    trainer = Trainer(
        model, config, _pools(run, config, tokenizer), folder, seed=seed, save=save, label=label
    )
    trainer.run()


def phase_folder(folder: Path, phase: Phase) -> Path:
    """Where a training's model lies as it was at a phase's end."""
    return folder / f"after-{phase.name}"


# eval


def run_eval(run: Run) -> None:
    """Ask the finished model everything, and the earlier phases' models the held-out sets."""
    r, path = run.recipe, run.path / "eval"
    sets = held_out(run)
    for name in r.eval.benchmarks:
        problems = load_benchmark(name, run.data_dir)
        sets[name] = problems[: r.eval.problems or None]
    last = r.train.phases[-1]
    for phase in r.train.phases:
        model, tokenizer = statewise.load(phase_folder(run.path / "train", phase))
        engine = Engine(model, tokenizer, slots=r.engine.slots)
        asked = sets if phase is last else held_out(run)
        n = r.eval.samples if phase is last else r.eval.phase_samples
        for name, problems in asked.items():
            folder = path / f"after-{phase.name}" / name
            ask_model(run, engine, problems, r.eval.params(seed=r.seed, n=n), folder, name)


def ask_model(
    run: Run,
    sampler: Sampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    folder: Path,
    name: str,
) -> dict[str, Any]:
    """Evaluate on one set; the result also lies in the folder as `result.json`."""
    checker = BENCHMARKS[name].checker if name in BENCHMARKS else "integer"
    label = f"{folder.parent.name}/{name}"
    with task(label, len(problems) * params.n, "samples") as shown:

        def progress(done: int, total: int, verdict: Verdict) -> None:
            shown.update(done, verdict.outcome)

        found = evaluate(sampler, problems, params, folder, checker=checker, progress=progress)
    result: dict[str, Any] = {**to_json(found), "sampling": to_json(params)}
    write_json(folder / "result.json", result)
    score = "unscored" if found.pass_at_1 is None else f"{100 * found.pass_at_1:.1f} %"
    spread = "" if found.stderr is None else f" +/- {100 * found.stderr:.1f}"
    vote = "" if found.majority is None else f", majority@{params.n} {100 * found.majority:.1f} %"
    run.say(f"  {label}: pass@1 {score}{spread}{vote}  ({len(problems)} problems)")
    return result


# compare


def compare(run: Run) -> None:
    """Train and ask the models that the claims on architecture and curriculum are held against."""
    r, path = run.recipe, run.path / "compare"
    tokenizer = get_tokenizer(run)
    share = r.claims.token_share
    sets = {
        name: problems[: r.claims.problems]
        for name, problems in held_out(run).items()
        if problems and problems[0].kind == "math"
    }
    shape = match_config(
        r.model.num_params,
        vocab_size=r.model.vocab_size,
        tie_embeddings=r.model.tie_embeddings,
        n_layer=r.model.n_layer,
    )
    for seed in r.claims.seeds:
        own = path / f"seed-{seed}"
        curriculum, alone = r.shortened(share), r.last_phase_alone(share)
        trained = own / "curriculum"
        if share == 1.0 and seed == r.seed:
            trained = run.path / "train"  # the main training is this comparison's
        else:
            label = f"seed {seed}: curriculum"
            fit(run, first_model(r, seed), curriculum, trained, tokenizer, seed, label)
        label = f"seed {seed}: last phase alone"
        fit(run, first_model(r, seed), alone, own / "alone", tokenizer, seed, label)
        torch.manual_seed(seed)
        transformer = TransformerLM(shape)
        label = f"seed {seed}: Transformer"
        fit(run, transformer, curriculum, own / "transformer", tokenizer, seed, label)

        first, last = r.train.phases[0], r.train.phases[-1]
        asked = {
            "phase-1": phase_folder(trained, first),
            "phase-1+2": phase_folder(trained, last),
            "phase-2-alone": phase_folder(own / "alone", last),
            "transformer": phase_folder(own / "transformer", last),
        }
        params = r.eval.params(seed=seed, n=r.claims.samples)
        for name, folder in asked.items():
            sampler: Sampler
            if name == "transformer":
                baseline = TransformerLM.load(folder)
                sampler = TransformerSampler(baseline, tokenizer, batch=r.engine.slots)
            else:
                model, _ = statewise.load(folder)
                sampler = Engine(model, tokenizer, slots=r.engine.slots)
            for set_name, problems in sets.items():
                ask_model(run, sampler, problems, params, own / "eval" / name / set_name, set_name)


# bench


def bench(run: Run) -> None:
    """Speed and memory against length, beside a Transformer of the same size."""
    r = run.recipe
    model, _ = statewise.load(phase_folder(run.path / "train", r.train.phases[-1]))
    shape = match_config(
        r.model.num_params,
        vocab_size=r.model.vocab_size,
        tie_embeddings=r.model.tie_embeddings,
        n_layer=r.model.n_layer,
    )
    torch.manual_seed(r.seed)
    rows = measure(model, TransformerLM(shape), r.bench, lambda line: run.say(f"  {line}"))
    found = {"rows": [to_json(row) for row in rows], "claim": to_json(decide(rows))}
    write_json(run.path / "bench" / "bench.json", found)
