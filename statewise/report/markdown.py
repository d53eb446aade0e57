"""The report as Markdown (CommonMark with tables), its figures embedded by relative path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from statewise.report.blocks import (
    Answer,
    Block,
    Citation,
    Facts,
    Fold,
    Heading,
    Numbers,
    Page,
    Paragraph,
    Picture,
    Quote,
    Span,
    Table,
    Verdict,
)
from statewise.report.wording import sentence, word_label


def render(page: Page) -> str:
    """The page as Markdown text."""
    parts = [f"# {escaped(page.title)}", f"*{escaped(page.eyebrow)}*"]
    for block in page.blocks:
        parts += _block(block)
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Foreign text on one line that Markdown and HTML leave as it is."""
    line = re.sub(r"[ \t\r\n\f\v\x85\u2028\u2029]+", " ", text).strip(" ")
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", line)


def fenced(text: str) -> str:
    """Foreign text as a code block, whatever backticks it holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(re.split(r"\r\n?|\n", text))
    return f"{fence}text\n{lines}\n{fence}"


def _spans(spans: tuple[Span, ...]) -> str:
    out = []
    for span in spans:
        if isinstance(span, Citation):
            out.append(f"[{escaped(span.text)}]({span.url})")
        else:
            # Keep the spaces at the ends, which part this span from its neighbours.
            left = " " if span[:1].isspace() else ""
            right = " " if span[-1:].isspace() else ""
            out.append(f"{left}{escaped(span)}{right}")
    return "".join(out).strip()


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {escaped(text)}"
        case Paragraph(spans, role):
            text = _spans(spans)
            yield {"warning": f"> **{text}**", "absent": f"*{text}*"}.get(role, text)
        case Numbers(numbers):
            yield "\n".join(
                f"- **{escaped(n.value)}** {escaped(n.label)}"
                + (f" ({escaped(n.note)})" if n.note else "")
                for n in numbers
            )
        case Table():
            yield _table(block)
        case Picture(name, caption, alt):
            yield f"![{escaped(alt)}](figures/{name}.png)"
            yield f"*{escaped(caption)}*"
        case Facts(pairs):
            yield "\n".join(f"- {escaped(key)}: {escaped(value)}" for key, value in pairs)
        case Quote(label, text, _):
            if label:
                yield f"{escaped(label)}:"
            yield fenced(text)
        case Verdict(title, word, statement, headline, reason):
            yield f"### {escaped(title)}: {word_label(word)}"
            yield f"Claim: {escaped(statement)}"
            told = escaped(sentence(headline or word_label(word)))
            yield f"**{told}.** {escaped(reason)}".strip()
        case Answer(title, outcome, quotes):
            yield f"### {escaped(title)}: {escaped(outcome)}"
            for quote in quotes:
                yield from _block(quote)
        case Fold(summary, blocks):
            yield f"<details><summary>{escape(summary)}</summary>"
            for inner in blocks:
                yield from _block(inner)
            yield "</details>"


def _table(table: Table) -> str:
    heads = [escaped(f"{c.group}: {c.label}" if c.group else c.label) for c in table.columns]
    rules = ["---:" if c.numeric else "---" for c in table.columns]
    lines = [heads, rules, *([escaped(cell) for cell in row] for row in table.rows)]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"**{escaped(table.caption)}**\n\n{text}" if table.caption else text
