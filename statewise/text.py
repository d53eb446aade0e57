"""Text on either side of the model: tokenizers, the chat form, and what an answer is made of.

The chat form is the published models' (`PromptCoT_Mamba` data files, field `prompt`): ChatML, no
system turn, and a think block that the prompt opens and the model closes. So a completion starts
inside the thinking:

    reasoning </think> visible answer <end of sequence>

Models that were trained on another form are asked in theirs (`PromptConfig`).
"""

from __future__ import annotations

import ast
import bisect
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

from statewise.errors import ConfigError, DataError
from statewise.records import json_bytes, read_json, read_text, write_atomically

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
EOS = "<|endoftext|>"
ENCODED_AT_ONCE = 1_000
SPECIAL_TOKENS = (EOS, IM_START, IM_END, THINK, END_THINK)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

INSTRUCTIONS = {
    "math": r"Please reason step by step, and put your final answer within \boxed{}.",
    "code": "Write a Python program that reads standard input and prints the answer; "
    "put it in one fenced python block.",
    "function": "Write the whole function or class in Python, with the imports it needs; put it in "
    "one fenced python block.",
}


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def eos_id(self) -> int:
        """The id that ends a document in training, and a completion."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every id that ends a completion: `eos_id` first, then what else the model ends with."""
        ...

    @property
    def vocab_size(self) -> int:
        """How many ids there are: every id is below it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; the special tokens in it count as one token each."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens included."""
        ...

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and what else a loader needs into a folder."""
        ...


class BPETokenizer:
    """A Rust `tokenizers` tokenizer: trained here on a corpus, or loaded from `tokenizer.json`.

    It reads and writes characters; half a surrogate pair is none, and is read as U+FFFD.

    Args:
        inner: the tokenizer.
        eos: the token that ends a document.
        ends: ids that end a completion too.

    Raises:
        DataError: the tokenizer has no such token.
    """

    def __init__(self, inner: RustTokenizer, eos: str = EOS, ends: Iterable[int] = ()) -> None:
        eos_id = inner.token_to_id(_characters(eos))
        if eos_id is None:
            raise DataError(f"tokenizer: no end-of-sequence token {eos!r} in its vocabulary")
        self._inner = inner
        self.eos_id: int = eos_id
        self.end_ids: tuple[int, ...] = (eos_id, *sorted(set(ends) - {eos_id}))
        self.eos = eos

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> BPETokenizer:
        """A byte-level BPE of at most `vocab_size` entries, every digit a token of its own.

        Digits stand alone so that arithmetic sees place values and not accidents of merging.
        """
        inner = RustTokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.Split(Regex(r" ?\p{L}+|\d| ?[^\s\p{L}\d]|\s"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(map(_characters, texts), trainer)
        return cls(inner)

    @classmethod
    def load(
        cls, folder: Path, eos: str | None = None, *, model: Path | None = None
    ) -> BPETokenizer:
        """Load `tokenizer.json` (ours, or a published model's) from a folder.

        Truncation and padding that are stored in it are switched off, with a warning: they would
        cut prompts.

        Args:
            folder: where the file lies.
            eos: the end-of-sequence token; by default from `tokenizer_config.json`, else ours.
            model: the folder of the model, by default the same: what its `generation_config.json`
                names as ends, or its `config.json` as a list, ends a completion too.

        Raises:
            DataError: a file is missing or not a tokenizer's, or there is no such token.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise DataError(f"{path}: no such file; a model folder needs its tokenizer beside it")
        try:
            inner = RustTokenizer.from_str(read_text(path))
        except DataError:
            raise
        except Exception as e:  # the Rust library raises bare Exception
            raise DataError(f"{path}: not a tokenizer file ({e})") from None
        for stored, off in (
            (inner.truncation, inner.no_truncation),
            (inner.padding, inner.no_padding),
        ):
            if stored is not None:
                told = off.__name__.removeprefix("no_")
                warnings.warn(
                    f"{path}: has {told} stored in it, which is switched off", stacklevel=2
                )
                off()
        settings = folder / "tokenizer_config.json"
        if eos is None and settings.is_file():
            token = read_json(settings).get("eos_token", EOS)
            eos = token.get("content") if isinstance(token, dict) else token
        if not isinstance(eos, str | None):
            raise DataError(f"{settings}: eos_token: expected a text, found {eos!r}")
        ends = _end_ids(model or folder)
        try:
            return cls(inner, eos or EOS, ends)
        except DataError as e:
            raise DataError(f"{path}: {e}") from None

    @property
    def vocab_size(self) -> int:
        """How many ids there are, added tokens included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids; nothing is put before or after them."""
        return self._inner.encode(_characters(text), add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        batch: list[list[int]] = []
        for i in range(0, len(texts), ENCODED_AT_ONCE):  # an encoding is far larger than its ids
            part = self._inner.encode_batch(
                [_characters(text) for text in texts[i : i + ENCODED_AT_ONCE]],
                add_special_tokens=False,
            )
            batch += [encoding.ids for encoding in part]
        return batch

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens spelled out."""
        return self._inner.decode(ids, skip_special_tokens=False)

    @property
    def fingerprint(self) -> str:
        """A hash of all that makes ids of texts."""
        return hashlib.sha256(f"{self._inner.to_str()}{self.eos}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and a `tokenizer_config.json` that `transformers` understands.

        Several ends of a completion go into a `generation_config.json`, as it has them.
        """
        import json

        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.eos}
        write_atomically(folder / "tokenizer.json", self._inner.to_str().encode())
        write_atomically(folder / "tokenizer_config.json", json.dumps(settings).encode())
        if len(self.end_ids) > 1:
            ends = json_bytes({"eos_token_id": list(self.end_ids)}, indent=2)
            write_atomically(folder / _GENERATION, ends)


_GENERATION = "generation_config.json"


def _end_ids(folder: Path) -> list[int]:
    """The ids that a model's folder names as ends of a completion, but for those that are a guess.

    A single id in `config.json`, and its copy in a `generation_config.json` that was made from it,
    is none to rely on: published ones name another token than their tokenizer does.

    Raises:
        DataError: a file is not JSON, or what it names is no id.
    """
    ids: list[int] = []
    for name in ("config.json", _GENERATION):
        path = folder / name
        if not path.is_file():
            continue
        stored = read_json(path)
        named = stored.get("eos_token_id")
        guessed = name != _GENERATION or stored.get("_from_model_config") is True
        each = named if isinstance(named, list) else [] if named is None else [named]
        if not all(type(i) is int and i >= 0 for i in each):
            raise DataError(
                f"{path}: eos_token_id: expected an id or a list of ids, found {named!r}"
            )
        if isinstance(named, list) or not guessed:
            ids += each
    return ids


_SURROGATE = re.compile("[\ud800-\udfff]")


def _characters(text: str) -> str:
    """The text with U+FFFD for what is no character: tokenizers know only those."""
    return _SURROGATE.sub("\ufffd", text)


class MissingTokenizer:
    """What stands for a tokenizer where weights lie without one: every use of it is the error.

    Args:
        folder: where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _error(self) -> DataError:
        return DataError(
            f"{self._folder / 'tokenizer.json'}: no such file; the model gives logits without it, "
            "but text needs its tokenizer beside it"
        )

    @property
    def eos_id(self) -> int:
        """Raises `DataError`, as everything here."""
        raise self._error()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Raises `DataError`."""
        raise self._error()

    @property
    def vocab_size(self) -> int:
        """Raises `DataError`."""
        raise self._error()

    def encode(self, text: str) -> list[int]:
        """Raises `DataError`."""
        raise self._error()

    def decode(self, ids: list[int]) -> str:
        """Raises `DataError`."""
        raise self._error()

    def save(self, folder: Path) -> None:
        """Raises `DataError`."""
        raise self._error()


MESSAGE = "{message}"
FORMS = {
    "think": f"{IM_START}user\n{MESSAGE}{IM_END}\n{IM_START}assistant\n{THINK}\n",
    "plain": f"{IM_START}user\n{MESSAGE}{IM_END}\n{IM_START}assistant\n",
}


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """How a model is asked.

    Attributes:
        form: "think" is ChatML with the think block opened, as the published models were trained;
            "plain" is ChatML that leaves the whole answer to the model; "own" is `template`.
        template: of "own": the whole prompt, with {message} where the problem goes. If it ends in
            `<think>`, answers are read as those of "think".
        math, code, function: the sentence after a problem; "{}" in it is just that.
    """

    form: Literal["think", "plain", "own"] = "think"
    template: str = ""
    math: str = INSTRUCTIONS["math"]
    code: str = INSTRUCTIONS["code"]
    function: str = INSTRUCTIONS["function"]

    def __post_init__(self) -> None:
        """Refuse a template that holds no problem. Raises `ConfigError` naming the key."""
        if (self.form == "own") != bool(self.template):
            raise ConfigError('template: belongs to form = "own", and that form needs it')
        if self.template and self.template.count(MESSAGE) != 1:
            raise ConfigError(f"template: must have {MESSAGE} once, where the problem goes")

    @property
    def opens_thinking(self) -> bool:
        """Whether a completion starts inside the thinking."""
        return (self.template or FORMS[self.form]).rstrip().endswith(THINK)

    def render(self, statement: str, kind: str, *, instructed: bool = False) -> str:
        """The prompt for a problem.

        Args:
            statement: the problem.
            kind: "math" asks for a `\\boxed{}`, "code" for a fenced Python program, "function" for
                one that defines something.
            instructed: the statement says that itself.
        """
        sentence = {"math": self.math, "code": self.code, "function": self.function}[kind]
        message = statement if instructed else f"{statement}\n{sentence}"
        return (self.template or FORMS[self.form]).replace(MESSAGE, message)


PUBLISHED_PROMPT = PromptConfig()


def chat_prompt(statement: str, kind: str = "math") -> str:
    """The prompt of the published models: `PromptConfig.render` of the form "think"."""
    return PUBLISHED_PROMPT.render(statement, kind)


def as_opened(completion: str) -> str:
    """A completion of a prompt that opened no think block, as if its prompt had.

    What has no think block is all answer.
    """
    return completion if THINK in completion else f"{END_THINK}\n{completion}"


def with_think(completion: str) -> str:
    """The text, stripped, with the think tag that its prompt already has."""
    text = completion.strip()
    return text if text.startswith(THINK) else f"{THINK}\n{text}"


def well_formed(text: str) -> bool:
    """The published rule: one think block, at the start, not empty, and something after it."""
    match = re.fullmatch(rf"{THINK}(.*?){END_THINK}(.+)", text.strip(), re.DOTALL)
    if match is None:
        return False
    inside, after = match.groups()
    again = any(tag in part for tag in (THINK, END_THINK) for part in (inside, after))
    return bool(inside.strip()) and not again


class Answer(NamedTuple):
    """A completion taken apart. `visible` is None when the thinking was never closed."""

    thinking: str
    visible: str | None


def split_thinking(completion: str) -> Answer:
    """Split a completion at the end of its thinking.

    The prompt opened the think block, so text before the last `</think>` is thinking; an explicit
    `<think>` at the start is accepted too.
    """
    body = completion.removeprefix(THINK) if completion.startswith(THINK) else completion
    thinking, closed, visible = body.rpartition(END_THINK)
    if not closed:
        return Answer(body, None)
    return Answer(thinking.strip(), visible.strip())


_BRACES = re.compile(
    r"\\(?:boxed|fbox)\s*\{|\\(?:boxed|fbox)(?![A-Za-z{])\s*[0-9+-]"
    r"|\\(?!\\(?:boxed|fbox)(?:\s*\{|\s*[0-9+-])).|[{}]",
    re.S,
)
_BARE_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,/][0-9]+)*")  # \boxed 42
_GOES_ON = re.compile(r"[\w^\\(\[{!%/*+-]")  # what makes more of a number than TeX would box
_SEPARATED = (
    r"(?:,|;|&|\\q?quad|\band\b|\bor\b|\\(?:text|mbox|mathrm)\s*\{[\s,]*(?:and|or)[\s,]*\})"
)
# What stands between two boxes that are one answer: a comma, "and", "or"; a name before the next.
_JOINT = re.compile(
    rf"[\s$*]*{_SEPARATED}(?:[\s$*]|\\[,;]|{_SEPARATED})*(?:[A-Za-z](?:_\w)?\s*=)?[\s$*]*"
)
_NAME = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\w)?)\s*=[\s$]*$")
BOXES, BETWEEN = 32, 200  # boxes of one answer, characters between two of them


