import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2ForCausalLM

from statewise.baseline import (
    KVCache,
    TransformerLM,
    TransformerSampler,
    kv_cache_bytes,
    match_config,
    num_params,
)
from statewise.errors import CheckpointError, ConfigError
from statewise.model import Mamba2Config
from statewise.model.layout import Layout
from statewise.records import FinishReason
from statewise.sampler import Prompt, SamplingParams

VOCAB = 64


class Letters:
    """One id a character; `eos_id` is drawn about once in 64 tokens from an untrained model."""

    eos_id = 0
    end_ids = (0,)
    vocab_size = VOCAB

    def encode(self, text):
        return [ord(c) % VOCAB for c in text]

    def decode(self, ids):
        return "".join(chr(64 + i) for i in ids)

    def save(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def randomised(config):
    """A model whose every weight matters: biases and norms are not left at 0 and 1."""
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomised(
        match_config(300_000, vocab_size=VOCAB, tie_embeddings=True, n_layer=2)
    )  # 7 query heads, 1 key-value head


def packed(lengths, row=32):
    """Rows of documents of these lengths, the last one cut at the end of its row."""
    numbers = [i for i, n in enumerate(lengths) for _ in range(n)]
    numbers = numbers[: len(numbers) // row * row] or [*numbers, *[-1] * row][:row]
    return torch.tensor(numbers).view(-1, row)


lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("d_model", "n_layer", "vocab"),
    [(32, 2, 64), (64, 2, 256), (128, 4, 700), (160, 6, 700), (256, 4, 2048), (1024, 48, 50_280)],
)
def test_the_transformer_has_at_most_one_percent_more_parameters_and_never_fewer(
    d_model, n_layer, vocab, tied
):
    mamba = Mamba2Config(
        d_model=d_model, n_layer=n_layer, vocab_size=vocab, headdim=16, tie_embeddings=tied
    )
    config = match_config(
        mamba.num_params, vocab_size=vocab, tie_embeddings=tied, n_layer=mamba.n_layer
    )
    assert 1 <= num_params(config) / mamba.num_params <= 1.01
    with torch.device("meta"):
        assert TransformerLM(config).num_params == num_params(config)
    assert config.hidden_size // config.num_attention_heads >= 16
    assert config.hidden_size % config.num_attention_heads == 0
    if mamba.num_params > 200_000:
        assert config.num_attention_heads == 7 * config.num_key_value_heads
        assert 2.5 <= config.intermediate_size / config.hidden_size <= 4
        assert 0.5 <= config.num_hidden_layers / n_layer <= 1.5


def test_fresh_weights_of_a_narrow_model_are_larger_than_qwen2_s_own():
    narrow = match_config(300_000, vocab_size=VOCAB, tie_embeddings=True, n_layer=2)
    wide = match_config(7_000_000_000, vocab_size=32_768, tie_embeddings=False, n_layer=32)
    assert narrow.initializer_range == pytest.approx((0.4 / narrow.hidden_size) ** 0.5)
    assert wide.initializer_range == 0.02
    drawn = TransformerLM(narrow).qwen2.model.layers[0].mlp.up_proj.weight.detach().std()
    assert float(drawn) == pytest.approx(narrow.initializer_range, rel=0.05)


def test_a_target_below_its_vocabulary_is_refused_with_a_reason():
    with pytest.raises(ConfigError, match="vocabulary of 50000 has 1000 parameters"):
        match_config(1000, vocab_size=50_000, tie_embeddings=True, n_layer=2)


def test_the_cache_formula_is_qwen2_5_7b_s_57344_bytes_a_token_and_the_cache_s_own_size(model):
    shape = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    published = type(model.config)(hidden_size=3584, **shape)
    assert kv_cache_bytes(published, 1, 2) == 57_344
    with torch.no_grad():
        cache = model(torch.zeros(3, 17, dtype=torch.int64)).state
    assert cache.nbytes == 3 * kv_cache_bytes(model.config, 17)


@settings(max_examples=15, deadline=None)
@given(lengths=lengths_of_documents, seed=st.integers(0, 99))
def test_packed_documents_are_as_if_each_stood_alone(model, lengths, seed):
    seq_idx = packed(lengths)
    tokens = torch.randint(VOCAB, seq_idx.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        together, nothing = model.hidden(tokens, layout=Layout.numbered(seq_idx))
        assert nothing is None
        for row, numbers, hidden in zip(tokens, seq_idx, together, strict=True):
            for number in numbers.unique():
                alone, _ = model.hidden(row[numbers == number][None])
                torch.testing.assert_close(
                    hidden[numbers == number], alone[0], atol=1e-5, rtol=1e-5
                )


@settings(max_examples=10, deadline=None)
@given(lengths=lengths_of_documents)
def test_packing_equals_a_block_diagonal_causal_mask_with_restarting_positions(model, lengths):
    seq_idx = packed(lengths)
    b, l = seq_idx.shape
    tokens = torch.arange(b * l).view(b, l) * 7 % VOCAB
    mask = (seq_idx[:, :, None] == seq_idx[:, None]) & torch.ones(l, l).tril().bool()
    positions = mask.sum(-1) - 1
    with torch.no_grad():
        masked = model.qwen2(tokens, attention_mask=mask[:, None], position_ids=positions).logits
        logits = model(tokens, layout=Layout.numbered(seq_idx)).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, masked, atol=1e-5, rtol=1e-5)


def test_changing_one_document_does_not_move_a_bit_of_another(model):
    seq_idx = packed([10, 12, 10, 40, 24])
    tokens = torch.randint(VOCAB, seq_idx.shape)
    other = tokens.clone()
    other[seq_idx == 1] = (other[seq_idx == 1] + 1) % VOCAB
    with torch.no_grad():
        before = model(tokens, layout=Layout.numbered(seq_idx)).logits
        after = model(other, layout=Layout.numbered(seq_idx)).logits
    assert torch.equal(before[seq_idx != 1], after[seq_idx != 1])
    assert (before[seq_idx == 1] != after[seq_idx == 1]).any(-1).all()


def test_gradients_through_packed_rows_are_those_of_the_mask(model):
    seq_idx = packed([5, 20, 30, 9])
    tokens = torch.randint(VOCAB, seq_idx.shape)
    mask = (seq_idx[:, :, None] == seq_idx[:, None]) & torch.ones(32, 32).tril().bool()
    gradients = []
    for logits in (
        model.qwen2(tokens, attention_mask=mask[:, None], position_ids=mask.sum(-1) - 1).logits,
        model.head(model.hidden(tokens, layout=Layout.numbered(seq_idx))[0]),
    ):
        model.zero_grad()
        logits.logsumexp(-1).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for masked, unpacked in zip(*gradients, strict=True):
        torch.testing.assert_close(unpacked, masked, atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(prompts=st.lists(st.integers(1, 20), min_size=1, max_size=4), cut=st.integers(1, 20))
def test_prefill_and_decode_of_ragged_rows_equal_one_forward(model, prompts, cut):
    b, steps = len(prompts), 6
    tokens = torch.randint(VOCAB, (b, 26))
    with torch.no_grad():
        full = model(tokens).logits
        cache = model.zero_state(b, places=8)  # too small: it has to grow on the way
        for row, length in enumerate(prompts):
            first = model(tokens[row : row + 1, : min(cut, length)])
            if cut < length:  # read in two pieces
                first = model(tokens[row : row + 1, cut:length], first.state, logits_to_keep=1)
            torch.testing.assert_close(
                first.logits[0, -1], full[row, length - 1], atol=1e-5, rtol=1e-5
            )
            cache.write_(torch.tensor([row]), first.state)
        rows, at = torch.arange(b), torch.tensor(prompts)
        for step in range(steps):
            logits = model.step_(tokens[rows, at + step], cache)
            torch.testing.assert_close(logits, full[rows, at + step], atol=1e-5, rtol=1e-5)
        assert cache.lengths.tolist() == [n + steps for n in prompts]


def test_a_prefilled_prompt_is_not_written_to_by_what_continues_it(model):
    with torch.no_grad():
        prompt = model(torch.arange(9)[None]).state
        before = KVCache(prompt.keys.clone(), prompt.values.clone(), prompt.lengths.clone())
        cache = model.zero_state(3)
        cache.write_(torch.arange(3), prompt)
        model.step_(torch.tensor([1, 2, 3]), cache)
        model(torch.arange(4)[None], prompt)
    assert torch.equal(prompt.keys, before.keys)
    assert torch.equal(prompt.values, before.values)
    assert torch.equal(prompt.lengths, before.lengths)


PROMPTS = [
    Prompt("a", "what is it"),
    Prompt("b", "hm"),
    Prompt("c", "a much longer question, this"),
]


def completions(model, prompts, batch=4, **params):
    sampler = TransformerSampler(model, Letters(), batch=batch)
    found = sampler.sample(prompts, SamplingParams(**params))
    return {(c.prompt_id, c.sample): c for c in found}


def test_every_prompt_gets_its_n_completions_within_their_limits(model):
    found = completions(model, PROMPTS, n=5, max_tokens=30, seed=1)
    assert set(found) == {(p.id, i) for p in PROMPTS for i in range(5)}
    reasons = set()
    for (name, _), c in found.items():
        stopped = c.finish_reason is FinishReason.STOP
        reasons.add(c.finish_reason)
        assert c.prompt_tokens == len({p.id: p.text for p in PROMPTS}[name])
        assert len(c.text) == c.completion_tokens - stopped
        assert stopped or c.completion_tokens == 30
        assert "@" not in c.text  # what Letters makes of the end-of-sequence token
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


def test_a_seed_names_its_completions_in_any_batch_and_company(model):
    params = {"n": 3, "max_tokens": 20, "seed": 7, "temperature": 0.8, "top_p": 0.9, "top_k": 20}
    found = completions(model, PROMPTS, batch=2, **params)
    assert found == completions(model, PROMPTS[::-1], batch=7, **params)
    assert {k: c for k, c in found.items() if k[0] == "b"} == completions(
        model, PROMPTS[1:2], batch=1, **params
    )
    other = completions(model, PROMPTS, **(params | {"seed": 8}))
    assert [c.text for c in found.values()] != [c.text for c in other.values()]


def test_greedy_text_is_what_argmax_over_full_forwards_gives(model):
    found = completions(model, PROMPTS, temperature=0.0, max_tokens=12)
    for prompt in PROMPTS:
        ids = Letters().encode(prompt.text)
        text = ""
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(model.qwen2(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == Letters.eos_id:
                break
            text += Letters().decode(ids[-1:])
        assert found[prompt.id, 0].text == text


def test_a_strong_repetition_penalty_repeats_nothing(model):
    params = {"temperature": 0.0, "max_tokens": 20, "repetition_penalty": 1e4}
    texts = [c.text for c in completions(model, PROMPTS, **params).values()]
    assert max(map(len, texts)) > 5
    for text in texts:
        assert len(set(text)) == len(text)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_comes_back_bit_for_bit_and_transformers_reads_it_too(tmp_path, tied):
    config = match_config(100_000, vocab_size=VOCAB, tie_embeddings=tied, n_layer=2)
    model = randomised(config)
    model.save(tmp_path, Letters())
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        logits = model(tokens).logits
        assert torch.equal(TransformerLM.load(tmp_path).eval()(tokens).logits, logits)
        assert {p.name for p in tmp_path.iterdir()} == {
            "config.json", "model.safetensors", "tokenizer.json"
        }  # fmt: skip
        theirs = Qwen2ForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(theirs(tokens).logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", None, "no such file"),
        ("model.safetensors", None, "no such file"),
        ("config.json", lambda text: text[:20], "not readable"),
        ("config.json", lambda text: text.replace('"qwen2"', '"mamba2"'), "'mamba2'"),
        ("config.json", lambda text: text.replace('"hidden_size": ', '"hidden_size": 1.'), "shape"),
        ("config.json", lambda text: text.replace('"vocab_size": ', '"vocab_size": 1'), "disagree"),
        ("model.safetensors", lambda text: "torn", "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_never_half_loaded(tmp_path, file, damage, message):
    config = match_config(40_000, vocab_size=VOCAB, tie_embeddings=True, n_layer=1)
    TransformerLM(config).save(tmp_path, Letters())
    path = tmp_path / file
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_bytes().decode(errors="replace")))
    with pytest.raises(CheckpointError, match=message):
        TransformerLM.load(tmp_path)
