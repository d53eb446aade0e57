import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise import bench
from statewise.baseline import TransformerLM, kv_cache_bytes, match_config
from statewise.bench import BenchConfig, bytes_moved, copy_bandwidth, integrate, measure
from statewise.errors import ConfigError, DataError, RunError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.speed import BenchRow, Speed, decide, read, write

CONFIG = BenchConfig(lengths=(40, 8), batch=2, repeats=1)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    config = Mamba2Config(d_model=32, n_layer=2, d_state=16, headdim=16, vocab_size=64)
    shape = match_config(config.num_params, vocab_size=64, tie_embeddings=True, n_layer=2)
    return Mamba2LM(config), TransformerLM(shape)


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: 10e9)


def speed(tokens_per_s, memory_bytes):
    figures = dict.fromkeys((f.name for f in dataclasses.fields(Speed)), 1.0)
    return Speed(**{**figures, "tokens_per_s": tokens_per_s, "memory_bytes": memory_bytes})


def row(length=1000, ours=2.0, theirs=1.0, state=500, each=1):
    return BenchRow(length, 8, 1.0, speed(ours, state), speed(theirs, length * each))


def test_a_row_is_measured_for_each_length_and_its_figures_hang_together(pair):
    model, transformer = pair
    lines = []
    rows = measure(model, transformer, CONFIG, lines.append)
    assert [r.length for r in rows] == [8, 40]
    assert [line.split(":")[0] for line in lines] == ["at 8 tokens", "at 40 tokens"]
    for r in rows:
        assert r.statewise.memory_bytes == model.config.state_bytes()
        assert r.transformer.memory_bytes == kv_cache_bytes(transformer.config, r.length)
        moved = bytes_moved(model, transformer, r.length, r.batch)
        for one, num_bytes in zip((r.statewise, r.transformer), moved, strict=True):
            assert one.tokens_per_s == pytest.approx(2 / one.step_s)
            assert one.prefill_tokens_per_s > 0
            assert one.floor_s == pytest.approx(num_bytes / r.copy_bytes_per_s)
            assert one.floor_share == pytest.approx(one.floor_s / one.step_s)
            assert 0 <= one.parity < 1e-4
    first, second = rows
    assert first.statewise.generate_s == pytest.approx(8 * first.statewise.step_s)
    assert second.statewise.generate_s > first.statewise.generate_s


def test_rows_and_claim_survive_the_way_through_the_file(pair, tmp_path):
    rows = measure(*pair, BenchConfig(lengths=(4, 8), batch=1, repeats=1))
    write(tmp_path / "bench.json", rows, decide(rows))
    assert read(tmp_path / "bench.json") == (tuple(rows), decide(rows))


def test_a_row_lies_flat_with_both_models_under_their_names():
    flat = row(ours=3.0, theirs=2.0, state=7).as_json()
    assert flat["statewise_tokens_per_s"] == 3.0
    assert flat["transformer_tokens_per_s"] == 2.0
    assert (flat["statewise_state_bytes"], flat["transformer_kv_bytes"]) == (7, 1000)
    assert len(flat) == 3 + 2 * len(dataclasses.fields(Speed))
    assert not any(isinstance(value, dict) for value in flat.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statewise_state_bytes": None}, "needs the field 'statewise_state_bytes'"),
        ({"transformer_step_s": "fast"}, "field 'step_s': expected float, found 'fast'"),
        ({"more": 1}, "has no field 'more'"),
    ],
)
def test_a_row_that_is_none_is_refused_by_field(change, message):
    flat = {**row().as_json(), **change}
    flat = {key: value for key, value in flat.items() if value is not None}
    with pytest.raises(DataError, match=re.escape(message)):
        BenchRow.from_json(flat, "row")


