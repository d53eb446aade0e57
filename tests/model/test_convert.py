"""Layouts of others: what they hold is loaded, written and turned into one another by name."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    CODESTRAL,
    codestral_config,
    hf_folder,
    mamba_ssm_folder,
    mistral_folder,
    random_weights,
)
from safetensors.torch import load_file, save_file
from tiny_models import SEEDS, configs, tokens

import statewise
from statewise.cli import main
from statewise.errors import CheckpointError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.checkpoint import load_model, read_config
from statewise.model.formats import convert as module
from statewise.model.formats import write
from statewise.model.formats.convert import convert
from statewise.model.formats.files import open_source
from statewise.model.formats.source import EMBEDDING, HEAD, expected_shapes
from statewise.text import BPETokenizer

PUBLISHED = Mamba2Config(  # the sizes that mamba_ssm leaves out of its config.json
    d_model=32, n_layer=2, d_state=128, headdim=64, ngroups=1, chunk_size=256, vocab_size=48
)
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
IN_PROJ = "backbone.layers.1.mixer.in_proj.weight"


def holds(folder, weights):
    """The folder's tensors are these, bit by bit, in these dtypes."""
    source = open_source(folder)
    assert sorted(source) == sorted(weights)
    for name, expected in weights.items():
        found = source.read(name)
        assert found.dtype == expected.dtype, name
        assert torch.equal(found, expected), name


def refused(folder, *told):
    with pytest.raises(CheckpointError) as e:
        load_model(folder)
    for part in told:
        assert str(part) in str(e.value)


@given(config=configs())
def test_the_tensors_that_are_expected_are_the_models(config):
    model = Mamba2LM(config).state_dict()
    assert expected_shapes(config) == {name: tuple(v.shape) for name, v in model.items()}
    assert list(expected_shapes(config)) == list(model)


# --- loading


def test_a_mamba_ssm_folder_is_loaded_with_the_sizes_it_leaves_out(tmp_path):
    weights = random_weights(PUBLISHED)
    folder = mamba_ssm_folder(tmp_path / "m", PUBLISHED, weights)
    assert read_config(folder) == PUBLISHED
    model = load_model(folder)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.backbone.embeddings.weight
    for name, value in model.state_dict().items():
        if name != HEAD:
            assert torch.equal(value, weights[name].to(value.dtype)), name


def test_the_vocabulary_of_mamba_ssm_is_the_padded_one(tmp_path):
    folder = mamba_ssm_folder(tmp_path / "m", PUBLISHED, random_weights(PUBLISHED), padded_from=41)
    assert read_config(folder).vocab_size == 48
    assert load_model(folder).backbone.embeddings.weight.shape == (48, 32)


def test_safetensors_of_mamba_ssm_are_preferred_to_its_pickle(tmp_path):
    weights = random_weights(PUBLISHED)
    folder = mamba_ssm_folder(tmp_path / "m", PUBLISHED, weights)
    (folder / PICKLE).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    save_file({k.replace("embeddings.", "embedding."): v for k, v in weights.items()},
              folder / WEIGHTS)  # fmt: skip
    holds(folder, weights)


def test_mistrals_release_is_loaded(tmp_path):
    weights = random_weights(CODESTRAL)
    folder = mistral_folder(tmp_path / "m", CODESTRAL, weights)
    assert read_config(folder) == CODESTRAL
    holds(folder, weights)


def codestral(folder):
    hf_folder(folder, CODESTRAL, random_weights(CODESTRAL))
    (folder / "config.json").write_text(json.dumps(codestral_config(CODESTRAL)))
    return folder


