"""Where training pairs come from: JSONL and Parquet files, and data sets of the hub, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from statewise.errors import DataError
from statewise.records import Example, rows_by_line
from statewise.text import chat_prompt
from statewise.train.config import HUB, Source

Row = tuple[str, dict[str, Any]]
BATCH = 256  # rows of a Parquet file in memory
BLOCK = 1 << 20  # bytes of a JSONL file in memory, while its lines are counted


class Pair(NamedTuple):
    """A training pair, and its pass rate where the source has one: the higher, the easier."""

    example: Example
    pass_rate: float | None = None


def rows(source: Source, file: Path) -> Iterator[Row]:
    """A source's rows, each with where it stands.

    Args:
        source: the recipe's.
        file: where it lies, if it is no data set of the hub.

    Raises:
        DataError: it is not there, cannot be read, or needs a library that is not installed.
    """
    if source.path.startswith(HUB):
        return _of_hub(source)
    if file.suffix == ".parquet":
        return _of_parquet(file)
    return rows_by_line(file)


def count(source: Source, file: Path) -> int | None:
    """How many rows there are, as far as that can be told without reading them; blank lines too.

    Arguments and errors as for `rows`.
    """
    if source.path.startswith(HUB):
        splits = _opened(source).info.splits or {}
        return splits[source.split].num_examples if source.split in splits else None
    if file.suffix == ".parquet":
        return int(_parquet(file).metadata.num_rows)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    with file.open("rb") as f:
        return sum(block.count(b"\n") for block in iter(lambda: f.read(BLOCK), b""))


def pairs(source: Source, file: Path, *, preferences: bool = False) -> Iterator[Pair]:
    """A source's training pairs. Errors as for `rows`.

    Args:
        source: the recipe's.
        file: where it lies, if it is no data set of the hub.
        preferences: a row is two pairs, with its chosen and with its rejected completion.

    Raises:
        DataError: a row has no text in one of the columns, or no number for its pass rate; the
            message names row and column.
    """
    columns = source.columns
    for where, row in rows(source, file):
        prompt = _text(row, columns.prompt, where)
        rate = _number(row, columns.pass_rate, where) if columns.pass_rate else None
        if source.form != "none":
            prompt = chat_prompt(prompt.strip(), source.form)
        both = (columns.chosen, columns.rejected)
        for column in both if preferences else (columns.completion,):
            yield Pair(Example(prompt, _text(row, column, where)), rate)


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = _value(row, column, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column}: expected text, found {type(value).__name__}")
    return value


def _number(row: dict[str, Any], column: str, where: str) -> float:
    value = _value(row, column, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: {column}: expected a pass rate, found {value!r}")
    return float(value)


def _value(row: dict[str, Any], column: str, where: str) -> Any:
    """What stands in a column; "a.0.b" is the entry `b` of the first of the list `a`."""
    value: Any = row
    for key in column.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise DataError(
                f"{where}: has no column {column!r}; it has {', '.join(map(repr, row))}. "
                "`columns` of the source says which ones hold prompt and completion"
            )
    return value


def _parquet(file: Path) -> Any:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as e:
        raise DataError(f"{file}: {_NEEDS.format(e)}") from None
    try:
        return parquet.ParquetFile(file)
    except (ArrowInvalid, OSError) as e:
        raise DataError(f"{file}: no Parquet file ({e})") from None


def _of_parquet(file: Path) -> Iterator[Row]:
    number = 0
    for batch in _parquet(file).iter_batches(batch_size=BATCH):
        for row in batch.to_pylist():
            number += 1
            yield f"{file}: row {number}", row


def _opened(source: Source) -> Any:
    name = source.path.removeprefix(HUB)
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as e:
        raise DataError(f"{source.path}: {_NEEDS.format(e)}") from None
    try:
        return load_dataset(
            name,
            source.subset or None,
            split=source.split,
            revision=source.revision or None,
            streaming=True,  # row by row: nothing is copied to disk but what is trained on
        )
    except (DatasetNotFoundError, FileNotFoundError, ValueError, OSError) as e:
        raise DataError(f"{source.path}: cannot be opened: {e}") from None


def _of_hub(source: Source) -> Iterator[Row]:
    for number, row in enumerate(_opened(source), start=1):
        yield f"{source.path}: row {number}", row


_NEEDS = "needs a library that cannot be imported ({}): pip install 'statewise[data]'"
