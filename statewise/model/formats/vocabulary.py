"""A tokenizer as llama.cpp knows it, and back.

llama.cpp cuts text into words by rules it has compiled in, each with a name. A tokenizer whose rule
is not among them, or that is no BPE, is carried along whole but cannot be used there: the file then
says that it has no vocabulary, and llama.cpp takes token ids only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gguf
from gguf import TokenType
from tokenizers import Tokenizer

from statewise.errors import CheckpointError, DataError
from statewise.records import read_text, write_atomically, write_json

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_OURS = r" ?\p{L}+|\d| ?[^\s\p{L}\d]|\s"  # `statewise.text.BPETokenizer.train`
# Ours cuts finer than "bloom"; where only "bloom" does not cut, there is nothing to merge, since
# the merges were learnt within the finer pieces.
_RULES = {
    ("words and bytes",): "gpt-2",
    ("digits", "words and bytes"): "starcoder",
    ("digits", _OURS, "bytes"): "bloom",
    (_QWEN2, "bytes"): "qwen2",
    (_LLAMA3, "bytes"): "llama-bpe",
}
_TOKENIZER, _SETTINGS, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class Carried(NamedTuple):
    """A tokenizer as checkpoints have it beside the weights.

    Attributes:
        tokenizer: text of `tokenizer.json`, if there is one.
        template: text of `chat_template.jinja`, if there is one.
        eos_id: the end of sequence, if it is known.
    """

    tokenizer: str | None
    template: str | None
    eos_id: int | None


def of_folder(folder: Path, eos_id: int | None) -> Carried:
    """What lies in a checkpoint folder. Raises `CheckpointError` if it is no text."""
    paths = (folder / _TOKENIZER, folder / _TEMPLATE)
    try:
        texts = [read_text(p) if p.is_file() else None for p in paths]
    except DataError as e:
        raise CheckpointError(str(e)) from None
    return Carried(texts[0], texts[1], eos_id)


def of_header(field: Callable[[str], Any]) -> Carried:
    """What a GGUF file carries whole; `field` gives a value of its header or None."""
    texts = [field("tokenizer.huggingface.json"), field("tokenizer.chat_template")]
    contents = [text if isinstance(text, str) else None for text in texts]
    eos_id = field("tokenizer.ggml.eos_token_id")
    return Carried(contents[0], contents[1], eos_id if isinstance(eos_id, int) else None)


def is_understood(carried: Carried) -> bool:
    """Whether llama.cpp can read text with this tokenizer."""
    return _kind(_stored(carried)) != "no_vocab"


def add_vocabulary(writer: gguf.GGUFWriter, carried: Carried, vocab_size: int) -> None:
    """Put a tokenizer into the header of a file.

    Args:
        writer: of the file.
        carried: the tokenizer.
        vocab_size: of the model: ids beyond the tokenizer's become unused tokens.

    Raises:
        CheckpointError: it is no tokenizer, or has an id that the model does not.
    """
    stored = _stored(carried)
    kind = _kind(stored)
    writer.add_tokenizer_model(kind)
    if carried.tokenizer is not None:
        writer.add_string("tokenizer.huggingface.json", carried.tokenizer)
    if carried.template is not None:
        writer.add_chat_template(carried.template)
    if carried.eos_id is not None:
        writer.add_eos_token_id(carried.eos_id)
    if kind == "no_vocab":
        return
    inner = stored["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in inner["merges"]]
    added = stored["added_tokens"]
    last = max([*inner["vocab"].values(), *(token["id"] for token in added)], default=0)
    if last >= vocab_size:
        raise CheckpointError(
            f"{_TOKENIZER}: has the id {last}, the model's vocab_size is {vocab_size}; they do not "
            "belong together"
        )
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for token, i in inner["vocab"].items():
        byte = kind == "llama" and token.startswith("<0x") and len(token) == 6
        tokens[i], types[i] = token, TokenType.BYTE if byte else TokenType.NORMAL
    for token in added:
        i = token["id"]
        tokens[i] = token["content"]
        types[i] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_tokenizer_pre(_RULES[_rule(stored)])
        writer.add_token_merges([" ".join(pair) for pair in merges])
    else:
        ranks = {a + b: -float(i) for i, (a, b) in reversed(list(enumerate(merges)))}
        writer.add_token_scores([ranks.get(token, 0.0) for token in tokens])
        writer.add_add_space_prefix(_puts_a_space(stored))
        if inner.get("unk_token") in inner["vocab"]:
            writer.add_unk_token_id(inner["vocab"][inner["unk_token"]])
    writer.add_add_bos_token(False)  # documents begin with nothing


def write_vocabulary(carried: Carried, folder: Path) -> None:
    """Write the files of a tokenizer into a folder."""
    if carried.tokenizer is not None:
        write_atomically(folder / _TOKENIZER, carried.tokenizer.encode())
        eos = _end(carried)
        if eos is not None:
            write_json(folder / _SETTINGS, {"eos_token": eos})
    if carried.template is not None:
        write_atomically(folder / _TEMPLATE, carried.template.encode())


def _opened(text: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as e:  # the Rust library raises bare Exception
        raise CheckpointError(f"{_TOKENIZER}: not a tokenizer file ({e})") from None


def _stored(carried: Carried) -> dict[str, Any]:
    """A tokenizer as the library itself writes it down, whatever form it had; {} for none."""
    if carried.tokenizer is None:
        return {}
    whole: dict[str, Any] = json.loads(_opened(carried.tokenizer).to_str())
    return whole


def _end(carried: Carried) -> str | None:
    """The text of the token that ends a sequence."""
    if carried.tokenizer is None or carried.eos_id is None or not 0 <= carried.eos_id < 1 << 32:
        return None
    token: str | None = _opened(carried.tokenizer).id_to_token(carried.eos_id)
    return token


def _kind(stored: dict[str, Any]) -> str:
    """llama.cpp's name of the kind of vocabulary."""
    inner = stored.get("model") or {}
    if inner.get("type") != "BPE":
        return "no_vocab"
    if inner.get("byte_fallback"):  # SentencePiece's
        return "llama"
    return "gpt2" if _rule(stored) in _RULES else "no_vocab"


def _rule(stored: dict[str, Any]) -> tuple[str, ...]:
    """How a tokenizer cuts text into words."""
    outer = stored.get("pre_tokenizer") or {}
    parts = outer.get("pretokenizers", [outer])
    steps: list[str] = []
    for part in parts:
        if part.get("type") == "Digits" and part.get("individual_digits"):
            steps.append("digits")
        elif part.get("type") == "Split" and part.get("behavior") == "Isolated":
            steps.append(str(part["pattern"].get("Regex")))
        elif part.get("type") == "ByteLevel" and not part.get("add_prefix_space"):
            steps.append("words and bytes" if part.get("use_regex", True) else "bytes")
        else:
            steps.append("foreign")
    return tuple(steps)


def _puts_a_space(stored: dict[str, Any]) -> bool:
    """Whether a space is put before the text."""
    told = json.dumps([stored.get("normalizer"), stored.get("pre_tokenizer")])
    return '"Prepend"' in told or '"prepend_scheme": "first"' in told or "always" in told