class _Box(NamedTuple):
    """A box: its command and its content begin and end here; `end` None: it is cut off."""

    command: int
    start: int
    end: int | None
    after: int


def _boxes(text: str) -> list[_Box]:
    """All boxes that stand in no other, in the order in which they begin; linear time."""
    open_braces: list[_Box | None] = []  # None for other braces
    found: list[_Box] = []
    at = 0
    while match := _BRACES.search(text, at):
        token, at = match.group(), match.end()
        if token == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None:
                found.append(box._replace(end=match.start(), after=match.end()))
        elif token == "{":
            open_braces.append(None)
        elif token.endswith("{") and token != "\\{":
            open_braces.append(_Box(match.start(), match.end(), None, match.end()))
        elif token[-1] in "0123456789+-" and len(token) > 2:
            number = _BARE_NUMBER.match(text, match.end() - 1)
            if number is not None and _GOES_ON.match(text, number.end()):
                number = None
            end = number.end() if number is not None else None
            found.append(_Box(match.start(), match.end() - 1, end, end or match.end()))
            at = end or at
    found += [box for box in open_braces if box is not None]
    outermost: list[_Box] = []
    for box in sorted(found):
        within = outermost and (outermost[-1].end is None or box.command < outermost[-1].after)
        if not within:
            outermost.append(box)
    return outermost


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` (or `\\fbox`, or `\\boxed` before a number).

    Returns:
        The stripped content; None if there is none, or the last one is empty or never closed.
    """
    boxes = _boxes(text)
    if not boxes or boxes[-1].end is None:
        return None
    return text[boxes[-1].start : boxes[-1].end].strip() or None


def boxed_answer(text: str) -> str | None:
    """The last box, with those before it that a comma, "and" or "or" joins to it.

    Returns:
        The contents, each once and with its name if one stands before its box ("x = "), with ", "
        between them; None as of `last_boxed`.
    """
    last = last_boxed(text)
    if last is None:
        return None
    boxes = _boxes(text)[-BOXES:]
    joined = [boxes.pop()]
    while boxes and _joined(text, boxes[-1].after, joined[-1].command):
        joined.append(boxes.pop())
    return last if len(joined) < 2 else ", ".join(_contents(text, joined[::-1]))


def _joined(text: str, start: int, end: int) -> bool:
    return end - start <= BETWEEN and _JOINT.fullmatch(text, start, end) is not None


def boxes_of_last_sentence(text: str) -> list[str]:
    """The contents of all boxes in the sentence that holds the last one; none if that is cut off.

    "The least is \\boxed{3} and the greatest \\boxed{4}" answers a question that has two answers.
    """
    if last_boxed(text) is None:
        return []
    boxes = _boxes(text)[-BOXES:]
    joined = [boxes.pop()]
    while boxes and not re.search(r"[.!?]\s|\n", text[boxes[-1].after : joined[-1].command]):
        joined.append(boxes.pop())
    return _contents(text, joined[::-1])


def _contents(text: str, boxes: list[_Box]) -> list[str]:
    """What stands in boxes, each once, with its name if one stands before the box."""
    parts = []
    for box in boxes:
        name = _NAME.search(text, max(0, box.command - 20), box.command)
        content = text[box.start : box.end].strip()
        parts.append(f"{name[1]}={content}" if name and content else content)
    return list(dict.fromkeys(p for p in parts if p))


# A line that begins with a fence: white space or quotation marks, marks of list items, the fence,
# what follows.
_FENCE = re.compile(r"([ \t>]*)((?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(`{3,}|~{3,})(.*)")
_LATE_FENCE = re.compile(r"([^`#]*[^\s`#][ \t]*)(`{3,})([ \t]*[^\s`]*[ \t]*)")  # "So: ```python"
_ONE_LINE = re.compile(r"[ \t]*[^\s`]+[ \t]([^`]+)`{3,}[ \t]*")  # behind an opening fence
_LANGUAGE = re.compile(r"[\s{\[.]*([^\s:,;={}\]]*)")
_PYTHON = re.compile(r"(?:lang(?:uage)?-)?(?:[ic]?python|py|pypy)(?:[-_]?\d[\w.-]*)?|[\w-]+\.py")
_NO_LANGUAGE = ("code", "none", "plain", "plaintext", "program", "solution", "text", "txt")
_QUOTES = re.compile(r"""\\.|#|\"{3}|'{3}|["']""")
_STRINGS_TRIED = 8


