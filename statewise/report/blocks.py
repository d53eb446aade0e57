"""The few kinds of block a report is made of; `story` composes them, two renderers write them.

Every string in a block is plain text. The renderers escape all of it, so nothing a model, a data
file or a recipe says can become markup.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from statewise.verdict import Word


@dataclass(frozen=True, slots=True)
class Citation:
    """A reference to a publication: the only kind of link a report has."""

    text: str
    url: str


Span = str | Citation


@dataclass(frozen=True, slots=True)
class Heading:
    """Opens a section (level 2), a part of one (level 3), or a part of that (level 4)."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text. `role`: "" | "lead" | "note" | "warning" | "absent"."""

    spans: tuple[Span, ...]
    role: str = ""


@dataclass(frozen=True, slots=True)
class Number:
    """One of the figures at the head of the page."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The figures at the head of the page."""

    numbers: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; columns of one `group` stand under a common head."""

    label: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under columns; the first cell names the row. `strong`: rows to stress."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure by name, with its caption; `alt` says in words what it shows."""

    name: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of a name and a value."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """Foreign text, shown exactly as it is. `prose`: to be read, not to be copied."""

    label: str
    text: str
    prose: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim and what came of it: the opening of a claim's part.

    Attributes:
        word: None if it was not measured.
        headline: the word with what speaks most against the claim; "" where the word says it all.
    """

    title: str
    word: Word | None
    statement: str
    headline: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, under what became of it."""

    title: str
    outcome: str
    quotes: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that may be folded away."""

    summary: str
    blocks: tuple[Block, ...]


Block = Heading | Paragraph | Numbers | Table | Picture | Facts | Quote | Verdict | Answer | Fold


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    eyebrow: str
    blocks: tuple[Block, ...]


def picture(drawn: Collection[str], name: str, caption: str, alt: str) -> list[Block]:
    """A picture, if a figure of that name was drawn."""
    return [Picture(name, caption, alt)] if name in drawn else []
