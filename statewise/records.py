"""The records that flow down the line, from concept to verdict, and how they lie on disk.

    Concept -> Draft -> Judgement -> Problem -> Example        (synthesis, training)
                                     Problem -> Completion -> Verdict     (evaluation)

All are frozen dataclasses; on disk each is one JSON object a line. Files are written whole or not
at all (`write_jsonl`), or line by line where work must survive a kill (`JsonlAppender`).

What is read may come from anywhere: a text that is half a surrogate pair is written so that it
reads back equal, and a file that cannot be read is a `DataError` that names file and line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from statewise.errors import DataError


class Rating(StrEnum):
    """A judge's verdict on a draft. `UNREADABLE`: no well-formed `Final Judgement:` line."""

    PERFECT = "perfect"
    ACCEPTABLE = "acceptable"
    BAD = "bad"
    UNREADABLE = "unreadable"


class Outcome(StrEnum):
    """What became of one completion. No number stands for "unknown"."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"  # finished, but without a box or a program
    TRUNCATED = "truncated"  # the token limit was reached, or the thinking was never closed
    UNSCORED = "unscored"  # the checker failed: says nothing about the model


class FinishReason(StrEnum):
    """Why a sampler stopped."""

    STOP = "stop"
    LENGTH = "length"


# What servers, libraries and data files call it, in lower case.
_FINISHED = {
    *("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"),
    *("tool_calls", "tool_use", "function_call"),
}
AT_THE_LIMIT = {"length", "max_tokens", "max_length", "max_new_tokens", "model_length"}
_INTERRUPTED = {
    *("content_filter", "safety", "recitation", "refusal", "pause_turn"),
    *("abort", "aborted", "cancelled", "canceled", "error", "timeout"),
}


def finish_reason(said: object) -> FinishReason:
    """What another tool's word for the end of a completion means.

    A text that was interrupted (`content_filter`, `abort`, ...) is cut off, as one that reached the
    token limit is; None and "" are of tools that do not say, and mean a finished one.

    Raises:
        ValueError: the word is not known, or it is no word.
    """
    word = said.lower() if isinstance(said, str) else None
    if said is None or word == "" or word in _FINISHED:
        return FinishReason.STOP
    if word in AT_THE_LIMIT or word in _INTERRUPTED:
        return FinishReason.LENGTH
    known = ", ".join(sorted(_FINISHED | AT_THE_LIMIT | _INTERRUPTED))
    raise ValueError(f"finish_reason must be one of {known}, found {said!r}")


@dataclass(frozen=True, slots=True)
class Concept:
    """One teachable idea. `kind` says what a problem about it asks for: an answer or a program."""

    name: str
    domain: str
    kind: str = "math"  # "math" | "code"


@dataclass(frozen=True, slots=True)
class Draft:
    """A rationale and a problem that an author wrote for a set of concepts at a level."""

    id: str
    kind: str
    concepts: tuple[str, ...]
    level: str
    rationale: str
    problem: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge's rating of one draft, with the text it was read from."""

    draft_id: str
    judge: str
    rating: Rating
    text: str


@dataclass(frozen=True, slots=True)
class TestCase:
    """Standard input for a program, and the standard output it must print."""

    __test__ = False  # not a pytest class

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Function:
    """What a program must define, where it is called and not run.

    Attributes:
        entry: its name: "f", or "Solution.f" for a method.
        header: what stands before it: imports, helpers, signature.
        solution: a reference implementation, continuing the header.
        check: assertions, `check(candidate)`, that decide in place of expected values.
    """

    entry: str
    header: str = ""
    solution: str = ""
    check: str = ""


