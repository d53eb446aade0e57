"""Curricula that cannot run are refused by key; groups and rates of the optimiser."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_doubles import ONE_SOURCE, phases, small_model

from statewise.baseline import TransformerLM, match_config
from statewise.errors import ConfigError
from statewise.train.config import Phase, Source, TrainConfig
from statewise.train.optim import build_optimizers, learning_rate

CONFIG = TrainConfig(phases(100), weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Source("x", 0.0), "weight: must be above 0, found 0.0"),
        (lambda: Source("x", float("nan")), "weight: must be above 0, found nan"),
        (lambda: Phase("a", ONE_SOURCE, 0, 1e-3), "tokens: must be at least 1, found 0"),
        (lambda: Phase("a", (), 10, 1e-3), "sources: a phase needs at least one"),
        (
            lambda: Phase("a", ONE_SOURCE, 10, 1e-3, order="easy-to-hard"),
            "order: easy-to-hard goes by `columns.pass_rate`, and 'x' names none",
        ),
        (
            lambda: Source("@a", decontaminate=False),
            "decontaminate: @a was held against the evaluation sets when it was written",
        ),
        (lambda: Phase("a", ONE_SOURCE, 10, 0.0), "lr: must be above 0, found 0.0"),
        (lambda: TrainConfig(()), "phases: training needs at least one phase"),
        (lambda: TrainConfig(phases(1) * 2), "phases: two phases share a name"),
        (lambda: TrainConfig(phases(1), row_tokens=0), "row_tokens: must be between 1 and"),
        (lambda: TrainConfig(phases(1), batch_tokens=8), "batch_tokens = 8, found 1024"),
        (lambda: TrainConfig(phases(1), keep=0), "keep: must be at least 1, found 0"),
    ],
)
def test_a_curriculum_that_cannot_run_is_refused_by_key(build, told):
    with pytest.raises(ConfigError) as e:
        build()
    assert told in str(e.value)


def test_the_tokens_of_a_curriculum_are_those_of_its_phases():
    assert TrainConfig(phases(100, 20)).tokens == 120


def mamba():
    return small_model(bias=True, conv_bias=True, tie_embeddings=False)


def transformer():
    return TransformerLM(match_config(20_000, vocab_size=24, tie_embeddings=True, n_layer=1))


@pytest.mark.parametrize("build", [mamba, transformer])
def test_only_matrices_are_decayed_and_every_parameter_is_trained_once(build):
    model = build()
    (adamw,) = build_optimizers(model, CONFIG)
    decayed, kept = adamw.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    for group in (decayed, kept):
        assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6)
    trained = [id(p) for group in (decayed, kept) for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in model.parameters())
    spared = {id(p) for p in kept["params"]}
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        special = last in ("A_log", "D", "dt_bias") or last.endswith("bias") or "norm" in name
        assert (id(parameter) in spared) is special, name


def test_what_is_not_decayed_does_not_move_without_a_gradient():
    model = mamba()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    (optimizer,) = build_optimizers(model, CONFIG)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        decayed = name.endswith("weight") and "norm" not in name
        assert torch.equal(parameter, before[name]) is not decayed, name


@given(st.floats(1e-6, 1.0), st.integers(1, 50), st.integers(0, 100), st.integers(0, 10**6))
def test_the_rate_rises_evenly_to_its_peak_and_stays(lr, warmup, step, tokens):
    phase = Phase("a", ONE_SOURCE, 1000, lr, warmup)
    found = learning_rate(phase, step, tokens)
    assert found == pytest.approx(lr * min((step + 1) / warmup, 1.0))
    assert 0 < found <= lr


@given(st.floats(1e-6, 1.0), st.integers(1, 1000), st.integers(0, 2000))
def test_a_linear_decay_falls_to_zero_at_the_phases_end_and_not_below(lr, total, tokens):
    phase = Phase("a", ONE_SOURCE, total, lr, decay="linear")
    found = learning_rate(phase, 3, tokens)
    assert found == pytest.approx(lr * max(total - tokens, 0) / total, abs=1e-12)


def test_muon_steps_the_projections_of_blocks_and_adamw_everything_else_once():
    model = mamba()
    adamw, muon = build_optimizers(model, dataclasses.replace(CONFIG, optimiser="muon"))
    by_muon = {id(p) for g in muon.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in by_muon) is name.endswith("_proj.weight"), name
    trained = [id(p) for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
    assert sorted(trained) == sorted(id(p) for p in model.parameters())
    assert muon.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_muon_is_refused_where_matrices_are_cut(engine):
    parallel = dataclasses.replace(CONFIG.parallel, engine=engine)
    with pytest.raises(ConfigError, match="Muon steps whole matrices"):
        dataclasses.replace(CONFIG, optimiser="muon", parallel=parallel)


@pytest.mark.parametrize("steps", [2, 7, 100])
def test_a_logarithmic_warm_up_is_deepspeeds(steps):
    schedules = pytest.importorskip("deepspeed.runtime.lr_schedules")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = schedules.WarmupLR(optimizer, 0.0, 0.5, steps)
    phase = Phase("a", ONE_SOURCE, 100, 0.5, steps, warmup="log")
    for step in range(steps + 3):
        found = learning_rate(phase, step, 0)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"]), step
        theirs.step()


def test_warm_up_comes_before_decay():
    phase = Phase("a", ONE_SOURCE, 100, 1.0, 4, "linear")
    rates = [learning_rate(phase, step, 10 * step) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


DECAYS = ("constant", "linear", "cosine", "wsd")


@given(
    st.sampled_from(DECAYS),
    st.floats(1e-6, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.01, 1.0),
    st.lists(st.integers(0, 1200), min_size=2, max_size=6),
)
def test_every_decay_begins_at_the_peak_never_rises_and_ends_at_its_floor(
    decay, lr, floor, decay_share, at
):
    phase = Phase("a", ONE_SOURCE, 1000, lr, decay=decay, floor=floor, decay_share=decay_share)
    rates = [learning_rate(phase, 5, tokens) for tokens in sorted(at)]
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(phase, 5, 0) == pytest.approx(lr)
    end = lr if decay == "constant" else lr * floor
    assert learning_rate(phase, 5, 1000) == pytest.approx(end)
    assert learning_rate(phase, 5, 1200) == pytest.approx(end)


def test_wsd_is_stable_until_its_last_share_and_cosine_is_half_way_in_the_middle():
    wsd = Phase("a", ONE_SOURCE, 1000, 2.0, decay="wsd", decay_share=0.2, floor=0.1)
    assert [learning_rate(wsd, 9, t) for t in (0, 500, 799)] == [2.0, 2.0, 2.0]
    assert learning_rate(wsd, 9, 900) == pytest.approx(2.0 * 0.55)
    cosine = Phase("a", ONE_SOURCE, 1000, 2.0, decay="cosine")
    assert learning_rate(cosine, 9, 500) == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"floor": 1.5}, {"floor": -0.1}, {"decay_share": 0.0}])
def test_a_schedule_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Phase("a", ONE_SOURCE, 1000, 1.0, **wrong)


def test_a_source_holds_out_the_same_in_every_phase():
    first = Phase("a", (Source("x", hold_out=3),), 10, 1.0)
    with pytest.raises(ConfigError, match="occurs with different keys"):
        TrainConfig((first, Phase("b", (Source("x"),), 10, 1.0)), batch_tokens=10, row_tokens=10)
    TrainConfig((first, dataclasses.replace(first, name="b")), batch_tokens=10, row_tokens=10)
