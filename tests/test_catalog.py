"""Recipe files: by name or path, laid over their bases, with errors that name the file."""

import importlib.resources
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise import catalog
from statewise.config import Settings, render
from statewise.errors import ConfigError
from statewise.recipe import load_recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def write(tmp_path):
    def at(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return at


# Laying one tree over another

NAMES = st.sampled_from("abc")
LEAVES = st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2)


def trees(depth=2):
    """Trees in which a name is a table on its way down or a value at the bottom, never both."""
    if depth == 0:
        return st.dictionaries(NAMES, LEAVES, max_size=3)
    return st.fixed_dictionaries(
        {}, optional={"a": trees(depth - 1), "b": LEAVES, "c": trees(depth - 1)}
    )


def leaves(tree, where=()):
    """`{path: value}` of everything that is not a table."""
    values = {}
    for name, value in tree.items():
        path = (*where, name)
        values |= leaves(value, path) if isinstance(value, dict) else {path: value}
    return values


def laid(*layers):
    """The last of some trees over the others."""
    settings = [Settings.of(tree, str(n)) for n, tree in enumerate(layers)]
    result = settings[0]
    for above in settings[1:]:
        result = above.over(result)
    return result


@given(trees(), trees())
def test_a_key_is_what_the_upper_file_says_or_else_what_the_base_says(base, upper):
    result = laid(base, upper)
    assert leaves(result.tree) == leaves(base) | leaves(upper)
    for path in leaves(result.tree):
        assert result.origin(".".join(path)) == ("1" if path in leaves(upper) else "0")


@given(trees(), trees(), trees())
def test_it_does_not_matter_in_which_order_a_chain_is_joined(a, b, c):
    first, second, third = (Settings.of(t, n) for t, n in ((a, "a"), (b, "b"), (c, "c")))
    left, right = third.over(second.over(first)), third.over(second).over(first)
    assert (left.tree, left.origins) == (right.tree, right.origins)


@given(trees())
def test_over_nothing_and_under_nothing_a_file_is_itself(tree):
    assert laid({}, tree).tree == laid(tree, {}).tree == laid(tree, tree).tree == tree


def test_lists_are_replaced_whole_those_of_tables_too():
    base = {"sizes": [1, 2], "sets": [{"name": "a", "count": 1}, {"name": "b"}]}
    assert laid(base, {"sizes": [3], "sets": [{"name": "c"}]}).tree == {
        "sizes": [3],
        "sets": [{"name": "c"}],
    }


@pytest.mark.parametrize(
    ("base", "upper", "told"),
    [
        ({"m": 3}, {"m": {"x": 1}}, "1: m: is a table here and no table in 0"),
        ({"m": {"x": 1}}, {"m": 3}, "1: m: is no table here and a table in 0"),
        ({"m": {"x": {"y": 1}}}, {"m": {"x": []}}, "1: m.x: is no table here and a table in 0"),
    ],
)
def test_what_is_a_table_in_one_file_is_a_table_in_the_other(base, upper, told):
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        laid(base, upper)


# Files that build on files

PARTS = {
    "seed": st.integers(0, 99),
    "model": st.fixed_dictionaries(
        {}, optional={"n_layer": st.integers(1, 9), "chunk_size": st.sampled_from([16, 64])}
    ),
    "eval": st.fixed_dictionaries(
        {}, optional={"samples": st.integers(1, 9), "top_p": st.sampled_from([0.5, 0.9])}
    ),
    "bench": st.fixed_dictionaries({}, optional={"lengths": st.just([16, 32])}),
}


def as_toml(tree):
    """A tree of at most one level of tables."""
    values = [f"{k} = {v!r}" for k, v in tree.items() if not isinstance(v, dict)]
    for name, table in tree.items():
        if isinstance(table, dict):
            values += [f"[{name}]", *(f"{k} = {v!r}" for k, v in table.items())]
    return "\n".join(values) + "\n"


@given(st.lists(st.fixed_dictionaries({}, optional=PARTS), min_size=1, max_size=3))
def test_a_recipe_with_bases_is_the_recipe_that_is_set_key_by_key(tmp_path_factory, layers):
    folder = tmp_path_factory.mktemp("chain")
    base, assignments = "mini", {}
    for n, layer in enumerate(layers):
        (folder / f"{n}.toml").write_text(f'base = "{base}"\n{as_toml(layer)}')
        base = f"{n}.toml"
        assignments |= {".".join(path): value for path, value in leaves(layer).items()}
    recipe = load_recipe(folder / base)
    same = load_recipe("mini", [f"{key}={value}" for key, value in assignments.items()])
    assert recipe == same
    assert recipe.sha256 == same.sha256


def test_a_recipe_with_a_base_is_the_recipe_written_out(write):
    claims = load_recipe("claims")
    assert "base" in catalog.locate("claims").read_text()
    written_out = load_recipe(write("whole.toml", render(claims)))
    assert written_out == claims
    assert written_out.sha256 == claims.sha256