@dataclass(frozen=True, slots=True)
class TestsFile:
    """Tests that are too large to be carried along: a file, read when a program is run.

    Attributes:
        path: where it lies; `{"input_output": JSON text of inputs, outputs, fn_name}`.
        md5: of that object as JSON text, as LiveCodeBench's users name their files.
    """

    __test__ = False  # not a pytest class

    path: str
    md5: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A statement and how an answer to it is checked.

    Attributes:
        kind: "math" or "code".
        answer: of mathematics: the reference, as LaTeX without a box.
        tests: of code: standard input and output; of a function its arguments and value, encoded
            as `statewise.eval.values` does.
        function: of code: what is called; None for a whole program.
        checker: how this answer is compared, where it is not as its set's (`answers.grade`).
        unit: what may stand behind the answer.
        tolerance: absolute, of numbers.
        hidden: of code: the tests, in place of `tests`.
        test_s: seconds that a test may take; 0 leaves it to the checker.
        date: when it was published, YYYY-MM-DD; "" where that is not known.
        instructed: the statement itself says in what form to answer.
    """

    id: str
    kind: str
    statement: str
    answer: str | None = None
    tests: tuple[TestCase, ...] = ()
    concepts: tuple[str, ...] = ()
    level: str = ""
    source: str = ""
    checker: str = ""
    unit: str = ""
    tolerance: float = 0.0
    function: Function | None = None
    hidden: TestsFile | None = None
    test_s: float = 0.0
    date: str = ""
    instructed: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One training pair. Loss is taken on the completion only."""

    prompt: str
    completion: str
    source: str = ""
    concepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of one prompt."""

    prompt_id: str
    sample: int  # 0 .. n-1
    text: str  # without the prompt and without the end-of-sequence token
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seed: int
    attempts: int = 1  # draws until the think format was well formed, or no more were allowed


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker made of one completion, whose last three fields are copied from it."""

    problem_id: str
    sample: int
    outcome: Outcome
    extracted: str | None = None
    rule: str = ""  # the rule that decided, or the reason why none could
    seed: int = 0
    finish_reason: str = ""
    completion_tokens: int = 0


def content_id(*parts: str) -> str:
    """A short, stable identity for some text: the first 16 hex digits of its SHA-256."""
    text = "\x1f".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


