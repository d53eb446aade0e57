"""LaTeX answers as tokens: what only typesets is gone, and nothing is joined that stood apart.

A token knows whether white space stood before it, because `1 1/2` is not `11/2`. Words (`\\text{}`
and its like) are tokens of their own. Thousands separators are resolved here, a list's commas are
not. Nothing is evaluated.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

NESTED = 16


class Token(NamedTuple):
    """A piece of an answer.

    Attributes:
        kind: "number", "letter", "word" (of a text group), "command" (its name) or "mark".
        text: as written; a command without its backslash, by one name for all its spellings.
        gap: white space stood before it.
    """

    kind: str
    text: str
    gap: bool = False


_CHARACTERS = {
    **dict.fromkeys("\u2212\u2013\u2014\uff0d\ufe63", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " "),
    "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "±": "\\pm ", "∓": "\\mp ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "∈": "\\in ", "∪": "\\cup ",
    "∩": "\\cap ", "∞": "\\infty ", "√": "\\sqrt ", "°": "^\\circ ", "∅": "\\emptyset ",
    "…": "\\dots ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "⟨": "\\langle ",
    "⟩": "\\rangle ", "→": "\\to ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "π": "\\pi ", "％": "\\%", "∛": "\\sqrt[3]", "∠": "\\angle ", "∶": ":",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "µ": "\\mu ",
    **{
        chr(c): f"\\{name[0].upper() + name[1:] if upper else name} "
        for upper, first in ((False, 0x3B1), (True, 0x391))
        for c, name in enumerate(
            ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"
             " pi rho - sigma tau upsilon phi chi psi omega").split(), first)
        if name not in ("-", "omicron") and not (name == "pi" and not upper)
    },
}  # fmt: skip
_TABLE = str.maketrans(_CHARACTERS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₋₊ₙ", "0123456789-+n")
_FRACTION = re.compile(r"([0-9]+)\u2044([0-9]+)")  # what ½ and its like are made of
_PRIMES = re.compile(r"\^(\\prime(?![A-Za-z])|\{\s*(?:\\prime\s*|')+\}|')")
_BOLD = re.compile(r"(?<![\w)}\]])\*\*([^*]+)\*\*(?![\w(\\])")

# Commands by the one name that the reader knows.
_ALIASES = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "nicefrac", "sfrac", "flatfrac"), "frac"),
    **dict.fromkeys(("dbinom", "tbinom", "binom"), "binom"),
    **dict.fromkeys(("leq", "leqslant", "leqq"), "le"),
    **dict.fromkeys(("geq", "geqslant", "geqq"), "ge"),
    "neq": "ne", "lt": "<", "gt": ">", "colon": ":", "ast": "*", "times": "*", "cdot": "*",
    "bullet": "*", "div": "/", "varnothing": "emptyset", "empty": "emptyset",
    **dict.fromkeys(("ldots", "cdots", "dotsc", "dotsb", "dotsm", "dotso", "hdots"), "dots"),
    **dict.fromkeys(("lvert", "rvert", "vert"), "|"),
    **dict.fromkeys(("lVert", "rVert", "Vert"), "||"),
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lparen": "(",
    "rparen": ")", "owns": "ni", "land": "and", "wedge": "and", "lor": "or", "vee": "or",
    "Rightarrow": "implies", "Longrightarrow": "implies", "rightarrow": "to",
    "longrightarrow": "to", "backslash": "setminus", "smallsetminus": "setminus", "lg": "log",
    "tg": "tan", "ctg": "cot", "arctg": "arctan", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi",
    "degree": "circ", "degrees": "circ", "euro": "€", "cent": "¢", "bigcup": "cup",
    "bigcap": "cap", "cr": "row", "imath": "i", "jmath": "j", "pounds": "£", "textdollar": "$",
    "textdegree": "circ", "sp": "^", "sb": "_", "reals": "mathbb R",
}  # fmt: skip
_MARKS = {"<", ">", ":", "*", "/", "|", "||", "\\{", "\\}", "[", "]", "(", ")", "€", "£", "$",
          "^", "_", "¢", "row"}  # fmt: skip
_IGNORED = set(
    "left right middle displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits strut"
    " mathstrut allowbreak nobreak big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr"
    " bigm mathbf boldsymbol bm mathit mathsf mathtt mathnormal boxed fbox underline ensuremath"
    " mathopen mathclose mathord mathop mathbin mathrel rm bf it sf tt normalfont pmb bold"
    " centering large Large LARGE huge Huge small tiny noindent nonumber notag framebox blacksquare"
    " square Box checkmark qed".split()
)
_SPACES = set("quad qquad enspace thinspace medspace thickspace space hfill newline".split())
_DROP_ONE = set("hspace vspace phantom hphantom vphantom color label tag kern hskip mspace".split())
_DROP_FIRST = {"textcolor", "colorbox"}
_TEXTS = set(
    "text textbf textit textrm textsf texttt textup textnormal textsc textmd mbox hbox mathrm"
    " operatorname emph".split()
)
_ENVIRONMENTS = set(
    "aligned align equation gathered gather split displaymath math center cases dcases".split()
)
_ACCENTS = set(
    "overline bar vec hat tilde dot ddot widehat widetilde overrightarrow mathcal mathbb mathfrak"
    " mathscr overleftrightarrow underbrace overbrace".split()
)
_FUNCTIONS = set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth log ln"
    " exp gcd lcm max min det Re Im arg sgn floor ceil".split()
)
_REPEATED = r"\.(?=\s*\\(?:overline|bar|dot)(?![a-z])|\([0-9]+\))"  # 0.\overline{3}, 0.(3)
_NUMBER = re.compile(rf"[0-9]+(?:\.[0-9]+|{_REPEATED})?|\.[0-9]+|{_REPEATED}")
_WORD = re.compile(r"[^\W\d_]+(?:[.'][^\W\d_]+)*")
_BRACED_COMMA = re.compile(r"\{(?:\s|~|\\[,;:! ])*,(?:\s|~|\\[,;:! ])*\}")
_LENGTH = re.compile(r"\s*(?:\{[^{}]*\}|-?[0-9.]+\s*(?:pt|em|ex|mu|cm|mm|in))")


def clean(text: str) -> str:
    """An answer in plain characters, without the marks that Markdown puts around it."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₋₊ₙ]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = "".join(map(_plain_character, text.translate(_TABLE)))
    text = _FRACTION.sub(r"\\frac{\1}{\2}", text).strip()
    text = _PRIMES.sub(lambda m: "'" * len(re.findall("prime|'", m[1])), text)
    text = _BOLD.sub(r"\1", text)
    for begin, end in (
        *((m, m) for m in ("**", "__", "`", "*", "_", '"')),
        ("``", "''"),
        ("'", "'"),
    ):
        while len(text) > len(begin + end) and text.startswith(begin) and text.endswith(end):
            text = text[len(begin) : -len(end)].strip()
    return text.replace("**", "^")


