"""Recipes: what they refuse, what identifies them, and how the claims shorten them."""

import tomllib
from pathlib import Path

import pytest

from statewise import catalog
from statewise.config import build, render
from statewise.errors import ConfigError
from statewise.recipe import EvalRecipe, load_eval_recipe, load_recipe

MINI = "mini"

SMALLEST = """
name = "smallest"
[model]
vocab_size = 2048
[[synth.sets]]
name = "a"
sizes = [1]
count = 1
[[train.phases]]
name = "only"
tokens = 1000
lr = 1e-3
sources = [{ path = "@a" }]
"""


@pytest.fixture
def smallest(tmp_path):
    path = tmp_path / "smallest.toml"
    path.write_text(SMALLEST)
    return path


@pytest.mark.parametrize("name", catalog.names())
def test_every_recipe_reads_back_from_its_own_text_with_the_same_identity(name):
    recipe = load_eval_recipe(name) or load_recipe(name)
    again = build(type(recipe), tomllib.loads(recipe.toml))
    assert again == recipe
    assert again.sha256 == recipe.sha256
    assert render(again) == recipe.toml


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("mini", "ce72d082bc32d53f20de42f45f875e6bfa7240ae816941de830b8b349fe416af"),
        ("claims", "1d6197dc5ae44d8fd3a2bb68637dda0586e8c9e20a6d97300a40cb5008284173"),
    ],
)
def test_a_published_figure_can_be_asked_for_by_the_hash_it_was_published_under(name, digits):
    # Another default, or a new key, is another hash: then say so in CHANGELOG and change it here.
    assert load_recipe(name).sha256 == digits


def test_rules_for_programs_are_part_of_a_recipes_hash_where_they_are_named():
    unnamed, strict = load_recipe("mini"), load_recipe("mini", ["eval.rules=strict"])
    assert (unnamed.eval.rules, strict.eval.rules) == (None, "strict")
    assert 'rules = "strict"' in strict.toml
    assert strict.sha256 != unnamed.sha256
    with pytest.raises(ConfigError, match=r"eval\.rules: 'loose' is not one of 'official'"):
        load_recipe("mini", ["eval.rules=loose"])


def test_a_recipe_that_asks_a_checkpoint_is_of_no_use_to_the_stages_that_train():
    assert isinstance(load_eval_recipe("benchmarks"), EvalRecipe)
    with pytest.raises(ConfigError, match=r"benchmarks\.toml: checkpoint: .* `statewise eval`"):
        load_recipe("benchmarks")


def test_a_recipe_says_little_and_means_every_default(smallest):
    recipe = load_recipe(smallest)
    assert recipe.seed == 0
    assert "repetition_penalty = 1.0" in recipe.toml
    assert recipe.default_out == Path("runs") / f"smallest-{recipe.sha256[:8]}"


def test_every_change_is_another_recipe_and_another_folder(smallest):
    changes = ["seed=1", "train.phases.0.lr=2e-3", "eval.samples=15", "synth.sets.0.count=2"]
    recipes = [load_recipe(smallest), *(load_recipe(smallest, [c]) for c in changes)]
    assert len({r.sha256 for r in recipes}) == len(recipes)
    assert len({r.default_out for r in recipes}) == len(recipes)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sed=1", "sed: unknown key; did you mean 'seed'?"),
        ("train.phases.0.token=5", "train.phases.0.token: unknown key; did you mean"),
        ("seed=-1", "seed: must be 0 or more, found -1"),
        ("seed=1.5", "seed: expected a whole number, found 1.5"),
        ("name=a/b", "name: letters, digits,"),
        ("name=", "name: letters, digits,"),
        ("synth.sets.0.name=../a", "synth.sets.0.name: letters, digits,"),
        ("synth.sets.0.name=.a", "synth.sets.0.name: .* no '.' first"),
        ("train.phases.0.name=a/b", "train.phases.0.name: letters, digits,"),
        ("synth.sets.0.count=0", "synth.sets.0.count: must be at least 1, found 0"),
        ("synth.sets.0.kind=maths", "synth.sets.0.kind: 'maths' is not one of 'math', 'code'"),
        ("train.phases.0.sources.0.path=@b", "sources.0.path: '@b' names no set .* \\['a'\\]"),
        ("train.phases=[]", "train.phases: training needs at least one phase"),
        ("tokenizer.kind=bep", "tokenizer.kind: 'bep' is not one of 'bpe', 'pretrained'"),
        ("tokenizer.kind=pretrained", "tokenizer.path: .* needs the folder of tokenizer.json"),
        ("tokenizer.vocab_size=100", "tokenizer.vocab_size: .* at least 261, found 100"),
        ("tokenizer.vocab_size=5000", "tokenizer.vocab_size: 5000 .* model.vocab_size = 2048"),
        ("init=somewhere", "tokenizer.kind: a model that starts from a checkpoint"),
        ("engine.slots=0", "engine.slots: must be at least 1, found 0"),
        ("eval.benchmarks=['aime']", "eval.benchmarks.0: unknown benchmark 'aime'; known are"),
        ("eval.samples=0", "eval.samples: must be at least 1, found 0"),
        ("eval.phase_samples=0", "eval.phase_samples: must be at least 1, found 0"),
        ("claims.token_share=0.0", r"claims.token_share: must be in \(0, 1\], found 0.0"),
        ("claims.sweep_share=2", r"claims.sweep_share: must be in \(0, 1\], found 2"),
        ("claims.seeds=[1, 1]", "claims.seeds: one occurs twice"),
        ("claims.rates=[]", "claims.rates: needs multiples above 0"),
        ("claims.warmups=[1.0, -1.0]", "claims.warmups: needs multiples above 0"),
        ('claims.arms=["transformer"]', "claims.arms: everything is compared with 'curriculum'"),
        ("claims={seeds=[0], rates=[0.5, 1.0]}", "claims.rates: .* synth.development has none"),
        ("claims.problems=0", "claims.problems: must be at least 1"),
        ("bench.lengths=[1]", "bench.lengths: must be different lengths of 2 or more"),
        ("synth.judges=[]", "synth.judges: at least one judge is needed"),
    ],
)
def test_what_a_recipe_refuses_names_the_key(smallest, assignment, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(smallest, [assignment])


def test_a_held_out_set_may_not_be_called_like_a_benchmark_that_is_asked(smallest):
    held_out = 'synth.held_out=[{name="math500", sizes=[1], count=1}]'
    load_recipe(smallest, [held_out])
    with pytest.raises(ConfigError, match=r"synth.held_out.0.name: 'math500' is also one of"):
        load_recipe(smallest, [held_out, 'eval.benchmarks=["math500"]'])


def test_two_sets_of_one_name_are_refused(smallest):
    held_out = 'synth.held_out=[{name="a", sizes=[1], count=1}]'
    with pytest.raises(ConfigError, match="the name 'a' is used twice"):
        load_recipe(smallest, [held_out])
