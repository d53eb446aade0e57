"""Strict TOML to frozen dataclasses. Nothing is ignored: every error names its dotted key."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from statewise.errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries.

    Raises:
        ConfigError: the file is missing or is not TOML; the message names file and line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a recipe is a .toml file") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not UTF-8 text (byte {e.start})") from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: {e}") from None


def override(tree: dict[str, Any], assignment: str) -> None:
    """Apply one `dotted.key=value` to a TOML tree, in place.

    The value is read as TOML; what is not TOML is taken as a bare string. List elements are
    addressed by their index: `train.phases.0.steps=20`.

    Raises:
        ConfigError: there is no `=`, or the path leads through something that has no keys.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment}: expected dotted.key=value")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
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
    if origin is types.UnionType:  # T | None: absent in TOML means None
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
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise ConfigError(f"{where}: expected {names[hint]}, found {value!r}")
    return value


def render(config: Any) -> str:
    """A dataclass as TOML with every default written out; `build` reads it back equal."""
    return "\n".join(_table(config, ())) + "\n"


def _table(config: Any, path: tuple[str, ...]) -> list[str]:
    plain: list[str] = []
    tables: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            inner = (*path, field.name)
            tables += ["", f"[{'.'.join(inner)}]", *_table(value, inner)]
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for item in value:
                tables += ["", f"[[{'.'.join((*path, field.name))}]]"]
                tables += _table(item, (*path, field.name))
        else:
            plain.append(f"{field.name} = {_literal(value)}")
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
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return "{ " + ", ".join(f"{k} = {_literal(v)}" for k, v in pairs if v is not None) + " }"
    return repr(value)