def _plain_character(c: str) -> str:
    """A character without its style; nothing for one that is not seen."""
    if c.isascii():
        return c
    if unicodedata.category(c) == "Cf":
        return ""
    styled = "\uff01" <= c <= "\uff5e" or "\U0001d400" <= c <= "\U0001d7ff"
    vulgar = "\u00bc" <= c <= "\u00be" or "\u2150" <= c <= "\u215e"
    return unicodedata.normalize("NFKC", c) if styled or vulgar else c


def scan(text: str, within: int = 0) -> list[Token]:
    """The tokens of an answer. Never raises; takes time in proportion to the text.

    Args:
        text: LaTeX without the box.
        within: so many text groups and accents; beyond 16 their content is one mark.
    """
    if within > NESTED:
        return [Token("mark", text)]
    tokens = _named_runs(_Scanner(clean(text), within).tokens)
    while tokens and tokens[-1].kind == "mark" and tokens[-1].text in (",", ";", ".", ":", "row"):
        tokens.pop()
    return tokens


class _Scanner:
    def __init__(self, text: str, within: int) -> None:
        self.text, self.at, self.tokens = text, 0, list[Token]()
        self._within = within
        self._gap, self._depth, self._aligned = False, 0, 0
        while self.at < len(text):
            self._one()

    def _add(self, kind: str, text: str) -> None:
        self.tokens.append(Token(kind, text, self._gap))
        self._gap = False

    def _one(self) -> None:
        c = self.text[self.at]
        if c == "\\":
            self._command()
        elif c.isspace() or c == "~":
            self._gap, self.at = True, self.at + 1
        elif c == "$":
            self.at += 1
        elif c == "&" and self._aligned:
            self._gap, self.at = True, self.at + 1
        elif match := _BRACED_COMMA.match(self.text, self.at):
            self._add("mark", ",")
            self.at = match.end()
        elif self.text.startswith("{}", self.at) and self._after_a_value():
            self.at += 2
        elif self.text.startswith("...", self.at):
            self._add("command", "dots")
            self.at += 3
        elif match := _NUMBER.match(self.text, self.at):
            self._add("number", match.group())
            self.at = match.end()
        else:
            ideograph = c.isalpha() and c >= "\u2e80"
            self._add("word" if ideograph else "letter" if c.isalpha() else "mark", c)
            self.at += 1

    def _after_a_value(self) -> bool:
        """Whether an empty group here is only there to end a command or a value."""
        last = self.tokens[-1] if self.tokens else None
        return last is not None and (last.kind in ("number", "letter", "word") or last.text == "}")

    def _group(self) -> str | None:
        """The text of the brace group that starts here, which is passed; None if none does."""
        start = self.at
        while start < len(self.text) and self.text[start].isspace():
            start += 1
        if not self.text.startswith("{", start):
            return None
        depth, i = 0, start
        while i < len(self.text):
            c = self.text[i]
            if c == "\\":
                i += 1
            elif c in "{}":
                depth += 1 if c == "{" else -1
                if depth == 0:
                    self.at = i + 1
                    return self.text[start + 1 : i]
            i += 1
        return None

    def _group_or_one(self) -> str | None:
        """`_group`, or the one digit or letter that stands here."""
        inner = self._group()
        rest = self.text[self.at :].lstrip()
        if inner is None and rest[:1].isalnum():
            inner = rest[0]
            self.at = len(self.text) - len(rest) + 1
        return inner

    def _option(self) -> None:
        """Pass what stands in square brackets behind a command: [2pt], [r]."""
        match = re.compile(r"\s*\[(?:[a-z|]*|-?[0-9.]+[a-z]+)\]").match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def _command(self) -> None:
        match = re.compile(r"\\([a-zA-Z]+)\*?").match(self.text, self.at)
        if match is None:
            self._symbol()
            return
        name, self.at = match[1], match.end()
        if name in _IGNORED:
            if name in ("left", "right") and self.text.startswith(".", self.at):
                self.at += 1
        elif name in _SPACES:
            self._gap = True
        elif name in _DROP_ONE:
            if (dropped := _LENGTH.match(self.text, self.at)) is not None:
                self.at = dropped.end()
            self._gap = True
        elif name in _DROP_FIRST:
            self._group()
        elif name in _TEXTS:
            self._words(self._group(), name)
        elif name in ("begin", "end"):
            environment = (self._group() or "").strip().removesuffix("*")
            if name == "begin":
                self._option()
            if environment in _ENVIRONMENTS:
                self._gap = True
                self._aligned += 1 if name == "begin" else -1
                return
            if environment == "array" and name == "begin":
                self._group()
            self._depth += 1 if name == "begin" else -1
            self._add(name, environment)
        elif name == "not":
            self._add("command", "not")
        elif name in ("bmod", "pmod", "mod", "pod"):
            self._add("command", "mod")
        else:
            self._named(_ALIASES.get(name, name))

    def _named(self, name: str) -> None:
        if name in _MARKS:
            self._add("mark", name)
        elif name in ("and", "or"):
            self._add("word", name)
        elif name == "i" or name == "j":
            self._add("letter", name)
        elif name in _ACCENTS and (inner := self._group_or_one()) is not None:
            accent = "overline" if name == "bar" else name
            self._add("command", f"{accent} {spelled(scan(inner, self._within + 1))}")
        elif (split := _run_together(name)) is not None:
            self._add("command", split)
            for c in name[len(split) :]:
                self._add("letter", c)
        else:
            self._add("command", name)

    def _symbol(self) -> None:
        c = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if c in ("", ",", ";", ":", ">", " ", "/", "\n", "\t", "-"):
            self._gap = True
        elif c == "\\":
            named = re.compile(r"[a-zA-Z]{2,}").match(self.text, self.at)
            if named and not self._depth and not self._aligned:  # a backslash too many
                self.at -= 1
            else:
                self._option()
                self._add("mark", "row" if self._depth else ",")
        elif c in "{}":
            self._add("mark", "\\" + c)
        elif c == "|":
            self._add("mark", "||")
        elif c in "$%#&_":
            self._add("mark", c)
        elif c in "!()[]":
            pass
        else:
            self._add("mark", c)

    def _words(self, inner: str | None, wrapper: str) -> None:
        """What a text group says: words, numbers, marks; mathematics in it is read as such."""
        if inner is None:
            return
        if not inner.strip():
            self._gap = True
            return
        name = inner.strip()
        applied = self.text.startswith(("(", "_", "\\{"), self.at)
        operator = wrapper in ("operatorname", "mathrm") and name not in ("min", "sec")
        if name in _FUNCTIONS and (operator or applied):
            self._named(_ALIASES.get(name, name))
            return
        if "\\" in inner or "^" in inner or "_" in inner or "$" in inner:
            rest = scan(inner, self._within + 1)
            self.tokens += [t._replace(gap=t.gap or (self._gap and i == 0)) for i, t in
                            enumerate(_as_words(rest))]  # fmt: skip
            self._gap = False
            return
        i = 0
        while i < len(inner):
            if inner[i].isspace() or inner[i] == "~":
                self._gap, i = True, i + 1
            elif match := _NUMBER.match(inner, i):
                self._add("number", match.group())
                i = match.end()
            elif match := _WORD.match(inner, i):
                word = match.group()
                self._add("letter" if word in ("e", "i") else "word", word)
                i = match.end()
            else:
                self._add("mark", inner[i])
                i += 1


