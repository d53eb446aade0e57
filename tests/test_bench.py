import dataclasses
import re

import pytest
import torch

from statewise import bench, peer
from statewise.baseline import TransformerLM, kv_cache_bytes, match_config
from statewise.bench import BenchConfig, bytes_moved, copy_bandwidth, measure
from statewise.errors import ConfigError, RunError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.speed import IN_LLAMA_CPP, IN_TORCH, OURS, OURS_IN_TORCH, decide, read, write

CONFIG = BenchConfig(lengths=(40, 8), batch=2, repeats=1, most_sequences=3)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    config = Mamba2Config(d_model=32, n_layer=2, d_state=16, headdim=16, vocab_size=64)
    shape = match_config(config.num_params, vocab_size=64, tie_embeddings=True, n_layer=2)
    return Mamba2LM(config), TransformerLM(shape)


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: 10e9)


@pytest.fixture(autouse=True)
def without_llama_cpp(monkeypatch):
    """`tests/test_peer.py` measures with it, where it is installed."""
    monkeypatch.setattr(peer, "missing", lambda transformer: "left out")


class StandIn:
    """What llama.cpp is to the measurement, by torch."""

    version = "1.2.3"
    fault = 0.0
    closed = 0

    def __init__(self, transformer, threads):
        self.inner = bench._Cached(transformer)

    def read(self, prompt, most, places):
        self.most = most
        return self.inner.read(prompt, most, places)

    def rows(self, read, batch):
        assert batch <= self.most
        rows = self.inner.rows(read, batch)

        class Rows:
            rewind = staticmethod(rows.rewind)

            @staticmethod
            def step(ids):
                return rows.step(ids) + StandIn.fault

        return Rows()

    def close(self):
        StandIn.closed += 1


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(peer, "missing", lambda transformer: "")
    monkeypatch.setattr(peer, "LlamaCpp", StandIn)
    monkeypatch.setattr(StandIn, "closed", 0)


def test_a_row_is_measured_for_each_length_and_its_figures_hang_together(pair, stand_in):
    model, transformer = pair
    lines = []
    measured = measure(model, transformer, CONFIG, lines.append)
    assert [line.split(":")[0] for line in lines] == ["at 8 tokens", "at 40 tokens"]
    assert (measured.llama_cpp, measured.not_measured) == ("1.2.3", "")
    assert (measured.threads, measured.dtype) == (torch.get_num_threads(), "float32")
    assert StandIn.closed == 1
    for rows in (measured.rows, measured.under_budget):
        assert [r.length for r in rows] == [8, 40]
        for r in rows:
            state, cache = model.config.state_bytes(), kv_cache_bytes(transformer.config, r.length)
            weights = {OURS: state, OURS_IN_TORCH: state, IN_TORCH: cache, IN_LLAMA_CPP: cache}
            for name, one in r.contestants.items():
                assert one.memory_bytes == weights[name]
                moved = bytes_moved(model, transformer, r.length, one.batch)
                assert one.floor_bytes == moved[0 if one.memory_bytes == state else 1]
                assert len(one.step_s) == 1
                assert one.step_s[0] > 0
                assert 0 <= one.parity < 1e-4
    assert all(set(r.contestants) == set(weights) for r in measured.rows)
    assert all(set(r.contestants) == set(weights) - {OURS_IN_TORCH} for r in measured.under_budget)
    assert all(one.batch == 2 for r in measured.rows for one in r.contestants.values())


