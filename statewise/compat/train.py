"""`train.py`: fine-tune a model on a JSONL file of prompts and completions.

It takes the published command line, `deepspeed --num_gpus=8 train.py ...`, and trains by the loop
that recipes train by. On purpose it differs (`docs/decisions/0015-deviations.md`): what is too long
is left out and counted unless --long says otherwise; the end token is learnt; nothing is padded; a
loss that is no number ends it; and where a training was stopped, the same command goes on, whatever
--resume_from_checkpoint says.

    OUTPUT_DIR/config.json, model.safetensors, tokenizer.json ...   the trained model
    OUTPUT_DIR/training/                                            metrics and checkpoints
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from statewise.compat import deepspeed_json
from statewise.compat.flags import true_or_false
from statewise.errors import ConfigError, DataError, RunError, StatewiseError
from statewise.pipeline import processes
from statewise.records import read_json, write_json
from statewise.train.config import INDIFFERENT, ParallelConfig, Phase, Source, TrainConfig

NAME = "train.py"
PHASE = "sft"
# Flags of the published command that change nothing here, each with the values it may have.
OF_NO_MEANING: dict[str, tuple[str, ...]] = {
    "ddp_find_unused_parameters": (),
    "logging_steps": (),  # every step is in metrics.jsonl
    "resume_from_checkpoint": (),
    "local_rank": (),  # the launcher's; the environment says it too
    "evaluation_strategy": ("no",),
    "eval_strategy": ("no",),
    "load_best_model_at_end": ("false",),
    "fp16": ("false",),
    "optim": ("adamw_torch", "adamw_torch_fused"),
}
SCHEDULES: dict[str, Any] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


def parser() -> argparse.ArgumentParser:
    """Every flag of the published commands; defaults are those of TRL and transformers."""
    flags = argparse.ArgumentParser(
        prog=NAME, description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    switch: dict[str, Any] = {"type": true_or_false, "nargs": "?", "const": True}
    flags.add_argument("--config", type=Path, help="a YAML file of flags; those given here win")
    flags.add_argument("--model_name_or_path", help="a model's folder or hub id")
    flags.add_argument("--tokenizer_path", help="where its tokenizer lies, if not there")
    flags.add_argument("--data_path", type=Path, help="JSONL with `prompt` and `completion`")
    flags.add_argument("--output_dir", type=Path, help="never overwritten")
    flags.add_argument("--max_length", type=int, default=1024, help="tokens of an example")
    flags.add_argument("--model_max_length", type=int, help="the same, as PromptCoT 1.0 calls it")
    flags.add_argument("--num_train_epochs", type=float, default=3.0)
    flags.add_argument("--per_device_train_batch_size", type=int, default=8)
    flags.add_argument("--gradient_accumulation_steps", type=int, default=1)
    flags.add_argument("--learning_rate", type=float, default=2e-5)
    flags.add_argument("--lr_scheduler_type", choices=tuple(SCHEDULES), default="linear")
    flags.add_argument("--warmup_steps", type=int, default=0)
    flags.add_argument("--weight_decay", type=float, default=0.0)
    flags.add_argument("--adam_beta1", type=float, default=0.9)
    flags.add_argument("--adam_beta2", type=float, default=0.999)
    flags.add_argument("--adam_epsilon", type=float, default=1e-8)
    flags.add_argument("--max_grad_norm", type=float, default=1.0)
    flags.add_argument("--bf16", default=True, **switch)
    flags.add_argument("--gradient_checkpointing", default=True, **switch)
    flags.add_argument("--packing", default=False, help="several examples in a row", **switch)
    flags.add_argument("--deepspeed", type=Path, help="a DeepSpeed JSON file")
    flags.add_argument("--save_strategy", choices=("steps", "no"), default="steps")
    flags.add_argument("--save_steps", type=int, default=500)
    flags.add_argument("--save_total_limit", type=int, default=2)
    flags.add_argument("--seed", type=int, default=42)
    flags.add_argument("--report_to", default="none", help="tensorboard, wandb, ...; with commas")
    flags.add_argument(
        "--long",
        choices=("drop", "refuse", "cut"),
        default="drop",
        help="of an example longer than --max_length; cut is the published way (not published)",
    )
    for name, allowed in OF_NO_MEANING.items():
        told = f"only {' or '.join(allowed)}" if allowed else "accepted, and of no meaning"
        flags.add_argument(f"--{name}", help=told, nargs="?", const="true")
    return flags


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, those of a YAML file first.

    Raises:
        ConfigError: one is missing, or asks for what is not built.
        DataError: the YAML file cannot be read.
    """
    flags = parser()
    given = flags.parse_args(argv)
    if given.config:
        flags.set_defaults(**_from_yaml(given.config, flags))
        given = flags.parse_args(argv)
    for name in ("model_name_or_path", "data_path", "output_dir"):
        if getattr(given, name) is None:
            raise ConfigError(f"--{name}: missing")
    for name, allowed in OF_NO_MEANING.items():
        value = getattr(given, name)
        if allowed and value is not None and str(value).lower() not in allowed:
            raise ConfigError(f"--{name}: {value!r} is not built; only {' or '.join(allowed)}")
    if given.model_max_length is not None:
        given.max_length = given.model_max_length
    for name in (
        "max_length", "per_device_train_batch_size", "gradient_accumulation_steps", "save_steps",
        "save_total_limit", "num_train_epochs",
    ):  # fmt: skip
        if getattr(given, name) <= 0:
            raise ConfigError(f"--{name}: must be above 0, found {getattr(given, name)}")
    return given