def test_claims_is_mini_but_for_its_name_and_the_claims():
    mini, claims = (load_recipe(name).toml.split("\n\n") for name in ("mini", "claims"))
    other = [a.splitlines()[0] for a, b in zip(mini, claims, strict=True) if a != b]
    assert other == ['name = "mini"', "[claims]"]


def test_the_example_of_the_documentation_is_a_recipe(write):
    page = (ROOT / "docs" / "recipes.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    wider, mini = load_recipe(write("wider.toml", example)), load_recipe("mini")
    assert (wider.model.d_model, mini.model.d_model) == (256, 128)
    assert (wider.train, wider.synth) == (mini.train, mini.synth)


def test_a_base_is_looked_for_beside_the_recipe_and_then_in_the_package(write):
    child = write("deep/child.toml", 'base = "mini.toml"\nname = "child"\n')
    assert load_recipe(child).seed == 0
    write("deep/mini.toml", 'base = "../above.toml"\n')
    write("above.toml", 'base = "mini"\nseed = 7\n')
    assert load_recipe(child).seed == 7
    assert load_recipe(child).name == "child"
    named = write("deep/named.toml", 'base = "mini"\n')
    assert load_recipe(named).seed == 0, "a bare name is the package's"


def told(recipe, assignments=()):
    with pytest.raises(ConfigError) as e:
        load_recipe(recipe, assignments)
    return str(e.value)


def test_a_missing_base_is_named_by_the_file_that_asks_for_it_with_what_there_is(write, tmp_path):
    middle = write("middle.toml", 'base = "gone.toml"\n')
    child = write("child.toml", 'base = "middle.toml"\n')
    assert told(child) == (
        f"{middle}: base: no recipe 'gone.toml'; in {tmp_path} there are child.toml, middle.toml; "
        f"the package has {', '.join(catalog.names())}"
    )


def test_bases_that_lead_in_a_circle_are_told_as_the_chain(write):
    a, b, c = (
        write(f"{name}.toml", f'base = "{base}.toml"\n') for name, base in ("ab", "bc", "ca")
    )
    assert told(a) == f"{c}: base: leads back to itself: {a} -> {b} -> {c} -> {a}"
    mini = write("mini.toml", 'base = "mini.toml"\n')
    assert told(mini) == (
        f'{mini}: base: leads back to itself: {mini} -> {mini}; the package\'s own is base = "mini"'
    )


@pytest.mark.parametrize("value", ["3", '""', '["mini"]', '{ path = "mini" }'])
def test_a_base_is_the_name_of_one_recipe(write, value):
    child = write("child.toml", f"base = {value}\n")
    assert told(child).startswith(f"{child}: base: expected the name of a recipe, found ")


@pytest.mark.parametrize(
    ("text", "complaint"), [("a = = 1", "line 1"), ("a = 1\na = 2", "a: is set twice")]
)
def test_a_base_that_cannot_be_read_is_named_with_who_asks_for_it(write, text, complaint):
    base = write("base.toml", text)
    child = write("child.toml", 'base = "base.toml"\n')
    message = told(child)
    assert message.startswith(f"{base}: ")
    assert complaint in message
    assert message.endswith(f" (it is the base of {child})")


@pytest.mark.parametrize(
    ("base", "child", "assignments", "file", "complaint"),
    [
        ("sed = 1", "seed = 1", [], "base", "sed: unknown key; did you mean 'seed'?"),
        ("seed = 1", "sed = 1", [], "child", "sed: unknown key; did you mean 'seed'?"),
        ("[model]\nd_modle = 1", "[model]\nn_layer = 2", [], "base", "model.d_modle: unknown key"),
        ("[modle]\nd_model = 1", "", [], "base", "modle: unknown key; did you mean 'model'?"),
        ("[engine]\nslots = 0", "[engine]\ndevice = 'cpu'", [], "base", "engine.slots: must be"),
        ("[engine]\nslots = 4", "[engine]\nslots = 0", [], "child", "engine.slots: must be"),
        ("", "[engine]\nslots = 'many'", [], "child", "engine.slots: expected a whole number"),
        ("[engine]\nslots = 0", "", ["engine.device=cpu"], "base", "engine.slots: must be"),
        ("[bench]\nlengths = [8, 'b']", "", [], "base", "bench.lengths.1: expected a whole number"),
        ("[[synth.sets]]\ncount = 1", "", [], "base", "synth.sets.0.name: missing"),
        ("", "seed = 1", ["seed=-1"], "--set seed=-1", "seed: must be 0 or more"),
        ("", "", ["train.phases.1.lr=0"], "--set train.phases.1.lr=0", "train.phases.1.lr: must"),
        ("", "", ["engine={slots=0}"], "--set engine={slots=0}", "engine.slots: must be"),
        ("", "", ["base=7b"], "--set base=7b", "base: unknown key"),
        ("base = 'mini'\nname = '.'", "", [], "base", "name: letters"),
    ],
)
def test_an_error_names_the_file_in_which_the_key_stands(
    write, base, child, assignments, file, complaint
):
    start = "" if base.startswith("base") else 'base = "mini"\n'
    files = {
        "base": write("base.toml", start + base),
        "child": write("child.toml", f'base = "base.toml"\n{child}'),
    }
    assert told(files["child"], assignments).startswith(f"{files.get(file, file)}: {complaint}")


def test_a_key_that_stands_nowhere_is_missed_in_the_file_that_was_asked_for(write):
    write("base.toml", "seed = 1")
    child = write("child.toml", 'base = "base.toml"')
    assert told(child) == f"{child}: name: missing; this key has no default"


@pytest.mark.parametrize(
    ("assignments", "complaint"),
    [
        (["seed=1", "name=a", "seed=2"], "--set seed=2: undoes --set seed=1; give one of them"),
        (["model.n_layer=2", "model={}"], "--set model={}: undoes --set model.n_layer=2; give"),
    ],
)
def test_a_key_is_set_once_on_the_command_line(assignments, complaint):
    assert told("mini", assignments).startswith(complaint)


def test_a_table_may_be_set_and_then_one_key_of_it():
    recipe = load_recipe("mini", ["engine={slots=4}", "engine.device=cpu"])
    assert (recipe.engine.slots, recipe.engine.device) == (4, "cpu")


# What a recipe says of itself


def test_what_a_recipe_says_of_itself_is_no_part_of_it_and_not_taken_from_a_base(write):
    about = 'about = { what = "a", needs = "b", takes = "c" }\n'
    silent = load_recipe(write("silent.toml", 'base = "mini"\n'))
    telling = load_recipe(write("telling.toml", f'base = "mini"\n{about}'))
    assert silent.sha256 == telling.sha256 == load_recipe("mini").sha256
    assert "about" not in telling.toml


@pytest.mark.parametrize(
    ("about", "complaint"),
    [
        ("about = 3", "about: expected a table, found 3"),
        ("about.what = 'x'", "about.needs: missing; this key has no default"),
        ("about.need = 'x'", "about.need: unknown key; did you mean 'about.needs'?"),
    ],
)
def test_what_a_recipe_says_of_itself_is_read_strictly(write, about, complaint):
    path = write("r.toml", f'base = "mini"\n{about}\n')
    assert told(path) == f"{path}: {complaint}"


def test_every_recipe_of_the_package_says_what_it_is():
    recipes = catalog.shipped()
    assert [r.name for r in recipes] == catalog.names()
    assert {r.name for r in recipes if r.command == "eval"} == {"benchmarks"}
    for recipe in recipes:
        for text in recipe.about.what, recipe.about.needs, recipe.about.takes:
            assert 0 < len(text) <= 120
            assert "\n" not in text


def test_a_recipe_of_the_package_that_says_nothing_of_itself_is_refused(tmp_path, monkeypatch):
    (tmp_path / "silent.toml").write_text('name = "silent"\n')
    monkeypatch.setattr(catalog, "SHIPPED", tmp_path)
    with pytest.raises(ConfigError, match=r"silent\.toml: about: missing"):
        catalog.shipped()


# Names and paths


def test_a_bare_name_is_the_packages_whatever_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "mini.toml"):
        (tmp_path / name).write_text('base = "mini"\nseed = 7\n')
    assert load_recipe("mini").seed == 0
    assert load_recipe("mini.toml").seed == load_recipe("./mini").seed == 7


