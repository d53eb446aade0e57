"""What stages of a run train with: its tokenizer, its first model, one training in a folder."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

import statewise
from statewise.errors import CheckpointError, ConfigError, DataError, RunError
from statewise.model import Mamba2LM, checkpoint
from statewise.model.language_model import LanguageModel
from statewise.model.ops import place
from statewise.pipeline import processes
from statewise.pipeline.decontamination import Near, Tests, evaluated, near, statements
from statewise.pipeline.folder import digest, file_content
from statewise.pipeline.stage import Run
from statewise.recipe import Recipe
from statewise.records import (
    Example,
    read_json,
    read_jsonl,
    to_json,
    write_json,
    write_jsonl,
)
from statewise.report.results import PhaseRead, SourceRead
from statewise.synth.dedup import Exams
from statewise.text import BPETokenizer, Tokenizer
from statewise.train.config import HUB, Phase, Source, TrainConfig
from statewise.train.corpus import Corpus, Fitting, make
from statewise.train.packing import Document, Stream, tokenise
from statewise.train.preference import Pairs
from statewise.train.sources import count, pairs
from statewise.train.trainer import Trainer, in_bfloat16

TOKENIZER_TEXTS = 20_000  # examples that a trained tokenizer reads, evenly from all sets


def check_file(path: Path, key: str) -> None:
    """Raise `DataError` naming the recipe's key, if a data file is missing."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; {key} names it, below data_dir: put it there, or give "
            "--set data_dir=WHERE_IT_IS"
        )


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
        wanted, has = getattr(r.model, name), getattr(model.config, name)
        if wanted != has and name != "chunk_size":  # a matter of speed, not of the weights
            raise ConfigError(f"model.{name}: {wanted}, but the checkpoint {r.init} has {has}")
    if r.train.lora.rank and in_bfloat16(r.train.dtype, place("auto")):
        model = model.bfloat16()  # they are not trained: what products read is enough
    else:
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
        sources = _sources(r.train)
        each = max(TOKENIZER_TEXTS // len(sources), 1)
        firsts = (
            islice(pairs(s, _file(run, s), preferences=s.name in r.train.preferences), each)
            for s in sources
        )
        texts = [e.prompt + e.completion for first in firsts for e, _ in first]
        tokenizer = BPETokenizer.train(texts, vocab_size=r.tokenizer.vocab_size)
        tokenizer.save(folder)
    if tokenizer.vocab_size > r.model.vocab_size:
        raise DataError(
            f"{r.tokenizer.path or folder}: the tokenizer has {tokenizer.vocab_size} entries, but "
            f"model.vocab_size is {r.model.vocab_size}; raise it"
        )
    return tokenizer


def _sources(config: TrainConfig) -> list[Source]:
    """Those of all phases, each once, by name."""
    every = {s.name: s for p in config.phases for s in p.sources}
    return [every[name] for name in sorted(every)]


def _file(run: Run, source: Source) -> Path:
    """Where a source's examples are, if it is no data set of the hub."""
    if source.path.startswith("@"):
        return run.path / "synth" / "sets" / source.path[1:] / "examples.jsonl"
    return run.data_dir / source.path


def _corpus(
    run: Run, source: Source, tokenizer: BPETokenizer, tests: Tests, preferences: bool
) -> tuple[Corpus, list[int]]:
    """A source's documents as token ids, and which of them give an evaluation problem away.

    Both are made when they are first wanted. Of preferences, chosen and rejected ones in turn.
    """
    file = _file(run, source)
    content = "" if source.path.startswith(HUB) else file_content(file)
    parts = [content, replace(source, weight=1.0, hold_out=0), tokenizer.fingerprint]
    if preferences:
        parts.append("preferences")
    if tests:
        parts += [str(run.recipe.synth.contamination), json.dumps(statements(tests))]
    safe = re.sub(r"[^\w.-]+", "-", source.name).strip("-")
    folder = run.path / "train" / "tokens" / f"{safe}-{digest(*parts)}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:  # trainings side by side may want the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        label = f"tokens of {source.name}"
        examples = pairs(source, file, preferences=preferences)
        total = partial(count, source, file)
        if not tests:
            return make(folder, examples, tokenizer, label=label, total=total), []
        named = folder / "decontaminated.jsonl"
        if not named.exists():
            exams = Exams(statements(tests))
            corpus = make(folder, examples, tokenizer, marks=exams.marks, label=label, total=total)
            write_jsonl(named, near(corpus, exams, tests, run.recipe.synth.contamination))
        return Corpus(folder), [row.document - 1 for row in read_jsonl(named, Near)]


@dataclass(frozen=True, slots=True)
class _Documents:
    """What a training reads: of each phase its sources, and by name what they hold out."""

    pools: list[list[Fitting | Pairs]]
    held_out: dict[str, list[Document]]


def _documents(run: Run, config: TrainConfig, tokenizer: BPETokenizer) -> _Documents:
    sources: dict[str, Fitting | Pairs] = {}
    held_out: dict[str, list[Document]] = {}
    direct = [s.name for s in _sources(config) if s.decontaminate and not s.path.startswith("@")]
    tests = evaluated(run) if direct else {}
    if direct and not tests:
        run.say(f"  {direct[0]}: is held against no evaluation problems: the recipe names none")
    for source in _sources(config):
        name = source.name
        against = tests if name in direct else {}
        preferences = name in config.preferences
        corpus, given_away = processes.first_then_others(
            partial(_corpus, run, source, tokenizer, against, preferences)
        )
        kind = Pairs if preferences else Fitting
        found = kind(
            corpus,
            max_tokens=config.row_tokens,
            long=config.long,
            where=name,
            near=given_away,
        )
        sources[name] = found
        left_out = [f"{count} {why}" for why, count in found.left_out.items() if count]
        if left_out:
            run.say(f"  {name}: left out {' and '.join(left_out)}")
        if found.cut:
            run.say(f"  {name}: {found.cut} examples cut behind {config.row_tokens} tokens")
        if source.hold_out and isinstance(found, Fitting):
            held_out[name] = found.hold_out(source.hold_out, run.recipe.seed)
    pools = [[sources[s.name] for s in phase.sources] for phase in config.phases]
    return _Documents(pools, held_out)


def fit(
    run: Run,
    model: LanguageModel[Any],
    config: TrainConfig,
    folder: Path,
    tokenizer: BPETokenizer,
    seed: int,
    label: str,
    development: dict[str, list[Document]] | None = None,
) -> None:
    """Train a model in a folder; a folder whose training is finished is left as it is.

    Args:
        run: where the data are.
        model: what is trained.
        config: the curriculum.
        folder: the training's.
        tokenizer: the run's.
        seed: names the order of the documents.
        label: the model's name in progress lines.
        development: by name, documents whose loss is measured, beside those that sources hold out.
    """
    documents = _documents(run, config, tokenizer)

    def ended(phase: Phase, rows: Stream) -> None:
        path = folder / "sources.json"
        read = read_json(path) if path.exists() else {}
        pools = documents.pools[config.phases.index(phase)]
        figures = _read(phase, rows, pools, config)
        run.say(f"  {phase.name}: rows filled to {100 * figures.filled:.1f} % with documents")
        write_json(path, {**read, phase.name: to_json(figures)})

    trainer = Trainer(
        model,
        config,
        documents.pools,
        folder,
        seed=seed,
        development={**(development or {}), **documents.held_out},
        save=lambda target, weights: model.save(target, tokenizer, weights=weights),
        ended=ended,
        base=run.recipe.init,
        label=label,
        say=run.say,
    )
    finish(trainer)


def finish(trainer: Trainer) -> None:
    """Train to the end; where something else ends it, say what to do.

    Raises:
        RunError: a checkpoint could not be written, or another process of the training is gone.
    """
    folder = trainer.folder
    try:
        trainer.run()
    except SafetensorError as e:
        raise RunError(
            f"{folder}: a checkpoint could not be written ({e}); make room and give the same "
            "command again: training goes on from the checkpoint before"
        ) from None
    except RuntimeError as e:
        if not processes.is_lost(e):
            raise
        raise RunError(
            f"{folder}: another process of this training is gone ({processes.first_line(e)}); what "
            "it said last says why. The same command goes on from the newest checkpoint"
        ) from None
    finally:
        torn = (folder / "checkpoints").glob(".*.tmp") if processes.index() == 0 else ()
        for path in torn:
            shutil.rmtree(path, ignore_errors=True)


def _read(
    phase: Phase, rows: Stream, pools: Sequence[Fitting | Pairs], config: TrainConfig
) -> PhaseRead:
    """What a phase that is over has read."""
    read = [
        SourceRead(
            source=source.name,
            **asdict(seen),
            left_out=pool.left_out,
            cut=pool.cut,
            held_out=source.hold_out,
        )
        for source, pool, seen in zip(phase.sources, pools, rows.seen(), strict=True)
    ]
    return PhaseRead(config.packing, rows.rows, config.row_tokens, rows.filled, tuple(read))


def development(run: Run, tokenizer: BPETokenizer) -> dict[str, list[Document]]:
    """The worked solutions of each development set, which nothing is trained on."""
    r = run.recipe
    documents: dict[str, list[Document]] = {}
    for s in r.synth.development:
        path = run.path / "synth" / "development" / s.name / "examples.jsonl"
        found = tokenise(read_jsonl(path, Example), tokenizer)
        documents[s.name] = [d for d in found if len(d.ids) <= r.train.row_tokens]
    return documents


def mean_length(run: Run, tokenizer: BPETokenizer) -> float:
    """Tokens of a document, in the mean over all that the last phase reads, by their weight."""
    config = run.recipe.train
    total = weights = 0.0
    pools = _documents(run, config, tokenizer).pools[-1]
    for source, pool in zip(config.phases[-1].sources, pools, strict=True):
        total += source.weight * float(pool.lengths.mean())
        weights += source.weight
    return total / weights


def phase_folder(folder: Path, phase: Phase) -> Path:
    """Where a training's model lies as it was at a phase's end."""
    return folder / f"after-{phase.name}"


@contextmanager
def trained_by(run: Run, folder: Path) -> Iterator[None]:
    """Tell, of a trained model that cannot be read, which stage's folder to move away."""
    try:
        yield
    except CheckpointError as e:
        stage = run.path / folder.relative_to(run.path).parts[0]
        raise RunError(
            f"{e}. To train it again, move {stage} away and give `statewise run` again"
        ) from None


def load_trained(run: Run, folder: Path) -> tuple[Mamba2LM, Tokenizer]:
    """A model that the run trained. Raises `RunError` if it cannot be read."""
    with trained_by(run, folder):
        return statewise.load(folder)
