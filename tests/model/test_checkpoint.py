"""Checkpoint folders: whole or not at all, equal after a round trip, and refused when corrupt."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import SEEDS, configs, tiny_model, tokens

import statewise
from statewise.cli import main
from statewise.errors import CheckpointError, DataError
from statewise.model import Mamba2Config
from statewise.model.checkpoint import load_model, locate, read_config
from statewise.model.formats import write
from statewise.sampler import SamplingParams
from statewise.text import SPECIAL_TOKENS, BPETokenizer

CONFIG = Mamba2Config(
    d_model=16, n_layer=2, d_state=4, headdim=4, ngroups=2, chunk_size=4, vocab_size=270,
    tie_embeddings=False,
)  # fmt: skip
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
IN_PROJ = "backbone.layers.1.mixer.in_proj.weight"


class NoTokenizer:
    """A tokenizer of a given size that writes nothing."""

    eos_id = 0

    def __init__(self, vocab_size=1):
        self.vocab_size = vocab_size

    def save(self, folder: Path) -> None:
        pass


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(["one two three 4 5 6"], vocab_size=270)


@pytest.fixture
def folder(tokenizer, tmp_path):
    tiny_model(CONFIG).save(tmp_path / "checkpoint", tokenizer)
    return tmp_path / "checkpoint"


def equal(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def change_config(folder, **entries):
    path = folder / "config.json"
    stored = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in stored.items() if v is not None}))


def change_weights(folder, **changes):
    """Replace tensors by name; None removes one."""
    weights = {**load_file(folder / WEIGHTS), **changes}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / WEIGHTS)


def split(folder):
    """The same checkpoint in two shards with an index."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, held in shards.items():
        save_file({n: weights[n] for n in held}, folder / shard)
    index = {"weight_map": {n: shard for shard, held in shards.items() for n in held}}
    (folder / INDEX).write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


def refused(folder, *told):
    """The message of the refusal, which must tell all of `told`."""
    with pytest.raises(CheckpointError) as e:
        load_model(folder)
    for part in told:
        assert str(part) in str(e.value)


@settings(max_examples=settings().max_examples // 2)
@given(config=configs(), seed=SEEDS, limits=st.sampled_from([(0.0, 0.0), (0.01, 0.0), (0.0, 0.2)]))
def test_what_is_saved_is_loaded_equal(config, seed, limits, tmp_path_factory):
    config = replace(config, dt_limit_low=limits[0], dt_limit_high=limits[1])
    folder = tmp_path_factory.mktemp("round") / "trip"
    model = tiny_model(config, seed)
    model.save(folder, NoTokenizer())
    loaded = load_model(folder)
    assert loaded.config == config
    equal(loaded, model)
    text = tokens(config, 2, 7, seed)
    assert torch.equal(loaded(text).logits, model(text).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_trains_on_with_its_head_still_tied_or_not(tied, tokenizer, tmp_path):
    tiny_model(replace(CONFIG, tie_embeddings=tied)).save(tmp_path / "c", tokenizer)
    model = load_model(tmp_path / "c")
    assert (model.lm_head.weight is model.backbone.embeddings.weight) == tied
    assert sum(1 for _ in model.parameters()) == len(load_file(tmp_path / "c" / WEIGHTS))
    model(tokens(CONFIG, 1, 5)).logits.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_dt_bias_and_A_and_D_stay_as_stored_when_the_rest_is_bfloat16(tokenizer, tmp_path):
    model = tiny_model(CONFIG).to(torch.bfloat16)
    for block in model.backbone.layers:
        for name in ("dt_bias", "A_log", "D"):
            setattr(block.mixer, name, torch.nn.Parameter(getattr(block.mixer, name).float()))
    model.save(tmp_path / "c", tokenizer)
    loaded = load_model(tmp_path / "c")
    equal(loaded, model)
    assert loaded.dtype == torch.bfloat16
    assert json.loads((tmp_path / "c" / "config.json").read_text())["dtype"] == "bfloat16"
    assert torch.equal(loaded(tokens(CONFIG, 1, 5)).logits, model(tokens(CONFIG, 1, 5)).logits)


def test_norms_stored_in_float32_beside_bfloat16_matrices_are_brought_together(folder):
    weights = load_file(folder / WEIGHTS)
    change_weights(
        folder, **{k: v.bfloat16() for k, v in weights.items() if "norm" not in k and v.dim() > 1}
    )
    model = load_model(folder)
    assert model.backbone.norm_f.weight.dtype == torch.bfloat16
    assert model.backbone.layers[0].mixer.A_log.dtype == torch.float32
    assert torch.isfinite(model(tokens(CONFIG, 1, 5)).logits).all()


def test_load_returns_model_and_tokenizer(folder, tokenizer):
    model, loaded = statewise.load(str(folder))
    equal(model, tiny_model(CONFIG))
    text = "one 23 <|im_end|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.eos_id == tokenizer.eos_id


def test_the_engine_of_a_loaded_folder_stops_at_each_of_its_ends(folder):
    params = SamplingParams(n=8, max_tokens=60, seed=1)

    def texts():
        engine = statewise.Engine(*statewise.load(folder), slots=8)
        return {c.sample: c.text for c in engine.sample(["1 2"], params)}

    before = texts()
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 1, 2, 3]}')
    after = {
        i: re.split("|".join(map(re.escape, SPECIAL_TOKENS[:4])), before[i])[0] for i in before
    }
    assert texts() == after != before