def test_a_recipe_that_is_not_there_is_named_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("")
    there = f"in . there are mine.toml; the package has {', '.join(catalog.names())}"
    assert told("mien.toml") == f"mien.toml: no such recipe; {there}"
    assert told("mnii") == (
        "mnii: no recipe of the package has this name; did you mean 'mini'? "
        f"(a file's name ends in .toml); {there}"
    )
    assert told(tmp_path) == f"{tmp_path}: is a folder; a recipe is a .toml file"


def test_the_recipes_are_resources_of_the_package():
    folder = importlib.resources.files("statewise") / "recipes"
    packed = sorted(f.name for f in folder.iterdir() if f.name.endswith(".toml"))
    assert packed == sorted(f"{name}.toml" for name in catalog.names())
    assert "mini" in catalog.names()


def test_reading_a_recipe_file_imports_nothing_heavy():
    heavy = {"torch", "numpy", "transformers", "tokenizers"}
    program = (
        "import sys; from statewise import catalog; catalog.listing(); "
        f"sys.exit(str(set(sys.modules) & {heavy!r} or ''))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr.strip() == ""


def test_a_wheel_holds_the_recipes(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_text((ROOT / name).read_text())
    for path in (ROOT / "statewise").rglob("*"):
        if path.suffix in (".py", ".toml", ".typed"):
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    assert {f"statewise/recipes/{name}.toml" for name in catalog.names()} <= set(packed)
