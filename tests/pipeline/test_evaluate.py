"""A model that is there already is asked benchmarks: from a folder, or behind a server."""

import json
from pathlib import Path

import pytest
from endpoint_double import Server, serving

from statewise.cli import main
from statewise.endpoint import EndpointSampler
from statewise.errors import ConfigError, RunError
from statewise.eval.benchmarks import BENCHMARKS
from statewise.eval.config import EvalConfig
from statewise.model import Mamba2Config, Mamba2LM
from statewise.recipe import EvalRecipe, load_eval_recipe
from statewise.records import FinishReason
from statewise.sampler import Prompt, SamplerConfig, SamplingParams
from statewise.text import BPETokenizer

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def there(*names):
    for name in names:
        if not (DATA / BENCHMARKS[name].file).is_file():
            pytest.skip(f"no {DATA / BENCHMARKS[name].file}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    tokenizer = BPETokenizer.train(["some words to learn from, 1 + 1 = 2"] * 3, vocab_size=280)
    config = Mamba2Config(d_model=32, n_layer=1, d_state=16, headdim=16, vocab_size=288)
    Mamba2LM(config).save(folder, tokenizer)
    return folder


RECIPE = """
name = "random"
data_dir = "{data}"
[checkpoint]
path = "{path}"
[engine]
slots = 4
[eval]
benchmarks = ["aime2024", "humaneval"]
problems = 3
samples = 2
max_tokens = 8
"""


def test_random_weights_are_asked_graded_and_reported(model, tmp_path, capsys):
    there("aime2024", "humaneval")
    recipe, out = tmp_path / "r.toml", tmp_path / "out"
    recipe.write_text(RECIPE.format(data=DATA, path=model))
    assert main(["eval", str(recipe), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    page = (out / "report.md").read_text()
    assert page in told
    assert "programs run behind: " in told
    rows = [line for line in page.splitlines() if line.startswith("| AIME24")]
    assert rows == ["| AIME24 | 0.0 ± 0.0 | 0.0 to 0.0 | 0.0 (n 2) | 0.0 | 6 | 0 | 0 | 8 | 3 | 6 |"]
    assert "Only the first 3 problems of each benchmark were asked" in page
    assert page.count("| random (measured) | – | 0.0 ± 0.0 | – | – | 0.0 ± 0.0 | – | – |") == 3
    assert page.count("| PromptCoT-Mamba-7B (published) | 84.6 | 35.2 |") == 3
    for part in ("General", "Specialisation", "Ablation", "figures/beside-published"):
        assert part in page
    html = (out / "report.html").read_text()
    assert html.count("<table") == 4
    assert "<svg" in html
    assert (out / "figures" / "beside-published.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((out / "report.json").read_text())
    assert stored["results"]["humaneval"]["outcomes"]["truncated"] == 6
    before = (out / "aime2024" / "verdicts.jsonl").read_bytes()
    assert main(["eval", str(recipe), "--out", str(out)]) == 0
    assert (out / "aime2024" / "verdicts.jsonl").read_bytes() == before
    capsys.readouterr()
    assert main(["eval", str(recipe), "--out", str(out), "--set", "seed=1"]) == 1
    assert "another recipe's; choose another --out" in capsys.readouterr().err


def test_without_a_number_of_samples_the_papers_is_drawn(model, tmp_path):
    there("aime2024", "math500")
    recipe, out = tmp_path / "r.toml", tmp_path / "out"
    recipe.write_text(RECIPE.format(data=DATA, path=model))
    asked = ["--set", "eval.samples=0", "--set", 'eval.benchmarks=["aime2024", "math500"]']
    assert main(["eval", str(recipe), "--out", str(out), *asked]) == 0
    results = json.loads((out / "report.json").read_text())["results"]
    assert {n: r["n_samples"] for n, r in results.items()} == {"aime2024": 48, "math500": 24}


def test_two_evaluations_are_compared_problem_by_problem(model, tmp_path, capsys):
    there("aime2024", "humaneval")
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE.format(data=DATA, path=model))
    for seed in (0, 1):
        asked = ["eval", str(recipe), "--out", str(tmp_path / str(seed)), "--set", f"seed={seed}"]
        assert main([*asked, "--set", 'eval.benchmarks=["aime2024"]']) == 0
    result = tmp_path / "1" / "aime2024" / "result.json"
    stored = json.loads(result.read_text())
    first, *rest = sorted(stored["per_problem"])
    stored["per_problem"] = {first: 1.0, **dict.fromkeys(rest, 0.0)}
    result.write_text(json.dumps(stored))
    capsys.readouterr()
    kept = tmp_path / "paired.json"
    assert main(["paired", str(tmp_path / "1"), str(tmp_path / "0"), "--out", str(kept)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith("| aime2024 | 33.3 | 0.0 | +33.3 ± 33.3 | +0.0 to +100.0 | 3 |")
    (row,) = json.loads(kept.read_text())
    assert (row["n_problems"], round(row["difference"], 6)) == (3, 0.333333)
    settings = tmp_path / "1" / "aime2024" / "settings.json"
    settings.write_text(settings.read_text().replace('"problems": "', '"problems": "x'))
    assert main(["paired", str(tmp_path / "1"), str(tmp_path / "0")]) == 1
    assert "other problems, so there is nothing to pair" in capsys.readouterr().err
    assert main(["paired", str(tmp_path), str(tmp_path / "0")]) == 1
    assert "share no evaluated set: the first has none" in capsys.readouterr().err


def test_the_recipe_that_comes_along_is_read_and_a_training_recipe_is_another_kind():
    recipe = load_eval_recipe("benchmarks")
    assert recipe.eval.max_tokens == 65_536
    assert recipe.eval.repetition_penalty == 1.1
    assert (recipe.eval.samples, recipe.eval.retries) == (0, 1)
    assert [BENCHMARKS[n].samples for n in recipe.eval.benchmarks] == [8, 16, 16, 8, 8, 8]
    assert load_eval_recipe("mini") is None


@pytest.mark.parametrize(
    ("made", "told"),
    [(lambda: SamplerConfig(), "path: names no model"),
     (lambda: SamplerConfig(path="http://x/v1"), "served_as: names the model at an endpoint"),
     (lambda: SamplerConfig(path="folder", served_as="m"), "served_as"),
     (lambda: EvalRecipe("a b", SamplerConfig(path="m"), EvalConfig(("gsm8k",))), "name: letters"),
     (lambda: EvalRecipe("a", SamplerConfig(path="m"), EvalConfig()), "names no benchmark"),
     (lambda: EvalRecipe("a", SamplerConfig("workbook"), EvalConfig(("gsm8k",))), "is no model")],
)  # fmt: skip
def test_a_recipe_that_asks_nobody_or_nothing_is_refused(made, told):
    with pytest.raises(ConfigError, match=told):
        made()


# --- over HTTP


@pytest.fixture
def server():
    pytest.importorskip("openai", reason="no openai: pip install 'statewise[endpoint]'")
    with serving() as address:
        yield address


def test_every_sample_of_every_prompt_is_asked_once_with_its_own_seed(server):
    params = SamplingParams(n=3, max_tokens=9, temperature=0.5, seed=7, repetition_penalty=1.1)
    prompts = [Prompt(str(i), f"text {i}") for i in range(20)]
    found = {
        (c.prompt_id, c.sample): c for c in EndpointSampler(server, "m").sample(prompts, params)
    }
    assert len(found) == 60
    for (name, i), c in found.items():
        assert c.text == f"text {name}!{7 + i}"
        assert (c.finish_reason, c.prompt_tokens, c.completion_tokens) == (FinishReason.STOP, 3, 4)
    path, body = Server.asked[0]
    assert path == "/v1/completions"
    assert (body["model"], body["temperature"], body["repetition_penalty"]) == ("m", 0.5, 1.1)
    assert "top_k" not in body
    (cut,) = EndpointSampler(server, "m").sample([Prompt("a", "b")], SamplingParams(max_tokens=2))
    assert cut.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("said", "meant"),
    [("eos", "stop"), (None, "stop"), ("max_tokens", "length"), ("content_filter", "length")],
)
def test_a_servers_own_word_for_the_end_is_understood(server, monkeypatch, said, meant):
    monkeypatch.setattr(Server, "ended", said)
    (c,) = EndpointSampler(server, "m").sample([Prompt("a", "b")], SamplingParams())
    assert c.finish_reason == meant


def test_a_servers_word_that_nobody_knows_is_named(server, monkeypatch):
    monkeypatch.setattr(Server, "ended", "bored")
    with pytest.raises(RunError, match=r"/v1: 'm' answered, but its finish_reason must be .*bored"):
        list(EndpointSampler(server, "m").sample([Prompt("a", "b")], SamplingParams()))


def test_a_busy_server_is_asked_again_and_a_missing_one_is_named(server):
    Server.failures = 2
    (c,) = EndpointSampler(server, "m").sample([Prompt("a", "b")], SamplingParams())
    assert c.text == "b!0"
    nowhere = EndpointSampler("http://127.0.0.1:9/v1", "m")
    nowhere._client = nowhere._client.with_options(max_retries=0)
    with pytest.raises(RunError, match=r"127.0.0.1:9/v1: 'm' did not answer .*same command again"):
        list(nowhere.sample([Prompt("a", "b")], SamplingParams()))