def test_shards_are_loaded_through_their_index(folder):
    split(folder)
    equal(load_model(folder), tiny_model(CONFIG))


def test_an_upstream_name_of_the_embedding_is_understood(folder):
    weights = load_file(folder / WEIGHTS)
    name = "backbone.embeddings.weight"
    change_weights(folder, **{name: None, "backbone.embedding.weight": weights[name]})
    equal(load_model(folder), tiny_model(CONFIG))


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tokenizer, tmp_path):
    model = tiny_model(replace(CONFIG, tie_embeddings=True))
    model.save(tmp_path / "c", tokenizer)
    embedding = model.backbone.embeddings.weight.detach()
    change_weights(tmp_path / "c", **{"lm_head.weight": embedding.clone()})
    equal(load_model(tmp_path / "c"), model)
    change_weights(tmp_path / "c", **{"lm_head.weight": embedding + 1})
    refused(tmp_path / "c", WEIGHTS, "'lm_head.weight' differs")


def test_extra_entries_go_into_the_config_and_do_not_disturb(tokenizer, tmp_path):
    tiny_model(CONFIG).save(tmp_path / "c", tokenizer, extra={"trained": {"steps": 3}})
    assert json.loads((tmp_path / "c" / "config.json").read_text())["trained"] == {"steps": 3}
    assert read_config(tmp_path / "c") == CONFIG
    with pytest.raises(CheckpointError, match="'hidden_size' is an entry of the model itself"):
        tiny_model(CONFIG).save(tmp_path / "d", tokenizer, extra={"hidden_size": 1})
    assert os.listdir(tmp_path) == ["c"]


def test_an_existing_checkpoint_is_not_overwritten(folder, tokenizer):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(CheckpointError, match="exists already and is not overwritten"):
        tiny_model(CONFIG, seed=1).save(folder, tokenizer)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("failing", ["_write_file", "flush"])
def test_a_save_that_fails_leaves_nothing_behind(failing, tokenizer, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, failing, full)
    with pytest.raises(CheckpointError, match=r"nothing was kept .*No space left on device"):
        tiny_model(CONFIG).save(tmp_path / "c", tokenizer)
    assert os.listdir(tmp_path) == []


