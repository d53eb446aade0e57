"""Answers as trees: what the tokens of `latex.py` say, in the notation of school and contest.

A tree is a `Node`: a kind and its parts, which are nodes, texts or a `Fraction`.

    number          a literal: 3, 0.5, 0.1\\overline{6}, 2\\frac{1}{2} (a mixed number)
    symbol          a letter with its index; e, i, \\pi and \\infty are the kind "constant"
    sum, product    of nodes; "negative", "power", "root", "factorial", "degrees", "percent"
    function, call  a known function, or a letter's value: sin, f(x)
    relation        nodes and the signs between them: "=", "<", "in", ...
    list            what stands at commas, "and" or "or" without brackets
    compound        a sum of quantities: 3 hours 30 minutes
    tuple           with its two brackets; "set" in braces, "builder" with a condition
    union, cut, without, ratio, matrix, range (a sum or product over a range), either (\\pm)
    text, phrase    words; words and numbers
    quantity        a node and what stands behind it: a unit, words

Where two readings are customary: an implicit product binds closer than `/`, so that 1/2x is half of
1/x; `\\log` without a base has base ten; `x^10` is `x^{10}`; a letter before a bracket is a factor,
but f, g and h are called, and any letter before a list in brackets, a capital before one letter
(P(A)), and one whose value is told (y(t) = ...); two numbers side by side are a mixed number or
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from statewise.eval.mathematics.latex import Token, grouped, scan, spelled
from statewise.eval.mathematics.units import (
    Unit,
    changes_meaning,
    find_unit,
    is_announcement,
    is_label,
    number_word,
)

MAX_DEPTH = 64  # of brackets and the like
MAX_HEIGHT = 150  # of the tree: x/x/x/...


class Node(NamedTuple):
    """A kind and its parts."""

    kind: str
    parts: tuple[Node | str | Fraction | Unit, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The parts that are nodes."""
        return tuple(p for p in self.parts if isinstance(p, Node))


class Unreadable(Exception):
    """A text that is no answer in this notation; the message says where it ends to be."""


def node(kind: str, *parts: Node | str | Fraction | Unit) -> Node:
    """A node of these parts."""
    return Node(kind, parts)


def number(value: int | Fraction) -> Node:
    """A literal."""
    return node("number", Fraction(value))


FUNCTIONS = set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln exp gcd lcm max min"
    " floor ceil Re Im arg sgn det".split()
)
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "notin": "notin",
    "approx": "~", "equiv": "===", "to": "to", "implies": "implies", "subset": "subset",
    "subseteq": "subseteq", "supset": "supset", "parallel": "parallel", "perp": "perp",
    "sim": "sim", "cong": "cong", "propto": "propto", "mapsto": "to",
}  # fmt: skip
_JOINED = {"cup": "union", "cap": "cut", "setminus": "without"}
_CONSTANTS = {"pi": "pi", "infty": "infinity", "emptyset": "emptyset"}
_OPENING = {"(": ")", "[": "]", "\\{": "\\}", "langle": "rangle", "{": "}"}
_CLOSING = {")", "]", "\\}", "rangle", "}", "rfloor", "rceil", "end"}
_MATRICES = {"matrix", "pmatrix", "bmatrix", "vmatrix", "Bmatrix", "Vmatrix", "smallmatrix",
             "array"}  # fmt: skip
_CALLED = set("fghFGH")
_CURRENCIES = {"usd": "usd", "us": "usd", "eur": "eur", "gbp": "gbp", "rs": "rs", "inr": "rs"}
_EVERYTHING = {"real", "reals", "integer", "integers", "number", "numbers", "mathbb r", "mathbb z",
               "mathbb n", "natural", "values", "value", "of", "the"}  # fmt: skip


def read(text: str, *, commas: bool = True) -> Node:
    """The tree of an answer.

    Args:
        text: LaTeX without the box.
        commas: may set groups of three digits apart at the outermost level.

    Raises:
        Unreadable: it is none; also where it nests deeper than 64 levels.
    """
    return read_tokens(grouped(scan(text), commas=commas))


def read_tokens(tokens: Sequence[Token]) -> Node:
    """`read` from tokens on."""
    parser = _Parser(tokens)
    try:
        end = parser._find_over()
        made = parser.items() if end is None else parser._over(end)
    except RecursionError:
        raise Unreadable("too many levels") from None
    if parser.at < len(parser.tokens):
        raise Unreadable(f"at {parser.token.text[:20]!r}")
    level, depth = [made], 0
    while level:
        level, depth = [inner for n in level for inner in n.nodes], depth + 1
        if depth > MAX_HEIGHT:
            raise Unreadable(f"a tree of more than {MAX_HEIGHT} levels")
    return made


_END = Token("end", "")


