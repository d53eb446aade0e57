"""A key that came after recipes were published leaves their hashes as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from statewise.config import LATER, render, told


@dataclass(frozen=True)
class Inner:
    a: int = 1
    b: int = field(default=2, metadata=LATER)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    new: Inner = field(default=Inner(), metadata=LATER)


def test_a_later_key_is_written_only_where_it_is_not_at_its_default():
    assert "b" not in render(Outer())
    assert "new" not in render(Outer(many=(Inner(3),)))
    assert "b = 5" in render(Outer(Inner(b=5)))
    assert "[new]" in render(Outer(new=Inner(7)))
    assert "b = 5" in render(Outer(many=(Inner(b=5),)))


def test_a_later_key_is_told_only_where_it_is_not_at_its_default():
    assert told(Outer()) == "Outer(inner=Inner(a=1), many=())"
    assert told((Inner(b=5),)) == "(Inner(a=1, b=5),)"
    assert told(Outer(many=(Inner(), Inner(2)))) == (
        "Outer(inner=Inner(a=1), many=(Inner(a=1), Inner(a=2)))"
    )


def test_without_later_keys_a_value_is_told_by_its_repr():
    for value in (1, "a", None, (1,), (1, "b", (2.0,)), [1], {"k": (1,)}, ()):
        assert told(value) == repr(value)
