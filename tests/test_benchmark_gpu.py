"""The benchmark for GPUs: rehearsed whole on a CPU, and its arithmetic."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import within

pytest.importorskip("triton", reason="no triton: pip install 'statewise[gpu]'")

from benchmarks.gpu.card import Card, Transformer, real, rehearsal
from benchmarks.gpu.decoding import sequence_bytes, weight_bytes
from benchmarks.gpu.efficiency import StepTimes, _break_even, limit
from benchmarks.gpu.stack import random_model
from benchmarks.gpu.transformer import Decoding
from statewise.engine.slots.triton import Decoder

ROOT = Path(__file__).parents[1]
positive = st.floats(1e-6, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_rehearsal_goes_through_every_part_and_ends_with_json(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=390,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == json.loads((tmp_path / "gpu.json").read_text())
    assert told["rehearsal"]
    for row in told["kernels"]["kernels"]:
        assert row["apart_from_definition"] < 0.01, row["name"]
    for way in ("forward", "backward"):
        assert told["kernels"]["scan"]["triton"][way]["ms"] > 0
    for part in ("prefill", "training"):
        for name in ("triton", "torch"):
            assert told["stack"][part][name]["20"]["tokens_per_s"] > 0
    assert told["stack"]["prefill"]["transformers"]["apart_from_definition"] < 0.05
    assert {row["state"] for row in told["decoding"]["rows"]} == {"float32", "float16", "bfloat16"}
    assert all("failed" not in row for row in told["decoding"]["rows"])
    assert len(told["efficiency"]["checks"]) == 3
    assert (tmp_path / "efficiency.png").stat().st_size > 5_000
    assert "## The scheduling model against whole generations" in (tmp_path / "gpu.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_how_to_rehearse():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "--rehearse" in done.stderr


@given(positive, positive, positive, positive, st.integers(1, 300), st.integers(1, 10**5))
def test_step_times_are_exact_where_a_step_reads_weights_and_cache(a, b, c, d, rows, context):
    def step(r, n):
        return a + b * r + c * n / 1e3 + d * r * n / 1e3

    points = {(r, n): step(r, n) for r in (1, 16, 256) for n in (512, 8192, 65536) if r * n < 2**20}
    found = StepTimes(points)(rows, context)
    assert found == pytest.approx(step(rows, context), rel=1e-6)


def test_at_the_limit_of_the_memory_the_curves_are_what_the_bytes_say():
    """Both models bound by bytes: the ratios follow from rows and bytes alone."""
    plan = real()
    found = limit(plan, 2e12, 1e18)
    ours = {(f["budget_gb"], f["state"]): f for f in found["curves"] if "state" in f}
    at = plan.generations.index(16_384)
    by_policy = [f["rows"][at] for f in found["curves"] if "policy" in f]
    assert by_policy == [7, 14, 57, 110]  # of 16,896 tokens each, and of 8,704 in the mean
    # 49 rows read 22.1 GB a step; 7 rows at 8,704 tokens in the mean read 17.6 GB.
    by_hand = (49 / 22.12) / (7 / 17.63)
    assert ours[24, "float16"]["over_reserve"][at] == pytest.approx(by_hand, rel=0.01)
    assert ours[72, "float32"]["over_reserve"][at] == pytest.approx(1.98, rel=0.02)
    half, whole = ours[24, "float16"], ours[24, "float32"]
    assert half["break_even_reserve"] < whole["break_even_reserve"]


def test_the_bytes_are_those_of_the_models_themselves():
    plan = rehearsal()
    for dtype in (torch.float32, torch.bfloat16):
        model = random_model(plan.model, torch.device("cpu"), dtype)
        assert weight_bytes(plan.model, dtype.itemsize) == sum(p.nbytes for p in model.parameters())
        for state, element in (("float32", 4), ("float16", 2)):
            found = Decoder(model, 3, state=state).nbytes
            assert found == 3 * sequence_bytes(plan.model, element, dtype.itemsize)
    small = Decoding(plan.transformer, Card(torch.device("cpu"), plan), 64)
    assert small.weight_bytes == plan.transformer.weight_bytes
    assert real().transformer.weight_bytes == 2 * 7_615_616_512  # as Qwen2.5-7B is published
    assert sequence_bytes(real().model, 4) == pytest.approx(293.6e6, rel=1e-3)


def test_the_transformer_is_qwen2_as_transformers_has_it():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = Transformer(layers=2, width=32, heads=4, kv_heads=2, headdim=8, inner=48, vocab=40)
    card = Card(torch.device("cpu"), rehearsal())
    torch.manual_seed(0)
    ours = Decoding(shape, card, 64)
    for layer in ours.layers:  # as drawn, attention would be so flat that positions are nothing
        layer["qkv"].mul_(15)
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6,
            tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    ).eval()  # fmt: skip
    weights = {"model.embed_tokens.weight": ours.embedding, "model.norm.weight": ours.norm,
               "lm_head.weight": ours.head}  # fmt: skip
    for i, layer in enumerate(ours.layers):
        at = f"model.layers.{i}."
        for key, part, bias in zip(
            "qkv", layer["qkv"].split([32, 16, 16]), layer["bias"].split([32, 16, 16]), strict=True
        ):
            weights[f"{at}self_attn.{key}_proj.weight"] = part
            weights[f"{at}self_attn.{key}_proj.bias"] = bias
        gate, up = layer["up"].chunk(2)
        weights |= {
            f"{at}self_attn.o_proj.weight": layer["out"], f"{at}mlp.gate_proj.weight": gate,
            f"{at}mlp.up_proj.weight": up, f"{at}mlp.down_proj.weight": layer["down"],
            f"{at}input_layernorm.weight": layer["norm"],
            f"{at}post_attention_layernorm.weight": layer["norm2"],
        }  # fmt: skip
    theirs.load_state_dict({k: v.float() for k, v in weights.items()})
    text = torch.randint(0, 40, (3, 9))
    with torch.inference_mode():
        expected = theirs(text, use_cache=True)
        before = theirs(text[:, :-1], use_cache=True).past_key_values
        for i, cache in enumerate(ours.cache(3, 9)):
            cache[0, :, :, :-1] = before.layers[i].keys
            cache[1, :, :, :-1] = before.layers[i].values
        found = ours.logits(text[:, -1], 9)
    within(found, expected.logits[:, -1], "model-bfloat16")


def test_every_budget_has_room_for_a_row_of_each_kind_and_the_card_for_the_largest():
    plan, least = real(), min(real().contexts)
    shape, rings = plan.transformer, sequence_bytes(plan.model, 4)
    for budget in plan.budgets:
        rest = budget - plan.overhead
        assert rest - weight_bytes(plan.model) > rings
        assert rest - shape.weight_bytes > shape.kv_bytes * (plan.prompt + max(plan.generations))
    largest = max(plan.batches)
    assert weight_bytes(plan.model) + largest * rings < 120e9
    assert max(plan.budgets) < 120e9
    assert shape.kv_bytes == 57_344
    assert least <= plan.prompt


def test_break_even_is_the_first_length_that_is_not_slower():
    assert _break_even((8, 16), [1.5, 2.0]) == 8
    assert _break_even((8, 16), [0.5, 0.7]) is None
    assert _break_even((8, 16), [0.5, 1.5]) == 12


def test_too_few_step_times_make_no_curve():
    assert not StepTimes.enough({})
    assert not StepTimes.enough({(1, 8): 1.0, (1, 16): 1.0, (4, 8): 1.0})
    assert StepTimes.enough({(1, 8): 1.0, (1, 16): 1.0, (4, 8): 1.0, (4, 16): 2.0})