class _Fence(NamedTuple):
    """A fence: its line's number, the white space before it, its characters, what follows.

    Or one late in its line, behind words or code.
    """

    line: int
    indent: str
    marks: str
    info: str
    behind: str = ""

    @property
    def language(self) -> str:
        """The first word behind it, in lower case; what is Python by any name is "python"."""
        match = _LANGUAGE.match(self.info)
        word = match[1].lower() if match else ""
        return "python" if _PYTHON.fullmatch(word) else word

    def closes(self, opening: _Fence) -> bool:
        """Whether it may end the block of another."""
        return self.marks.startswith(opening.marks)


def last_code_block(text: str) -> str | None:
    """The last complete fenced block; blocks marked python win over unmarked ones.

    Fences are CommonMark's: three or more backticks or tildes, in a list item or a quotation too,
    whose indentation or marks the block loses. Models write more, and these count: an opening at
    the end of a line of words, a closing at the end of a line of code or with words behind it, a
    block in one line, and, where no other follows, a closing shorter than the opening. A fence
    inside a string of three quotes ends no block that is Python with it. A block that is never
    closed is none. Takes linear time.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    fences = [f for n, line in enumerate(lines) if (f := _fence(n, line))]
    last: dict[str, str] = {}  # by language
    at = tries = 0
    while at < len(lines):
        opening, at = _fence(at, lines[at]), at + 1
        if opening is None or opening.language in ("markdown", "md"):
            continue
        if "`" in opening.info:
            if opening.language == "python" and (whole := _ONE_LINE.fullmatch(opening.info)):
                last["python"] = whole[1].strip() + "\n"
            continue
        place = bisect.bisect_left(fences, at, key=lambda f: f.line)
        closing = _closing(opening, fences, place)
        if closing is None:
            continue
        if tries < _STRINGS_TRIED and _open_quote([*lines[at : closing.line], closing.behind]):
            tries += 1
            closing = _closing_outside_strings(lines, opening, fences, place) or closing
        last[opening.language] = _content(lines, opening, closing)
        at = closing.line + (not _opens_again(closing))
    for language in ("python", "", *_NO_LANGUAGE):
        if language in last:
            return last[language]
    return None


def _fence(number: int, line: str) -> _Fence | None:
    if match := _FENCE.fullmatch(line):
        indent, items, marks, info = match.groups()
        return _Fence(number, indent + " " * len(items), marks, info)
    if late := _LATE_FENCE.fullmatch(line):
        behind, marks, info = late.groups()
        fence = _Fence(number, "", marks, info, behind)
        return fence if fence.language in ("", "python") else None
    return None


def _closing(opening: _Fence, fences: list[_Fence], place: int) -> _Fence | None:
    """The first fence from a place on that ends a block; of shorter ones, if there is no other."""
    shorter = None
    for i in range(place, len(fences)):
        if fences[i].closes(opening):
            return fences[i]
        if shorter is None and fences[i].marks[0] == opening.marks[0]:
            shorter = fences[i]
    return shorter


def _closing_outside_strings(
    lines: list[str], opening: _Fence, fences: list[_Fence], place: int
) -> _Fence | None:
    """The first fence that ends a block and is in no string of it, if the block is Python then."""
    quote, at = "", opening.line + 1
    for fence in fences[place:]:
        quote, at = _open_quote(lines[at : fence.line], quote), fence.line
        if fence.closes(opening) and not _open_quote([fence.behind], quote):
            try:
                ast.parse(_content(lines, opening, fence))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return None
            return fence
    return None


def _open_quote(lines: list[str], quote: str = "") -> str:
    """Which three quotes are open after lines of Python that began with these open, or none."""
    for line in lines:
        if not quote and '"""' not in line and "'''" not in line:
            continue
        for token in _QUOTES.findall(line):
            if not quote:
                if token == "#":
                    break
                quote = token if token[0] in "\"'" else ""
            elif token == quote or (len(quote) == 1 and token[0] == quote):
                quote = ""
        quote = quote if len(quote) == 3 else ""
    return quote