def test_codestral_is_one_model_in_both_its_releases_whatever_its_flags_say(tmp_path):
    theirs = load_model(mistral_folder(tmp_path / "raw", CODESTRAL, random_weights(CODESTRAL)))
    model = load_model(codestral(tmp_path / "hf"))
    assert model.config == theirs.config == CODESTRAL
    text = tokens(CODESTRAL, 2, 9)
    assert torch.equal(model(text).logits, theirs(text).logits)
    config = codestral_config(CODESTRAL)
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "norm_before_gate": False}))
    assert torch.equal(load_model(tmp_path / "hf")(text).logits, model(text).logits)


@pytest.fixture(scope="module")
def mistrals_tokenizer():
    """Ids as in theirs: unk 0, bos 1, eos 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<unk>", "<s>", "</s>", *alphabet]
    inner = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def test_codestrals_end_of_sequence_is_its_tokenizers_and_not_its_configs(
    mistrals_tokenizer, tmp_path, capsys
):
    folder = codestral(tmp_path / "hf")
    mistrals_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = statewise.load(folder)
    assert tokenizer.eos_id == 2
    assert 1 not in tokenizer.encode("def f(): pass")  # nor is bos put before what is read
    assert main(["convert", str(folder), str(tmp_path / "mended"), "--to", "hf"]) == 0
    stored = json.loads((tmp_path / "mended" / "config.json").read_text())
    assert (stored["bos_token_id"], stored["eos_token_id"]) == (None, 2)
    assert stored["norm_before_gate"] is False
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "mended" / name).read_bytes() == (folder / name).read_bytes()
    capsys.readouterr()


@pytest.mark.parametrize("made_by", [mamba_ssm_folder, mistral_folder])
def test_another_dtype_is_of_the_large_weights_alone(made_by, tmp_path):
    folder = made_by(tmp_path / "m", CODESTRAL, random_weights(CODESTRAL))
    model = load_model(folder, dtype=torch.float16)
    for name, value in model.state_dict().items():
        exact = name.endswith(("dt_bias", "A_log", ".D"))
        assert value.dtype == (torch.float32 if exact else torch.float16), name


def test_weights_are_views_of_the_file_which_stays_as_it_was(tmp_path):
    folder = codestral(tmp_path / "hf")
    before = (folder / WEIGHTS).read_bytes()
    model = load_model(folder)
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(folder / WEIGHTS) in mapped.read_text()
    with torch.no_grad():
        model.backbone.embeddings.weight.zero_()
    assert (folder / WEIGHTS).read_bytes() == before


# --- what is refused


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"ssm_cfg": {}}, "ssm_cfg.layer is 'Mamba1'"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "ssm_cfg.layer is 'Mamba3'; only 'Mamba2'"),
        ({"ssm_cfg": []}, "ssm_cfg: expected dict"),
        ({"ssm_cfg": {"layer": "Mamba2", "d_state": "8"}}, "ssm_cfg.d_state: expected int"),
        ({"ssm_cfg": {"layer": "Mamba2", "rope": 1}}, "ssm_cfg.rope: an entry that is not known"),
        ({"ssm_cfg": {"layer": "Mamba2", "d_ssm": 32}}, "ssm_cfg.d_ssm is 32"),
        ({"ssm_cfg": {"layer": "Mamba2", "norm_before_gate": True}}, "norm_before_gate is True"),
        ({"ssm_cfg": {"layer": "Mamba2", "rmsnorm": False}}, "ssm_cfg.rmsnorm is False"),
        ({"ssm_cfg": {"layer": "Mamba2", "D_has_hdim": True}}, "ssm_cfg.D_has_hdim is True"),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [1]}}, "ssm_cfg.dt_limit: expected [low"),
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": 3}}, "headdim: 3 does not divide"),
        ({"d_intermediate": 64}, "d_intermediate is 64"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx is [1]"),
        ({"rms_norm": False}, "rms_norm is False"),
        ({"vocab_size": True}, "vocab_size: expected int"),
        ({"pad_vocab_size_multiple": 0}, "pad_vocab_size_multiple: must be at least 1"),
        ({"tie_embeddings": "yes"}, "tie_embeddings: expected bool"),
    ],
)
def test_what_mamba_ssm_can_say_and_is_not_this_model_is_named(entries, told, tmp_path):
    folder = mamba_ssm_folder(tmp_path / "m", PUBLISHED, random_weights(PUBLISHED), **entries)
    refused(folder, folder / "config.json", told)


@pytest.mark.parametrize(
    ("entries", "told"),
    [({"model_type": "transformer"}, "model_type is 'transformer'"), ({"dim": 1.5}, "dim: expect")],
)
def test_what_mistral_can_say_and_is_not_this_model_is_named(entries, told, tmp_path):
    folder = mistral_folder(tmp_path / "m", CODESTRAL, random_weights(CODESTRAL), **entries)
    refused(folder, folder / "params.json", told)


def test_a_release_of_mistrals_without_weights_is_named(tmp_path):
    folder = mistral_folder(tmp_path / "m", CODESTRAL, random_weights(CODESTRAL))
    (folder / "consolidated.safetensors").unlink()
    refused(folder, folder / "consolidated.safetensors", "no such file")


@pytest.mark.parametrize("kept", [0, 30, 5_000, -1])
def test_a_truncated_pickle_is_named(kept, tmp_path):
    folder = mamba_ssm_folder(tmp_path / "m", PUBLISHED, random_weights(PUBLISHED))
    data = (folder / PICKLE).read_bytes()
    (folder / PICKLE).write_bytes(data[:kept])
    refused(folder, folder / PICKLE, "weights-only loader refuses it")


class _Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({EMBEDDING: _Runs()}, "weights-only loader refuses it"),
        ([torch.ones(1)], "holds something else than named tensors"),
        ({EMBEDDING: 1}, "holds something else than named tensors"),
        ({IN_PROJ: torch.ones(2, dtype=torch.int8)}, f"tensor {IN_PROJ!r} is stored as torch.int8"),
    ],
)
def test_a_pickle_of_something_else_is_refused_and_runs_nothing(
    content, told, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = mamba_ssm_folder(tmp_path / "m", PUBLISHED, random_weights(PUBLISHED))
    torch.save(content, folder / PICKLE)
    refused(folder, folder / PICKLE, told)
    assert os.listdir(tmp_path) == ["m"]


def sharded(folder):
    """Two shards with an index."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    index = {n: ("a" if i < 5 else "b") + ".safetensors" for i, n in enumerate(names)}
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({n: weights[n] for n in names if index[n] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    (folder / WEIGHTS).unlink()
    return folder, index, weights


def test_the_same_tensor_in_two_shards_is_named_with_both(tmp_path):
    folder, index, weights = sharded(codestral(tmp_path / "hf"))
    held = {n: weights[n] for n, shard in index.items() if shard == "b.safetensors"}
    twice = next(n for n, shard in index.items() if shard == "a.safetensors")
    save_file({**held, twice: weights[twice]}, folder / "b.safetensors")
    refused(folder, folder / "b.safetensors", f"tensor {twice!r} is also in a.safetensors")


def test_a_tensor_that_is_not_in_its_shard_is_named_with_the_shard(tmp_path):
    folder, index, weights = sharded(codestral(tmp_path / "hf"))
    held = {n: weights[n] for n, s in index.items() if s == "b.safetensors" and n != IN_PROJ}
    save_file(held, folder / "b.safetensors")
    refused(folder, folder / "b.safetensors", f"tensor {IN_PROJ!r} is missing")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_shard_is_named(kept, tmp_path):
    folder, index, weights = sharded(codestral(tmp_path / "hf"))
    data = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(data[:kept])
    last = max(weights, key=lambda n: (index[n] == "b.safetensors", n))  # written in that order
    told = f"truncated: ends before tensor {last!r} does"
    if kept != -1:
        told = "truncated or not a safetensors file"
    refused(folder, folder / "b.safetensors", told)


# --- converting


@settings(max_examples=settings().max_examples // 2)
@given(
    config=configs(),
    seed=SEEDS,
    limits=st.sampled_from([(0.0, 0.0), (0.01, 0.0), (0.0, 0.2)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_from_hugging_face_to_mamba_ssm_and_back_no_bit_changes(
    config, seed, limits, dtype, tmp_path_factory
):
    config = replace(config, dt_limit_low=limits[0], dt_limit_high=limits[1])
    weights = random_weights(config, seed, dtype)
    place = tmp_path_factory.mktemp("there")
    first = hf_folder(place / "first", config, weights)
    convert(first, place / "theirs", "mamba_ssm")
    convert(place / "theirs", place / "back", "hf")
    for folder in ("first", "theirs", "back"):
        assert read_config(place / folder) == config
        holds(place / folder, weights)
    for name in ("config.json", WEIGHTS):
        assert (place / "back" / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.parametrize("made_by", [hf_folder, mamba_ssm_folder, mistral_folder])
@pytest.mark.parametrize("to", ["hf", "mamba_ssm"])
@pytest.mark.parametrize("dtype", [None, "f32", "bf16", "f16"])
def test_every_layout_becomes_every_other_in_every_dtype(made_by, to, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FORGET_AFTER", 10_000)  # lets go of its maps every few tensors
    weights = random_weights(CODESTRAL, dtype=torch.float32)
    convert(made_by(tmp_path / "a", CODESTRAL, weights), tmp_path / "b", to, dtype)
    large = module.DTYPES[dtype or "f32"]
    exact = ("dt_bias", "A_log", ".D")
    holds(tmp_path / "b", {k: v if k.endswith(exact) else v.to(large) for k, v in weights.items()})
    assert load_model(tmp_path / "b").dtype == large


def test_a_pickle_of_ours_is_what_mamba_ssm_reads(tmp_path):
    weights = random_weights(PUBLISHED)
    convert(hf_folder(tmp_path / "a", PUBLISHED, weights), tmp_path / "b", "mamba_ssm")
    held = torch.load(tmp_path / "b" / PICKLE, weights_only=True)
    names = [k.replace("embeddings.", "embedding.") for k in weights]
    assert sorted(held) == sorted([*names, HEAD])  # it asks for the tied head too
    size = (tmp_path / "b" / PICKLE).stat().st_size
    assert size < 1.1 * sum(v.nbytes for v in weights.values()) + 20_000  # no tensor's whole map
    stored = json.loads((tmp_path / "b" / "config.json").read_text())
    assert stored["ssm_cfg"]["layer"] == "Mamba2"
    assert stored["vocab_size"] % stored["pad_vocab_size_multiple"] == 0


def test_an_epsilon_that_mamba_ssm_does_not_know_is_named(tmp_path):
    config = replace(PUBLISHED, norm_eps=1e-6)
    folder = hf_folder(tmp_path / "a", config, random_weights(config))
    with pytest.raises(CheckpointError, match="norm_eps is 1e-06: mamba_ssm has no entry for it"):
        convert(folder, tmp_path / "b", "mamba_ssm")
    assert os.listdir(tmp_path) == ["a"]


def test_a_number_that_float16_cannot_hold_is_named_and_nothing_is_left(tmp_path):
    weights = random_weights(CODESTRAL)
    weights[IN_PROJ][3, 3] = 70_000
    folder = hf_folder(tmp_path / "a", CODESTRAL, weights)
    with pytest.raises(CheckpointError, match=rf"tensor '{IN_PROJ}' does not fit into float16"):
        convert(folder, tmp_path / "b", "hf", "f16")
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_there_is_not_overwritten_and_q8_0_is_of_gguf_alone(tmp_path):
    folder = hf_folder(tmp_path / "a", CODESTRAL, random_weights(CODESTRAL))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for to in ("hf", "mamba_ssm", "gguf"):
        with pytest.raises(CheckpointError, match="exists already and is not overwritten"):
            convert(folder, folder, to)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    with pytest.raises(CheckpointError, match="q8_0: is a type of GGUF"):
        convert(folder, tmp_path / "b", "hf", "q8_0")
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    folder = hf_folder(tmp_path / "a", CODESTRAL, random_weights(CODESTRAL))
    monkeypatch.setattr(write, "flush", full)
    for to in ("hf", "mamba_ssm"):
        with pytest.raises(CheckpointError, match=r"nothing was kept .*No space left on device"):
            convert(folder, tmp_path / "b", to)
    assert os.listdir(tmp_path) == ["a"]


def test_a_checkpoint_above_the_limit_is_sharded_with_an_index(tmp_path):
    weights = random_weights(CODESTRAL)
    folder = hf_folder(tmp_path / "a", CODESTRAL, weights, max_shard_bytes=100_000)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in weights.values())
    assert index["weight_map"].keys() == weights.keys()
    shards = sorted(p.name for p in folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards == sorted(set(index["weight_map"].values()))
    for shard in shards:
        held = load_file(folder / shard)
        assert len(held) == 1 or sum(v.nbytes for v in held.values()) <= 100_000
    holds(folder, weights)


def test_what_was_converted_is_told_in_one_line(tmp_path, capsys):
    folder = hf_folder(tmp_path / "a", CODESTRAL, random_weights(CODESTRAL))
    assert main(["convert", str(folder), str(tmp_path / "b"), "--to", "hf"]) == 0
    size = sum(p.stat().st_size for p in (tmp_path / "b").iterdir())
    assert capsys.readouterr().out == f"{tmp_path / 'b'}: 21 tensors, {size:,} bytes\n"


def test_loading_and_converting_hold_a_small_part_of_a_checkpoint(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to see a process's memory")
    config = Mamba2Config(
        d_model=512, n_layer=12, d_state=64, headdim=64, vocab_size=16_384, tie_embeddings=False
    )
    large = hf_folder(tmp_path / "large", config, random_weights(config))
    hf_folder(tmp_path / "small", CODESTRAL, random_weights(CODESTRAL))
    program = """
import json, sys
from pathlib import Path
from statewise.model.checkpoint import load_model
from statewise.model.formats import convert
def peak():
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
here = Path(sys.argv[1])
convert.FORGET_AFTER = 1_000_000
load_model(here / "small"), convert.convert(here / "small", here / "a", "hf", "bf16")  # imports
found = [peak()]
convert.convert(here / "large", here / "b", "hf")
found.append(peak())
model = load_model(here / "large")
found.append(peak())
for p in model.parameters():
    p.view(-1)[::512].sum()
found.append(peak())
print(json.dumps(found))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(statewise.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env=env, stdout=subprocess.PIPE, check=True
    )
    before, converted, loaded, touched = json.loads(done.stdout)
    size = sum(p.stat().st_size for p in large.iterdir())
    assert converted - before < 0.6 * size  # the largest tensor is a quarter of it
    assert loaded - before < 0.6 * size
    assert touched - before < 1.1 * size


@pytest.mark.parametrize("to", ["hf", "mamba_ssm"])
def test_several_ends_of_a_completion_are_carried_along(tmp_path, to):
    config = replace(CODESTRAL, vocab_size=272)
    folder = hf_folder(tmp_path / "a", config, random_weights(config))
    tokenizer = BPETokenizer.train(["1"], vocab_size=config.vocab_size)
    tokenizer.save(folder)
    assert main(["convert", str(folder), str(tmp_path / "one"), "--to", to]) == 0
    assert not (tmp_path / "one" / "generation_config.json").exists()
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert main(["convert", str(folder), str(tmp_path / "b"), "--to", to]) == 0
    assert BPETokenizer.load(tmp_path / "b").end_ids == (0, 2)