def test_a_save_killed_half_way_leaves_no_checkpoint_and_can_be_repeated(tokenizer, tmp_path):
    program = """
import os, sys
from pathlib import Path
from statewise.model import Mamba2Config, Mamba2LM
class Deadly:
    eos_id, vocab_size = 0, 1
    def save(self, folder):
        os.kill(os.getpid(), 9)
Mamba2LM(Mamba2Config(d_model=16, headdim=4)).save(Path(sys.argv[1]), Deadly())
"""
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "c"], env=_env())
    assert killed.returncode == -9
    assert os.listdir(tmp_path) == [".c.tmp"]
    tiny_model(CONFIG).save(tmp_path / "c", tokenizer)
    assert os.listdir(tmp_path) == ["c"]
    equal(load_model(tmp_path / "c"), tiny_model(CONFIG))


def _env():
    return {**os.environ, "PYTHONPATH": str(Path(statewise.__file__).parents[1])}


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "no such checkpoint folder")


def test_a_missing_config_is_named(folder):
    (folder / "config.json").unlink()
    refused(folder, folder / "config.json", "no such file")


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b""])
def test_a_config_that_is_not_json_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(folder, folder / "config.json")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; only 'mamba2'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": None}, "has no entry 'hidden_size'"),
        ({"hidden_size": "16"}, "hidden_size: expected int, found '16'"),
        ({"expand": True}, "expand: expected int, found True"),
        ({"use_bias": 1}, "use_bias: expected bool, found 1"),
        ({"head_dim": 5}, "headdim: 5 does not divide"),
        ({"num_heads": 3}, "num_heads is 3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"time_step_limit": [0.5]}, "time_step_limit"),
        ({"time_step_limit": [1.0, 0.5]}, "time_step_limit"),
        ({"time_step_limit": "none"}, "time_step_limit"),
    ],
)
def test_an_entry_of_the_config_that_is_missing_wrong_or_foreign_is_named(folder, entries, told):
    change_config(folder, **entries)
    refused(folder, folder / "config.json", told)


@pytest.mark.parametrize("spelling", ['{"__float__": "Infinity"}', "Infinity"])
def test_both_spellings_of_infinity_mean_no_limit(folder, spelling):
    path = folder / "config.json"
    text = re.sub(r'"time_step_limit": \[[^\]]*\]', f'"time_step_limit": [0.0, {spelling}]',
                  path.read_text())  # fmt: skip
    path.write_text(text)
    assert read_config(folder) == CONFIG


def test_what_a_config_may_leave_out_has_the_upstream_value(folder):
    change_config(folder, chunk_size=None, time_step_limit=None, use_bias=None, use_conv_bias=None)
    assert read_config(folder) == replace(CONFIG, chunk_size=256)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights_are_named(folder, kept):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    cut = "truncated: ends before tensor"
    refused(folder, path, cut if kept == -1 else "truncated or not a safetensors file")


def test_weights_that_are_something_else_are_named(folder):
    (folder / WEIGHTS).write_bytes(b"not a tensor in sight, only text" * 9)
    refused(folder, folder / WEIGHTS, "truncated or not a safetensors file")


def test_a_missing_tensor_is_named(folder):
    change_weights(folder, **{IN_PROJ: None})
    refused(folder, folder / WEIGHTS, f"tensor {IN_PROJ!r} is missing")


def test_a_missing_head_is_named_unless_it_is_tied(folder):
    change_weights(folder, **{"lm_head.weight": None})
    refused(folder, folder / WEIGHTS, "tensor 'lm_head.weight' is missing")
    change_config(folder, tie_word_embeddings=True)
    assert load_model(folder).config.tie_embeddings


def test_a_surplus_tensor_is_named(folder):
    change_weights(folder, **{"backbone.layers.2.mixer.D": torch.ones(8)})
    refused(folder, folder / WEIGHTS, "'backbone.layers.2.mixer.D' is not one of this model's")


