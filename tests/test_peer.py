"""The Transformer in llama.cpp: the file it reads, and the logits that come out."""

import gguf
import pytest
import torch
from transformers import Qwen2Config

from statewise import bench, peer
from statewise.baseline import TransformerLM, match_config
from statewise.bench import BenchConfig, measure
from statewise.model import Mamba2Config, Mamba2LM
from statewise.speed import IN_LLAMA_CPP, IN_TORCH

VOCABULARY = 96


@pytest.fixture
def needed():
    pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: pip install 'statewise[peers]'"
    )


def transformer(*, tied=True, dtype=torch.float32):
    """Three layers, two query heads a key-value head, heads of 12."""
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=100,
        tie_word_embeddings=tied,
    )
    model = TransformerLM(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh biases are zero and would hide mistakes
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_file_holds_every_weight_by_llama_cpps_names(tied, dtype, tmp_path):
    model = transformer(tied=tied, dtype=dtype)
    peer.write_gguf(tmp_path / "t.gguf", model)
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    assert reader.get_field("general.architecture").contents() == "qwen2"
    assert reader.get_field("tokenizer.ggml.model").contents() == "no_vocab"
    told = {t.name: t for t in reader.tensors}
    assert ("output.weight" in told) is not tied
    assert sum(t.n_elements for t in told.values()) == model.num_params
    matrix, bias = told["blk.2.ffn_down.weight"], told["blk.0.attn_k.bias"]
    layers = model.qwen2.model.layers
    assert (matrix.tensor_type, bias.tensor_type) == (
        peer.KINDS[dtype], gguf.GGMLQuantizationType.F32,
    )  # fmt: skip
    assert tuple(reversed(matrix.shape.tolist())) == tuple(layers[2].mlp.down_proj.weight.shape)
    raw = layers[2].mlp.down_proj.weight.detach().view(torch.uint8).numpy()
    assert matrix.data.tobytes() == raw.tobytes()
    assert bias.data.tolist() == layers[0].self_attn.k_proj.bias.float().tolist()


def test_where_llama_cpp_cannot_be_had_it_is_said_why(monkeypatch):
    model = transformer()
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
    assert "llama-cpp-python is not installed" in peer.missing(model)
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: "there")
    assert peer.missing(model) == ""
    assert "no float64" in peer.missing(model.double())
    assert "on meta" in peer.missing(model.to("meta"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-4), (torch.bfloat16, 5e-2), (torch.float16, 5e-2)],
)
@pytest.mark.parametrize("length", [1, 700])  # longer than one piece of a prompt
@torch.inference_mode()
def test_llama_cpp_computes_the_same_logits_in_every_row_and_after_rewinding(
    needed, tied, dtype, tolerance, length
):
    model = transformer(tied=tied, dtype=dtype)
    tokens = torch.randint(VOCABULARY, (length + 5,))
    full = model(tokens[None], logits_to_keep=5).logits[0]
    llama = peer.LlamaCpp(model, threads=1)
    try:
        rows = llama.rows(llama.read(tokens[:length], most=4, places=length + 5), batch=3)
        for _ in range(2):
            rows.rewind()
            for i in range(5):
                logits = rows.step(tokens[length + i].repeat(3))
                difference = (logits - full[i]).abs().max()
                assert float(difference) <= tolerance * max(1.0, float(full.abs().max()))
        other = torch.randint(VOCABULARY, (3,))  # rows that go ways of their own
        rows.rewind()
        logits = rows.step(other)
        for row in range(3):
            alone = model(torch.cat([tokens[:length], other[row : row + 1]])[None]).logits[0, -1]
            difference = (logits[row] - alone).abs().max()
            assert float(difference) <= tolerance * max(1.0, float(alone.abs().max()))
    finally:
        llama.close()


def test_llama_cpp_is_measured_beside_torch(needed, monkeypatch):
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: 10e9)
    config = Mamba2Config(d_model=32, n_layer=2, d_state=16, headdim=16, vocab_size=64)
    shape = match_config(config.num_params, vocab_size=64, tie_embeddings=True, n_layer=2)
    pair = Mamba2LM(config), TransformerLM(shape)
    measured = measure(*pair, BenchConfig(lengths=(8, 300), batch=2, repeats=1, most_sequences=4))
    assert measured.llama_cpp
    for row in measured.rows + measured.under_budget:
        theirs = row.contestants[IN_LLAMA_CPP]
        assert theirs.floor_bytes == row.contestants[IN_TORCH].floor_bytes
        assert theirs.step_s[0] > 0
        assert 0 < theirs.parity < 1e-4
