"""GGUF files: read back by us, and read by llama.cpp to the same logits, tokens and words."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import CODESTRAL, hf_folder, mamba_ssm_folder, mistral_folder, random_weights
from tiny_models import tokens
from tolerances import BOUNDS, within

from statewise.cli import main
from statewise.errors import CheckpointError
from statewise.model import Mamba2Config
from statewise.model.checkpoint import load_model
from statewise.model.formats.convert import convert
from statewise.model.formats.files import open_source
from statewise.model.formats.source import EMBEDDING
from statewise.text import BPETokenizer

# Wide enough that llama.cpp's quantised rows are whole; the second has one group and a tied head.
MODELS = {
    "eight-groups": replace(CODESTRAL, d_model=256, ngroups=8, vocab_size=320),
    "tied": Mamba2Config(
        d_model=128, n_layer=3, d_state=64, headdim=32, ngroups=1, chunk_size=256, vocab_size=320,
        conv_bias=False,
    ),
}  # fmt: skip
IN_PROJ = "backbone.layers.1.mixer.in_proj.weight"
TEXTS = [
    "so don't  'read'\n\n  it: 1234+56 = (a+b)*c | 3.5, \\boxed{7}.",
    "<think>\nx</think> and <|im_end|>",
    "naïve café → ü  \t ½ ∂x ≤ ١٢٣ 漢字",
]


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(
        ["the quick brown fox jumps over 12 lazy dogs", "x = (a+b) * 3.5\n\nSo don't 'read' it"]
        * 3,
        vocab_size=300,
    )


def checkpoint(place, name, tokenizer, dtype=torch.float32):
    config = MODELS[name]
    folder = hf_folder(place / name, config, random_weights(config, dtype=dtype))
    tokenizer.save(folder)
    return folder


def llama(path):
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: pip install 'statewise[peers]'"
    )
    return llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, n_threads=1, logits_all=True, verbose=False
    )


# --- what llama.cpp makes of it


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("f32", "llama-cpp"), ("f16", "llama-cpp-16"), ("bf16", "llama-cpp-16"),
     ("q8_0", "llama-cpp-q8")],
)  # fmt: skip
def test_llama_cpp_computes_the_same_logits(name, dtype, tolerance, tokenizer, tmp_path):
    folder = checkpoint(tmp_path, name, tokenizer)
    convert(folder, tmp_path / "m.gguf", "gguf", dtype, eos_id=tokenizer.eos_id)
    text = tokens(MODELS[name], 1, 100)
    theirs = llama(tmp_path / "m.gguf")
    theirs.eval(text[0, :60].tolist())  # a prompt, its continuation, and single steps
    theirs.eval(text[0, 60:90].tolist())
    for token in text[0, 90:].tolist():
        theirs.eval([token])
    found = torch.from_numpy(theirs.scores[:100].copy())
    within(found, load_model(tmp_path / "m.gguf", torch.float32)(text).logits[0], tolerance)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("f32", "llama-cpp"), ("bf16", "llama-cpp-16"), ("q8_0", "llama-cpp-q8")],
)
def test_llama_cpp_takes_the_same_greedy_tokens(name, dtype, tolerance, tokenizer, tmp_path):
    folder = checkpoint(tmp_path, name, tokenizer)
    convert(folder, tmp_path / "m.gguf", "gguf", dtype, eos_id=tokenizer.eos_id)
    theirs = llama(tmp_path / "m.gguf")
    model = load_model(tmp_path / "m.gguf", torch.float32)
    text = tokens(MODELS[name], 1, 20, 3)
    theirs.eval(text[0].tolist())
    for _ in range(30):
        logits = model(text).logits[0, -1]
        found = int(np.argmax(theirs.scores[text.shape[1] - 1]))
        if found != int(logits.argmax()):  # only where rounding may decide
            assert float(logits.max() - logits[found]) < BOUNDS[tolerance] * float(logits.max())
        text = torch.cat([text, torch.tensor([[found]])], dim=1)
        theirs.eval([found])


def test_llama_cpp_cuts_text_into_the_same_tokens(tokenizer, tmp_path):
    folder = checkpoint(tmp_path, "tied", tokenizer)
    convert(folder, tmp_path / "m.gguf", "gguf", eos_id=tokenizer.eos_id)
    theirs = llama(tmp_path / "m.gguf")
    assert theirs.token_eos() == tokenizer.eos_id

    @given(text=st.text(st.sampled_from("ab don't'(=+)|.,\n\t 12½é→"), max_size=40))
    def same(text):
        found = theirs.tokenize(text.encode(), add_bos=False, special=True)
        assert found == tokenizer.encode(text)

    same()
    for text in TEXTS:
        found = theirs.tokenize(text.encode(), add_bos=False, special=True)
        assert found == tokenizer.encode(text)
        assert theirs.detokenize(found, special=True).decode() == text


def test_llama_cpp_cuts_text_as_a_sentencepiece_tokenizer_does(tmp_path):
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=310, special_tokens=special, show_progress=False)
    inner.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 4, trainer)
    stored = json.loads(inner.to_str())
    for added in stored["added_tokens"]:  # as published ones have it: bytes are no added tokens
        added["special"] = added["id"] < 3
    stored["added_tokens"] = [added for added in stored["added_tokens"] if added["special"]]
    folder = hf_folder(tmp_path / "m", MODELS["tied"], random_weights(MODELS["tied"]))
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    convert(folder, tmp_path / "m.gguf", "gguf", eos_id=2)
    ours = BPETokenizer(Tokenizer.from_str(json.dumps(stored)), eos="</s>")
    theirs = llama(tmp_path / "m.gguf")
    for text in ("the quick fox", "the  lazy dog jumps\nover 漢字", "brown</s>"):
        assert theirs.tokenize(text.encode(), add_bos=False, special=True) == ours.encode(text)


# --- there and back


@pytest.mark.parametrize("made_by", [hf_folder, mamba_ssm_folder, mistral_folder])
@pytest.mark.parametrize("back", ["hf", "mamba_ssm", "gguf"])
def test_from_every_layout_to_gguf_and_on_no_weight_changes(made_by, back, tmp_path):
    weights = random_weights(CODESTRAL)
    convert(made_by(tmp_path / "a", CODESTRAL, weights), tmp_path / "b.gguf", "gguf")
    there = tmp_path / ("c.gguf" if back == "gguf" else "c")
    convert(tmp_path / "b.gguf", there, back, "bf16")
    source = open_source(there)
    assert source.config == CODESTRAL
    assert sorted(source) == sorted(weights)
    for name in source:
        assert torch.equal(source.read(name).float(), weights[name].float()), name


@pytest.mark.parametrize("to", ["hf", "mamba_ssm"])
def test_quantised_weights_come_back_as_numbers(to, tokenizer, tmp_path):
    folder = checkpoint(tmp_path, "tied", tokenizer, torch.bfloat16)
    convert(folder, tmp_path / "b.gguf", "gguf", "q8_0")
    convert(tmp_path / "b.gguf", tmp_path / "c", to)
    found, expected = open_source(tmp_path / "c"), open_source(folder)
    for name in expected:
        want = expected.read(name).float()
        error = (found.read(name).float() - want).abs().max() / want.abs().max()
        half = 0.5 / 127 + 2**-11  # of a step of the largest weight; the factors are float16
        assert error <= (half if name.endswith(("_proj.weight", EMBEDDING)) else 0), name


def test_the_tokenizer_and_its_template_travel_along(tokenizer, tmp_path, capsys):
    folder = checkpoint(tmp_path, "tied", tokenizer)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert main(["convert", str(folder), str(tmp_path / "b.gguf"), "--to", "gguf"]) == 0
    assert main(["convert", str(tmp_path / "b.gguf"), str(tmp_path / "c"), "--to", "hf"]) == 0
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "c" / name).read_bytes() == (folder / name).read_bytes()
    assert BPETokenizer.load(tmp_path / "c").eos_id == tokenizer.eos_id
    stored = json.loads((tmp_path / "c" / "config.json").read_text())
    assert stored["eos_token_id"] == tokenizer.eos_id
    assert "token ids only" not in capsys.readouterr().out


def test_a_tokenizer_that_llama_cpp_does_not_know_is_carried_and_said(tokenizer, tmp_path, capsys):
    folder = checkpoint(tmp_path, "tied", tokenizer)
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["pre_tokenizer"]["pretokenizers"][1]["pattern"] = {"Regex": "[a-z]+"}
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert main(["convert", str(folder), str(tmp_path / "b.gguf"), "--to", "gguf"]) == 0
    assert "no vocabulary that llama.cpp can use" in capsys.readouterr().out
    convert(tmp_path / "b.gguf", tmp_path / "c", "hf")
    assert (tmp_path / "c" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()


# --- what cannot be


@pytest.mark.parametrize(
    ("entries", "told"),
    [({"dt_limit_high": 0.1}, "time_step_limit: llama.cpp knows no limits"),
     ({"bias": True}, "use_bias: llama.cpp knows no bias"),
     ({"d_model": 80, "headdim": 80, "ngroups": 1}, "rows that divide into 32")],
)  # fmt: skip
def test_what_a_file_could_not_say_is_refused_before_it_is_begun(entries, told, tmp_path):
    config = replace(CODESTRAL, **entries)
    folder = hf_folder(tmp_path / "a", config, random_weights(config))
    with pytest.raises(CheckpointError, match=told):
        convert(folder, tmp_path / "b.gguf", "gguf", "q8_0")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kept", [0, 3, 100, 3000, -1])
def test_a_truncated_file_is_named(kept, tmp_path):
    folder = hf_folder(tmp_path / "a", CODESTRAL, random_weights(CODESTRAL))
    path = tmp_path / "b.gguf"
    convert(folder, path, "gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"b\.gguf: (truncated or not|cannot be read)"):
        open_source(path)


def written(path, change):
    """A file as ours, but for a change of header fields or tensors."""
    fields = {"embedding_length": 64, "block_count": 1, "ssm.conv_kernel": 4, "ssm.inner_size": 128,
              "ssm.state_size": 16, "ssm.time_step_rank": 2, "ssm.group_count": 1}  # fmt: skip
    shapes = {"token_embd.weight": (32, 64), "output_norm.weight": (64,),
              "blk.0.attn_norm.weight": (64,), "blk.0.ssm_in.weight": (290, 64),
              "blk.0.ssm_conv1d.weight": (160, 4), "blk.0.ssm_conv1d.bias": (160,),
              "blk.0.ssm_dt.bias": (2,), "blk.0.ssm_a": (2, 1), "blk.0.ssm_d": (2, 1),
              "blk.0.ssm_norm.weight": (1, 128), "blk.0.ssm_out.weight": (64, 128)}  # fmt: skip
    architecture = change(fields, shapes) or "mamba2"
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        if isinstance(value, str):
            writer.add_string(f"mamba2.{key}", value)
        else:
            writer.add_uint32(f"mamba2.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, shape in shapes.items():
        writer.add_tensor(name, -np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_of_llama_cpps_own_layout_is_read(tmp_path):
    written(tmp_path / "m.gguf", lambda fields, shapes: None)
    model = load_model(tmp_path / "m.gguf")
    assert model.config.nheads == 2
    assert model.backbone.layers[0].mixer.A_log.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda f, s: "mamba", "architecture is 'mamba'; only 'mamba2'"),
     (lambda f, s: f.pop("block_count") and None, "mamba2.block_count is missing"),
     (lambda f, s: f.update({"block_count": "two"}), "mamba2.block_count is 'two', not int"),
     (lambda f, s: f.update({"ssm.inner_size": 100}), "inner_size is 100: not a multiple"),
     (lambda f, s: s.pop("blk.0.ssm_d") and None, "tensor 'backbone.layers.0.mixer.D' is missing"),
     (lambda f, s: s.pop("token_embd.weight") and None, "tensor 'token_embd.weight' is missing"),
     (lambda f, s: s.update({"blk.0.ffn": (3,)}), "tensor 'blk.0.ffn' is not one of this model's"),
     (lambda f, s: s.update({"blk.0.ssm_out.weight": (64, 64)}),
      r"tensor 'blk.0.ssm_out.weight' has shape \(64, 64\)")],
)  # fmt: skip
def test_a_file_that_is_damaged_or_foreign_is_named_with_the_key_or_tensor(change, told, tmp_path):
    written(tmp_path / "m.gguf", change)
    with pytest.raises(CheckpointError, match=f"m.gguf: .*{told}"):
        open_source(tmp_path / "m.gguf")


def test_a_decay_that_is_not_negative_is_named(tmp_path):
    folder = hf_folder(tmp_path / "a", CODESTRAL, random_weights(CODESTRAL))
    convert(folder, tmp_path / "m.gguf", "gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf", "r+")
    (tensor,) = [t for t in reader.tensors if t.name == "blk.1.ssm_a"]
    tensor.data[0] = 0.5
    reader.data.flush()
    with pytest.raises(CheckpointError, match=r"tensor 'blk\.1\.ssm_a': decays must be negative"):
        load_model(tmp_path / "m.gguf")
