"""Text on either side of the model: tokenizers, the chat form, and what an answer is made of.

The chat form is the published models' (`PromptCoT_Mamba` data files, field `prompt`): ChatML, no
system turn, and a think block that the prompt opens and the model closes. So a completion starts
inside the thinking:

    reasoning </think> visible answer <end of sequence>

Models that were trained on another form are asked in theirs (`PromptConfig`).
"""

from __future__ import annotations

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


_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\(?!\\(?:boxed|fbox)\s*\{).|[{}]", re.S)


def last_boxed(text: str) -> str | None:
    """The content of the last complete `\\boxed{...}` (or `\\fbox`), braces matched; linear time.

    Returns:
        The stripped content; None if there is no complete box or the last one is empty.
    """
    open_braces: list[int | None] = []  # where a box's content begins; None for other braces
    last: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and (last is None or start > last[0]):
                last = (start, match.start())
        elif token == "{":
            open_braces.append(None)
        elif token.endswith("{") and token != "\\{":
            open_braces.append(match.end())
    return text[slice(*last)].strip() or None if last else None


_OPEN_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+-]*).*")
_CLOSE_FENCE = re.compile(r"[ \t]*```[ \t]*")


def last_code_block(text: str) -> str | None:
    """The last complete fenced block; blocks marked python win over unmarked ones."""
    marked: str | None = None
    unmarked: str | None = None
    language: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        if language is None:
            opening = _OPEN_FENCE.fullmatch(line)
            if opening:
                language, lines = opening.group(1).lower(), []
        elif not _CLOSE_FENCE.fullmatch(line):
            lines.append(line + "\n")
        else:
            if language in ("python", "python3", "py"):
                marked = "".join(lines)
            elif not language:
                unmarked = "".join(lines)
            language = None
    return unmarked if marked is None else marked


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
