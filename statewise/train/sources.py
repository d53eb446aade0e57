"""Where training pairs come from: JSONL and Parquet files, and data sets of the hub, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from statewise.errors import DataError
from statewise.records import Example, rows_by_line
from statewise.text import chat_prompt
from statewise.train.config import HUB, Source

Row = tuple[str, dict[str, Any]]
BATCH = 256  # rows of a Parquet file in memory


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


def examples(source: Source, file: Path, *, pairs: bool = False) -> Iterator[Example]:
    """What a source trains on. Arguments and errors as for `rows`.

    Args:
        source: the recipe's.
        file: where it lies, if it is no data set of the hub.
        pairs: a row is two examples, of its chosen and its rejected completion.

    Raises:
        DataError: a row has no text in one of the columns; the message names row and column.
    """
    for where, row in rows(source, file):
        prompt = _text(row, source.columns.prompt, where)
        if source.form != "none":
            prompt = chat_prompt(prompt.strip(), source.form)
        of = source.columns
        for column in (of.chosen, of.rejected) if pairs else (of.completion,):
            yield Example(prompt, _text(row, column, where))


def _text(row: dict[str, Any], column: str, where: str) -> str:
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
    if not isinstance(value, str):
        raise DataError(f"{where}: {column}: expected text, found {type(value).__name__}")
    return value


def _of_parquet(file: Path) -> Iterator[Row]:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as e:
        raise DataError(f"{file}: {_NEEDS.format(e)}") from None
    try:
        table = parquet.ParquetFile(file)
    except (ArrowInvalid, OSError) as e:
        raise DataError(f"{file}: no Parquet file ({e})") from None
    number = 0
    for batch in table.iter_batches(batch_size=BATCH):
        for row in batch.to_pylist():
            number += 1
            yield f"{file}: row {number}", row


def _of_hub(source: Source) -> Iterator[Row]:
    name = source.path.removeprefix(HUB)
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as e:
        raise DataError(f"{source.path}: {_NEEDS.format(e)}") from None
    try:
        stream = load_dataset(
            name,
            source.subset or None,
            split=source.split,
            revision=source.revision or None,
            streaming=True,  # row by row: nothing is copied to disk but what is trained on
        )
    except (DatasetNotFoundError, FileNotFoundError, ValueError, OSError) as e:
        raise DataError(f"{source.path}: cannot be opened: {e}") from None
    for number, row in enumerate(stream, start=1):
        yield f"{source.path}: row {number}", row


_NEEDS = "needs a library that cannot be imported ({}): pip install 'statewise[data]'"
