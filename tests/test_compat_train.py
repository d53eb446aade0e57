"""The published training command: every flag, the DeepSpeed file, two processes, and a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import statewise
from statewise.compat import train as command
from statewise.compat.train import PHASE, parsed, settings
from statewise.errors import ConfigError, DataError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.text import BPETokenizer
from statewise.train.config import ParallelConfig

ROOT = Path(__file__).parents[1]
# The published command of PromptCoT-Mamba-7B, flag by flag.
PUBLISHED = """
--adam_beta1=0.9 --adam_beta2=0.95 --bf16=True --data_path=/path/to/sft_data
--ddp_find_unused_parameters=False --deepspeed=configs/promptcot_mamba_7b_config.json --fp16=False
--gradient_accumulation_steps=8 --gradient_checkpointing=True --learning_rate=5e-06
--max_grad_norm=1.0 --max_length=20480 --model_name_or_path=/path/to/PromptCoT-Mamba-7B
--num_train_epochs=1 --output_dir=/path/to/output_dir --per_device_train_batch_size=1
--save_steps=1000 --save_strategy=steps --save_total_limit=10
--tokenizer_path=/path/to/PromptCoT-Mamba-7B --warmup_steps=100 --weight_decay=0.01
""".split()
# What PromptCoT 1.0's command has beyond it.
EARLIER = """
--evaluation_strategy=no --load_best_model_at_end=False --logging_steps=1
--model_max_length=16384 --resume_from_checkpoint=False
""".split()
# The published DeepSpeed file, as far as it says what is trained.
ZERO2 = {
    "fp16": {"enabled": False, "initial_scale_power": 12, "hysteresis": 5},
    "bf16": {"enabled": "auto"},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": 1e-8, "weight_decay": "auto"},
    },
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 5e-6, "warmup_num_steps": "auto"},
    },
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": False,
        "reduce_bucket_size": 1e6,
    },
    "steps_per_print": 1,
    "train_micro_batch_size_per_gpu": 1,
}


def asked(tmp_path, zero=ZERO2, *more):
    """The settings that the published flags come to, and what was said."""
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(zero))
    said = []
    flags = parsed([*PUBLISHED, f"--deepspeed={path}", *more])
    return settings(flags, 1_000_000, said.append), said


def changed(where, value):
    """The published file with another value at a dotted path."""
    tree = json.loads(json.dumps(ZERO2))
    node = tree
    *path, last = where.split(".")
    for key in path:
        node = node.setdefault(key, {})
    node[last] = value
    return tree


def test_the_published_command_is_the_published_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    config, said = asked(tmp_path)
    assert config.batch_tokens == 64 * 20_480
    assert (config.row_tokens, config.packing, config.long) == (20_480, "none", "drop")
    assert (config.beta1, config.beta2, config.eps) == (0.9, 0.95, 1e-8)
    assert (config.weight_decay, config.clip, config.dtype) == (0.01, 1.0, "bfloat16")
    assert (config.checkpoint_every_steps, config.keep) == (1000, 10)
    assert config.parallel == ParallelConfig("zero2", offload=True, recompute="block")
    (phase,) = config.phases
    assert (phase.lr, phase.warmup_steps, phase.tokens) == (5e-6, 100, 1_000_000)
    assert (phase.warmup, phase.decay) == ("log", "constant")  # WarmupLR, unless it says otherwise
    (line,) = said
    assert line.endswith(
        "of no meaning here: steps_per_print, zero_optimization.overlap_comm, "
        "zero_optimization.reduce_bucket_size"
    )


def test_every_flag_of_both_published_commands_is_taken():
    flags = parsed([*PUBLISHED, *EARLIER, "--local_rank=3"])
    assert flags.max_length == 16_384


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [("scheduler.params.warmup_max_lr", 1e-5, "warmup_max_lr is 1e-05, and --learning_rate"),
     ("optimizer.params.lr", 1e-3, "optimizer.params.lr is 0.001, and --learning_rate"),
     ("optimizer.params.betas", [0.9, 0.999], r"betas.1 is 0.999, and --adam_beta2 is 0.95"),
     ("scheduler.params.warmup_num_steps", 7, "warmup_num_steps is 7, and --warmup_steps is 100"),
     ("train_micro_batch_size_per_gpu", 2, "per_gpu is 2, and --per_device_train_batch_size is 1"),
     ("gradient_clipping", 0.5, "gradient_clipping is 0.5, and --max_grad_norm is 1.0"),
     ("bf16.enabled", False, "bf16.enabled is False, and --bf16 is True"),
     ("fp16.enabled", True, "fp16.enabled: training is in bfloat16 or float32"),
     ("optimizer.type", "Lion", "optimizer.type: 'Lion' is not 'AdamW'"),
     ("scheduler.type", "OneCycle", "scheduler.type: 'OneCycle' is not WarmupLR"),
     ("scheduler.params.warmup_type", "steep", "warmup_type: 'steep' is not log or linear"),
     ("scheduler.params.warmup_min_lr", 1e-7, "warmup_min_lr: a warm-up begins at 0"),
     ("zero_optimization.stage", 4, "stage: 4 is not 0, 1, 2 or 3"),
     ("zero_optimization.offload_param", {"device": "cpu"}, "only the optimiser can be"),
     ("zero_optimization.offload_optimizer", {"device": "nvme"}, "offload_optimizer to 'nvme'"),
     ("zero_optimization", "three", "zero_optimization: expected an object, found 'three'")],
)  # fmt: skip
def test_a_file_that_says_something_else_than_a_flag_is_refused_by_key(
    tmp_path, where, value, message
):
    with pytest.raises(ConfigError, match=message):
        asked(tmp_path, changed(where, value))


@pytest.mark.parametrize(
    ("stage", "engine"), [(0, "ddp"), (1, "zero2"), (2, "zero2"), (3, "zero3")]
)
def test_the_stage_names_the_engine(tmp_path, stage, engine):
    config, _ = asked(tmp_path, changed("zero_optimization.stage", stage))
    assert config.parallel.engine == engine
    assert config.parallel.offload is (stage > 0)


def test_without_a_file_the_flags_alone_are_meant():
    flags = parsed([f for f in PUBLISHED if "deepspeed" not in f])
    (phase,) = settings(flags, 1000, print).phases
    assert (phase.warmup, phase.decay) == ("linear", "linear")  # as transformers has it


def test_flags_may_stand_in_a_yaml_file_and_those_of_the_command_win(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text(
        "model_name_or_path: m\ndata_path: d\noutput_dir: o\nlearning_rate: 5.0e-6\nbf16: false\n"
        "max_length: 300\nwarmup_steps: 7\n"
    )
    flags = parsed([f"--config={path}", "--max_length=400"])
    assert (flags.model_name_or_path, flags.learning_rate, flags.bf16) == ("m", 5e-6, False)
    assert (flags.max_length, flags.warmup_steps) == (400, 7)
    path.write_text("modle_name: m\n")
    with pytest.raises(ConfigError, match=r"flags.yaml: modle_name: no such flag"):
        parsed([f"--config={path}"])
    path.write_text("- a\n")
    with pytest.raises(DataError, match="expected a YAML mapping"):
        parsed([f"--config={path}"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--fp16=True", "--fp16: 'True' is not built"), ("--eval_strategy=steps", "only no"),
     ("--load_best_model_at_end", "is not built"), ("--max_length=0", "must be above 0"),
     ("--optim=lion_8bit", "only adamw_torch")],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_name(flag, message):
    with pytest.raises(ConfigError, match=message):
        parsed([*PUBLISHED, flag])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A tiny model, some examples of which one is too long, and a DeepSpeed file."""
    root = tmp_path_factory.mktemp("published")
    texts = [f"what is {i} plus {i}?" for i in range(12)]
    tokenizer = BPETokenizer.train([*texts, "it is 0123456789"], vocab_size=288)
    torch.manual_seed(0)
    config = Mamba2Config(d_model=32, n_layer=1, d_state=16, headdim=16, vocab_size=288)
    Mamba2LM(config).save(root / "model", tokenizer)
    rows = [
        {"prompt": text, "completion": f"it is {2 * i}", "source": "made up"}
        for i, text in enumerate(texts)
    ]
    rows.append({"prompt": "long", "completion": "it is " * 200})
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    zero = changed("scheduler.params.warmup_max_lr", 1e-2)
    (root / "zero.json").write_text(json.dumps(zero))
    return root