class _Parser:
    """Recursive descent; each method reads one level of the grammar, loosest first."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.at, self.depth, self.steps = list(tokens), 0, 0, 0
        self.conditions = 0  # in set-builder braces a bar or colon ends the element
        self.bars = 0  # in an absolute value a bar ends it
        self.groups = 0  # in braces bare letters are never a unit
        self.rest: int | None = (
            None  # where a quantity's next part begins: 30 of 3 hours 30 minutes
        )

    # --- where we are

    @property
    def token(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else _END

    def ahead(self, by: int = 1) -> Token:
        return self.tokens[self.at + by] if self.at + by < len(self.tokens) else _END

    def is_mark(self, *texts: str) -> bool:
        return self.token.kind == "mark" and self.token.text in texts

    def is_command(self, *names: str) -> bool:
        return self.token.kind == "command" and self.token.text in names

    def take(self) -> Token:
        token = self.token
        self.at += 1
        return token

    def want(self, text: str) -> None:
        if self.token.text != text or self.token.kind not in ("mark", "command"):
            raise Unreadable(f"no {text!r} at {self.token.text!r}")
        self.at += 1

    def ends_item(self) -> bool:
        t = self.token
        return (
            t.kind == "end"
            or (t.kind == "mark" and t.text in (",", ";", "&", "row"))
            or t.text in _CLOSING
            or (t.kind == "command" and t.text in ("over", "choose"))
            or (self.bars > 0 and t.kind == "mark" and t.text in ("|", "||"))
            or (self.conditions > 0 and (t.text in ("|", ":", "mid")))
            or self.separator() > 0
        )

    def separator(self, skipped: int = 0) -> int:
        """How many tokens separate two items here: a comma, "and", "or", ", and"; 0 if none do."""
        n = skipped
        while True:
            t = self.ahead(n)
            if (t.kind == "mark" and t.text in (",", ";")) or (
                t.kind == "word" and t.text.lower() in ("and", "or")
            ):
                n += 1
            elif (
                t.kind == "letter"
                and (t.gap or n > skipped)
                and (run := self.run(n)).lower() in ("and", "or")
                and self.ahead(n + len(run)).gap
            ):
                n += len(run)
            else:
                return n - skipped

    def run(self, ahead: int = 0) -> str:
        """The letters that stand together from here on."""
        out = ""
        while (t := self.ahead(ahead + len(out))).kind == "letter" and not (out and t.gap):
            out += t.text
        return out

    # --- lists and items

    def items(self) -> Node:
        items, joined = [self.item()], ","
        while count := self.separator():
            for t in self.tokens[self.at : self.at + count]:
                joined = t.text.lower() if t.kind == "word" else "or" if t.text == "o" else joined
                joined = "and" if t.kind == "letter" and t.text == "a" else joined
            self.at += count
            if self.token.kind == "end" or self.token.text in _CLOSING:
                break
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        return node("list", joined, *items)

    def item(self) -> Node:
        """An answer with what stands before it and behind it."""
        start = self.at
        name = self.label()
        currency = self.currency()
        if self.ends_item():
            if self.at == start:
                raise Unreadable("an empty item")
            return node("text", _flat(self.tokens[start : self.at]))
        try:
            made = self.relation()
            if currency is not None:
                made = node("quantity", made, currency)
            self.quantifier()
            unit = self.unit()
            if not self.ends_item():
                raise Unreadable(f"at {self.token.text!r}")
            if unit is not None:
                made = node("quantity", made, unit)
                made = made if self.rest is None else self.compound(made)
            return made if name is None else node("relation", name, "=", made)
        except Unreadable:
            if not any(t.kind == "word" for t in self.tokens[start:]):
                raise
        self.at = start  # words and numbers in no order we know
        while not self.ends_item():
            self.at += 1
        return node("phrase", _flat(self.tokens[start : self.at]))

    def compound(self, first: Node) -> Node:
        """What 3 hours 30 minutes are: a sum of quantities, in the unit of the first."""
        parts = [first]
        while self.rest is not None:
            self.at, self.rest = self.rest, None
            value = self.relation()
            unit = self.unit()
            if unit is None or not self.ends_item():
                raise Unreadable("a quantity of several parts")
            parts.append(node("quantity", value, unit))
        return node("compound", *parts)

    def currency(self) -> Unit | None:
        """The currency whose letters stand before a number: USD 5, Rs. 5, US$5."""
        word = self.token.text if self.token.kind == "word" else self.run()
        name = _CURRENCIES.get(word.lower())
        end = self.at + (1 if self.token.kind == "word" else len(word))
        following = [t for t in self.tokens[end : end + 2] if t.text not in (".", "$")]
        if name is None or not following or following[0].kind != "number":
            return None
        self.at = end
        while self.is_mark(".", "$"):
            self.at += 1
        return Unit.named(name)

    def quantifier(self) -> None:
        """Skip "for all real x" or \\forall x \\in \\mathbb{R} behind a formula."""
        words = [t.text.lower() for t in self.tokens[self.at : self.at + 2]]
        if words[:1] == ["for"] and words[1:] in (["all"], ["every"], ["any"], ["each"]):
            end = self.at + 2
        elif self.is_command("forall"):
            end = self.at + 1
        else:
            return
        while end < len(self.tokens) and (
            self.tokens[end].kind == "letter"
            or self.tokens[end].text.lower() in _EVERYTHING
            or self.tokens[end].text in (",", "in")
        ):
            end += 1
        if end == len(self.tokens):
            self.at = end

    def label(self) -> Node | None:
        """Skip "the answer is", "Total:", "ans =", \\therefore and the like before an answer.

        Returns:
            What the answer is named by words that do not only announce it: "Cost: 5".
        """
        start = self.at
        while self.is_command("therefore", "implies", "because", "to", "approx") or self.is_mark(
            ":", "=", "#"
        ):
            self.at += 1
        words: list[str] = []
        i = self.at
        while i < len(self.tokens):
            t = self.tokens[i]
            if words and t.text == "," and is_label(words):
                i += 1  # Therefore, ...
            elif self.separator(i - self.at) or (
                t.kind == "word" and len(t.text) == 1 and words and is_label(words)
            ):
                break
            elif t.kind == "word":
                words.append(t.text)
                i += 1
            elif t.kind == "letter" and len(run := self.run(i - self.at)) > 1:
                worded = words and self.tokens[i - 1].kind == "word"
                if worded and is_label(words) and not is_label([run]):
                    break  # \text{The answer is }ab+bc
                words.append(run)
                i += len(run)
            else:
                break
        if not words or (len(words) == 1 and len(words[0]) == 1):
            return None
        following = self.tokens[i] if i < len(self.tokens) else _END
        bare = all(t.kind == "letter" for t in self.tokens[self.at : i])
        if is_label(words):
            if following.text in (":", "=") and not bare and not is_announcement(words):
                self.at = i + 1
                return node("symbol", '"' + " ".join(w.lower().strip(".") for w in words) + '"')
            if following.text in (":", "=") or (following.text == "." and i + 1 < len(self.tokens)):
                self.at = i + 1
            elif following.kind != "end" or not bare:
                self.at = i
            return None
        if following.text in (":", "=") and not bare and not changes_meaning(words):
            self.at = i + 1
            return node("symbol", '"' + " ".join(w.lower().strip(".") for w in words) + '"')
        self.at = i
        if bare or not self.ends_item():
            self.at = start
        return None

    def unit(self) -> Unit | None:
        """What stands behind an answer up to its end, if that is a unit or words."""
        start, depth = self.at, 0
        while depth > 0 or not self.ends_item():
            depth += (self.token.text in _OPENING) - (self.token.text in _CLOSING)
            self.at += 1
            if self.at >= len(self.tokens):
                break
        end, self.at = self.at, start
        if end == start:
            return None
        unit = find_unit(self.tokens[start:end])
        if unit is not None:
            self.at = end
            return unit
        for cut in range(start + 1, end):
            if self.tokens[cut].kind == "number" and self.tokens[cut - 1].text not in ("^", "{"):
                unit = find_unit(self.tokens[start:cut])
                self.rest = cut if unit is not None else None
                self.at = end if unit is not None else start
                break
        return unit

    # --- relations, sets

    def relation(self) -> Node:
        parts: list[Node | str] = [self.joined()]
        while True:
            sign = self.relation_sign()
            if not sign:
                break
            parts += [sign, self.joined()]
        if self.is_command("mod") or (self.is_mark("(") and self.ahead().text == "mod"):
            bracket = self.is_mark("(")
            self.at += 1 + bracket
            parts.append("mod")
            parts.append(self.joined())
            if bracket:
                self.want(")")
        return parts[0] if len(parts) == 1 and isinstance(parts[0], Node) else node(
            "relation", *parts
        )  # fmt: skip

    def relation_sign(self) -> str:
        t = self.token
        sign = _RELATIONS.get(t.text, "") if t.kind in ("mark", "command") else ""
        if t.kind == "command" and t.text == "not" and self.ahead().text in ("=", "in"):
            sign = "!=" if self.ahead().text == "=" else "notin"
            self.at += 1
        if sign and not (self.conditions and sign == "to"):
            self.at += 1
            if sign in "<>" and self.is_mark("=") and not self.token.gap:
                self.at += 1
                sign += "="
            return sign
        if t.text == ":" and self.ahead().text == "=":
            self.at += 2
            return "="
        return ""

    def joined(self) -> Node:
        left = self.ratio()
        while (self.token.kind == "command" and self.token.text in _JOINED) or self.capital_u():
            kind = _JOINED.get(self.take().text, "union")
            left = node(kind, left, self.ratio())
        return left

    def capital_u(self) -> bool:
        """Whether a letter U between two brackets stands for a union."""
        before = self.tokens[self.at - 1].text if self.at else ""
        u = self.token.kind == "letter" and self.token.text == "U"
        return u and before in (")", "]", "\\}") and self.ahead().text in ("(", "[", "\\{")

    def ratio(self) -> Node:
        parts = [self.sum()]
        while (self.is_mark(":") and not self.conditions and self.ahead().text != "=") or (
            self.token == Token("word", "to", self.token.gap) and self.ahead().kind == "number"
        ):
            self.at += 1
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else node("ratio", *parts)

    # --- sums and products

    def sum(self) -> Node:
        parts = [self.product()]
        either = ""
        while self.is_mark("+", "-") or self.is_command("pm", "mp"):
            if self.is_mark("-") and self.hyphen():
                break
            sign = self.take().text
            term = self.product()
            if sign in ("pm", "mp"):
                either = sign
                term = node("either", sign, term)
            if sign == "-" and len(parts) == 1 and _is_set(parts[0]) and _is_set(term):
                parts = [node("without", parts[0], term)]  # R - {0}
                continue
            parts.append(node("negative", term) if sign == "-" else term)
        return parts[0] if len(parts) == 1 and not either else node("sum", *parts)

    def hyphen(self) -> bool:
        """Whether this minus joins a number and its unit, as in 60-minute."""
        first, length = self.ahead(), len(self.run(1))
        joined = not self.token.gap and not first.gap and self.before() == "number"
        return joined and (first.kind == "word" or length >= 3) and self.unit_ahead()

    def product(self) -> Node:
        if self.is_mark("+", "-") or self.is_command("pm", "mp"):
            sign = self.take().text
            inner = self.product()
            if sign in ("pm", "mp"):
                return node("either", sign, inner)
            return inner if sign == "+" else _negated(inner)
        left = self.tight()
        while self.is_mark("*", "/") or self.is_command("mod"):
            if self.is_mark("/") and self.unit_ahead():
                break
            if self.is_mark("*") and self.ahead().kind == "word" and self.unit_ahead():
                break
            if self.is_command("mod"):
                return left
            sign = self.take().text
            negative = self.is_mark("-")
            if negative or self.is_mark("+"):
                self.at += 1
            right = self.tight()
            right = _negated(right) if negative else right
            left = node("product", left, right) if sign == "*" else node("quotient", left, right)
        return left

    def tight(self) -> Node:
        """Factors side by side; two numbers there are a mixed number or nothing."""
        factors = [self.postfix()]
        while self.starts_factor() and not self.unit_ahead():
            t = self.token
            fraction = self.is_command("frac") or self.is_mark("{")
            if t.kind == "number" or (fraction and _plain(factors[-1])):
                mixed = self.mixed(factors)
                if mixed is not None:
                    factors[-1] = mixed
                    continue
                if t.kind == "number" and factors[-1].kind in ("number", "percent"):
                    raise Unreadable("two numbers side by side")
                if t.kind == "number" and self.ahead().text == "_":
                    raise Unreadable("a factor before a numeral")
            factors.append(self.postfix())
        if len(factors) == 2 and factors[0].kind == "symbol" and _half_open(factors[1]):
            return node("relation", factors[0], "in", factors[1])  # t(0,4]
        return factors[0] if len(factors) == 1 else node("product", *factors)

    def mixed(self, factors: list[Node]) -> Node | None:
        """The mixed number that a whole number before a proper fraction is: 1 1/2."""
        whole = factors[-1]
        if len(factors) != 1 or not _plain(whole):
            return None
        texts = [t.text for t in self.tokens[self.at : self.at + 8]]
        patterns = (("", "/", ""), ("{", "", "/", "", "}"), ("frac", "{", "", "}", "{", "", "}"),
                    ("frac", "", "{", "", "}"), ("frac", "{", "", "}", ""))  # fmt: skip
        found: list[int] = []
        length = 0
        for pattern in patterns:
            here = texts[: len(pattern)]
            if len(here) == len(pattern) and all(
                (t.isdecimal() and t.isascii()) if not p else t == p
                for p, t in zip(pattern, here, strict=True)
            ):
                found = [int(t) for p, t in zip(pattern, here, strict=True) if not p]
                length = len(pattern)
        if (
            not found
            and texts[:1] == ["frac"]
            and len(texts) > 1
            and re.fullmatch("[0-9]{2}", texts[1])
        ):
            found, length = [int(d) for d in texts[1]], 2
        if not found or not 0 < found[0] < found[1] or texts[length : length + 1] in (["^"], ["!"]):
            return None
        self.at += length
        return node("number", Fraction(_whole(whole)) + Fraction(*found), "mixed")

    def starts_factor(self) -> bool:
        t = self.token
        if t.kind in ("number", "letter"):
            return not self.separator() and not self.capital_u()
        if t.kind == "word":
            return False
        if t.kind == "begin":
            return t.text in _MATRICES
        if t.kind == "mark":
            if t.text == "|":
                return not self.conditions and self.bar_opens()
            if t.text == "(":
                return self.ahead().text != "mod"
            return t.text in ("[", "{", "\\{")
        if t.kind == "command":
            return (
                t.text not in _RELATIONS
                and t.text not in _JOINED
                and t.text not in _CLOSING
                and t.text
                not in ("pm", "mp", "mid", "mod", "over", "choose", "not", "circ", "forall")
            )
        return False

    def bar_opens(self) -> bool:
        """Whether a bar that follows a factor begins an absolute value: an even number follow."""
        depth = bars = 0
        for t in self.tokens[self.at :]:
            depth += (t.text in _OPENING) - (t.text in _CLOSING)
            if depth < 0:
                break
            bars += t.kind == "mark" and t.text == "|" and depth == 0
        return bars % 2 == 0

    def unit_ahead(self) -> bool:
        """Whether what follows up to the end of the item is a unit and no factor."""
        t = self.token
        if t.kind not in ("letter", "word", "mark") and t.text not in ("frac", "Omega", "mu"):
            return False
        behind = "group" if self.groups else self.before()
        if t.kind == "letter" and behind in ("letter", "group"):
            return False  # a letter behind a letter is a factor: most of them, told at once
        end = self.at
        depth = 0
        while end < len(self.tokens):
            kind, text, _ = self.tokens[end]
            if depth == 0 and kind == "mark" and text in (",", ";", "=", "<", ">", "&", "row"):
                break
            depth += (text in _OPENING) - (text in _CLOSING)
            if depth < 0 or kind == "end":
                break
            end += 1
        if end - self.at > 40:
            return False
        return find_unit(self.tokens[self.at : end], behind=behind) is not None

    def before(self) -> str:
        """The kind of the token before this one."""
        return self.tokens[self.at - 1].kind if self.at else "end"

    # --- powers and atoms

    def postfix(self) -> Node:
        made = self.atom()
        while True:
            if self.is_mark("^"):
                if self.ahead().text == "circ" or (
                    self.ahead().text == "{" and self.ahead(2).text == "circ"
                ):
                    self.at += 2 + 2 * (self.ahead().text == "{")
                    made = node("degrees", made)
                    continue
                self.at += 1
                raised = self.raised()
                if raised in ("o", "th", "st", "nd", "rd") and made.kind == "number":
                    made = node("degrees", made) if raised == "o" else made
                    continue
                made = node("power", made, self.exponent())
            elif self.is_command("circ"):
                self.at += 1
                made = node("degrees", made)
            elif made.kind == "degrees" and self.token.text in ("C", "F"):
                made = node("quantity", made.nodes[0], _temperature(self.take().text))
            elif self.is_mark("!"):
                bangs = 0
                while self.is_mark("!"):
                    self.at, bangs = self.at + 1, bangs + 1
                made = node("factorial", made, number(bangs))
            elif self.is_mark("%"):
                self.at += 1
                made = node("percent", made)
            elif self.is_mark("'") or self.is_command("prime"):
                self.at += 1
                made = node("call", "prime", made)
            elif self.is_mark("_") and made.kind == "bracketed" and _plain(made.nodes[0]):
                self.at += 1
                made = self.numeral(str(_whole(made.nodes[0])))
            else:
                return made

    def raised(self) -> str:
        """The letters that stand raised here, which are passed; "" where there are none."""
        start = self.at
        bracket = self.is_mark("{")
        self.at += bracket
        text = self.token.text if self.token.kind == "word" else self.run()
        self.at += 1 if self.token.kind == "word" else len(text)
        if text in ("o", "th", "st", "nd", "rd") and (not bracket or self.is_mark("}")):
            self.at += bracket
            return text
        self.at = start
        return ""

    def numeral(self, digits: str) -> Node:
        """Digits in the base that the index here names."""
        base = self.index().strip("()").removeprefix("base").strip()
        base = str(number_word([base]) or base)
        if not base.isdigit():
            raise Unreadable("a number with an index")
        return node("numeral", digits, base)

    def exponent(self) -> Node:
        if self.is_mark("-", "+"):
            negative = self.take().text == "-"
            inner = self.exponent()
            return _negated(inner) if negative else inner
        made = self.group() if self.is_mark("{") else self.atom()
        if self.is_mark("^"):
            self.at += 1
            return node("power", made, self.exponent())
        return made

    def atom(self) -> Node:
        self.depth, self.steps = self.depth + 1, self.steps + 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"more than {MAX_DEPTH} levels")
        if self.steps > 4 * len(self.tokens):  # nothing is read over and over again
            raise Unreadable("too many ways to read it")
        try:
            return self._atom()
        finally:
            self.depth -= 1

    def _atom(self) -> Node:
        t = self.token
        if t.kind == "number":
            return self.literal()
        if t.kind == "letter":
            return self.letter()
        if t.kind == "word":
            return self.word()
        if t.kind == "begin":
            return self.matrix()
        if t.kind == "mark":
            return self.marked()
        if t.kind == "command":
            return self.command()
        raise Unreadable("it ends early" if t.kind == "end" else f"at {t.text!r}")

    def literal(self) -> Node:
        t = self.take()
        value = Fraction(t.text.removesuffix(".") or "0")
        if self.is_mark("_"):
            self.at += 1
            return self.numeral(t.text)
        if t.text.endswith(".") and self.is_mark("("):
            again = self.ahead().text
            self.at += 3
            return node("number", value + Fraction(int(again), 10 ** len(again) - 1), "decimal")
        if (
            self.token.kind == "command"
            and not self.token.gap
            and self.token.text.partition(" ")[0] in ("overline", "dot")
            and (again := self.token.text.partition(" ")[2]).isdigit()
        ):
            self.at += 1
            known = len(t.text.partition(".")[2])
            value += Fraction(int(again), (10 ** len(again) - 1) * 10**known)
            return node("number", value, "decimal")
        if "." in t.text and self.is_command("dots"):
            places = t.text.partition(".")[2]
            self.at += 1
            if len(places) < 3 or len(set(places[-3:])) > 1:
                raise Unreadable("a decimal that goes on")
            value += Fraction(int(places[-1]), 9 * 10 ** len(places))  # 0.333...
            return node("number", value, "decimal")
        if self.token.text in ("E", "e") and self.token.kind == "letter" and not self.token.gap:
            sign = self.ahead().text if self.ahead().text in ("+", "-") else ""
            power = self.ahead(1 + bool(sign))
            if power.kind == "number" and power.text.isdigit() and len(power.text) < 4:
                self.at += 2 + bool(sign)
                return node("number", value * Fraction(10) ** int(sign + power.text), "decimal")
        return node("number", value, "decimal") if "." in t.text else node("number", value)

    def letter(self) -> Node:
        name = self.take().text
        plain = name
        while self.is_mark("'") or self.is_command("prime"):
            self.at += 1
            name += "'"
        if self.is_mark("_"):
            self.at += 1
            name += "_" + self.index()
        called = plain in _CALLED or name != plain
        if self.is_mark("(") and not self.token.gap and name != "e":
            closing = self.closing()
            after = self.tokens[closing + 1].text if closing + 1 < len(self.tokens) else ""
            inside = self.tokens[self.at + 1 : closing]
            single = len(inside) == 1 and inside[0].text != plain
            called |= single and (after == "=" or (plain.isupper() and inside[0].kind != "number"))
            several = any(t.kind == "mark" and t.text == "," for t in inside)
            if self.tokens[closing].text == ")" and (several or called):
                self.at += 1
                arguments = self.items()
                self.want(")")
                each = arguments.nodes if arguments.kind == "list" else (arguments,)
                return node("call", name, *each)
        if name in ("e", "i"):
            return node("constant", name)
        return node("symbol", name)

    def closing(self) -> int:
        """The place of the mark that closes the bracket here."""
        depth = 0
        for i in range(self.at, len(self.tokens)):
            text = self.tokens[i].text
            depth += (text in _OPENING) - (text in _CLOSING)
            if depth == 0:
                return i
        raise Unreadable("a bracket is never closed")

    def index(self) -> str:
        """The text of an index: letters, numbers, signs, as spelled."""
        if not self.is_mark("{"):
            t = self.take()
            if t.kind not in ("number", "letter", "word", "command"):
                raise Unreadable(f"an index {t.text!r}")
            return t.text
        end = self.closing()
        inner = spelled(self.tokens[self.at + 1 : end])
        self.at = end + 1
        return inner

    def word(self) -> Node:
        """A word where a value should be: a single letter is a symbol."""
        if len(self.token.text) == 1:
            return self.letter()
        raise Unreadable(f"the word {self.token.text!r}")

    def group(self) -> Node:
        self.want("{")
        self.groups += 1
        end = self._find_over()
        made = self.items() if end is None else self._over(end)
        self.groups -= 1
        self.want("}")
        return made

    def _find_over(self) -> int | None:
        depth = 0
        for i in range(self.at, len(self.tokens)):
            text = self.tokens[i].text
            if depth == 0 and self.tokens[i].kind == "command" and text in ("over", "choose"):
                return i
            depth += (text in _OPENING) - (text in _CLOSING)
            if depth < 0:
                return None
        return None

    def _over(self, end: int) -> Node:
        top = self.items()
        if self.at != end:
            raise Unreadable("\\over")
        kind = "quotient" if self.take().text == "over" else "binomial"
        return node(kind, top, self.items())

    def marked(self) -> Node:
        t = self.token
        if t.text == "{":
            if self.ahead().text == "}":
                self.at += 2
                return self.atom()
            return self.group()
        if t.text in ("(", "["):
            return self.bracketed()
        if t.text == "\\{":
            return self.set()
        if t.text in ("|", "||"):
            self.at, self.bars = self.at + 1, self.bars + 1
            inner = self.items()
            self.bars -= 1
            self.want(t.text)
            return node("function", "det" if inner.kind == "matrix" else "abs", inner)
        if t.text in "$€£¥₹" and t.text:
            self.at += 1
            return node("quantity", self.product(), Unit.named(t.text))
        raise Unreadable(f"at {t.text!r}")

    def bracketed(self) -> Node:
        opening = self.take().text
        outside, self.conditions, self.bars = (self.conditions, self.bars), 0, 0
        made = self.items()
        self.conditions, self.bars = outside
        if not self.is_mark(")", "]"):
            raise Unreadable(f"no bracket closes {opening!r}")
        closing = self.take().text
        if made.kind == "list":
            return node("tuple", opening, closing, *made.nodes)
        if made.kind == "matrix":  # an array in brackets
            return made
        if _OPENING[opening] != closing:
            raise Unreadable("two kinds of bracket around one value")
        return node("bracketed", made) if opening == "(" else node("bracketed", made, "[")

    def set(self) -> Node:
        self.want("\\{")
        if self.is_mark("\\}"):
            self.at += 1
            return node("constant", "emptyset")
        self.conditions += 1
        element = self.items()
        self.conditions -= 1
        if self.is_mark("|", ":") or self.is_command("mid"):
            self.at += 1
            condition = self.items()
            self.want("\\}")
            return node("builder", element, condition)
        self.want("\\}")
        return node("set", *(element.nodes if element.kind == "list" else (element,)))

    def matrix(self) -> Node:
        kind = self.take().text
        if kind not in _MATRICES:
            raise Unreadable(f"\\begin{{{kind}}}")
        rows: list[Node] = []
        cells: list[Node] = []
        filled = False  # the cell that we are in
        while True:
            if self.token.kind == "end":
                break
            if self.is_mark("&", "row") and not filled:
                raise Unreadable("an empty cell")
            if self.is_mark("&"):
                self.at, filled = self.at + 1, False
            elif self.is_mark("row"):
                self.at, filled = self.at + 1, False
                rows.append(node("row", *cells))
                cells = []
            elif self.is_command("hline"):
                self.at += 1
            else:
                cells.append(self.items())
                filled = True
        if self.at >= len(self.tokens):
            raise Unreadable(f"\\begin{{{kind}}} never ends")
        self.at += 1
        if cells:
            rows.append(node("row", *cells))
        if not rows or len({len(r.parts) for r in rows}) != 1:
            raise Unreadable("a matrix with rows of several lengths")
        made = node("matrix", *rows)
        return node("function", "det", made) if kind == "vmatrix" else made

    def command(self) -> Node:
        name = self.token.text
        accent, _, inner = name.partition(" ")
        if name == "not":
            raise Unreadable("at \\not")
        if name == "frac":
            return self.fraction()
        if name == "binom":
            self.at += 1
            return node("binomial", self.argument(), self.argument())
        if name == "sqrt":
            return self.root()
        if name in FUNCTIONS:
            return self.function()
        if name in ("sum", "prod"):
            return self.range()
        if name in ("lfloor", "lceil"):
            self.at += 1
            made = self.items()
            self.want("r" + name[1:])
            return node("function", "floor" if name == "lfloor" else "ceil", made)
        if name == "langle":
            self.at += 1
            made = self.items()
            self.want("rangle")
            return node("tuple", "<", ">", *(made.nodes if made.kind == "list" else (made,)))
        if name in _CONSTANTS:
            self.at += 1
            return node("constant", _CONSTANTS[name])
        if accent == "mathbb" and inner in set("RNZQC"):
            self.at += 1
            raised = [t.text for t in self.tokens[self.at : self.at + 4]]
            for signed in (["^", "+"], ["^", "{", "+", "}"], ["_", "+"], ["_", "{", "+", "}"]):
                if raised[: len(signed)] == signed:
                    self.at += len(signed)
                    inner += "+"
                    break
            return node("constant", inner)
        if name in _RELATIONS or name in _JOINED or name in _CLOSING or name in (
            "pm", "mp", "mod", "over", "choose", "int", "lim", "oint", "iint",
        ):  # fmt: skip
            raise Unreadable(f"at \\{name}")
        self.at += 1
        if accent in ("overline", "bar") and inner.isdigit():
            raise Unreadable("digits under a line")
        if accent in ("angle", "triangle", "forall", "exists"):
            return node("call", name, self.tight())
        if self.is_mark("_"):
            self.at += 1
            name += "_" + self.index()
        return node("symbol", "\\" + name)

    def argument(self) -> Node:
        """What one command takes: a group, or a single digit, letter or command."""
        if self.is_mark("{"):
            return self.group()
        t = self.token
        if t.kind == "number":
            digit, rest = t.text[0], t.text[1:]
            if rest:
                self.tokens[self.at] = Token("number", rest, False)
            else:
                self.at += 1
            if not digit.isdigit():
                raise Unreadable("a fraction of a decimal without braces")
            return number(int(digit))
        if t.kind == "letter":
            self.at += 1
            return node("constant", t.text) if t.text in ("e", "i") else node("symbol", t.text)
        return self.atom()

    def fraction(self) -> Node:
        self.at += 1
        return node("quotient", self.argument(), self.argument())

    def root(self) -> Node:
        self.at += 1
        degree = number(2)
        if self.is_mark("["):
            self.at += 1
            degree = self.items()
            self.want("]")
        if self.is_mark("("):
            return node("root", self.bracketed(), degree)
        if self.token.kind == "number":  # \sqrt 12 is written by machines
            return node("root", self.literal(), degree)
        return node("root", self.argument(), degree)

    def function(self) -> Node:
        name = self.take().text
        power: Node | None = None
        base: Node | None = None
        while self.is_mark("^", "_"):
            mark = self.take().text
            inner = self.exponent() if mark == "^" else self.argument()
            if mark == "^":
                power = inner
            else:
                base = inner
        if power == node("negative", number(1)) and name in TRIGONOMETRIC:
            name, power = "arc" + name, None
        if name in ("gcd", "lcm", "max", "min", "det"):
            inner = self.atom()
            arguments = inner.nodes if inner.kind in ("tuple", "set") else (inner,)
        elif self.is_mark("(", "[") or (self.is_mark("{") and self.ahead().text != "}"):
            arguments = (self.atom(),)
        else:
            arguments = (self.function_argument(),)
        made = node("function", name, *arguments, *((base,) if base is not None else ()))
        return made if power is None else node("power", made, power)

    def function_argument(self) -> Node:
        """Factors behind a function's name, up to the next function: \\sin 2x \\cos x."""
        if self.is_mark("-"):
            self.at += 1
            return node("negative", self.function_argument())
        factors = [self.postfix()]
        while self.starts_factor() and not self.unit_ahead():
            if self.token.kind == "command" and self.token.text in FUNCTIONS:
                break
            if self.token.kind == "number" or self.is_mark("(", "["):
                break
            factors.append(self.postfix())
        made = factors[0] if len(factors) == 1 else node("product", *factors)
        if self.is_mark("/") and self.ahead().kind == "number":
            self.at += 1
            made = node("quotient", made, self.literal())
        return made

    def range(self) -> Node:
        kind = self.take().text
        lower: Node | None = None
        upper: Node | None = None
        while self.is_mark("^", "_"):
            if self.take().text == "^":
                upper = self.exponent()
            elif self.is_mark("{"):
                self.at += 1
                lower = self.relation()
                self.want("}")
            else:
                raise Unreadable("a sum over nothing we know")
        body = self.product()
        if lower is None or upper is None or lower.kind != "relation" or lower.parts[1] != "=":
            raise Unreadable("a sum without a range")
        return node("range", kind, lower.nodes[0], lower.nodes[1], upper, body)


