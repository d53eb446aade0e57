"""A run whose last phase learns preferences: self-play data in, a model and its figures out."""

from __future__ import annotations

import json

import pytest
from small_run import command, refused

PAIRS = [
    {
        "source": "PromptCoT-Math",
        "prompt": f"<|im_start|>user\n{a} + {b}?<|im_end|>\n<|im_start|>assistant",
        "chosen": f"\n<think>\n{a} + {b} = {a + b}\n</think>\n\n\\boxed{{{a + b}}}",
        "rejected": f"\n<think>\nhm\n</think>\n\n\\boxed{{{a - b}}}",
    }
    for a in range(6)
    for b in (1, 2)
]
EXAMPLES = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in PAIRS]
RECIPE = """
name = "preferences"
data_dir = "{data}"

[tokenizer]
vocab_size = 280

[model]
d_model = 24
n_layer = 1
d_state = 4
headdim = 12
vocab_size = 280

[train]
batch_tokens = 1024
row_tokens = 512

[[train.phases]]
name = "answers"
tokens = 2000
lr = 3e-3
sources = [{{ path = "examples.jsonl" }}]

[[train.phases]]
name = "preferences"
tokens = 4000
lr = 3e-3
loss = "dpo"
beta = 0.2
sources = [{{ path = "pairs.jsonl" }}]

[eval]
"""


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def recipe(tmp_path):
    write(tmp_path / "examples.jsonl", EXAMPLES)
    write(tmp_path / "pairs.jsonl", PAIRS)
    path = tmp_path / "preferences.toml"
    path.write_text(RECIPE.format(data=tmp_path))
    return path


def test_a_run_learns_preferences_behind_answers(recipe, tmp_path):
    code, out, err = command("train", recipe, "--out", tmp_path / "run")
    assert code == 0, out + err
    folder = tmp_path / "run" / "train"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    of_pairs = [m for m in lines if m["phase"] == "preferences"]
    assert len(of_pairs) >= 3
    assert all(0 <= m["accuracy"] <= 1 for m in of_pairs)
    assert of_pairs[-1]["margin"] > of_pairs[0]["margin"]
    assert (folder / "after-preferences" / "model.safetensors").is_file()


def test_a_row_without_a_rejected_completion_is_named_before_anything_is_trained(recipe, tmp_path):
    without = {k: v for k, v in PAIRS[3].items() if k != "rejected"}
    write(tmp_path / "pairs.jsonl", [*PAIRS[:3], without])
    message = refused("train", recipe, "--out", tmp_path / "run")
    assert "pairs.jsonl:4: has no column 'rejected'" in message
    assert not (tmp_path / "run" / "train" / "metrics.jsonl").exists()
