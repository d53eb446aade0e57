"""Recipe files: where they lie, what they build on, what they say of themselves.

A recipe is a file (what ends in `.toml` or has a folder in front) or the name of one that comes
with the package (`mini`). Two of its keys are no part of what is run, and so not of its identity:
`base` names the recipe that it is laid over, and `about` tells a reader what to expect.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from statewise.config import Settings, build, read_toml
from statewise.errors import ConfigError

SHIPPED = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class About:
    """What a recipe says of itself: for people, and no part of its hash. Never taken from a base.

    Attributes:
        what: what it does, in a line.
        needs: data files, a GPU, a checkpoint, and whatever else must be there.
        takes: how long it takes, and on what machine.
    """

    what: str
    needs: str
    takes: str


class Shipped(NamedTuple):
    """A recipe that comes with the package.

    Attributes:
        name: by which a command takes it.
        command: what takes it: a recipe that names a checkpoint is for `statewise eval`.
        about: what it says of itself.
    """

    name: str
    command: Literal["run", "eval"]
    about: About


def shipped() -> list[Shipped]:
    """The recipes that come with the package, by name.

    Raises:
        ConfigError: one of them does not say what it is.
    """
    recipes = []
    for name in names():
        path = locate(name)
        tree = read_toml(path)
        if "about" not in tree:
            raise ConfigError(f"{path}: about: missing; a recipe of the package says what it is")
        command: Literal["run", "eval"] = "eval" if "checkpoint" in read(path).tree else "run"
        recipes.append(Shipped(name, command, _about(tree, path)))
    return recipes


def listing() -> str:
    """The recipes of the package as a person reads them: what each does, needs and takes."""
    blocks = []
    for recipe in shipped():
        about = recipe.about
        blocks.append(
            f"statewise {recipe.command} {recipe.name}\n"
            f"  {about.what}\n"
            f"  needs  {about.needs}\n"
            f"  takes  {about.takes}"
        )
    return "\n\n".join(blocks)


def names() -> list[str]:
    """By which the recipes of the package are taken."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def locate(recipe: str | Path) -> Path:
    """The file of a recipe: one of the package by its name, any other by its path.

    Raises:
        ConfigError: there is none; the message says which there are.
    """
    name = str(recipe)
    if _is_file_name(name):
        if not Path(name).exists():
            raise ConfigError(f"{name}: no such recipe; {_there_are(Path(name).parent)}")
        return Path(name)
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{name}: no recipe of the package has this name{hint} (a file's name ends in .toml); "
            f"{_there_are(Path())}"
        )
    return SHIPPED / f"{name}.toml"


def read(recipe: str | Path) -> Settings:
    """The settings of a recipe, laid over those of its base, and of that one's base.

    Raises:
        ConfigError: naming the file in which something is missing, circular, set twice or no TOML.
    """
    return _read(locate(recipe), ())


def _read(path: Path, above: tuple[Path, ...]) -> Settings:
    chain = (*above, path)
    if path.resolve() in [p.resolve() for p in above]:
        told = " -> ".join(map(str, chain))
        same = f'; the package\'s own is base = "{path.stem}"' if path.stem in names() else ""
        raise ConfigError(f"{above[-1]}: base: leads back to itself: {told}{same}")
    try:
        tree = read_toml(path)
    except ConfigError as e:
        raise ConfigError(f"{e}{_named_by(above)}") from None
    if "about" in tree:
        _about(tree, path)
        del tree["about"]
    base = tree.pop("base", None)
    settings = Settings.of(tree, str(path))
    if base is None:
        return settings
    return settings.over(_read(_base_of(path, base), chain))


def _base_of(path: Path, base: Any) -> Path:
    """The file that a recipe's `base` names: beside the recipe, or else of the package."""
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: base: expected the name of a recipe, found {base!r}")
    beside = path.parent / base
    if _is_file_name(base) and beside.exists():
        return beside
    if base.removesuffix(".toml") in names():
        return SHIPPED / f"{base.removesuffix('.toml')}.toml"
    raise ConfigError(f"{path}: base: no recipe {base!r}; {_there_are(path.parent)}")


def _named_by(above: tuple[Path, ...]) -> str:
    return f" (it is the base of {above[-1]})" if above else ""


def _is_file_name(name: str) -> bool:
    return name.endswith(".toml") or os.path.basename(name) != name


def _there_are(folder: Path) -> str:
    """Which recipes there are in a folder and in the package, for an error's end."""
    files = sorted(p.name for p in folder.glob("*.toml"))
    beside = f"in {folder} there are {', '.join(files)}; " if files else ""
    return f"{beside}the package has {', '.join(names())}"


def _about(tree: dict[str, Any], path: Path) -> About:
    if not isinstance(tree["about"], dict):
        raise ConfigError(f"{path}: about: expected a table, found {tree['about']!r}")
    try:
        return build(About, tree["about"], "about")
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None