def _is_set(n: Node) -> bool:
    named = n.kind == "constant" and str(n.parts[0])[0] in "RNZQC"
    return named or n.kind in ("set", "tuple", "union", "without", "cut")


def _half_open(n: Node) -> bool:
    """An interval that can be nothing else."""
    return n.kind == "tuple" and len(n.nodes) == 2 and n.parts[:2] in (("(", "]"), ("[", ")"))


def _temperature(letter: str) -> Unit:
    return Unit.named("celsius" if letter == "C" else "fahrenheit")


def _negated(inner: Node) -> Node:
    """The sign belongs to the number and not to what stands behind it: -5%, -$5."""
    if inner.kind in ("percent", "degrees", "quantity"):
        return Node(inner.kind, (_negated(inner.nodes[0]), *inner.parts[1:]))
    return node("negative", inner)


def _plain(n: Node) -> bool:
    """A whole number written out."""
    if n.kind == "bracketed":
        return False
    value = n.parts[0]
    return n.kind == "number" and len(n.parts) == 1 and isinstance(value, Fraction) and (
        value.denominator == 1
    )  # fmt: skip


def _whole(n: Node) -> int:
    value = n.parts[0]
    assert isinstance(value, Fraction)
    return value.numerator


def _flat(tokens: Sequence[Token]) -> str:
    """Words and numbers with a space between them, in lower case, marks left out."""
    out: list[str] = []
    for i, t in enumerate(tokens):
        if t.kind == "letter" and i and tokens[i - 1].kind == "letter" and not t.gap:
            out[-1] += t.text.lower()
        elif t.kind == "mark" and t.text in ("-", "/", "%", "^", ":", "!", "=", "<", ">"):
            out.append(t.text)
        elif t.kind != "mark":
            out.append(re.sub(r"[.']", "", t.text.lower()))
    return " ".join(out)


def flat(text: str) -> str:
    """An answer as bare words and numbers, for those that are no mathematics."""
    return _flat(grouped(scan(text)))