R = TypeVar("R")


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON values."""
    return dataclasses.asdict(record)


def from_json(cls: type[R], row: Any, where: str) -> R:
    """Rebuild a record of type `cls` from JSON values.

    Raises:
        DataError: a field is missing, unknown or of the wrong type; `where` opens the message.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(row) - set(fields))
    if unknown:
        raise DataError(f"{where}: {cls.__name__} has no field {unknown[0]!r}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in row:
            values[name] = _decode(hints[name], row[name], f"{where}: field {name!r}")
        elif field.default is dataclasses.MISSING:
            raise DataError(f"{where}: {cls.__name__} needs the field {name!r}")
    return cls(**values)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:  # only `T | None` occurs
        return None if value is None else _decode(args[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise DataError(f"{where}: expected a list, found {value!r}")
        each = (args[0],) * len(value) if args[1:] == (...,) else args
        if len(each) != len(value):
            raise DataError(f"{where}: expected {len(each)} values, found {value!r}")
        return tuple(_decode(h, v, where) for h, v in zip(each, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected a JSON object, found {value!r}")
        return {k: _decode(args[1], v, f"{where}: {k!r}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, tuple):  # a named one
        each = tuple(typing.get_type_hints(hint).values())
        return hint(*_decode(types.GenericAlias(tuple, each), value, where))
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)  # type: ignore[arg-type]
    if issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError:
            raise DataError(f"{where}: {value!r} is not one of {[m.value for m in hint]}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # JSON knows one kind of number
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise DataError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


NESTED = 200  # brackets in brackets; Python's own limit depends on who asks, and hits writers too


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        DataError: there is no such file, it cannot be read, or it is not UTF-8; names the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as e:  # a folder, no permission, no name that a file can have
        reason = e.strerror if isinstance(e, OSError) else e
        raise DataError(f"{path}: cannot be read ({reason or e})") from None
    return as_text(data, path)


def as_text(data: bytes, path: Path) -> str:
    """What bytes of a file say, as `read_text`."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        utf16 = "; it begins as UTF-16 does" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        line = data.count(b"\n", 0, e.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text (byte {e.start}){utf16}") from None


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text, of which all can be written again.

    Raises:
        DataError: it is no JSON, or holds an integer or a nesting that is too large for Python;
            `where` opens the message.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        line = f"line {e.lineno}, " if "\n" in text else ""
        raise DataError(f"{where}: not JSON ({e.msg} at {line}column {e.colno})") from None
    except ValueError:
        limit = sys.get_int_max_str_digits()
        raise DataError(f"{where}: holds an integer of more than {limit:,} digits") from None
    except RecursionError:
        raise DataError(f"{where}: brackets are nested more than {NESTED} deep") from None
    if text.count("[") + text.count("{") > NESTED and _depth(value) > NESTED:
        raise DataError(f"{where}: brackets are nested more than {NESTED} deep")
    return value


def _depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [v for outer in level for v in (outer.values() if type(outer) is dict else outer)]
    return depth


def iter_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file with where each stands ("path:line"). Blank lines are skipped.

    Lines end at "\\n" only: U+2028 and its like may stand inside a text. A byte order mark may open
    any of them, as it does where files were joined.

    Raises:
        DataError: the file is missing or no text, or a line is not a JSON object.
    """
    yield from rows_of(read_text(path), path)


def rows_by_line(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `iter_rows`, a line at a time: for files that are larger than memory."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from None
    with file:
        for number, data in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                row = _row(data.decode("utf-8"), where)
            except UnicodeDecodeError as e:
                raise DataError(f"{where}: not UTF-8 text (byte {e.start} of the line)") from None
            if row is not None:
                yield where, row


def rows_of(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in the text of a JSONL file, as `iter_rows`."""
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}:{number}"
        row = _row(line, where)
        if row is not None:
            yield where, row


def _row(marked: str, where: str) -> dict[str, Any] | None:
    line = marked.removeprefix("\ufeff")
    if not line.strip():
        return None
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def read_jsonl(path: Path, cls: type[R]) -> list[R]:
    """All records of type `cls` in a JSONL file. Raises `DataError` naming file and line."""
    return [from_json(cls, row, where) for where, row in iter_rows(path)]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `DataError` naming the file if there is none."""
    value = parse_json(read_text(path), f"{path}: cannot be read")
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_record(path: Path, cls: type[R]) -> R:
    """The one record of type `cls` in a JSON file. Raises `DataError` naming file and field."""
    return from_json(cls, read_json(path), str(path))


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """JSON as UTF-8, with a newline: what lies in every file here.

    Characters stand for themselves; half a surrogate pair, which UTF-8 cannot hold, is escaped. So
    every text reads back equal, but for the halves of one pair in a row: these are one character.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # \ud83d: Python's escape is JSON's here


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records, one a line; the file appears whole or not at all."""
    write_atomically(path, b"".join(json_bytes(to_json(r)) for r in records))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, indented; the file appears whole or not at all."""
    write_atomically(path, json_bytes(value, indent=2))


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a temporary neighbour, flush it to the disk, and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:  # a full disk does not say which file it was full for
        e.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


class JsonlAppender:
    """Appends records to a JSONL file as they come; a line torn by a kill is cut off on opening.

    Raises:
        DataError: the file's last line cannot be the torn one of a record: the file is another.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _mend(path)
        self._path = path
        self._file = path.open("ab", buffering=0)  # nothing is held back that closing could lose

    def append(self, record: Any) -> None:
        """Write one record (or plain JSON object) and hand it to the operating system at once."""
        row = to_json(record) if dataclasses.is_dataclass(record) else record
        line = json_bytes(row)
        written = 0
        try:
            while written < len(line):  # a disk that is nearly full takes a part of it
                written += self._file.write(line[written:])
        except OSError as e:
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            e.filename = str(self._path)  # a full disk does not say which file it was full for
            raise

    def sync(self) -> int:
        """Bring what was written to the disk, and tell the file's size in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _mend(path: Path) -> None:
    """Cut off the last line if a kill tore it; if only its newline is missing, put that there."""
    data = path.read_bytes()
    keep = data.rfind(b"\n") + 1
    last = data[keep:]
    if not last:
        return
    if last.strip(b" \t\r\0") and not last.startswith(b"{"):
        line = data.count(b"\n") + 1
        raise DataError(f"{path}:{line}: is no record; the file holds something else")
    try:
        parse_json(last.decode(), str(path))
    except (DataError, UnicodeDecodeError):
        os.truncate(path, keep)
    else:
        with path.open("ab") as f:
            f.write(b"\n")