def _run_together(name: str) -> str | None:
    """A known command that a letter was written right behind: `\\pir`, `\\thetax`."""
    for known in ("pi", "theta", "alpha", "beta"):
        if name.startswith(known) and name not in (known, "pitchfork"):
            return known
    return None


_PLAIN = set(
    "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp sqrt pi theta alpha"
    " beta omega infinity infty".split()
)


def _named_runs(tokens: list[Token]) -> list[Token]:
    """Names of functions and letters in plain text, sqrt(2) and 2pi, as the commands they mean."""
    made: list[Token] = []
    i = 0
    while i < len(tokens):
        end = i
        while (
            end < len(tokens) and tokens[end].kind == "letter" and (end == i or not tokens[end].gap)
        ):
            end += 1
        run = "".join(t.text for t in tokens[i:end])
        if run in _PLAIN and len(run) > 1:
            made.append(Token("command", "infty" if run == "infinity" else run, tokens[i].gap))
        elif run == "x" and _between_numbers(tokens, i):
            made.append(Token("mark", "*"))  # 3 x 10^8
        else:
            made += tokens[i : max(end, i + 1)]
        i = max(end, i + 1)
    return made


def _between_numbers(tokens: Sequence[Token], at: int) -> bool:
    before, after = tokens[at - 1] if at else None, tokens[at + 1] if at + 1 < len(tokens) else None
    apart = tokens[at].gap and after is not None and after.gap
    return bool(before and after and apart and before.kind == after.kind == "number")


