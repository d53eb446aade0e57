"""The report as one HTML file that needs nothing else: style and figures are inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby

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
from statewise.report.style import CSS
from statewise.report.wording import sentence, word_label
from statewise.verdict import Word, supports

_LIGHT = {Word.INDICATED, Word.REVERSAL_INDICATED}


def render(page: Page, svgs: Mapping[str, str]) -> str:
    """The page as HTML text, with each picture's SVG from `svgs` in its place."""
    body = "\n".join(line for block in page.blocks for line in _block(block, svgs))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header><p class="eyebrow">{escape(page.eyebrow)}</p>\n'
        f"<h1>{escape(page.title)}</h1></header>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _spans(spans: tuple[Span, ...]) -> str:
    out = []
    for span in spans:
        if isinstance(span, Citation):
            out.append(f'<a class="citation" href="{escape(span.url)}">{escape(span.text)}</a>')
        else:
            out.append(escape(span))
    return "".join(out)


def _block(block: Block, svgs: Mapping[str, str]) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(spans, role):
            kind = f' class="{role}"' if role else ""
            yield f"<p{kind}>{_spans(spans)}</p>"
        case Numbers(numbers):
            yield '<div class="numbers">'
            for n in numbers:
                note = f'<span class="note">{escape(n.note)}</span>' if n.note else ""
                yield (
                    f'<div><span class="value">{escape(n.value)}</span>'
                    f'<span class="label">{escape(n.label)}</span>{note}</div>'
                )
            yield "</div>"
        case Table():
            yield from _table(block)
        case Picture(name, caption, alt):
            svg = svgs[name].replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
            yield f'<figure><div class="plate">{svg}</div>'
            yield f"<figcaption>{escape(caption)}</figcaption></figure>"
        case Facts(pairs):
            yield '<dl class="facts">'
            for key, value in pairs:
                yield f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
            yield "</dl>"
        case Quote(label, text, prose):
            head = f'<p class="quoted">{escape(label)}</p>' if label else ""
            if prose:
                yield f"{head}<blockquote>{escape(text)}</blockquote>"
            else:
                # The line break after <pre> is not part of the text; it keeps one that is.
                yield f"{head}<pre>\n{escape(text)}</pre>"
        case Verdict(title, word, statement, headline, reason):
            kind, sign = _badge(word)
            badge = f'<span class="badge {kind}">{sign} {word_label(word)}</span>'
            yield f'<h3 class="claim">{escape(title)} {badge}</h3>'
            yield f"<p>{escape(statement)}</p>"
            told = escape(sentence(headline or word_label(word)))
            yield f'<p class="reason {kind}"><strong>{told}.</strong> {escape(reason)}</p>'
        case Answer(title, outcome, quotes):
            kind = "for" if outcome == "correct" else "against light" if outcome else "unmeasured"
            badge = f' <span class="badge {kind}">{escape(outcome)}</span>' if outcome else ""
            yield f'<h3 class="claim">{escape(title)}{badge}</h3>'
            for quote in quotes:
                yield from _block(quote, svgs)
        case Fold(summary, blocks):
            yield f"<details><summary>{escape(summary)}</summary>"
            for inner in blocks:
                yield from _block(inner, svgs)
            yield "</details>"


def _badge(word: Word | None) -> tuple[str, str]:
    """How a word is shown: its class, and the sign before it, which needs no colour."""
    if word is None:
        return "unmeasured", "–"
    kind, sign = {True: ("for", "✓"), False: ("against", "✗"), None: ("neither", "○")}[
        supports(word)
    ]
    return (f"{kind} light" if word in _LIGHT else kind), sign


def _table(table: Table) -> Iterator[str]:
    if table.caption:  # outside, where it wraps at the page's width and does not scroll away
        yield f'<p class="caption">{escape(table.caption)}</p>'
    label = escape(table.caption or "table")
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
    yield "<thead>"
    if any(c.group for c in table.columns):
        cells = []
        for group, columns in groupby(table.columns, key=lambda c: c.group):
            span = len(list(columns))
            kind = ' class="group"' if group else ""
            cells.append(f'<th colspan="{span}" scope="colgroup"{kind}>{escape(group)}</th>')
        yield f"<tr>{''.join(cells)}</tr>"
    opens = {i for i, c in enumerate(table.columns) if _opens_group(table, i) and c.group}

    def attributes(i: int) -> str:
        names = ["n"] if table.columns[i].numeric else []
        names += ["first"] if i in opens else []
        return f' class="{" ".join(names)}"' if names else ""

    heads = (
        f'<th scope="col"{attributes(i)}>{escape(c.label)}</th>'
        for i, c in enumerate(table.columns)
    )
    yield f"<tr>{''.join(heads)}</tr></thead><tbody>"
    for number, row in enumerate(table.rows):
        cells = [
            f'<th scope="row"{attributes(0)}>{escape(row[0])}</th>',
            *(f"<td{attributes(i)}>{escape(cell)}</td>" for i, cell in enumerate(row) if i),
        ]
        kind = ' class="strong"' if number in table.strong else ""
        yield f"<tr{kind}>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _opens_group(table: Table, i: int) -> bool:
    return i > 0 and table.columns[i].group != table.columns[i - 1].group