def _opens_again(closing: _Fence) -> bool:
    """Whether what ends a block opens the next: its end was forgotten."""
    return closing.language == "python" or bool(re.fullmatch(r"[A-Za-z][\w+#-]*", closing.info))


def _content(lines: list[str], opening: _Fence, closing: _Fence) -> str:
    """What stands between two fences, without the indentation of both."""
    body = lines[opening.line + 1 : closing.line] + ([closing.behind] if closing.behind else [])
    indent = opening.indent
    if opening.behind or opening.line == 0:  # white space before it is not told, or was stripped
        indent = indent or closing.indent
    if all(line.startswith(indent) or line.strip() == indent.strip() for line in body):
        body = [line[len(indent) :] for line in body]
    else:
        body = [re.sub(rf"^[ \t]{{0,{len(opening.indent)}}}", "", line) for line in body]
    return "".join(line + "\n" for line in body)


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Which tokenizer a run uses.

    Attributes:
        kind: "bpe" is trained on the run's own corpus; "pretrained" is loaded from `path`.
        vocab_size: entries of the trained tokenizer; the model's vocabulary.
        path: folder with `tokenizer.json`, for "pretrained".
    """

    kind: Literal["bpe", "pretrained"] = "bpe"
    vocab_size: int = 2048
    path: str = ""

    def __post_init__(self) -> None:
        """Refuse a tokenizer that cannot be had. Raises `ConfigError` naming the key."""
        if self.kind == "pretrained" and not self.path:
            raise ConfigError('path: kind = "pretrained" needs the folder of tokenizer.json')
        if self.kind == "bpe" and self.vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"vocab_size: every byte and special token is an entry: at least "
                f"{SMALLEST_VOCABULARY}, found {self.vocab_size}"
            )


def words(text: str) -> Iterator[str]:
    """Lower-case words, numbers and signs of a text: the tokens that likeness is measured on."""
    return iter(_WORD.findall(text.lower()))


_WORD = re.compile(r"\d+|[a-z]+|[^\sa-z\d]")