def _as_words(tokens: Iterable[Token]) -> list[Token]:
    """Letters that stand together in a text group make words."""
    made: list[Token] = []
    for t in tokens:
        last = made[-1] if made else None
        if t.kind != "letter":
            made.append(t)
        elif last is not None and last.kind == "word" and not t.gap:
            made[-1] = last._replace(text=last.text + t.text)
        else:
            made.append(t._replace(kind="word"))
    return [t._replace(kind="letter") if t.text in ("e", "i") else t for t in made]


def spelled(tokens: Sequence[Token]) -> str:
    """One text for answers that are written alike, but for what only typesets."""
    out: list[str] = []
    for i, t in enumerate(tokens):
        before = tokens[i - 1].kind if i else ""
        if {t.kind, before} <= {"number", "word"} and (t.gap or not t.kind == before == "word"):
            out.append(" ")
        out.append(f"\\{t.text} " if t.kind == "command" else t.text)
    return re.sub(r"\{([0-9A-Za-z])\}(?![0-9A-Za-z])", r"\1", "".join(out)).strip()


_GROUPED = re.compile(r"[0-9]{1,3}")


def grouped(tokens: Sequence[Token], *, commas: bool = True) -> list[Token]:
    """Numbers with their thousands separators taken out.

    Groups of three may be set apart by a thin space, an apostrophe or, where `commas` says so and
    no bracket makes a list of them, a comma with nothing behind it.
    """
    made: list[Token] = []
    stack: list[tuple[str, int]] = []
    i = 0
    while i < len(tokens):
        t = tokens[i]
        if t.kind == "mark" and t.text in ("(", "[", "\\{", "{"):
            stack.append((t.text, i))
        elif t.kind == "mark" and t.text in (")", "]", "\\}", "}") and stack:
            stack.pop()
        if t.kind == "number" and _GROUPED.fullmatch(t.text):
            for mark in ("", "'", ","):
                if mark == "," and (not commas or _makes_a_list(tokens, i, stack)):
                    continue
                end = _group_end(tokens, i, mark)
                if end > i + 1:
                    digits = "".join(n.text for n in tokens[i:end] if n.kind == "number")
                    made.append(Token("number", digits, t.gap))
                    i = end
                    break
            else:
                made.append(t)
                i += 1
        else:
            made.append(t)
            i += 1
    return made


