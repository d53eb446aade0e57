"""The recipes of published trainings say what is published."""

from __future__ import annotations

import dataclasses
import json

import pytest

from statewise.model.formats.configs import read_config
from statewise.recipe import load_recipe

# config.json of state-spaces/mamba2-130m, as it lies on the hub.
MAMBA2_130M = {
    "d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 50277,
    "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True,
    "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("name", ["7b", "7b-math"])
def test_the_recipes_of_7b_train_as_the_published_command_does(name):
    train = load_recipe(name).train
    assert (train.optimiser, train.beta1, train.beta2, train.eps) == ("adamw", 0.9, 0.95, 1e-8)
    assert (train.weight_decay, train.clip, train.dtype) == (0.01, 1.0, "bfloat16")
    assert (train.row_tokens, train.batch_tokens // train.row_tokens) == (20_480, 64)
    assert train.packing == "none"
    assert (train.checkpoint_every_steps, train.keep) == (1000, 10)
    p = train.parallel
    assert (p.engine, p.offload, p.recompute) == ("zero2", True, "block")
    assert [phase.name for phase in train.phases] == ["foundation", "promptcot"]
    for phase in train.phases:
        assert (phase.lr, phase.warmup_steps, phase.decay) == (5e-6, 100, "constant")
        assert phase.warmup == "log"  # of DeepSpeed's WarmupLR


def test_the_mathematical_recipe_of_7b_differs_from_the_other_one_in_its_mix_alone():
    plain, math = load_recipe("7b"), load_recipe("7b-math")

    def code(recipe):
        sources = recipe.train.phases[0].sources
        return {s.path: s.weight for s in sources}["opencodereasoning.jsonl"]

    assert code(math) < code(plain)
    phases = tuple(
        dataclasses.replace(theirs, sources=ours.sources)
        for theirs, ours in zip(math.train.phases, plain.train.phases, strict=True)
    )
    train = dataclasses.replace(math.train, phases=phases)
    assert dataclasses.replace(math, name="7b", train=train) == plain


def test_the_recipe_of_130m_has_the_shape_of_its_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MAMBA2_130M))
    assert load_recipe("130m").model == read_config(tmp_path)
