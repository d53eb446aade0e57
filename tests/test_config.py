"""Recipes are read strictly: nothing is ignored, and every complaint names its key."""

import re
import tomllib
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.config import build, override, read_toml, render
from statewise.errors import ConfigError
from statewise.model.config import Mamba2Config


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    steps: int = 10
    weight: float = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    device: Literal["cpu", "cuda", "auto"] = "auto"
    compiled: bool = False
    limit: int | None = None
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.limit == 0:
            raise ConfigError("limit: must not be 0")


@dataclass(frozen=True, slots=True)
class Whole:
    name: str
    part: Part = field(default_factory=Part)
    phases: tuple[Phase, ...] = ()
    model: Mamba2Config = field(default_factory=Mamba2Config)


def complaint(tree):
    with pytest.raises(ConfigError) as e:
        build(Whole, tree)
    return str(e.value)


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("prat = {}", "prat: unknown key; did you mean 'part'?"),
        ("part.devise = 1", "part.devise: unknown key; did you mean 'part.device'?"),
        ("zzz = 1", "zzz: unknown key"),
        ("phases = [{}]", "phases.0.name: missing; this key has no default"),
        ("name = 3", "name: expected a text, found 3"),
        ("part = 3", "part: expected a table, found 3"),
        ("part.device = 'tpu'", "part.device: 'tpu' is not one of 'cpu', 'cuda', 'auto'"),
        ("part.compiled = 1", "part.compiled: expected true or false, found 1"),
        ("part.limit = true", "part.limit: expected a whole number, found True"),
        ("part.limit = 0", "part.limit: must not be 0"),
        ("part.sizes = 3", "part.sizes: expected a list, found 3"),
        ("part.sizes = [1, 'b']", "part.sizes.1: expected a whole number, found 'b'"),
        (
            "phases = [{name = 'a'}, {name = 'b', steps = 1.5}]",
            "phases.1.steps: expected a whole number, found 1.5",
        ),
        (
            "phases = [{name = 'a', weight = 'b'}]",
            "phases.0.weight: expected a number, found 'b'",
        ),
        ("model.headdim = 3", "model.headdim: 3 does not divide expand * d_model = 512"),
    ],
)
def test_a_wrong_key_or_value_is_named(toml, told):
    assert complaint({"name": "x", **tomllib.loads(toml)}) == told


def test_a_missing_key_is_named():
    assert complaint({}) == "name: missing; this key has no default"


def test_a_whole_number_will_do_where_a_number_is_meant():
    phase = build(Phase, {"name": "a", "weight": 2})
    assert phase.weight == 2.0
    assert isinstance(phase.weight, float)


def test_left_out_keys_have_their_defaults():
    assert build(Whole, {"name": "x"}) == Whole("x")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Whole,
        name=TEXT | st.just('a "quoted"\n\\line\x00\r\t\x1b\x7f\x85'),
        part=st.builds(
            Part,
            device=st.sampled_from(["cpu", "cuda"]),
            compiled=st.booleans(),
            limit=st.none() | st.integers(1, 9),
            sizes=st.lists(st.integers(-5, 5), max_size=3).map(tuple),
        ),
        phases=st.lists(
            st.builds(Phase, name=TEXT, steps=st.integers(0, 10**12), weight=FLOATS), max_size=3
        ).map(tuple),
        model=st.builds(Mamba2Config, n_layer=st.integers(1, 99), tie_embeddings=st.booleans()),
    )
)
def test_what_is_rendered_is_built_equal(whole):
    assert build(Whole, tomllib.loads(render(whole))) == whole


def test_rendering_writes_every_default_out():
    text = render(Whole("x", phases=(Phase("a"),)))
    for line in ("chunk_size = 32", "norm_eps = 1e-05", "compiled = false", "[[phases]]"):
        assert line in text.splitlines()


def tree():
    return {"name": "x", "part": {"limit": 1}, "phases": [{"name": "a"}, {"name": "b"}]}


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("name=y", ["name"], "y"),
        ("name='3'", ["name"], "3"),
        ("part.limit=7", ["part", "limit"], 7),
        ("part.compiled=true", ["part", "compiled"], True),
        ("part.sizes=[1, 2]", ["part", "sizes"], [1, 2]),
        ("phases.1.steps=20", ["phases", 1, "steps"], 20),
        ("phases.0={name='c'}", ["phases", 0], {"name": "c"}),
        ("model.d_model=64", ["model", "d_model"], 64),
        ("name=a=b", ["name"], "a=b"),
        ("part.device=cpu", ["part", "device"], "cpu"),
    ],
)
def test_a_key_is_set_from_the_command_line(assignment, path, value):
    changed = tree()
    override(changed, assignment)
    for key in path:
        changed = changed[key]
    assert changed == value


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("name", "expected dotted.key=value"),
        ("=3", "expected dotted.key=value"),
        ("phases.2.steps=1", "'2' is not an index of 2 elements"),
        ("phases.first=1", "'first' is not an index of 2 elements"),
        ("name.first=1", "nothing lies below 'name'"),
        ("name.first.second=1", "nothing lies below 'first'"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(assignment, told):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'--set {assignment}: {told}')}$"):
        override(tree(), assignment)


def test_an_unknown_key_that_was_set_is_found_when_the_recipe_is_built():
    changed = tree()
    override(changed, "phases.0.stepz=1")
    assert complaint(changed) == "phases.0.stepz: unknown key; did you mean 'phases.0.steps'?"


def test_a_recipe_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "r.toml"
    with pytest.raises(ConfigError, match="no such recipe"):
        read_toml(path)
    with pytest.raises(ConfigError, match="is a folder"):
        read_toml(tmp_path)
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(ConfigError, match=r"r\.toml: .*line 2"):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_toml(path)
    path.write_text("a = 1")
    assert read_toml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = 1\nb = 2\na = 3", "line 3: a: is set twice in this file"),
        ("[m]\nx = 1\n\n[n]\ny = 1\ny = [\n1,\n]\n", "line 6: [n] y: is set twice in this file"),
        ("[m]\nx = 1\n[n]\n[m]  # again\ny = 1\n", "line 4: [m]: is set twice in this file"),
        ("[[m]]\nx = 1\n[[m]]\nx = 1\nx = 2\n", "line 5: [[m]] x: is set twice in this file"),
        ("a = 1\n[a]\nx = 1", "line 2: [a]: is set twice in this file"),
        ("a = [1]\n[[a]]\nx = 1", "line 2: [[a]]: is set twice in this file"),
        ("a = { x = 1 }\na.y = 2", "line 2: a.y: is set twice in this file"),
        ("a = { x = 1, x = 2 }", "line 1: a: is set twice in this file"),
        ("a.b = 1\n[a]\nc = 1", "line 2: [a]: is set twice in this file"),
    ],
)
def test_a_key_that_is_set_twice_is_named_with_its_line(tmp_path, text, told):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}: {told}')}$"):
        read_toml(path)