def _group_end(tokens: Sequence[Token], start: int, mark: str) -> int:
    """Behind the last group of three digits; groups are set apart by one mark throughout."""
    i, step = start + 1, 2 if mark else 1
    while i + step - 1 < len(tokens):
        number = tokens[i + step - 1]
        if mark and (tokens[i].text != mark or tokens[i].gap or number.gap):
            break
        whole, point, _ = number.text.partition(".")
        if number.kind != "number" or len(whole) != 3 or (not mark and not number.gap):
            break
        i += step
        if point:
            break
    following = tokens[i] if i < len(tokens) else None
    if following is not None and not mark and following.text in ("/",):
        return start + 1  # 1 500/3: who knows
    if following is not None and following.kind == "number" and (following.gap or mark):
        return start + 1
    if mark == "," and following is not None and following.text == "," and not following.gap:
        after = tokens[i + 1] if i + 1 < len(tokens) else None
        if after is not None and after.kind == "number" and not after.gap:
            return start + 1  # 1,000,2: a list
    return i


def _makes_a_list(tokens: Sequence[Token], at: int, stack: list[tuple[str, int]]) -> bool:
    """Whether commas right here separate items: in (1,200), and not in (1,200, 5)."""
    if not stack or stack[-1][0] == "{":
        return False
    begin, end = stack[-1][1] + 1, _group_end(tokens, at, ",")
    closing = end < len(tokens) and tokens[end].text in (")", "]", "\\}")
    signed = at == begin or (at == begin + 1 and tokens[begin].text in ("-", "+"))
    return signed and closing