def flags_of(given, out, *more):
    rate = [f for f in PUBLISHED if not f.startswith(("--learning_rate", "--tokenizer_path"))]
    return [
        *rate, "--learning_rate=1e-2", f"--data_path={given / 'data.jsonl'}", "--max_length=64",
        f"--model_name_or_path={given / 'model'}", f"--output_dir={out}", "--num_train_epochs=2",
        "--gradient_accumulation_steps=1", "--warmup_steps=2", "--save_steps=2", "--bf16=False",
        f"--tokenizer_path={given / 'model'}", f"--deepspeed={given / 'zero.json'}", *more,
    ]  # fmt: skip


def metrics(out):
    return [json.loads(line) for line in (out / "training/metrics.jsonl").read_text().splitlines()]


@pytest.mark.timeout(300)
def test_two_processes_train_by_the_published_command_what_one_does(
    given, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    two = subprocess.run(
        [*launcher, ROOT / "compat" / "train.py", *flags_of(given, tmp_path / "two")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("left out 1 examples longer than a row") == 1
    assert two.stdout.strip().endswith("the model, trained on 12 examples")
    (given / "alone.json").write_text(json.dumps(changed("zero_optimization", {})))
    alone = [f"--deepspeed={given / 'alone.json'}", "--gradient_accumulation_steps=2"]
    zero = json.loads((given / "alone.json").read_text())
    zero["scheduler"]["params"]["warmup_max_lr"] = 1e-2
    (given / "alone.json").write_text(json.dumps(zero))
    one = tmp_path / "one"
    assert command.main(flags_of(given, one, *alone)) == 0
    capsys.readouterr()
    assert len(metrics(one)) == len(metrics(tmp_path / "two")) == 12  # 2 epochs of 12 by 2 rows
    for a, b in zip(metrics(one), metrics(tmp_path / "two"), strict=True):
        assert (a["step"], a["tokens"], a["lr"]) == (b["step"], b["tokens"], b["lr"])
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    assert [m["lr"] for m in metrics(one)[:3]] == [0.0, 0.0, 1e-2]
    models = [statewise.load(out)[0] for out in (one, tmp_path / "two")]
    for name, weight in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_the_same_command_leaves_a_trained_model_alone_and_another_one_is_refused(
    given, tmp_path, capsys
):
    out = tmp_path / "out"
    alone = ["--gradient_accumulation_steps=2", "--num_train_epochs=1"]
    flags = [f for f in flags_of(given, out, *alone) if "deepspeed" not in f]
    assert command.main(flags) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    assert {p.name for p in out.iterdir()} >= {"config.json", "tokenizer.json", "training"}
    assert (out / "training" / f"after-{PHASE}").is_dir()
    assert command.main(flags) == 0
    assert {p: p.read_bytes() for p in before} == before
    capsys.readouterr()
    assert command.main([*flags, "--learning_rate=1e-3"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ")
    assert "other settings (phases: " in error
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--data_path=nowhere.jsonl", "nowhere.jsonl: no such file; --data_path names it"),
     ("--long=refuse", "1 of its examples are longer than 64 tokens"),
     ("--deepspeed=nowhere.json", "nowhere.json"),
     ("--report_to=tensorbored", "train.trackers: 'tensorbored' is none of")],
)  # fmt: skip
def test_what_is_wrong_is_one_message(given, tmp_path, capsys, flag, message):
    assert command.main(flags_of(given, tmp_path / "out", flag)) == 1
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ")
    assert message in error
    assert error.count("\n") == 1
