"""A run that trains adapters of a checkpoint: what it leaves is read by peft and by everything."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from small_run import command, refused
from tiny_models import tiny_model, tokens
from tolerances import within

import statewise
from statewise.model import Mamba2Config
from statewise.recipe import load_recipe
from statewise.text import BPETokenizer

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'statewise[lora]'")
transformers.utils.logging.disable_progress_bar()

SHAPE = Mamba2Config(
    d_model=32, n_layer=2, d_state=16, headdim=16, ngroups=2, vocab_size=300, chunk_size=16
)
EXAMPLES = [{"prompt": f"{a} + {b} = ", "completion": str(a + b)} for a in range(9) for b in (1, 2)]
RECIPE = """
name = "adapters"
init = "{init}"
data_dir = "{data}"
tokenizer = {{ kind = "pretrained", path = "{init}" }}

[model]
d_model = 32
n_layer = 2
d_state = 16
headdim = 16
ngroups = 2
chunk_size = 16
vocab_size = 300

[train]
batch_tokens = 128
row_tokens = 64
lora = {{ rank = 4, targets = {targets} }}

[[train.phases]]
name = "sums"
tokens = 1000
lr = 1e-2
sources = [{{ path = "sums.jsonl" }}]

[eval]
"""


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    """A checkpoint to start from."""
    folder = tmp_path_factory.mktemp("init")
    texts = [e["prompt"] + e["completion"] for e in EXAMPLES]
    tiny_model(SHAPE).save(folder / "init", BPETokenizer.train(texts, vocab_size=270))
    (folder / "sums.jsonl").write_text("".join(f"{json.dumps(e)}\n" for e in EXAMPLES))
    return folder / "init"


def recipe(folder, init, targets):
    path = folder / "adapters.toml"
    listed = json.dumps(targets)
    path.write_text(RECIPE.format(init=init, data=init.parent, targets=listed))
    return path


def trained(folder, init, targets):
    """The folder of the training of adapters of some projections."""
    code, out, err = command("train", recipe(folder, init, targets), "--out", folder / "run")
    assert code == 0, out + err
    return folder / "run" / "train"


@torch.no_grad()
def compare(folder, init):
    """What peft makes of the adapters, and what we make of the merged model."""
    theirs = transformers.Mamba2ForCausalLM.from_pretrained(init)
    text = tokens(SHAPE, 2, 21)
    before = theirs(text).logits
    theirs = peft.PeftModel.from_pretrained(theirs, folder / "adapters-sums").eval()
    ours, _ = statewise.load(folder / "after-sums")
    expected = theirs(text).logits
    assert (expected - before).abs().max() > 0.1
    within(ours(text).logits, expected, "transformers")


def test_peft_gives_adapters_the_logits_of_the_merged_model(init, tmp_path):
    folder = trained(tmp_path, init, ["in_proj"])
    compare(folder, init)
    told = json.loads((folder / "adapters-sums" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(init)


def test_peft_refuses_adapters_of_out_proj_and_would_compute_the_same(init, tmp_path, monkeypatch):
    folder = trained(tmp_path, init, ["in_proj", "out_proj"])
    with pytest.raises(ValueError, match="'out_proj' is incompatible with Mamba-based models"):
        compare(folder, init)
    monkeypatch.setattr(peft.tuners.tuners_utils, "_check_lora_target_modules_mamba", lambda *_: 0)
    compare(folder, init)


def test_adapters_of_a_model_that_there_is_not_are_refused(init, tmp_path):
    path = recipe(tmp_path, init, ["in_proj"])
    assert "adapters need a model to adapt" in refused("check", path, "--set", "init=")


def test_where_products_are_in_bfloat16_what_is_adapted_is_held_in_it(init, tmp_path):
    from statewise.pipeline.training import first_model

    path = recipe(tmp_path, init, ["in_proj"])
    for dtype in ("float32", "bfloat16"):
        r = load_recipe(path, [f"train.dtype={dtype}"])
        assert first_model(r, 0).dtype == getattr(torch, dtype)
        every = load_recipe(path, [f"train.dtype={dtype}", "train.lora.rank=0"])
        assert first_model(every, 0).dtype == torch.float32
