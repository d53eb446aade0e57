"""Work that survives a kill: a file of records, each under its key, that grows line by line."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

from statewise.errors import DataError
from statewise.records import JsonlAppender, from_json, iter_rows

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
Q = TypeVar("Q", bound=Hashable)


class Log(Mapping[K, R]):
    """A JSONL file of records that grows as they come: key -> record.

    A kill loses at most the line that was being written; opening cuts it off. What was logged twice
    under one key counts as it was logged last.

    Args:
        path: the file; made if need be, with its folder.
        cls: what a line holds: a record's class, or `dict` for plain JSON objects.
        key: of a record. It is called once for each, in the order of the file.

    Raises:
        DataError: a line is no such record; the message names file and line.
    """

    def __init__(self, path: Path, cls: type[R], key: Callable[[R], K]) -> None:
        self._key = key
        self._records: dict[K, R] = {}
        self._file = JsonlAppender(path)
        try:
            for where, row in iter_rows(path):
                self._add(cast(R, row) if cls is dict else from_json(cls, row, where), where)
        except BaseException:
            self.close()
            raise

    def _add(self, record: R, where: str) -> None:
        try:
            self._records[self._key(record)] = record
        except KeyError as e:
            raise DataError(f"{where}: has no field {e}; the file holds something else") from None
        except TypeError as e:  # a list where the key should be
            raise DataError(f"{where}: {e}; the file holds something else") from None

    def append(self, record: R) -> None:
        """Write a record down and hand it to the operating system at once."""
        self._file.append(record)
        self._records[self._key(record)] = record

    def missing(self, keys: Iterable[Q]) -> list[Q]:
        """Those of some keys that have no record yet, in their order."""
        return [key for key in keys if key not in self._records]

    def __getitem__(self, key: K) -> R:
        return self._records[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        """Close the file."""
        self._file.__exit__()

    def __enter__(self) -> Log[K, R]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
