"""Preference training: its loss is TRL's, its reference the phase's first model; kills."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_engines import launch
from tiny_models import BACKENDS, SEEDS, configs, tiny_model
from tolerances import within
from training_doubles import (
    TWO_PHASES,
    VOCAB,
    metrics,
    phases,
    results,
    small_model,
    some_documents,
    trainer,
)

from statewise import progress
from statewise.errors import CheckpointError, ConfigError, DataError
from statewise.text import BPETokenizer
from statewise.train import preference
from statewise.train import trainer as module
from statewise.train.config import Columns, LoraConfig, ParallelConfig, Phase, Source, TrainConfig
from statewise.train.corpus import make
from statewise.train.packing import Document, Stream, pack
from statewise.train.preference import Pair, Pairs, RowLoss, pack_pairs
from statewise.train.sources import pairs

TOKENIZER = BPETokenizer.train(["ab abc abcd ", "bcd"] * 9, vocab_size=270)


@pytest.fixture(autouse=True)
def _no_test_cuts_the_power(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def pair(rng, num_prompt=3, longest=6):
    """One prompt; small ids are chosen and large ones rejected, of lengths that differ."""
    prompt = rng.integers(0, VOCAB, num_prompt)
    sides = []
    for low in (1, VOCAB // 2):
        completion = rng.integers(low, low + VOCAB // 2 - 1, int(rng.integers(1, longest)))
        ids = np.concatenate([prompt, completion, [0]]).astype(np.int32)
        sides.append(Document(ids, num_prompt))
    return Pair.of(*sides)


def some_pairs(count=16, seed=0):
    rng = np.random.default_rng(seed)
    return [pair(rng, int(rng.integers(1, 4))) for _ in range(count)]


def with_values(pairs, seed=0):
    """Pairs with some log-probabilities or other of their reference."""
    rng = np.random.default_rng(seed)
    return [dataclasses.replace(p, reference=tuple(-9 * rng.random(2))) for p in pairs]


def alone(model, document):
    """A completion's log-probability as it is defined: its document alone, token by token."""
    with torch.no_grad():
        logits = model(torch.from_numpy(document.ids[None].astype(np.int64))).logits[0]
    each = torch.log_softmax(logits.double(), dim=-1)
    ids = document.ids
    return sum(float(each[i - 1, int(ids[i])]) for i in range(document.num_prompt, len(ids)))


def preferring(tokens=600, *, first=0, **settings):
    """Curricula of a phase "a" of documents, if it is to have tokens, and "b" of pairs."""
    learn = phases(first or 1, tokens, lr=3e-3)
    documents, pairs = learn[0], dataclasses.replace(learn[1], loss="dpo", **settings)
    some = (documents, dataclasses.replace(pairs, sources=(Source("y"),))) if first else (pairs,)
    return dataclasses.replace(TWO_PHASES, phases=some, batch_tokens=80, row_tokens=40)


BOTH = preferring(320, first=240)
POOLS = [[some_documents()], [some_pairs()]]


# The loss.


@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data(), seed=SEEDS)
def test_packed_pairs_have_the_log_probabilities_of_their_documents_alone(backend, data, seed):
    config = dataclasses.replace(data.draw(configs(backend=backend)), vocab_size=VOCAB)
    model = tiny_model(config, seed, backend)
    pairs = some_pairs(data.draw(st.integers(1, 5)), seed)
    with torch.no_grad():
        found = RowLoss(model)(pack_pairs(pairs, 0.1), log_probs=True)
    expected = [[alone(model, d) for d in p.documents] for p in pairs]
    within(found, torch.tensor(expected), "model")


