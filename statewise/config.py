"""Strict TOML to frozen dataclasses. Nothing is ignored: every error names its dotted key.

`Settings` is a TOML tree that remembers where each of its keys stands, so that one file can be laid
over another, and a command line over both, and an error still names its file.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from statewise.errors import ConfigError

T = TypeVar("T")
# Metadata of a key that came after recipes were published. At its default, which is what there was
# before, it is not written out: a recipe's hash stays.
LATER = {"later": True}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries.

    Raises:
        ConfigError: the file is missing, is not TOML or sets a key twice; the message names file
            and line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a recipe is a .toml file") from None
    except (OSError, ValueError) as e:  # no permission, no name that a file can have
        raise ConfigError(f"{path}: cannot be read ({e})") from None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text (byte {e.start})") from None
    try:
        return _parsed(f"{text}\n")  # else an error in the last line has no line number
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: {_explained(str(e), text)}") from None


DEEPEST = 100  # tables in tables


def _parsed(text: str) -> dict[str, Any]:
    """What a TOML text says; all that is wrong with one is a `TOMLDecodeError`."""
    deep = tomllib.TOMLDecodeError("brackets or dotted keys are nested too deep")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as e:  # an integer beyond Python's limit, a date that there is not
        raise tomllib.TOMLDecodeError(str(e).partition(";")[0]) from None
    except RecursionError:
        raise deep from None
    tables = [tree]
    for _ in range(DEEPEST):
        tables = [v for table in tables for v in table.values() if isinstance(v, dict)]
    if tables:
        raise deep
    return tree


TWICE = re.compile(
    r"(?:Cannot (?:overwrite|declare|mutate|redefine)|Duplicate inline).*\(at line (\d+),"
)
KEY = re.compile(r"""\s*([\w.'"-]+)\s*=""")
HEADER = re.compile(r"""\s*(\[\[?[\w.'" -]+\]\]?)\s*(?:#|$)""")


def _explained(error: str, text: str) -> str:
    """tomllib's message; of a key that is set twice, which one and where."""
    twice = TWICE.match(error)
    if not twice:
        return error
    lines = text.splitlines()
    number = int(twice[1])
    while number > 1 and not (KEY.match(lines[number - 1]) or HEADER.match(lines[number - 1])):
        number -= 1  # tomllib names the line where the value ends
    header, key = HEADER.match(lines[number - 1]), KEY.match(lines[number - 1])
    if header or not key:
        name = header[1] if header else lines[number - 1].strip()
    else:
        above = next((h for line in lines[number - 1 :: -1] if (h := HEADER.match(line))), None)
        name = f"{above[1]} {key[1]}" if above else key[1]
    return f"line {number}: {name}: is set twice in this file"


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """A TOML tree and where each of its keys stands.

    Attributes:
        tree: nested dictionaries and lists, as TOML gives them.
        file: what is read; it answers for a key that stands nowhere.
        origins: of the dotted key of everything that is not a table: the file, or the `--set`,
            that it comes from. A list is one thing.
    """

    tree: dict[str, Any]
    file: str
    origins: dict[str, str]

    @classmethod
    def of(cls, tree: dict[str, Any], file: str) -> Settings:
        """The settings of one file."""
        return cls(tree, file, dict.fromkeys(_leaves(tree), file))

    def origin(self, key: str) -> str:
        """Where a dotted key stands, or the list that it lies in; of a table, its first key."""
        parts = key.split(".")
        for n in range(len(parts), 0, -1):
            origin = self.origins.get(".".join(parts[:n]))
            if origin is not None:
                return origin
        inside = (o for k, o in self.origins.items() if k.startswith(f"{key}."))
        return next(inside, self.file)

    def over(self, base: Settings) -> Settings:
        """These settings laid over a base's: tables key by key, every other value whole.

        Lists, those of tables too, are replaced and never joined.

        Raises:
            ConfigError: a key is a table in one file and something else in the other.
        """
        origins = dict(base.origins)
        tree = _laid_over(self, base, self.tree, base.tree, "", origins)
        return Settings(tree, self.file, origins)

    def set(self, assignments: Sequence[str]) -> Settings:
        """The settings after `dotted.key=value` assignments (see `override`).

        Raises:
            ConfigError: an assignment leads nowhere, or undoes an earlier one.
        """
        origins, earlier = dict(self.origins), dict[str, str]()
        for assignment in assignments:
            key = override(self.tree, assignment)
            for other, text in earlier.items():
                if other == key or other.startswith(f"{key}."):
                    raise ConfigError(f"--set {assignment}: undoes --set {text}; give one of them")
            earlier[key] = assignment
            origins = {k: o for k, o in origins.items() if not k.startswith(f"{key}.")}
            origins[key] = f"--set {assignment}"
        return Settings(self.tree, self.file, origins)

    def build(self, cls: type[T]) -> T:
        """A dataclass from the settings, as `build`; an error also names where its key stands.

        Raises:
            ConfigError: a key is unknown, missing, of the wrong type or of a senseless value.
        """
        try:
            return build(cls, self.tree)
        except ConfigError as e:
            raise ConfigError(f"{self.origin(str(e).partition(':')[0])}: {e}") from None


def _leaves(tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The dotted keys of all that is not a table with something in it."""
    for name, value in tree.items():
        key = _dotted(where, name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, key)
        else:
            yield key


def _laid_over(
    settings: Settings,
    base: Settings,
    upper: Mapping[str, Any],
    lower: Mapping[str, Any],
    where: str,
    origins: dict[str, str],
) -> dict[str, Any]:
    merged = dict(lower)
    for name, value in upper.items():
        key = _dotted(where, name)
        tables = isinstance(value, dict), isinstance(lower.get(name, value), dict)
        if tables[0] != tables[1]:
            kinds = ["a table" if t else "no table" for t in tables]
            raise ConfigError(
                f"{settings.origin(key)}: {key}: is {kinds[0]} here and {kinds[1]} in "
                f"{base.origin(key)}"
            )
        if tables[0] and name in lower:
            if value:
                origins.pop(key, None)  # of a table with nothing in it
            merged[name] = _laid_over(settings, base, value, lower[name], key, origins)
        else:
            origins |= {leaf: settings.origins[leaf] for leaf in _leaves({name: value}, where)}
            merged[name] = value
    return merged


def override(tree: dict[str, Any], assignment: str) -> str:
    """Apply one `dotted.key=value` to a TOML tree, in place; gives the dotted key.

    The value is read as TOML; what is not TOML is taken as a bare string. List elements are
    addressed by their index: `train.phases.0.steps=20`.

    Raises:
        ConfigError: there is no `=`, or the path leads through something that has no keys.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment}: expected dotted.key=value")
    if any("\ud800" <= c <= "\udfff" for c in assignment):  # of bytes that are no text
        raise ConfigError(f"--set {assignment!a}: is not UTF-8 text")
    try:
        value = _parsed(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    node: Any = tree
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, assignment)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise ConfigError(f"--set {assignment}: nothing lies below {part!r}")
    if isinstance(node, list):
        node[_index(node, last, assignment)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {assignment}: nothing lies below {parents[-1]!r}")
    return key.strip()


def _index(node: list[Any], part: str, assignment: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"--set {assignment}: {part!r} is not an index of {len(node)} elements")
    return int(part)


def build(cls: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from a TOML table.

    Raises:
        ConfigError: a key is unknown (with the likely meant one), missing, or of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {_dotted(where, near[0])!r}?" if near else ""
            raise ConfigError(f"{_dotted(where, key)}: unknown key{hint}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(hints[name], tree[name], _dotted(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_dotted(where, name)}: missing; this key has no default")
    try:
        return cls(**values)
    except ConfigError as e:
        prefix = f"{where}." if where and not str(e).startswith(where) else ""
        raise ConfigError(f"{prefix}{e}") from None


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin in (types.UnionType, typing.Union):  # T | None: absent in TOML means None
        return _convert(args[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        return tuple(_convert(args[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table, found {value!r}")
        return build(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: the number is too large") from None
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise ConfigError(f"{where}: expected {names[hint]}, found {value!r}")
    return value


def written(config: Any) -> dict[str, Any]:
    """The keys of a dataclass that stand for it: all but what is `LATER` and at its default."""
    fields = {f.name: (f, getattr(config, f.name)) for f in dataclasses.fields(config)}
    return {
        name: value
        for name, (f, value) in fields.items()
        if not (f.metadata.get("later") and value == f.default)
    }


def told(value: Any) -> str:
    """A value's `repr`, in which dataclasses have the keys that are `written`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        keys = ", ".join(f"{name}={told(v)}" for name, v in written(value).items())
        return f"{type(value).__qualname__}({keys})"
    if type(value) is tuple:
        return f"({', '.join(map(told, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def render(config: Any) -> str:
    """A dataclass as TOML with its defaults written out; `build` reads it back equal."""
    return "\n".join(_table(config, ())) + "\n"


def _table(config: Any, path: tuple[str, ...]) -> list[str]:
    plain: list[str] = []
    tables: list[str] = []
    for name, value in written(config).items():
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            inner = (*path, name)
            tables += ["", f"[{'.'.join(inner)}]", *_table(value, inner)]
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for item in value:
                tables += ["", f"[[{'.'.join((*path, name))}]]"]
                tables += _table(item, (*path, name))
        else:
            plain.append(f"{name} = {_literal(value)}")
    return plain + tables


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # TOML's escapes are JSON's; it alone counts DEL among the control characters.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return "[" + ", ".join(_literal(v) for v in value) + "]"
    if dataclasses.is_dataclass(value):
        pairs = [(k, v) for k, v in written(value).items() if v is not None]
        return "{ " + ", ".join(f"{k} = {_literal(v)}" for k, v in pairs) + " }"
    return repr(value)
