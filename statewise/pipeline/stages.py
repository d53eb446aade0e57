"""The stages of a run, one short function each: read files, call the component, write files."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

import statewise
from statewise.baseline import TransformerLM, TransformerSampler, match_config
from statewise.bench import decide, measure
from statewise.engine import Engine
from statewise.engine.slots import Weights
from statewise.errors import CheckpointError, ConfigError, DataError, RunError
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark, load_problems
from statewise.eval.metrics import SetResult
from statewise.eval.runner import evaluate
from statewise.model import Mamba2LM, checkpoint
from statewise.model.language_model import LanguageModel
from statewise.model.ops import place
from statewise.pipeline.folder import RunFolder, digest
from statewise.progress import task
from statewise.recipe import EngineConfig, Recipe
from statewise.records import (
    Example,
    Problem,
    Verdict,
    file_sha256,
    from_json,
    iter_rows,
    read_json,
    read_jsonl,
    to_json,
    write_json,
)
from statewise.sampler import Sampler, SamplingParams
from statewise.sandbox import isolation
from statewise.synth.config import Role
from statewise.synth.line import Cast, choose_concepts, write_set
from statewise.synth.published import import_problems
from statewise.synth.workbook import CONCEPTS, CORE_CONCEPTS, Workbook
from statewise.text import PUBLISHED_PROMPT, BPETokenizer, PromptConfig
from statewise.train.config import Phase, TrainConfig
from statewise.train.packing import Document, encode
from statewise.train.trainer import Trainer

Say = Callable[[str], None]
SAVING: dict[str, Any] = {
    f.name: f.default for f in fields(TrainConfig) if f.name in ("checkpoint_every_s", "keep")
}
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
    s = r.synth
    roles = (s.author, *s.judges, s.verifier, s.teacher)
    hashes += [_content(role.path) for role in roles if role.kind == "checkpoint"]
    return digest("synth", r.seed, s, r.eval.benchmarks, *hashes)


def _train_inputs(run: Run) -> str:
    r = run.recipe
    own = [s.path for p in r.train.phases for s in p.sources if not s.path.startswith("@")]
    hashes = [file_sha256(run.data_dir / p) for p in own if (run.data_dir / p).is_file()]
    hashes += [_content(place) for place in (r.init, r.tokenizer.path) if place]
    # How often it is saved makes no other model.
    train = replace(r.train, **SAVING)
    return digest("train", _synth_inputs(run), r.seed, r.init, r.tokenizer, r.model, train, *hashes)


def _content(place: str) -> str:
    """The hash of the files in a local folder; a hub id stands for what it names."""
    folder = Path(place)
    files = sorted(f for f in folder.glob("*") if f.suffix in (".json", ".safetensors"))
    stats = [(f, f.stat()) for f in files]
    return digest(place, *(_hash_once(f, s.st_size, s.st_mtime_ns) for f, s in stats))


@functools.cache
def _hash_once(path: Path, size: int, changed_ns: int) -> str:
    return f"{path.name} {file_sha256(path)}"


def stage_inputs(run: Run, stage: str) -> str:
    """The hash of everything a stage is made from."""
    r = run.recipe
    if stage == "synth":
        return _synth_inputs(run)
    train = _train_inputs(run)
    return {
        "train": train,
        "eval": digest("eval", train, r.eval, r.engine),
        "compare": digest("compare", train, r.claims, _claims_params(r, 0), r.engine),
        "bench": digest("bench", train, r.bench),
    }[stage]


def current_stages(run: Run) -> dict[str, dict[str, Any]]:
    """What `run.json` says of the finished stages that were made from this very recipe."""
    return {
        name: record
        for name, record in run.folder.stages().items()
        if record["done"]
        and (run.path / name).is_dir()
        and record["inputs"] == stage_inputs(run, name)
    }


def _claims_params(r: Recipe, seed: int) -> SamplingParams:
    return r.eval.params(seed=seed, n=r.claims.samples)


def check_inputs(run: Run, wanted: Sequence[str]) -> None:
    """Look for what a run needs before its first stage spends minutes on what is there.

    Raises:
        DataError: a file is missing, or the tokenizer does not fit the model.
        CheckpointError: the tokenizer's folder is missing.
    """
    r = run.recipe
    for i, source in enumerate(r.synth.imports):
        _check_file(run.data_dir / source.file, f"synth.imports.{i}.file")
    for name in r.eval.benchmarks:
        load_benchmark(name, run.data_dir)
    if "train" not in wanted:
        return
    for i, phase in enumerate(r.train.phases):
        for j, examples in enumerate(phase.sources):
            if not examples.path.startswith("@"):
                key = f"train.phases.{i}.sources.{j}.path"
                _check_file(run.data_dir / examples.path, key)
    if r.tokenizer.kind == "pretrained":
        get_tokenizer(run)


def _check_file(path: Path, key: str) -> None:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; {key} names it, below data_dir: put it there, or give "
            "--set data_dir=WHERE_IT_IS"
        )


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
        steps = read_json(folder / "funnel.json")["steps"]
        run.say(f"  {source.name}: {steps[-1][1]} of {steps[0][1]} rows became examples")


def _cast(r: Recipe, partition: str) -> Cast:
    roles = [r.synth.author, *r.synth.judges, r.synth.verifier, r.synth.teacher]
    samplers = [_sampler(r, role, partition, i) for i, role in enumerate(roles)]
    return Cast(samplers[0], tuple(samplers[1:-2]), samplers[-2], samplers[-1])


def _sampler(r: Recipe, role: Role, partition: str, index: int) -> Sampler:
    if role.kind == "checkpoint":
        return open_engine(statewise.load(role.path), r.engine)
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
        return Mamba2LM(r.model, backend=r.train.backend)
    model, _ = statewise.load(r.init)
    for name in r.model.__slots__:
        wanted, found = getattr(r.model, name), getattr(model.config, name)
        if wanted != found and name != "chunk_size":  # a matter of speed, not of the weights
            raise ConfigError(f"model.{name}: {wanted}, but the checkpoint {r.init} has {found}")
    model = model.float()  # training keeps float32 master weights
    model.use(r.train.backend)
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
    model: LanguageModel[Any],
    config: TrainConfig,
    folder: Path,
    tokenizer: BPETokenizer,
    seed: int,
    label: str,
) -> None:
    """Train a model in a folder; a folder whose training is finished is left as it is."""

    trainer = Trainer(
        model,
        config,
        _pools(run, config, tokenizer),
        folder,
        seed=seed,
        save=lambda target: model.save(target, tokenizer),
        label=label,
    )
    try:
        trainer.run()
    except SafetensorError as e:
        raise RunError(
            f"{folder}: a checkpoint could not be written ({e}); make room and give the same "
            "command again: training goes on from the checkpoint before"
        ) from None
    finally:
        for torn in (folder / "checkpoints").glob(".*.tmp"):
            shutil.rmtree(torn, ignore_errors=True)


def phase_folder(folder: Path, phase: Phase) -> Path:
    """Where a training's model lies as it was at a phase's end."""
    return folder / f"after-{phase.name}"


def open_engine(
    loaded: tuple[Mamba2LM, BPETokenizer], asked: EngineConfig, weights: Weights = "model"
) -> Engine:
    """The engine that a recipe asks for, over a loaded checkpoint."""
    model, tokenizer = loaded
    model = model.to(place(asked.device))
    model.use(asked.backend)
    return Engine(model, tokenizer, slots=asked.slots, weights=weights, state=asked.state)


def _load_trained(folder: Path, stage: Path) -> tuple[Mamba2LM, BPETokenizer]:
    try:
        return statewise.load(folder)
    except CheckpointError as e:
        raise _damaged(e, stage) from None


def _damaged(e: Exception, stage: Path) -> RunError:
    return RunError(f"{e}. To train it again, move {stage} away and give `statewise run` again")


# eval


def run_eval(run: Run) -> None:
    """Ask the finished model everything, and the earlier phases' models the held-out sets."""
    r, path = run.recipe, run.path / "eval"
    sets = held_out(run)
    for name in r.eval.benchmarks:
        problems = load_benchmark(name, run.data_dir, since=r.eval.since, until=r.eval.until)
        sets[name] = problems[: r.eval.problems or None]
    tell_isolation(chain.from_iterable(sets.values()), run.say)
    last = r.train.phases[-1]
    for phase in r.train.phases:
        trained = run.path / "train"
        engine = open_engine(_load_trained(phase_folder(trained, phase), trained), r.engine)
        asked = sets if phase is last else held_out(run)
        n = r.eval.samples if phase is last else r.eval.phase_samples
        for name, problems in asked.items():
            folder = path / f"after-{phase.name}" / name
            ask_model(run, engine, problems, r.eval.params(seed=r.seed, n=n), folder, name)


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
        params = _claims_params(r, seed)
        for name, folder in asked.items():
            sampler: Sampler
            if name == "transformer":
                try:
                    baseline = TransformerLM.load(folder)
                except CheckpointError as e:
                    raise _damaged(e, path) from None
                sampler = TransformerSampler(baseline, tokenizer, batch=r.engine.slots)
            else:
                stage = run.path / folder.relative_to(run.path).parts[0]
                sampler = open_engine(_load_trained(folder, stage), r.engine)
            for set_name, problems in sets.items():
                answers = own / "eval" / name / set_name
                if name == "transformer" and not (answers / "result.json").exists():
                    # Attention rounds differently in other company: the rest alone could differ.
                    shutil.rmtree(answers, ignore_errors=True)
                ask_model(run, sampler, problems, params, answers, set_name)


# bench


def bench(run: Run) -> None:
    """Speed and memory against length, beside a Transformer of the same size."""
    r = run.recipe
    trained = run.path / "train"
    model, _ = _load_trained(phase_folder(trained, r.train.phases[-1]), trained)
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
