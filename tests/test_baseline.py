import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import within
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2ForCausalLM

from statewise.baseline import (
    KVCache,
    TransformerLM,
    TransformerSampler,
    kv_cache_bytes,
    match_config,
    num_params,
    shapes,
    train_flops_per_token,
    with_window,
)
from statewise.errors import CheckpointError, ConfigError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.layout import Layout
from statewise.pipeline import matched
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


SIZE = {"vocab_size": VOCAB, "tie_embeddings": True, "n_layer": 2}
WINDOW = 7


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomised(match_config(300_000, **SIZE))  # 7 query heads, 1 key-value head


@pytest.fixture(scope="module", params=["multi-head", "grouped-2", "grouped-7", "window"])
def any_model(request):
    """Every kind of attention; in the last a token sees `WINDOW` tokens."""
    torch.manual_seed(0)
    found = shapes(100_000, **SIZE)
    if request.param == "window":
        return randomised(with_window(found["grouped-2"], WINDOW))
    return randomised(found[request.param])


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


MODELS = [
    Mamba2Config(d_model=32, n_layer=2, vocab_size=64, headdim=16),
    Mamba2Config(d_model=128, n_layer=4, vocab_size=768),
    Mamba2Config(d_model=1024, n_layer=48, vocab_size=50_280, tie_embeddings=False),
]


@pytest.mark.parametrize("mamba", MODELS)
def test_every_shape_has_the_model_s_size(mamba):
    for config in matched.shapes(mamba).values():
        assert 1 <= num_params(config) / mamba.num_params <= 1.01
        assert config.vocab_size == mamba.vocab_size
        assert config.tie_word_embeddings == mamba.tie_embeddings
    assert matched.shape(mamba).to_dict() in [c.to_dict() for c in matched.shapes(mamba).values()]


def test_the_shapes_differ_in_what_their_names_say():
    found = matched.shapes(MODELS[1])
    depths = {name: c.num_hidden_layers for name, c in found.items()}
    assert depths["wide"] < depths["multi-head"] == 4 == depths["grouped-2"] < depths["deep"]
    assert found["wide"].hidden_size > found["multi-head"].hidden_size > found["deep"].hidden_size
    groups = {name: c.num_attention_heads / c.num_key_value_heads for name, c in found.items()}
    assert groups == {"multi-head": 1, "grouped-2": 2, "deep": 1, "wide": 1, "grouped-7": 7}
    assert min(c.intermediate_size / c.hidden_size for c in found.values()) >= 2.5


@pytest.mark.parametrize("mamba", MODELS)
def test_a_window_at_equal_memory_has_the_state_s_bytes_but_for_less_than_a_token(mamba):
    for full in matched.shapes(mamba).values():
        windowed = matched.windowed(mamba, full)
        left = mamba.state_bytes() - kv_cache_bytes(windowed, 1_000_000)
        assert 0 <= left < kv_cache_bytes(full, 1)
        assert num_params(windowed) == num_params(full)


def test_a_state_smaller_than_one_token_s_keys_and_values_is_refused_as_a_window():
    wide = match_config(10_000_000, vocab_size=VOCAB, tie_embeddings=True, n_layer=8, group=1)
    with pytest.raises(ConfigError, match="more than the model's whole state"):
        matched.windowed(Mamba2Config(d_model=16, n_layer=1, d_state=1, headdim=16), wide)


@pytest.mark.parametrize("tied", [True, False])
def test_training_costs_what_torch_counts_and_attention_only_what_is_seen(tied):
    config = match_config(300_000, vocab_size=VOCAB, tie_embeddings=tied, n_layer=2, group=2)
    model, l = TransformerLM(config), 40
    with FlopCounterMode(display=False) as counted:
        model.head(model.hidden(torch.zeros(1, l, dtype=torch.int64))[0]).sum().backward()
    by_operation = counted.get_flop_counts()["Global"]
    attention = sum(n for operation, n in by_operation.items() if "attention" in str(operation))
    products = sum(by_operation.values()) - attention
    # Of what is multiplied with weights everything; of 40 tokens 20.5 are seen on average.
    alone = train_flops_per_token(config, 1) - 12 * config.num_hidden_layers * config.hidden_size
    assert alone * l == products
    scores = 12 * config.num_hidden_layers * config.hidden_size
    assert train_flops_per_token(config, l) == alone + scores * 20.5
    assert 0.9 < alone / (6 * num_params(config)) < (1 if tied else 1.01)


def test_a_window_bounds_the_cost_of_attention(model):
    windowed = with_window(model.config, 8)
    assert train_flops_per_token(windowed, 8) == train_flops_per_token(model.config, 8)
    seen = [min(i + 1, 8) for i in range(20)]
    for config, mean in ((windowed, sum(seen) / 20), (model.config, 10.5)):
        scores = 12 * config.num_hidden_layers * config.hidden_size
        found = train_flops_per_token(config, 20) - train_flops_per_token(config, 1)
        assert found == pytest.approx(scores * (mean - 1))


def test_training_of_the_attention_free_model_costs_what_torch_counts():
    config = Mamba2Config(d_model=64, n_layer=2, vocab_size=64, headdim=16, chunk_size=16)
    model, l = Mamba2LM(config, backend="torch"), 64
    with FlopCounterMode(display=False) as counted:
        model(torch.zeros(1, l, dtype=torch.int64)).logits.sum().backward()
    assert counted.get_total_flops() == config.train_flops_per_token() * l


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


def of_each_document(seq_idx):
    """(row, which of its tokens) of every document."""
    for row, numbers in enumerate(seq_idx):
        for number in numbers.unique():
            yield row, numbers == number


