"""Every kind of sampler that a recipe can name opens, for a role and for an evaluation."""

import shutil
import sys

import pytest
import torch
from endpoint_double import Server, serving
from vllm_double import vllm_double

from statewise.config import build
from statewise.endpoint import EndpointSampler
from statewise.engine import Engine
from statewise.engine.config import EngineConfig
from statewise.errors import CheckpointError, ConfigError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.offline import VLLMSampler
from statewise.pipeline import samplers
from statewise.pipeline.samplers import open_roles, open_sampler
from statewise.recipe import EvalRecipe, Recipe
from statewise.sampler import Prompt, SamplerConfig, SamplingParams
from statewise.synth.config import ProblemSet
from statewise.synth.formats import author_prompt
from statewise.synth.line import write_set
from statewise.synth.workbook import CONCEPTS
from statewise.text import BPETokenizer

TOKENIZER = BPETokenizer.train(["some words to learn from, 1 + 1 = 2"] * 3, vocab_size=280)
ENGINE = EngineConfig(slots=1, device="cpu", backend="torch")
CONFIG = Mamba2Config(d_model=32, n_layer=1, d_state=16, headdim=16, vocab_size=288)
KINDS = ("checkpoint", "endpoint", "vllm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    Mamba2LM(CONFIG).save(folder, TOKENIZER)
    return folder


@pytest.fixture
def vllm(monkeypatch):
    double = vllm_double(TOKENIZER)
    monkeypatch.setitem(sys.modules, "vllm", double)
    return double


@pytest.fixture
def table(folder, vllm):
    """Kind -> the table of a recipe that names such a sampler."""
    pytest.importorskip("openai", reason="no openai: pip install 'statewise[endpoint]'")
    with serving() as address:
        yield {
            "checkpoint": {"kind": "checkpoint", "path": str(folder), "weights": "model"},
            "endpoint": {"kind": "endpoint", "path": address, "served_as": "m"},
            "vllm": {"kind": "vllm", "path": str(folder), "tensor_parallel_size": 2},
        }


CLASSES = {"checkpoint": Engine, "endpoint": EndpointSampler, "vllm": VLLMSampler}


def recipe(**synth):
    phase = {"name": "p", "tokens": 9, "lr": 1e-3, "sources": [{"path": "x.jsonl"}]}
    return build(
        Recipe,
        {
            "name": "x",
            "seed": 7,
            "model": {"d_model": 32, "n_layer": 1, "headdim": 16, "vocab_size": 300},
            "tokenizer": {"vocab_size": 300},
            "train": {"phases": [phase]},
            "engine": {"slots": 1, "device": "cpu", "backend": "torch"},
            "synth": synth,
        },
    )


def continued(sampler):
    (completion,) = sampler.sample([Prompt("a", "some words")], SamplingParams(max_tokens=9))
    return completion


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_opens_for_an_evaluation_and_answers(kind, table):
    asked = build(
        EvalRecipe, {"name": "e", "checkpoint": table[kind], "eval": {"benchmarks": ["gsm8k"]}}
    )
    sampler = open_sampler(asked.checkpoint, ENGINE, max_tokens=asked.eval.max_tokens)
    assert type(sampler) is CLASSES[kind]
    completion = continued(sampler)
    assert (completion.prompt_id, completion.completion_tokens > 0) == ("a", True)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_opens_for_a_role_beside_the_workbook_in_the_others(kind, table):
    roles = open_roles(recipe(teacher={**table[kind], "max_tokens": 50, "temperature": 0.5}))
    for partition in ("held_out", "train"):
        opened = roles(partition, "none")
        assert type(opened.teacher) is CLASSES[kind]
        assert continued(opened.teacher).prompt_id == "a"
        (draft,) = opened.author.sample(
            [Prompt("d", author_prompt([CONCEPTS[0].name], "AMC8", "math"))], SamplingParams()
        )
        assert "BEGIN PROBLEM" in draft.text


def test_a_url_is_an_endpoint_and_a_folder_a_checkpoint_where_no_kind_is_named(table):
    for kind in ("checkpoint", "endpoint"):
        named = {k: v for k, v in table[kind].items() if k != "kind"}
        sampler = open_sampler(SamplerConfig(**named), ENGINE, max_tokens=9)
        assert type(sampler) is CLASSES[kind]


def test_the_workbooks_of_the_roles_are_those_of_the_seed_and_the_place(monkeypatch):
    made = []
    monkeypatch.setattr(samplers, "Workbook", lambda **how: made.append(how) or len(made))
    roles = open_roles(recipe(judges=[{"error": 0.25}], teacher={"error": 0.5}))
    assert roles("held_out", "wording").author == 1
    train = roles("train", "none")
    sets = (("held_out", "wording"), ("train", "none"))
    assert [(how["seed"], how["partition"], how["novelty"]) for how in made] == [
        (700 + i, *which) for which in sets for i in range(4)
    ]
    assert [how["judge_error"] for how in made][:4] == [0.05, 0.25, 0.0, 0.5]
    assert (train.author, train.judges, train.verifier, train.teacher) == (5, (6,), 7, 8)


def test_a_model_that_plays_several_roles_is_opened_once_for_the_longest_answer(table, vllm):
    one = table["vllm"]
    roles = open_roles(
        recipe(
            judges=[{**one, "max_tokens": 10}, {**one, "max_tokens": 90, "temperature": 0.1}],
            teacher={**one, "max_tokens": 50},
        )
    )
    assert len(vllm.loaded) == 1
    assert vllm.loaded[0]["max_model_len"] == 90 + 4096
    assert vllm.loaded[0]["tensor_parallel_size"] == 2
    sets = (roles("held_out", "numbers"), roles("train", "none"))
    used = {id(s) for r in sets for s in (*r.judges, r.teacher)}
    assert len(used) == 1


def test_a_server_plays_a_role_of_the_line_from_draft_to_example(table, tmp_path):
    """The server answers with what it was asked, so it solves nothing; every step asks it."""
    synth = {"judges": [{}], "teacher": {**table["endpoint"], "max_tokens": 50}}
    asked = recipe(**synth, concepts=[CONCEPTS[0].name])
    write_set(
        ProblemSet("s", (1,), 3),
        [CONCEPTS[0]],
        open_roles(asked)("train", "none"),
        asked.synth,
        tmp_path,
        seed=0,
        tests={},
    )
    lines = (tmp_path / "teacher.jsonl").read_text().splitlines()
    assert 0 < len(lines) == len(Server.asked)
    assert {body["max_tokens"] for _, body in Server.asked} == {50}


def test_the_dtype_and_a_tokenizer_from_elsewhere_are_those_of_the_table(folder, tmp_path, vllm):
    TOKENIZER.save(tmp_path)
    (bare := tmp_path / "bare").mkdir()
    for file in folder.iterdir():
        if "tokenizer" not in file.name:
            (bare / file.name).write_bytes(file.read_bytes())
    how = {"path": str(bare), "tokenizer": str(tmp_path), "dtype": "bfloat16"}
    engine = open_sampler(SamplerConfig(**how), ENGINE, max_tokens=9)
    assert engine.model.backbone.embeddings.weight.dtype is torch.bfloat16
    open_sampler(SamplerConfig("vllm", **how), ENGINE, max_tokens=9)
    assert vllm.loaded[0]["dtype"] == "bfloat16"
    assert SamplerConfig(**how).folders == (str(bare), str(tmp_path))


def test_int8_weights_reach_the_engine(folder, monkeypatch):
    made = []
    monkeypatch.setattr(samplers, "Engine", lambda *_, **how: made.append(how))
    open_sampler(SamplerConfig(path=str(folder), weights="int8"), ENGINE, max_tokens=9)
    assert made == [{"slots": 1, "weights": "int8", "state": "float32"}]


@pytest.mark.parametrize("kind", ["checkpoint", "vllm"])
def test_the_ends_are_those_of_the_models_folder_wherever_its_tokenizer_lies(
    kind, folder, vllm, tmp_path
):
    model = tmp_path / "m"
    shutil.copytree(folder, model)
    (model / "tokenizer.json").unlink()
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    asked = SamplerConfig(kind, path=str(model), tokenizer=str(folder))
    sampler = open_sampler(asked, ENGINE, max_tokens=9)
    tokenizer = sampler.tokenizer if kind == "checkpoint" else sampler._tokenizer
    assert tokenizer.end_ids == (0, 2)


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_read(folder, tmp_path):
    BPETokenizer.train(["x"], vocab_size=261).save(tmp_path)
    small = Mamba2Config(d_model=32, n_layer=1, d_state=16, headdim=16, vocab_size=262)
    Mamba2LM(small).save(tmp_path / "small", BPETokenizer.load(tmp_path))
    asked = SamplerConfig(path=str(tmp_path / "small"), tokenizer=str(folder))
    with pytest.raises(CheckpointError, match="do not belong together"):
        open_sampler(asked, ENGINE, max_tokens=9)


@pytest.mark.parametrize(
    ("role", "told"),
    [({"kind": "endpoint", "path": "http://x/v1"}, "synth.teacher.served_as: names the model"),
     ({"kind": "endpoint", "path": "x", "served_as": "m"}, "synth.teacher.path: an endpoint's"),
     ({"kind": "checkpoint"}, "synth.teacher.path: names no model; kind = 'checkpoint'"),
     ({"kind": "vllm", "path": "m", "weights": "int8"}, "synth.teacher.weights: belongs to"),
     ({"served_as": "m"}, "synth.teacher.served_as: names the model at an endpoint"),
     ({"path": "m"}, "synth.teacher.path: belongs to kind = "),
     ({"dtype": "float16"}, "synth.teacher.dtype: belongs to kind = ")],
)  # fmt: skip
def test_a_role_that_nobody_can_play_is_refused_by_its_key(role, told):
    with pytest.raises(ConfigError) as e:
        recipe(teacher=role)
    assert str(e.value).startswith(told)


def test_the_workbook_answers_no_evaluation():
    with pytest.raises(ConfigError, match="plays roles of the synthesis"):
        open_sampler(SamplerConfig("workbook"), ENGINE, max_tokens=9)