def test_as_many_sequences_run_as_fit_into_the_budget_and_no_more_than_are_allowed(pair, stand_in):
    model, transformer = pair
    state, cache = model.config.state_bytes(), kv_cache_bytes(transformer.config, 40)
    budget = 5 * max(state, cache) + 1
    most = max(budget // state, budget // cache) - 1
    config = dataclasses.replace(CONFIG, budget_bytes=budget, most_sequences=most)
    measured = measure(model, transformer, config)
    assert (measured.budget_bytes, measured.most_sequences) == (budget, most)
    ours, theirs = min(most, budget // state), min(most, budget // cache)
    assert most in (ours, theirs)
    assert ours != theirs
    batches = {n: one.batch for n, one in measured.under_budget[-1].contestants.items()}
    assert batches == {OURS: ours, IN_TORCH: theirs, IN_LLAMA_CPP: theirs}


def test_without_a_budget_it_is_what_the_batch_takes_of_the_larger_memory(pair):
    model, transformer = pair
    measured = measure(model, transformer, CONFIG)
    state, cache = model.config.state_bytes(), kv_cache_bytes(transformer.config, 40)
    assert measured.budget_bytes == 2 * max(state, cache)
    assert min(measured.under_budget[-1].ours.batch, measured.under_budget[-1].theirs.batch) == 2


def test_a_budget_that_does_not_hold_one_sequence_is_refused(pair):
    config = dataclasses.replace(CONFIG, budget_bytes=pair[0].config.state_bytes() - 1)
    with pytest.raises(ConfigError, match=r"bench\.budget_bytes: .* one sequence of 40 tokens"):
        measure(*pair, config)


def test_where_llama_cpp_cannot_be_had_torch_alone_is_measured_and_the_verdict_says_so(pair):
    measured = measure(*pair, CONFIG)
    assert (measured.llama_cpp, measured.not_measured) == ("", "left out")
    assert all(IN_LLAMA_CPP not in r.contestants for r in measured.rows + measured.under_budget)
    decision = decide(measured)
    assert decision.scope == "against torch only"
    assert "llama.cpp was not measured: left out." in decision.reason


def test_what_was_measured_survives_the_way_through_the_file(pair, stand_in, tmp_path):
    measured = measure(*pair, BenchConfig(lengths=(4, 8), batch=1, repeats=2))
    write(tmp_path / "bench.json", measured)
    assert read(tmp_path / "bench.json") == measured


def test_measuring_leaves_the_weights_and_the_backend_as_they_were(pair):
    before = [p.clone() for model in pair for p in model.parameters()]
    decoder = pair[0].decoder
    measure(*pair, CONFIG)
    after = [p for model in pair for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert pair[0].decoder == decoder


@pytest.mark.parametrize(("which", "name"), [(0, OURS), (1, IN_TORCH)])
@pytest.mark.parametrize("fault", [0.01, float("nan")])
def test_without_parity_there_is_no_figure(pair, which, name, fault, monkeypatch):
    model = pair[which]
    pair[0].use("torch")  # decoding by `step_`, which can be spoiled here
    right = model.step_
    monkeypatch.setattr(model, "step_", lambda tokens, state: right(tokens, state) + fault)
    with pytest.raises(RunError, match=f"decoded logits of '{name}' differ .* no figure"):
        measure(*pair, CONFIG)


def test_the_definition_in_torch_is_held_to_parity_too(pair, monkeypatch):
    right = Mamba2LM.step_
    monkeypatch.setattr(Mamba2LM, "step_", lambda self, t, s: right(self, t, s) + 0.01)
    if not pair[0].decoder:
        pytest.skip("no kernels decode here: the engine itself is spoiled")
    with pytest.raises(RunError, match=f"decoded logits of '{OURS_IN_TORCH}' differ"):
        measure(*pair, CONFIG)


@pytest.mark.parametrize("fault", [0.01, float("nan")])
def test_llama_cpp_is_held_to_the_forward_pass_of_torch(pair, stand_in, fault, monkeypatch):
    monkeypatch.setattr(StandIn, "fault", fault)
    with pytest.raises(RunError, match=r"decoded logits of 'llama\.cpp' differ .* no figure"):
        measure(*pair, CONFIG)
    assert StandIn.closed == 1


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


def test_a_batch_of_which_one_row_is_wrong_is_found_out(pair, monkeypatch):
    model = pair[1]
    right = model.step_

    def last_row_spoiled(tokens, state):
        logits = right(tokens, state)
        logits[-1] += 0.01
        return logits

    monkeypatch.setattr(model, "step_", last_row_spoiled)
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
    [
        ("lengths", ()),
        ("lengths", (1, 4)),
        ("lengths", (4, 4)),
        ("batch", 0),
        ("batch", 257),
        ("repeats", 0),
        ("budget_bytes", -1),
        ("most_sequences", 0),
        ("most_sequences", 257),
    ],
)
def test_a_bench_that_measures_nothing_is_refused_by_key(key, wrong):
    with pytest.raises(ConfigError, match=re.escape(f"bench.{key}")):
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


def test_bandwidth_is_a_positive_number_of_bytes():
    assert copy_bandwidth(num_bytes=2**16) > 0
