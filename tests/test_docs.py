"""The documents say what is so: links lead somewhere, names import, lists are complete.

`docs/recipes.md` is rendered from the docstrings of the configurations. To write it anew:

    python tests/test_docs.py
"""

import dataclasses
import importlib
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # as a script, the package is that of this checkout

from statewise.catalog import About  # noqa: E402
from statewise.cli import build_parser  # noqa: E402
from statewise.recipe import EvalRecipe, Recipe  # noqa: E402

RECIPES = ROOT / "docs" / "recipes.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REGENERATE = "python tests/test_docs.py"

INTRODUCTION = f"""# Recipe keys

Every key a recipe may hold, rendered from the configurations' docstrings by `{REGENERATE}`; a test
keeps this page equal to them.

A recipe is read strictly: a key that is not on this page, a key that is set twice, a value of
another type, or values that contradict each other end the command with a message that names the
file and the dotted key. `--set KEY=VALUE` changes one key for one command
(`--set train.phases.0.lr=1e-3`; list elements by their index); a value that is not TOML is taken as
text. A key with a default may be left out. `statewise check RECIPE` prints what a recipe amounts
to, and the run folder keeps it with every default written out.

There are two kinds: a recipe with a table `[checkpoint]` has `statewise eval` ask [a model that is
there already](#a-recipe-that-evaluates), any other one [trains](#a-recipe-that-trains).

## Files and names

Where a command takes a RECIPE, a text that ends in `.toml` or has a folder in front is a file, and
anything else the name of a recipe that comes with the package: `statewise run claims`.
`statewise recipes` lists those, with what they need and how long they take; without a RECIPE it is
`mini`.

## Bases

`base = "mini.toml"` at the top of a recipe lays it over another one, so that it says only what
differs:

```toml
base = "mini.toml"
name = "wider"

[model]
d_model = 256
```

- A base is a path from the recipe's own folder or, if nothing lies there, a recipe of the package
  (`"mini.toml"` or `"mini"`). It may have a base itself.
- Tables are joined key by key. **Every other value is replaced whole, lists too**: a recipe that
  says `train.phases` says all of them, and `[[synth.sets]]` replaces the base's sets.
- What a base says cannot be taken back, only said anew with another value.
- The recipe's hash is that of the result with every default written out: a recipe with a base and
  the same recipe written out in full have one hash and one run folder. `name` is a key like
  others, so a recipe that is to have a folder of its own says its own.
- An error names the file of the chain in which the key stands.
"""

ABOUT = """## `about`

In both kinds, and optional outside the package; no part of the hash, and not taken from a base.
"""
TRAINS = """## A recipe that trains
"""
EVALUATES = """## A recipe that evaluates

The keys of such a recipe's `[engine]` and `[eval]` are [those above](#a-recipe-that-trains).
"""


def render() -> str:
    """`docs/recipes.md`, from the dataclasses of the two kinds of recipe."""
    training, evaluation = tables(Recipe), tables(EvalRecipe)
    parts = [INTRODUCTION, ABOUT, keys(About), TRAINS]
    parts += [section(cls, places) for cls, places in training.items()]
    parts.append(EVALUATES)
    parts += [section(cls, at) for cls, at in evaluation.items() if cls not in training]
    return "\n".join(parts)


def section(cls: type, places: list[str]) -> str:
    """A configuration: where it stands, what it is, its keys."""
    heading = ", ".join(f"`{place}`" for place in places) or "Top level"
    summary = " ".join((cls.__doc__ or "").partition("Attributes:")[0].split())
    return f"### {heading}\n\n{summary}\n\n{keys(cls)}"


def keys(cls: type) -> str:
    """The table of a configuration's keys."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    meanings, hints = attributes(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        cells = (
            f"`{field.name}`",
            type_name(hints[field.name]),
            default(field),
            meanings[field.name],
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def tables(recipe: type) -> dict[type, list[str]]:
    """Every configuration below a kind of recipe, with the TOML tables that hold it, in order."""
    places: dict[type, list[str]] = {recipe: []}

    def visit(cls: type, path: str) -> None:
        for field, hint in zip(
            dataclasses.fields(cls), typing.get_type_hints(cls).values(), strict=True
        ):
            many = typing.get_origin(hint) is tuple
            inner = typing.get_args(hint)[0] if many else hint
            if dataclasses.is_dataclass(inner):
                key = f"{path}{field.name}"
                places.setdefault(inner, []).append(f"[[{key}]]" if many else f"[{key}]")
                visit(inner, f"{key}.")

    visit(recipe, "")
    return places


def attributes(cls: type) -> dict[str, str]:
    """What the "Attributes:" part of a docstring says of each name (or of a list of names).

    What a configuration inherits is described where it is defined.
    """
    meanings: dict[str, list[str]] = {}
    for part in reversed(cls.__mro__):
        lines: list[str] = []
        for line in (part.__doc__ or "").partition("Attributes:")[2].splitlines():
            begun = re.match(r" {8}(\w+(?:, \w+)*): (.*)", line)
            if begun:
                lines = [begun[2]]
                meanings |= dict.fromkeys(begun[1].split(", "), lines)
            elif line.strip():
                lines.append(line.strip())
    return {name: " ".join(lines) for name, lines in meanings.items()}


def type_name(hint: Any) -> str:
    """How a person says a type."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(f'`"{v}"`' for v in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        many = {str: "texts", int: "whole numbers", float: "numbers"}
        return f"list of {many.get(inner, 'tables')}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return type_name(typing.get_args(hint)[0])
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(hint, "table")