@settings(max_examples=10, deadline=None)
@given(lengths=lengths_of_documents, seed=st.integers(0, 99))
def test_packed_documents_are_what_transformers_makes_of_each_alone(any_model, lengths, seed):
    model, seq_idx = any_model, packed(lengths)
    tokens = torch.randint(VOCAB, seq_idx.shape, generator=torch.Generator().manual_seed(seed))
    hidden, nothing = model.hidden(tokens, layout=Layout.numbered(seq_idx))
    assert nothing is None
    logits = model.head(hidden)
    assert logits.dtype == torch.float32
    alone = torch.empty_like(logits)
    for row, its in of_each_document(seq_idx):
        alone[row, its] = model.qwen2(tokens[row, its][None]).logits[0]
    within(logits, alone, "transformers")
    gradients = []
    for found in (logits, alone):
        loss = found.logsumexp(-1).square().mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        within(ours, theirs, "model-gradient")


def test_whole_rows_are_trained_on_as_one_document_each(any_model):
    tokens = torch.randint(VOCAB, (3, 20))
    within(any_model(tokens).logits, any_model.qwen2(tokens).logits, "transformers")
    assert any_model(tokens).state is None


def test_under_autocast_products_of_weights_are_bfloat16_and_nothing_else(any_model, monkeypatch):
    given, made = [], {"linear": set(), "scaled_dot_product_attention": set(), "rms_norm": set()}
    for name, dtypes in made.items():
        function = getattr(torch.nn.functional, name)

        def watched(*args, function=function, dtypes=dtypes, **kwargs):
            out = function(*args, **kwargs)
            given.append(args[0].dtype)
            dtypes.add(out.dtype)
            return out

        monkeypatch.setattr(torch.nn.functional, name, watched)
    layout = Layout.of([[5, 20, 7]])
    with torch.autocast("cpu", torch.bfloat16):
        hidden, _ = any_model.hidden(torch.randint(VOCAB, (1, 32)), layout=layout)
    assert hidden.dtype == torch.float32
    assert set(given) == {torch.float32}
    assert made == {
        "linear": {torch.bfloat16},
        "scaled_dot_product_attention": {torch.float32},
        "rms_norm": {torch.float32},
    }


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


@settings(max_examples=10, deadline=None)
@given(prompts=st.lists(st.integers(1, 20), min_size=1, max_size=4), cut=st.integers(1, 20))
def test_prefill_and_decode_of_ragged_rows_are_transformers_own_forward(any_model, prompts, cut):
    model, b, steps = any_model, len(prompts), 10
    tokens = torch.randint(VOCAB, (b, 30))
    with torch.no_grad():
        full = model.qwen2(tokens).logits
        cache = model.zero_state(b, places=4)  # too small: it has to grow on the way
        for row, length in enumerate(prompts):
            first = model(tokens[row : row + 1, : min(cut, length)])
            if cut < length:  # read in two pieces
                first = model(tokens[row : row + 1, cut:length], first.state, logits_to_keep=1)
            within(first.logits[0, -1], full[row, length - 1], "transformers")
            cache.write_(torch.tensor([row]), first.state)
        rows, at = torch.arange(b), torch.tensor(prompts)
        for step in range(steps):
            logits = model.step_(tokens[rows, at + step], cache)
            within(logits, full[rows, at + step], "transformers")
        assert cache.lengths.tolist() == [n + steps for n in prompts]


def test_what_leaves_the_window_is_not_seen_and_what_is_in_it_is(model):
    windowed = randomised(with_window(model.config, WINDOW))
    tokens = torch.arange(20)[None]
    other = tokens.clone()
    other[0, 5] = 63
    layers = windowed.config.num_hidden_layers
    reach = 5 + layers * (WINDOW - 1)  # each layer looks a window further back
    with torch.no_grad():
        moved = (windowed(tokens).logits != windowed(other).logits)[0].any(-1)
    assert moved.tolist() == [5 <= i <= reach for i in range(20)]


def test_the_memory_of_a_window_is_constant_and_that_of_its_formula(model):
    windowed = randomised(with_window(model.config, WINDOW))
    cache = windowed.zero_state(2)
    bytes_before = cache.nbytes
    with torch.no_grad():
        cache.write_(torch.tensor([0, 1]), windowed(torch.zeros(2, 30, dtype=torch.int64)).state)
        for _ in range(10):
            windowed.step_(torch.tensor([1, 2]), cache)
    assert cache.nbytes == bytes_before == 2 * kv_cache_bytes(windowed.config, 40)
    assert kv_cache_bytes(windowed.config, 40) == kv_cache_bytes(model.config, WINDOW)
    assert kv_cache_bytes(windowed.config, 3) == kv_cache_bytes(model.config, 3)


def test_a_window_of_no_tokens_is_refused(model):
    with pytest.raises(ConfigError, match="at least 1 token, found 0"):
        with_window(model.config, 0)


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


def test_greedy_text_is_what_argmax_over_full_forwards_gives(any_model):
    model = any_model
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


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_comes_back_bit_for_bit_and_transformers_reads_it_too(tmp_path, tied, window):
    config = match_config(100_000, vocab_size=VOCAB, tie_embeddings=tied, n_layer=2)
    model = randomised(config if window is None else with_window(config, window))
    model.save(tmp_path, Letters())
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        logits = model(tokens).logits
        assert torch.equal(TransformerLM.load(tmp_path).eval()(tokens).logits, logits)
        assert {p.name for p in tmp_path.iterdir()} == {
            "config.json", "model.safetensors", "tokenizer.json"
        }  # fmt: skip
        theirs = Qwen2ForCausalLM.from_pretrained(tmp_path)
        within(theirs(tokens).logits, logits, "transformers")


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
