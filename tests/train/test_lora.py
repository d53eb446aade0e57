"""Adapters: what is trained and saved, and that merged models compute what adapted ones do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import Killed
from tiny_models import tiny_model, tokens
from tolerances import within
from training_doubles import TWO_PHASES, metrics, results, small_model, some_documents, trainer

from statewise.errors import CheckpointError, ConfigError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.recipe import load_recipe
from statewise.train import lora
from statewise.train.config import LoraConfig, ParallelConfig
from statewise.train.loss import SummedLoss
from statewise.train.packing import pack
from statewise.train.parallel import recompute

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'statewise[lora]'")

ADAPTERS = LoraConfig(rank=3, alpha=6)
CONFIG = dataclasses.replace(TWO_PHASES, lora=ADAPTERS)
SHAPE = Mamba2Config(
    d_model=32, n_layer=2, d_state=16, headdim=16, ngroups=2, vocab_size=40, chunk_size=8
)


def adapted(model, config=ADAPTERS, seed=1):
    """A model whose adapters all add something."""
    lora.adapt(model, config, seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    return model


def named(model):
    return dict(model.named_parameters())


def plain(model, config=ADAPTERS):
    """The merged model of an adapted one."""
    found = Mamba2LM(model.config, backend=model.backend)
    weights = lora.merged(named(model), config)
    found.load_state_dict(weights, strict=False)
    assert set(weights) == set(named(found))
    return found.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
@torch.no_grad()
def test_a_merged_model_computes_what_the_adapted_one_does_under_every_backend(backend, bias):
    shape = dataclasses.replace(SHAPE, bias=bias)
    ids = tokens(shape, 2, 21)
    before = tiny_model(shape, backend=backend)(ids).logits
    model = adapted(tiny_model(shape, backend=backend))
    found = model(ids)
    assert (found.logits - before).abs().max() > 0.1
    expected = plain(model)(ids)
    within(found.logits, expected.logits, "model", backend)
    within(found.state.ssm, expected.state.ssm, "model", "state")
    state = model.zero_state(2)
    for column in range(4):
        logits = model.step_(ids[:, column], state)
        within(logits, expected.logits[:, column], "model", "step")


def test_an_adapted_model_begins_as_the_model_that_it_adapts():
    ids = tokens(SHAPE, 1, 9)
    expected = tiny_model(SHAPE)(ids).logits
    model = tiny_model(SHAPE)
    lora.adapt(model, ADAPTERS, seed=0)
    within(model(ids).logits, expected, "model")


def test_adapters_are_drawn_from_the_seed_and_from_nothing_else():
    drawn = []
    for seed in (0, 0, 1):
        model = small_model()
        state = torch.get_rng_state()
        lora.adapt(model, ADAPTERS, seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append([p.clone() for n, p in named(model).items() if "lora_A" in n])
        torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("again", ["none", "block"])
def test_the_gradient_of_an_adapter_is_that_of_the_weight_it_stands_for(backend, again):
    shape = dataclasses.replace(SHAPE, vocab_size=24)
    row = pack(some_documents(6))
    model = adapted(tiny_model(shape, backend=backend))
    recompute(model, ParallelConfig(recompute=again))
    SummedLoss(model)(row).backward()
    whole = plain(model)
    SummedLoss(whole)(row).backward()
    scale, weights = ADAPTERS.alpha / ADAPTERS.rank, named(model)
    seen = 0
    for name, parameter in weights.items():
        if "lora_" not in name:
            assert parameter.grad is None
            continue
        stem, _, _ = name.partition(".lora_")
        grad = named(whole)[f"{stem}.weight"].grad
        if "lora_A" in name:
            expected = scale * weights[f"{stem}.lora_B.default.weight"].T @ grad
        else:
            expected = scale * grad @ weights[f"{stem}.lora_A.default.weight"].T
        within(parameter.grad, expected, "model-gradient", name)
        seen += 1
    assert seen == 2 * 2 * SHAPE.n_layer


def test_only_adapters_are_trained_and_kept_in_checkpoints(tmp_path):
    before = named(small_model())
    run = trainer(tmp_path, CONFIG)
    run.run()
    kept = [found for name, found in results(tmp_path).items() if name.startswith("phase-")]
    assert kept
    for state, tensors in kept:
        assert all("lora_" in name for name in tensors)
        layers, projections, matrices, kinds = 2, 2, 2, 3  # weights and two moments
        assert len(tensors) == layers * projections * matrices * kinds
        assert state["optimiser_steps"] > 0
    after = load_file(tmp_path / "after-b")
    assert after.keys() == before.keys()
    for name, weight in after.items():
        target = name.endswith(("in_proj.weight", "out_proj.weight"))
        assert torch.equal(weight, before[name]) != target
    losses = [m["loss"] for m in metrics(tmp_path)]
    assert losses[-1] < losses[0]


def test_a_phase_leaves_the_merged_model_and_the_adapters_it_is_made_of(tmp_path):
    run = trainer(tmp_path, CONFIG, base="where/it/is")
    run.run()
    for phase in "ab":
        adapters = load_file(tmp_path / f"adapters-{phase}" / "adapter_model.safetensors")
        base = named(small_model())
        for name, weight in load_file(tmp_path / f"after-{phase}").items():
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in adapters:
                low, high = (adapters.pop(f"{stem}.lora_{x}.weight") for x in "AB")
                within(weight, base[name] + ADAPTERS.alpha / ADAPTERS.rank * high @ low, "model")
        assert not adapters
    told = json.loads((tmp_path / "adapters-a" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "where/it/is"
    assert (told["r"], told["lora_alpha"], told["lora_dropout"]) == (3, 6, 0.0)


def test_a_training_of_adapters_that_was_killed_resumes_bit_for_bit(tmp_path, monkeypatch):
    trainer(tmp_path / "whole", CONFIG).run()
    steps = len(metrics(tmp_path / "whole"))
    for kill in range(1, steps):
        run = trainer(tmp_path / str(kill), CONFIG)
        real, left = run._write_checkpoint, [kill]

        def write(real=real, left=left):
            real()
            left[0] -= 1
            if not left[0]:
                raise Killed

        monkeypatch.setattr(run, "_write_checkpoint", write)
        with pytest.raises(Killed):
            run.run()
        torch.rand(kill)  # nothing hangs on torch's generator
        trainer(tmp_path / str(kill), CONFIG).run()
        assert results(tmp_path / str(kill)) == results(tmp_path / "whole")


def test_a_kill_between_adapters_and_merged_model_changes_nothing(tmp_path, monkeypatch):
    trainer(tmp_path / "whole", CONFIG).run()
    run = trainer(tmp_path / "killed", CONFIG)

    def save(*_):
        raise Killed

    run.save = save
    with pytest.raises(Killed):
        run.run()
    assert (tmp_path / "killed" / "adapters-a").is_dir()
    trainer(tmp_path / "killed", CONFIG).run()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_a_training_of_all_weights_is_not_taken_for_one_of_adapters(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="of another training"):
        trainer(tmp_path, CONFIG).run()


def test_what_is_adapted_may_lie_in_bfloat16_and_adapters_are_float32(tmp_path):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    run = trainer(tmp_path, config, model=small_model().bfloat16())
    run.run()
    for name, parameter in run.model.named_parameters():
        exact = name.endswith(("A_log", "dt_bias", ".D"))
        assert parameter.requires_grad == ("lora_" in name)
        whole = parameter.requires_grad or exact
        assert parameter.dtype == (torch.float32 if whole else torch.bfloat16)
    after = load_file(tmp_path / "after-b")
    assert after["backbone.layers.0.mixer.in_proj.weight"].dtype == torch.bfloat16
    losses = [m["loss"] for m in metrics(tmp_path)]
    assert losses[-1] < losses[0]


def test_7b_with_adapters_leaves_a_third_of_a_24_gb_card_to_activations():
    with torch.device("meta"):
        model = Mamba2LM(load_recipe("7b").model).bfloat16()
        lora.adapt(model, LoraConfig(rank=16), seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = sum(p.nbytes for p in model.parameters())
    held += trained * 3 * 4  # a gradient and two moments, float32
    assert trained == 64 * 16 * ((4096 + 18_560) + (8192 + 4096))
    assert held < 24e9 * 2 / 3


WITHOUT = """
import sys
sys.modules["peft"] = None
import dataclasses
from pathlib import Path
from training_doubles import TWO_PHASES, trainer
from statewise.errors import ConfigError
from statewise.train.config import LoraConfig
try:
    trainer(Path(sys.argv[1]), dataclasses.replace(TWO_PHASES, lora=LoraConfig(rank=2)))
except ConfigError as e:
    print(e)
"""


def test_adapters_without_peft_are_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert "train.lora.rank: adapters need peft" in told
    assert "pip install 'statewise[lora]'" in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rank": -1}, "rank: must be at least 0"),
        ({"alpha": 0}, "alpha: must be at least 1"),
        ({"targets": ()}, "targets: names of projections"),
        ({"targets": ("in_proj", "lm_head")}, "targets: names of projections"),
    ],
)
def test_adapters_of_nothing_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        LoraConfig(**settings)