def default(field: dataclasses.Field[Any]) -> str:
    """A default as it would be written in TOML."""
    if field.default is None:
        return "left out"
    if field.default is not dataclasses.MISSING:
        return f"`{literal(field.default)}`"
    if field.default_factory is not dataclasses.MISSING:
        return "its own defaults"
    return "none: needed"


def literal(value: Any) -> str:
    """A value in TOML; of a table only what differs from its defaults."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if dataclasses.is_dataclass(value):
        pairs = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        changed = [f"{f.name} = {literal(v)}" for f, v in pairs if v != f.default]
        return "{ " + ", ".join(changed) + " }" if changed else "{}"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def test_the_page_of_recipe_keys_is_fresh():
    assert RECIPES.read_text() == render(), f"docs/recipes.md is out of date: {REGENERATE}"


CONFIGURATIONS = {About: None, **tables(Recipe), **tables(EvalRecipe)}


@pytest.mark.parametrize("cls", CONFIGURATIONS, ids=lambda c: c.__name__)
def test_every_recipe_key_is_described_and_nothing_else(cls):
    assert set(attributes(cls)) == {f.name for f in dataclasses.fields(cls)}


def by_page(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda p: str(p.relative_to(ROOT)))


def code_of(page: Path) -> Iterator[str]:
    """Everything set as code: the fenced and indented blocks, line by line, and the spans."""
    prose = []
    fenced = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()
        else:
            prose.append(line)
    for span in re.findall(r"`([^`]+)`", "\n".join(prose)):
        yield " ".join(span.split())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@by_page(PAGES)
def test_every_relative_link_leads_to_something(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{target} leads nowhere"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal), f"{target}: no such heading"


def exists(dotted: str) -> bool:
    """Whether a name can be had by importing its module and asking for the rest."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for name in parts[n:]:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


@by_page(PAGES)
def test_every_name_of_the_package_can_be_imported(page):
    for name in set(re.findall(r"\bstatewise(?:\.[A-Za-z_]\w*)+", page.read_text())):
        assert exists(name), f"{name}: no such name"


@by_page(PAGES)
def test_every_file_that_is_named_exists(page):
    places = re.compile(r"(?:statewise|tests|docs|\.ci)/[\w./-]+")
    for code in code_of(page):
        for path in places.findall(code):
            if "..." not in code and not code.startswith("runs/"):
                assert (ROOT / path.rstrip(".")).exists(), f"{path}: no such file"


def subcommands() -> dict[str, set[str]]:
    """Each command's flags."""
    (commands,) = (a for a in build_parser()._actions if a.dest == "command")
    return {name: set(p._option_string_actions) for name, p in commands.choices.items()}


def test_the_pages_name_links_modules_files_and_commands_at_all():
    """What is searched for above and below is found: else nothing would be checked."""
    text = "".join(page.read_text() for page in PAGES)
    code = [line for page in PAGES for line in code_of(page)]
    assert len(re.findall(r"\]\((?![a-z]+:)[^)\s]+\)", text)) > 5
    assert len(set(re.findall(r"\bstatewise(?:\.[A-Za-z_]\w*)+", text))) > 5
    assert sum("statewise/" in line or "tests/" in line for line in code) > 5
    for command in ("make ", "statewise "):
        assert sum(line.removeprefix("$ ").startswith(command) for line in code) > 5


@by_page(PAGES)
def test_every_command_that_is_quoted_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    known = subcommands()
    for code in code_of(page):
        command = code.partition("  #")[0].removeprefix("$ ")
        words = command.split()
        if words[:1] == ["make"]:
            for word in words[1:]:
                assert "=" in word or word in targets, f"{command}: no target {word!r}"
        if words[:1] == ["statewise"] and len(words) > 1 and not words[1].startswith("-"):
            names = re.sub(r"[{}]", "", words[1]).split(",")
            if all(re.fullmatch(r"[a-z]+", n) for n in names):
                assert set(names) <= set(known), f"{command}: no such command"
                flags = {
                    w.partition("=")[0].strip("[]") for w in words if w.lstrip("[")[:2] == "--"
                }
                for name in names:
                    assert flags <= known[name], f"{command}: no such flag"


def block(page: Path, heading: str) -> list[str]:
    """The lines of the first fenced block below a heading."""
    text = page.read_text().partition(f"\n## {heading}\n")[2]
    assert text, f"{page.name}: no heading {heading!r}"
    return text.split("```")[1].splitlines()[1:]


def test_every_folder_of_the_package_is_listed():
    listed = [line.split()[0] for line in block(ARCHITECTURE, "The folders") if line.strip()]
    package = ROOT / "statewise"
    files = [p for kind in ("*.py", "*.toml") for p in package.rglob(kind)]
    folders = {f"{p.parent.relative_to(package).as_posix()}/" for p in files} - {"./"}
    assert len(set(listed)) == len(listed)
    assert set(listed) == folders


def test_the_layers_are_those_of_the_import_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = settings["contracts"][0]["layers"]
    listed = [re.split(r" {2,}", line)[0] for line in block(ARCHITECTURE, "The layer line")]
    assert [line for line in listed if line] == layers


@by_page(DECISIONS)
def test_a_decision_says_why_what_follows_and_what_would_change_it(page):
    parts = ["Context", "Choice", "Consequences", "What would change it"]
    assert re.findall(r"^## (.*)$", page.read_text(), re.M) == parts
    number = f"{DECISIONS.index(page) + 1:04d}"
    assert page.name.startswith(f"{number}-")
    assert page.read_text().startswith(f"# {number} ")
    assert f"decisions/{page.name}" in ARCHITECTURE.read_text(), "not listed in architecture.md"


if __name__ == "__main__":
    RECIPES.write_text(render())