def _from_yaml(path: Path, flags: argparse.ArgumentParser) -> dict[str, Any]:
    import yaml  # accelerate brings it

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a YAML mapping of flags to values")
    known = {action.dest for action in flags._actions}
    for key in found:
        if key not in known or key in ("config", "help"):
            raise ConfigError(f"{path}: {key}: no such flag")
    words = [f"--{key}={value}" for key, value in found.items()]
    checked = vars(flags.parse_args(words))  # converts and refuses as for the command line
    return {key: checked[key] for key in found}


def settings(flags: argparse.Namespace, tokens: int, say: Callable[[str], None]) -> TrainConfig:
    """The training that flags and DeepSpeed file ask for.

    Args:
        flags: as `parsed`.
        tokens: of the examples, each once.
        say: told of what the file has and is of no meaning.

    Raises:
        ConfigError: they contradict each other, or ask for what is not built.
    """
    parallel, decay = ParallelConfig(), SCHEDULES[flags.lr_scheduler_type]
    warmup: Literal["linear", "log"] = "linear"
    if flags.deepspeed:
        found = deepspeed_json.read(flags.deepspeed, vars(flags))
        parallel = found.parallel
        if found.warmup:
            warmup, decay = found.warmup, "linear" if found.decays else "constant"
        if found.unused:
            say(f"{flags.deepspeed}: of no meaning here: {', '.join(found.unused)}")
    rows = flags.per_device_train_batch_size * flags.gradient_accumulation_steps
    phase = Phase(
        name=PHASE,
        sources=(Source(str(flags.data_path)),),
        tokens=max(round(flags.num_train_epochs * tokens), 1),
        lr=flags.learning_rate,
        warmup_steps=flags.warmup_steps,
        warmup=warmup,
        decay=decay,
    )
    names = [name.strip() for name in flags.report_to.split(",")]
    return TrainConfig(
        phases=(phase,),
        batch_tokens=rows * processes.count() * flags.max_length,
        row_tokens=flags.max_length,
        weight_decay=flags.weight_decay,
        beta1=flags.adam_beta1,
        beta2=flags.adam_beta2,
        eps=flags.adam_epsilon,
        clip=flags.max_grad_norm,
        dtype="bfloat16" if flags.bf16 else "float32",
        checkpoint_every_s=float("inf"),
        checkpoint_every_steps=flags.save_steps if flags.save_strategy == "steps" else 0,
        keep=flags.save_total_limit,
        long=flags.long,
        packing="best-fit" if flags.packing else "none",
        trackers=tuple(name for name in names if name not in ("", "none")),
        parallel=replace(parallel, recompute="block" if flags.gradient_checkpointing else "none"),
    )