def test_measuring_leaves_the_weights_as_they_were(pair):
    before = [p.clone() for model in pair for p in model.parameters()]
    measure(*pair, CONFIG)
    after = [p for model in pair for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("fault", [0.01, float("nan")])
def test_without_parity_there_is_no_figure(pair, which, fault, monkeypatch):
    model = pair[which]
    pair[0].use("torch")  # decoding by `step_`, which can be spoiled here
    right = model.step_
    monkeypatch.setattr(model, "step_", lambda tokens, state: right(tokens, state) + fault)
    with pytest.raises(RunError, match=f"{type(model).__name__}'s decoded logits .* no figure"):
        measure(*pair, CONFIG)


@pytest.mark.parametrize("which", [0, 1])
def test_a_decoder_that_forgets_its_memory_is_found_out(pair, which, monkeypatch):
    model = pair[which]
    pair[0].use("torch")  # decoding by `step_`, which can be spoiled here
    right = model.step_
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained model hardly looks at its memory
            parameter.add_(torch.randn_like(parameter) * 0.2)
    monkeypatch.setattr(
        model, "step_", lambda tokens, _: right(tokens, model.zero_state(len(tokens)))
    )
    with pytest.raises(RunError, match="no figure"):
        measure(*pair, CONFIG)


def test_models_that_are_not_alike_are_not_compared(pair):
    model, transformer = pair
    larger = match_config(2 * transformer.num_params, vocab_size=64, tie_embeddings=True, n_layer=2)
    with pytest.raises(ConfigError, match="match_config"):
        measure(model, TransformerLM(larger), CONFIG)
    other = match_config(transformer.num_params, vocab_size=65, tie_embeddings=True, n_layer=2)
    with pytest.raises(ConfigError, match="vocabulary: 64 and 65"):
        measure(model, TransformerLM(other), CONFIG)
    with pytest.raises(ConfigError, match="dtype"):
        measure(model, transformer.double(), CONFIG)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("lengths", ()), ("lengths", (1, 4)), ("lengths", (4, 4)), ("batch", 0), ("repeats", 0)],
)
def test_a_bench_that_measures_nothing_is_refused_by_key(key, wrong):
    with pytest.raises(ConfigError, match=f"bench.{key}"):
        BenchConfig(**{key: wrong})


def test_a_step_moves_the_weights_once_and_each_memory_once_a_row(pair):
    model, transformer = pair
    own_1, other_1 = bytes_moved(model, transformer, 100, batch=1)
    own_3, other_3 = bytes_moved(model, transformer, 100, batch=3)
    state, kv = model.config.state_bytes(), kv_cache_bytes(transformer.config, 101)
    assert own_1 == 4 * model.config.num_params + 2 * state
    assert own_3 - own_1 == 2 * 2 * state
    assert other_1 == 4 * transformer.num_params + kv
    assert other_3 - other_1 == 2 * kv
    longer = bytes_moved(model, transformer, 200, batch=1)
    assert longer[0] == own_1
    assert longer[1] > other_1


def test_the_embedding_of_an_untied_model_is_not_read_through():
    config = Mamba2Config(d_model=32, n_layer=1, headdim=16, vocab_size=64, tie_embeddings=False)
    shape = match_config(config.num_params, vocab_size=64, tie_embeddings=False, n_layer=1)
    model, transformer = Mamba2LM(config), TransformerLM(shape)
    ours, theirs = bytes_moved(model, transformer, 1, batch=1)
    assert ours == 4 * (config.num_params - 64 * 32) + 2 * config.state_bytes()
    written_and_read = 2 * kv_cache_bytes(shape, 1)
    assert theirs == 4 * (transformer.num_params - 64 * shape.hidden_size) + written_and_read


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True),
    st.floats(1e-4, 1),
    st.floats(0, 1e-4),
)
def test_integration_is_exact_for_a_step_time_that_is_constant_or_grows_evenly(
    lengths, fixed, growing
):
    lengths.sort()
    totals = integrate(lengths, [fixed + growing * n for n in lengths])
    first = lengths[0]
    for length, total in zip(lengths, totals, strict=True):
        exact = fixed * length + growing * length**2 / 2
        # Before the first length its ours step time is taken: too much by this triangle.
        assert total == pytest.approx(exact + growing * first**2 / 2)


@given(ours=st.floats(1, 1e6), theirs=st.floats(1, 1e6), state=st.integers(1, 10_000))
def test_the_claim_holds_exactly_when_the_longest_length_is_faster_and_smaller(ours, theirs, state):
    shorter = row(length=10, ours=theirs, theirs=ours)
    claim = decide([row(ours=ours, theirs=theirs, state=state), shorter])
    assert claim.held is (ours > theirs and state < 1000)
    assert claim.reason.endswith("not held.") is not claim.held
    assert f"{state:,} bytes of state" in claim.reason
    assert claim.memory_crossover_tokens == state + 1


@pytest.mark.parametrize(
    ("faster", "crossover"),
    [([False, True, True], 20), ([True, False, True], 30), ([True, True, False], None)],
)
def test_the_speed_crossover_is_where_it_stays_faster(faster, crossover):
    rows = [row(10 * (i + 1), 2.0 if f else 0.5) for i, f in enumerate(faster)]
    assert decide(rows).speed_crossover_tokens == crossover


def test_nothing_measured_decides_nothing():
    with pytest.raises(ConfigError, match="nothing was measured"):
        decide([])


def test_bandwidth_is_a_positive_number_of_bytes():
    assert copy_bandwidth(num_bytes=2**16) > 0