def trl_on(theirs, pairs, beta):
    """Loss and figures of TRL's trainer on a padded batch, by a model of `transformers`."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'statewise[test]'")
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(theirs, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    documents = [p.documents[side] for side in (0, 1) for p in pairs]
    width = max(len(d.ids) for d in documents)
    batch = {n: torch.zeros(len(documents), width, dtype=torch.int64) for n in
             ("input_ids", "attention_mask", "completion_mask")}  # fmt: skip
    for i, d in enumerate(documents):
        batch["input_ids"][i, : len(d.ids)] = torch.from_numpy(d.ids.astype(np.int64))
        batch["attention_mask"][i, : len(d.ids)] = 1
        batch["completion_mask"][i, d.num_prompt : len(d.ids)] = 1
    references = torch.tensor([p.reference for p in pairs])
    batch["ref_chosen_logps"], batch["ref_rejected_logps"] = references.unbind(1)
    stands_for = SimpleNamespace(
        model=theirs,
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=lambda t: t, gather_for_metrics=lambda t: t
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    loss = trl.DPOTrainer._compute_loss(stands_for, theirs, batch, False)
    told = {name: values[-1] for name, values in stands_for._metrics["eval"].items()}
    return loss, told


def test_loss_gradients_and_rewards_are_those_of_trl_on_the_same_batch(tmp_path):
    from transformers import Mamba2ForCausalLM

    model = small_model(d_state=8, spread=0.5, vocab_size=TOKENIZER.vocab_size)
    model.save(tmp_path / "model", TOKENIZER)
    theirs = Mamba2ForCausalLM.from_pretrained(tmp_path / "model")
    pairs, beta = with_values(some_pairs(5)), 0.3
    expected, told = trl_on(theirs, pairs, beta)
    expected.backward()
    means = RowLoss(model)(pack_pairs(pairs, beta)) / len(pairs)
    means[0].backward()
    loss, won, margin = means.detach()
    assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert float(margin) == pytest.approx(told["rewards/margins"], abs=1e-5)
    assert float(won) == pytest.approx(told["rewards/accuracies"])
    assert 0 < float(won) < 1
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        within(parameter.grad, gradients[name], "model-gradient", name)


def test_rows_of_documents_have_the_loss_that_they_had():
    model, row = small_model(), pack(some_documents(6))
    (found,) = RowLoss(model)(row)
    assert torch.equal(found, preference.SummedLoss(model)(row))


def test_a_step_of_pairs_is_the_mean_over_them_however_they_lie_in_rows(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [pair(rng, 2, 2) for _ in range(4)]
    assert {len(p.ids) for p in pairs} == {8}
    for rows in (1, 2, 4):
        config = preferring(32)
        config = dataclasses.replace(config, batch_tokens=32, row_tokens=32 // rows)
        trainer(tmp_path / str(rows), config, pools=[[pairs]]).run()
    told = [metrics(tmp_path / str(rows))[0] for rows in (1, 2, 4)]
    for other in told[1:]:
        for name in ("loss", "grad_norm"):
            within(torch.tensor(other[name]), torch.tensor(told[0][name]), "model", name)


# The data.


def test_both_completions_of_a_pair_lie_in_one_row_and_rows_keep_their_limit():
    pairs = some_pairs(30)
    stream = Stream(preferring().phases[0], [pairs], row_tokens=40, seed=0)
    for _ in range(30):
        found = next(stream)
        row = pack_pairs(found, 0.1)
        assert sum(len(p.ids) for p in found) <= 40
        assert row.num_terms == len(found)
        of_pairs = [len(d.ids) for p in found for d in p.documents]
        assert row.layout.length.tolist()[: len(of_pairs)] == of_pairs


ROWS = [
    {"source": "math", "prompt": "ab ", "chosen": "abc", "rejected": "abcd bcd"},
    {"source": "math", "prompt": "ab abc ", "chosen": "bcd " * 30, "rejected": "a"},
    {"source": "math", "prompt": "", "chosen": "bcd", "rejected": "a"},
    {"source": "math", "prompt": "abcd ", "chosen": "b", "rejected": "a" * 9},
]


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return make(tmp_path / "corpus", pairs(Source("x"), file, preferences=True), TOKENIZER)


def test_pairs_are_read_from_the_columns_of_self_play_data(corpus):
    found = Pairs(corpus, max_tokens=10_000, long="refuse", where="x")
    kept = [row for row in ROWS if row["prompt"]]
    assert len(found) == len(kept)
    for p, row in zip(found, kept, strict=True):
        prompt = TOKENIZER.encode(row["prompt"])
        for d, side in zip(p.documents, ("chosen", "rejected"), strict=True):
            expected = [*prompt, *TOKENIZER.encode(row[side]), TOKENIZER.eos_id]
            assert (d.ids.tolist(), d.num_prompt) == (expected, len(prompt))
    assert found.lengths.tolist() == [len(p.ids) for p in found]


def test_other_columns_and_forms_may_hold_the_pairs(tmp_path):
    row = {"q": "1 + 1?", "good": [{"content": "2"}], "bad": [{"content": "3"}]}
    file = tmp_path / "some.jsonl"
    file.write_text(json.dumps(row) + "\n")
    columns = Columns("q", chosen="good.0.content", rejected="bad.0.content")
    found = [e for e, _ in pairs(Source("x", columns=columns, form="math"), file, preferences=True)]
    assert [e.completion for e in found] == ["2", "3"]
    assert found[0].prompt == found[1].prompt
    assert "1 + 1?" in found[0].prompt
    columns = dataclasses.replace(columns, rejected="rejected")
    with pytest.raises(DataError, match=r"some.jsonl:1: has no column 'rejected'"):
        list(pairs(Source("x", columns=columns), file, preferences=True))


def test_pairs_that_fit_no_row_or_have_no_prompt_are_left_out_and_counted(corpus):
    found = Pairs(corpus, max_tokens=30, long="drop", where="x")
    expected = {"without a prompt": 1, "near an evaluation problem": 0, "longer than a row": 1}
    assert found.left_out == expected
    assert len(found) == 2
    with pytest.raises(DataError, match=r"1 of its pairs are longer than 30 tokens, .* number 2"):
        Pairs(corpus, max_tokens=30, long="refuse", where="x")
    with pytest.raises(DataError, match="none of its 4 pairs can be trained on: 1 with"):
        Pairs(corpus, max_tokens=3, long="drop", where="x")


@pytest.mark.parametrize("side", [0, 1])
def test_a_pair_that_gives_an_evaluation_problem_away_in_either_completion_is_left_out(
    corpus, side
):
    whole = Pairs(corpus, max_tokens=10_000, long="drop", where="x")
    found = Pairs(corpus, max_tokens=10_000, long="drop", where="x", near=[2 + side])
    assert found.left_out["near an evaluation problem"] == 1
    ids = [pair.ids.tolist() for pair in whole]
    assert [pair.ids.tolist() for pair in found] == [ids[0], *ids[2:]]


def test_a_source_without_pairs_is_told(tmp_path):
    empty = make(tmp_path, iter([]), TOKENIZER)
    with pytest.raises(DataError, match="x: holds no pairs to train on"):
        Pairs(empty, max_tokens=9, long="drop", where="x")


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: preferring(beta=0.0), "beta: must be above 0, found 0.0"),
        (
            lambda: dataclasses.replace(preferring(), parallel=ParallelConfig(context=2)),
            "parallel.context: a row of pairs",
        ),
        (
            lambda: dataclasses.replace(preferring(), long="cut"),
            "long: a pair that is cut says nothing of which completion is better",
        ),
        (
            lambda: Phase("a", (Source("x", hold_out=1),), 9, 1e-3, loss="dpo"),
            "hold_out: pairs are not measured, but 'x' holds some out",
        ),
        (
            lambda: TrainConfig((*phases(9), dataclasses.replace(phases(9, 9)[1], loss="dpo"))),
            "phases: the source 'x' has pairs in one phase, completions in another",
        ),
    ],
)
def test_a_curriculum_of_preferences_that_cannot_run_is_refused_by_key(build, told):
    with pytest.raises(ConfigError) as e:
        build()
    assert told in str(e.value)


# The loop.


def test_it_learns_to_prefer_and_begins_at_the_loss_of_a_coin(tmp_path):
    trainer(tmp_path, preferring(6000), pools=[[some_pairs()]]).run()
    lines = metrics(tmp_path)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["loss"] < 0.3
    assert lines[-1]["margin"] > 1
    assert lines[-1]["accuracy"] == 1
    margins = [m["margin"] for m in lines]
    assert sum(margins[-10:]) > sum(margins[10:20]) > sum(margins[:10])


def test_a_higher_beta_leaves_the_first_model_less(tmp_path):
    moved = []
    for beta in (0.05, 2.0):
        folder = tmp_path / str(beta)
        trainer(folder, preferring(3000, beta=beta), pools=[[some_pairs()]]).run()
        moved.append(metrics(folder)[-1]["margin"] / beta)
    assert moved[1] < moved[0] / 2


def test_the_reference_is_the_model_that_the_phase_begins_with(tmp_path):
    trainer(tmp_path, BOTH, pools=POOLS).run()
    model = small_model()
    model.load_state_dict(load_file(tmp_path / "after-a"), strict=False)
    (file,) = (tmp_path / "reference" / "b-0").iterdir()
    expected = [[alone(model, d) for d in p.documents] for p in POOLS[1][0]]
    within(torch.from_numpy(np.load(file)), torch.tensor(expected), "model")
    of_pairs = [m for m in metrics(tmp_path) if m["phase"] == "b"]
    assert of_pairs[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert all(m["margin"] is None for m in metrics(tmp_path) if m["phase"] == "a")


def adapted(folder, config):
    """A training of adapters on pairs, of a model that is the same each time."""
    pytest.importorskip("peft", reason="peft is not installed: pip install 'statewise[lora]'")
    config = dataclasses.replace(config, lora=LoraConfig(rank=3, alpha=6))
    trainer(folder, config, pools=[[some_pairs()]]).run()
    return metrics(folder)


def test_of_adapters_the_reference_is_the_model_without_them(tmp_path, monkeypatch):
    config = preferring(800)
    off = adapted(tmp_path / "off", config)
    assert not (tmp_path / "off" / "reference").exists()
    real = preference.with_reference
    cached = {}

    def kept(pairs, folder, engine, **how):
        cached[folder] = real(pairs, folder, engine, **how)
        return cached[folder]

    # Behind a phase of one step without effect, the adapters are no longer new: the reference is
    # computed, and is the same model.
    monkeypatch.setattr(module, "with_reference", kept)
    still = dataclasses.replace(config.phases[0], name="still", tokens=1, lr=1e-30)
    phases_ = (still, dataclasses.replace(config.phases[0], optimiser="reset"))
    both = dataclasses.replace(config, phases=phases_, lora=LoraConfig(rank=3, alpha=6))
    trainer(tmp_path / "cached", both, pools=[[some_pairs()]] * 2).run()
    assert len(cached) == 1
    found = [m for m in metrics(tmp_path / "cached") if m["phase"] == config.phases[0].name]
    for own, other in zip(off, found, strict=True):
        for name in ("loss", "margin"):
            within(torch.tensor(other[name]), torch.tensor(own[name]), "model", name)
    assert off[-1]["margin"] > 3 * max(off[1]["margin"], 0.001)


class Killed(BaseException):
    """Stands for the end of the process."""


def killed(folder, config, owner, name, call):
    """A training of which the `call`-th call of a function is the end."""
    real, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(owner, name, dying)
        with pytest.raises(Killed):
            trainer(folder, config, pools=POOLS).run()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(preference, "PART", 5)
        trainer(folder, BOTH, pools=POOLS).run()
    assert len(list((folder / "reference" / "b-0").iterdir())) == 4
    return results(folder)


@pytest.mark.parametrize("every_s", [0.0, 1e9])
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        *((progress.Task, "update", step) for step in (2, 4, 5, 7)),
        *((preference, "_write", part) for part in (1, 3)),
        (os, "replace", 4),
    ],
)
def test_killed_at_any_moment_it_resumes_to_the_same_bits(
    tmp_path, monkeypatch, undisturbed, owner, name, call, every_s
):
    monkeypatch.setattr(preference, "PART", 5)
    config = dataclasses.replace(BOTH, checkpoint_every_s=every_s)
    killed(tmp_path, config, owner, name, call)
    trainer(tmp_path, config, pools=POOLS).run()
    found = results(tmp_path)
    last = max(n for n in undisturbed if n.startswith("phase"))
    for part in ("metrics", "after-a", "after-b", last):
        assert found[part] == undisturbed[part], part


def test_what_is_there_of_the_reference_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "PART", 5)
    real, computed = preference._log_probs, []
    monkeypatch.setattr(preference, "_log_probs", lambda *a: computed.append(1) or real(*a))
    killed(tmp_path, BOTH, preference, "_write", 3)
    trainer(tmp_path, BOTH, pools=POOLS).run()
    assert len(computed) == 3 + 2


def test_a_reference_that_is_gone_ends_a_training_that_has_begun(tmp_path):
    killed(tmp_path, BOTH, progress.Task, "update", 6)
    for file in (tmp_path / "reference" / "b-0").iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match="is missing, and cannot be made again"):
        trainer(tmp_path, BOTH, pools=POOLS).run()


WORKER = """
import json, sys
from pathlib import Path
import torch
from test_preference import POOLS, under
from training_doubles import trainer
for job in json.loads(sys.argv[1]):
    trainer(Path(job["folder"]), under(job["engine"]), pools=POOLS).run()
torch.distributed.destroy_process_group()
"""


def under(engine):
    parallel = dataclasses.replace(BOTH.parallel, engine=engine)
    return dataclasses.replace(BOTH, parallel=parallel)


@pytest.mark.timeout(300)
def test_two_processes_prefer_what_one_does_under_every_engine(tmp_path):
    engines = ("ddp", "fsdp2", "zero2", "zero3")
    trainer(tmp_path / "one", BOTH, pools=POOLS).run()
    launch([{"engine": e, "folder": str(tmp_path / e)} for e in engines], worker=WORKER)
    expected, weights = metrics(tmp_path / "one"), load_file(tmp_path / "one" / "after-b")
    for engine in engines:
        found = metrics(tmp_path / engine)
        for own, other in zip(expected, found, strict=True):
            assert own["tokens"] == other["tokens"]
            for name in ("loss", "margin", "accuracy")[: 1 if own["margin"] is None else 3]:
                within(torch.tensor(other[name]), torch.tensor(own[name]), "model", name)
        for name, tensor in load_file(tmp_path / engine / "after-b").items():
            within(tensor, weights[name], "model", name)