def test_a_tensor_of_the_wrong_shape_is_named(folder):
    change_weights(folder, **{IN_PROJ: torch.ones(3, 16)})
    refused(folder, folder / WEIGHTS, f"tensor {IN_PROJ!r} has shape (3, 16)")


def test_a_quantised_tensor_is_named(folder):
    shape = load_file(folder / WEIGHTS)[IN_PROJ].shape
    change_weights(folder, **{IN_PROJ: torch.ones(shape, dtype=torch.int8)})
    refused(folder, folder / WEIGHTS, f"tensor {IN_PROJ!r} is stored as I8")


def test_pickled_weights_are_not_read(folder):
    (folder / WEIGHTS).unlink()
    refused(folder, f"no {WEIGHTS}", "convert the weights")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    refused(folder, "pytorch_model.bin is pickled and is never read")


def test_a_missing_shard_and_a_broken_index_are_named(folder):
    split(folder)
    (folder / "b.safetensors").unlink()
    refused(folder, folder / INDEX, "'b.safetensors', which is not in the folder")
    (folder / INDEX).write_text('{"weight_map": {"x": "../b.safetensors"}}')
    refused(folder, folder / INDEX, "'../b.safetensors', which is not in the folder")
    (folder / INDEX).write_text("{}")
    refused(folder, folder / INDEX, "has no weight_map")


def test_a_tensor_missing_from_all_shards_is_named(folder):
    split(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v == "a.safetensors"}
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, folder / INDEX, "is missing")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder, tokenizer, tmp_path):
    tiny_model(replace(CONFIG, vocab_size=266)).save(tmp_path / "small", NoTokenizer())
    tokenizer.save(tmp_path / "small")
    told = rf"{tokenizer.vocab_size} entries, the model's vocab_size is 266"
    with pytest.raises(CheckpointError, match=told):
        statewise.load(tmp_path / "small")
    with pytest.raises(CheckpointError, match="300 entries, the model's vocab_size is 270"):
        tiny_model(CONFIG).save(tmp_path / "c", NoTokenizer(300))


def test_weights_without_a_tokenizer_give_logits_and_the_error_comes_where_text_is_needed(
    folder, capsys
):
    ids = torch.tensor([[1, 2, 3]])
    expected = statewise.load(folder)[0](ids).logits
    (folder / "tokenizer.json").unlink()
    model, missing = statewise.load(folder)
    assert torch.equal(model(ids).logits, expected)
    told = r"tokenizer\.json: no such file; .* text needs its tokenizer beside it"
    with pytest.raises(DataError, match=told):
        statewise.Engine(model, missing, slots=1)
    for use in (
        lambda: missing.encode("1"), lambda: missing.decode([1]), lambda: missing.save(folder),
        lambda: missing.eos_id, lambda: missing.end_ids, lambda: missing.vocab_size,
    ):  # fmt: skip
        with pytest.raises(DataError, match=told):
            use()
    assert main(["generate", str(folder), "1 + 1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"statewise: error: {folder / 'tokenizer.json'}: no such file")
    assert err.count("\n") == 1


def test_a_tokenizer_that_is_there_but_damaged_is_still_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="not a tokenizer file"):
        statewise.load(folder)


@pytest.mark.parametrize("name", ["nowhere", "runs/mini/checkpoint", "./a/b", "../a"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder, and not a hub id"):
        statewise.load(name)


def test_a_file_is_not_a_checkpoint(folder):
    with pytest.raises(CheckpointError, match="is a file; a checkpoint is the folder around it"):
        statewise.load(folder / WEIGHTS)


def test_a_hub_repository_that_cannot_be_had_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="owner/name: no such folder here, and the hub"):
        statewise.load("owner/name")


def test_of_a_hub_repository_only_json_and_safetensors_are_fetched(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot_download(name, *, allow_patterns):
        asked[name] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate("owner/name") == folder
    assert asked == {"owner/name": ["*.json", "*.safetensors"]}
