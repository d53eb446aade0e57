"""The house rules that can be checked: recipes, doors, docstrings, and what importing costs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from statewise import catalog, sandbox
from statewise.cli import build_parser
from statewise.errors import ConfigError
from statewise.pipeline.check import describe
from statewise.recipe import load_eval_recipe, load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = [recipe.name for recipe in catalog.shipped() if recipe.command == "run"]
MODULES = sorted((ROOT / "statewise").rglob("*.py"))
README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_is_described_without_training(name):
    recipe = load_recipe(name)
    text = describe(recipe)
    assert f"{recipe.model.num_params:,}" in text
    assert f"{recipe.model.state_bytes():,} bytes at every length" in text
    for phase in recipe.train.phases:
        assert f"phase {phase.name}" in text
    assert "training memory" in text


def test_some_recipes_state_their_sizes_in_comments():
    text = "".join(catalog.locate(name).read_text() for name in RECIPES)
    assert re.search(r"#.*?[\d,]+ parameters", text)
    assert re.search(r"#.*?[\d,]+ bytes of state", text)


@pytest.mark.parametrize("name", RECIPES)
def test_the_sizes_that_a_recipe_states_in_comments_are_its_own(name):
    model = load_recipe(name).model
    text = catalog.locate(name).read_text()
    for number in re.findall(r"#.*?([\d,]+) parameters", text):
        assert int(number.replace(",", "")) == model.num_params
    for number in re.findall(r"#.*?([\d,]+) bytes of state", text):
        assert int(number.replace(",", "")) == model.state_bytes()


@pytest.mark.parametrize("module", ["statewise", "statewise.cli", "statewise.errors"])
def test_importing_the_door_imports_no_torch(module):
    heavy = {"torch", "numpy", "transformers", "matplotlib", "tokenizers", "rich"}
    program = f"import sys, {module}; sys.exit(str(set(sys.modules) & {heavy!r} or ''))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr.strip() == ""


def test_where_it_is_asked_for_the_tests_of_the_sandbox_are_not_skipped():
    if "STATEWISE_NEEDS_SANDBOX" not in os.environ:
        pytest.skip("STATEWISE_NEEDS_SANDBOX is not set: skipped tests are allowed")
    assert sandbox.isolation().kind != "none", sandbox.isolation().detail


def names(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_a_module_says_what_it_is_and_lists_its_names_in_order(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            listed = ast.literal_eval(node.value)
            assert listed == sorted(listed)


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_a_module_knows_no_path_of_one_persons_machine(path):
    text = path.read_text()
    paths = re.findall(r"""["'`\s(](/(?:home|Users|root|mnt|work|workspace|srv)/\S+)""", text)
    assert not paths


def test_no_target_is_a_file_and_ci_makes_what_make_ci_makes():
    text = (ROOT / "Makefile").read_text()
    targets = dict(re.findall(r"^([a-z-]+):(.*)$", text, re.M))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    assert set(phony.split()) == set(targets)
    made = re.findall(r'^(?:\w+=\S* )?make "?(?:\$\{1:-)?([a-z-]+)', CI.read_text(), re.M)
    assert made == targets["ci"].split()


def test_the_readme_names_only_commands_recipes_and_keys_that_are_there():
    text = README.read_text()
    help_text = build_parser().format_help()
    commands = re.findall(r"^\s*(?:\$ )?(?:\S*/)?statewise (\w+)", text, re.M)
    assert len(commands) > 3
    for command in commands:
        assert re.search(rf"^    {command} ", help_text, re.M), command
    for target in re.findall(r"^\s*(?:\$ )?make (\w[\w-]*)", text, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
    for recipe in re.findall(r"\bstatewise (?:run|eval|check) ([a-z\d][\w/.]*)", text):
        assert recipe in catalog.names(), recipe
    for key in set(re.findall(r"--set ([\w.]+)=", text)) - {"dotted.key"}:
        said, kind = "", "benchmarks" if key.startswith("checkpoint.") else "mini"
        read = load_eval_recipe if kind != "mini" else load_recipe
        try:
            read(kind, [f"{key}=something"])
        except ConfigError as e:  # of the wrong type perhaps, but a key
            said = str(e)
        assert "unknown key" not in said
        assert "is not an index" not in said
