"""Built-in values as JSON text, so that two processes that do not trust each other can speak.

What is no built-in value cannot be said; so what comes out of a program is plain data, whose
comparison nobody can have overridden. The text of this file is also run inside the sandbox, so it
uses the standard library alone.

    None, True, "text", [1, 2.5]    themselves; Python reads its own floats back exactly
    integers of 10,000 bits on      {"int": "0x..."}      (no limit on digits)
    (1, 2), {1, 2}, {1: 2}          {"tuple": [1, 2]}, {"set": [1, 2]}, {"dict": [[1, 2]]}
    frozenset, complex, bytes       {"frozenset": [...]}, {"complex": [re, im]}, {"bytes": "ff"}
    numbers of numpy                the built-in ones that they are equal to
"""

from __future__ import annotations

import json

_LONGEST = 1 << 10_000  # beyond about 4,300 digits Python refuses to write a decimal
_SIMPLE = {type(None), bool, str, float}


def encode(value: object) -> str:
    """One line of JSON. Raises `TypeError` for what is no built-in value, `RecursionError` too."""
    return json.dumps(_plain(value), separators=(",", ":"))


def _plain(value: object) -> object:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int.__int__(value)
        return value if -_LONGEST < value < _LONGEST else {"int": hex(value)}
    if isinstance(value, float):
        return float.fromhex(float.hex(value))
    if isinstance(value, list):
        kinds = set(map(type, list.__iter__(value)))
        if kinds <= _SIMPLE:
            return list(list.__iter__(value))
        if kinds <= _SIMPLE | {int} and all(
            v < _LONGEST and v > -_LONGEST for v in value if type(v) is int
        ):
            return list(list.__iter__(value))
        return [_plain(v) for v in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[_plain(k), _plain(v)] for k, v in dict.items(value)]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_plain(v) for v in kind.__iter__(value)]}  # type: ignore[arg-type]
    if isinstance(value, complex):
        return {"complex": [_plain(value.real), _plain(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if type(value).__module__ == "numpy" and not getattr(value, "shape", True):
        return _plain(value.item())  # type: ignore[attr-defined]
    raise TypeError(f"{type(value).__name__} is not a built-in value")


def decode(text: str) -> object:
    """The value of such a line. Raises `ValueError` where it is none."""
    try:
        return _value(json.loads(text))
    except (TypeError, KeyError, OverflowError, RecursionError) as e:
        raise ValueError(f"not an encoded value ({type(e).__name__})") from None


def _value(plain: object) -> object:
    if plain is None or isinstance(plain, bool | str | int | float):
        return plain
    if isinstance(plain, list):
        if set(map(type, plain)) <= _SIMPLE | {int}:
            return plain
        return [_value(v) for v in plain]
    if not isinstance(plain, dict) or len(plain) != 1:
        raise ValueError("not an encoded value")
    ((kind, inner),) = plain.items()
    if kind == "int":
        return int(inner, 16)
    if kind == "dict":
        return {_value(k): _value(v) for k, v in inner}
    if kind == "complex":
        re, im = (_value(v) for v in inner)
        return complex(re, im)  # type: ignore[call-overload]
    if kind == "bytes":
        return bytes.fromhex(inner)
    kinds = {"tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](_value(v) for v in inner)