def train(flags: argparse.Namespace, say: Callable[[str], None]) -> str:
    """Train to the end; a sentence on what came of it.

    Raises:
        StatewiseError: what is asked for is missing, damaged or not built.
    """
    import statewise
    from statewise.model import checkpoint
    from statewise.pipeline.folder import digest, file_content
    from statewise.pipeline.training import finish
    from statewise.text import BPETokenizer
    from statewise.train import trackers
    from statewise.train.corpus import Fitting, make
    from statewise.train.sources import count, pairs
    from statewise.train.trainer import Trainer

    if not flags.data_path.is_file():
        raise DataError(f"{flags.data_path}: no such file; --data_path names it")
    model, _ = statewise.load(flags.model_name_or_path)
    model = model.float()  # training keeps float32 master weights
    place = flags.tokenizer_path or flags.model_name_or_path
    tokenizer = BPETokenizer.load(checkpoint.locate(place))
    source, folder = Source(str(flags.data_path)), flags.output_dir / "training"
    key = digest(file_content(flags.data_path), tokenizer.fingerprint)

    def tokenised() -> Any:
        return make(
            folder / f"tokens-{key}",
            pairs(source, flags.data_path),
            tokenizer,
            total=lambda: count(source, flags.data_path),
        )

    pool = Fitting(
        processes.first_then_others(tokenised),
        max_tokens=flags.max_length,
        long=flags.long,
        where=str(flags.data_path),
    )
    for why, number in pool.left_out.items():
        if number:
            say(f"{flags.data_path}: left out {number} examples {why}")
    if pool.cut:
        say(f"{flags.data_path}: {pool.cut} examples cut behind {flags.max_length} tokens")
    config = settings(flags, int(pool.lengths.sum()), say)
    trackers.check(config.trackers)
    if processes.index() == 0:
        _hold_to(folder / "settings.json", _told(flags, config, key))
    trainer = Trainer(
        model,
        config,
        [[pool]],
        folder,
        seed=flags.seed,
        save=lambda target, weights: model.save(target, tokenizer, weights=weights),
        label=NAME,
        say=say,
    )
    finish(trainer)
    if processes.index() == 0:
        _bring_up(trainer.phase_folder(config.phases[0]), flags.output_dir)
    return f"{flags.output_dir}: the model, trained on {len(pool):,} examples"


def _told(flags: argparse.Namespace, config: TrainConfig, key: str) -> dict[str, str]:
    """What makes a training another one; how it is spread and saved does not."""
    told = {k: str(v) for k, v in asdict(config).items() if k not in INDIFFERENT}
    return {"model_name_or_path": flags.model_name_or_path, "data and tokenizer": key, **told}


def _hold_to(path: Path, settings: dict[str, str]) -> None:
    """Write down what is trained, or refuse where something else was begun."""
    if not path.exists():
        write_json(path, settings)
        return
    before = read_json(path)
    other = sorted(k for k in settings if before.get(k) != settings[k])
    if other:
        was = "; ".join(f"{k}: {before.get(k)}, now {settings[k]}" for k in other)
        raise RunError(
            f"{path.parent}: holds a training with other settings ({was}); nothing is overwritten: "
            "give another --output_dir, or move it away"
        )


def _bring_up(folder: Path, target: Path) -> None:
    """Let the trained model's files be in the output folder too, its configuration last."""
    files = sorted(folder.iterdir(), key=lambda p: p.name == "config.json")
    for file in files:
        there = target / file.name
        if not there.exists():
            os.link(file, there)  # the same file under two names: it takes no further room


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 for an error that was told."""
    first = processes.index() == 0

    def say(line: str) -> None:
        if first:
            print(line, flush=True)

    try:
        say(train(parsed(argv), say))
        processes.leave()
    except (StatewiseError, OSError) as e:
        print(f"{NAME}: error: {e}", file=sys.stderr)
        return 1
    return 0
