"""LiveCodeBench's hidden tests: unpacked from the release's files, read when a program is run.

The release (`livecodebench/code_generation_lite` on the hub, files `test.jsonl` to `test6.jsonl`)
is several GB; a problem's tests may be hundreds of MB. So each problem gets a file of its own once,
`{question_id}.json`, in the form and with the md5 that PromptCoT's converter gives, and an
evaluation holds no more tests than it is running.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import pickle
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from statewise import progress
from statewise.errors import DataError
from statewise.eval.rows import LEETCODE_HEADER, Row, call
from statewise.records import Function, Problem, TestCase, TestsFile, read_json, write_atomically

RELEASE = "code_generation_lite"  # the folder of the release's files in the data directory
FOLDER = "livecodebench"  # what is made of them
_MALFORMED = (
    *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
    *(zlib.error, pickle.PickleError),
)


def fetch(data_dir: Path) -> str:
    """The command that gets the release."""
    return (
        f"hf download livecodebench/{RELEASE} --repo-type dataset --include 'test*.jsonl' "
        f"--local-dir {data_dir / RELEASE}"
    )


def unpack_if_there(data_dir: Path) -> None:
    """Make `livecodebench/` from the release's files, if these are there and it is not.

    Raises:
        DataError: a line is not as the release has it; names file and line.
    """
    files = sorted((data_dir / RELEASE).glob("test*.jsonl"), key=lambda p: (len(p.name), p.name))
    made = data_dir / FOLDER / "made_from.json"
    names = {f.name: f.stat().st_size for f in files}
    if not files or (made.is_file() and _names(made) == names):
        return
    rows, size = [], sum(names.values())
    with progress.task("unpack LiveCodeBench", size >> 20, "MB") as shown:
        done = 0
        for where, line in _lines(files):
            rows.append(_unpack_one(line, where, data_dir / FOLDER))
            done += len(line)
            shown.update(done >> 20)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(data_dir / FOLDER / "problems.jsonl", text.encode())
    write_atomically(made, json.dumps(names).encode())


def _names(made: Path) -> Row | None:
    """What `livecodebench/` was made from; None if that cannot be told, and it is made again."""
    try:
        return read_json(made)
    except DataError:
        return None


def _lines(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for path in files:
        with path.open("rb") as f:
            for number, line in enumerate(f, start=1):
                if line.strip():
                    yield f"{path}:{number}", line


def _unpack_one(line: bytes, where: str, folder: Path) -> Row:
    try:
        row = json.loads(line)
        cases = json.loads(row["public_test_cases"]) + private_tests(row["private_test_cases"])
        name = json.loads(row["metadata"]).get("func_name")
        stored = {
            "input_output": json.dumps(
                {
                    "inputs": [c["input"] for c in cases],
                    "outputs": [c["output"] for c in cases],
                    "fn_name": name,
                }
            )
        }
        text = json.dumps(stored).encode()
        identity = str(row["question_id"])
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", identity):
            raise ValueError(f"question_id {identity!r} cannot be a file's name")
        kept = {
            k: str(row[k])
            for k in ("question_title", "question_content", "contest_date", "starter_code",
                      "platform", "difficulty")
        }  # fmt: skip
    except _MALFORMED as e:
        raise DataError(f"{where}: not a row of {RELEASE} ({type(e).__name__}: {e})") from None
    fname = f"{identity}.json"
    write_atomically(folder / fname, text)
    tests = {"fname": fname, "md5": hashlib.md5(text, usedforsecurity=False).hexdigest()}
    return {"question_id": identity, **kept, "tests": tests}


def private_tests(stored: str) -> list[Row]:
    """The private tests of a row: JSON, or JSON text that was pickled, compressed and encoded.

    Raises:
        pickle.UnpicklingError: the pickle holds anything but a text.
        ValueError, zlib.error: it is none of this.
    """
    try:
        tests = json.loads(stored)
    except ValueError:
        packed = zlib.decompress(base64.b64decode(stored, validate=True))
        try:
            tests = json.loads(_TextAlone(io.BytesIO(packed)).load())
        except (EOFError, AttributeError, TypeError, OverflowError, MemoryError) as e:
            raise pickle.UnpicklingError(f"not a pickled text ({e})") from None
    if not isinstance(tests, list):
        raise ValueError("private tests must be a list")
    return tests


class _TextAlone(pickle.Unpickler):
    """An unpickler that knows no class and no function, so it can call nothing."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"holds {module}.{name}; only a text may be there")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("holds a reference; only a text may be there")


@functools.lru_cache(maxsize=4)
def read(file: TestsFile) -> tuple[str | None, tuple[TestCase, ...]]:
    """The name of the method that is called, or None, and the tests.

    Raises:
        DataError: the file is missing, another one, or not one of tests.
    """
    path = Path(file.path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise DataError(f"{path}: {reason or e}") from None
    try:
        stored = json.loads(data)
        md5 = hashlib.md5(json.dumps(stored).encode(), usedforsecurity=False).hexdigest()
        if file.md5 not in (md5, hashlib.md5(data, usedforsecurity=False).hexdigest()):
            raise DataError(f"{path}: its md5 is {md5}, expected {file.md5}")
        tests = json.loads(stored["input_output"])
        pairs = list(zip(tests["inputs"], tests["outputs"], strict=True))
        name = tests.get("fn_name")
        made = tuple(call(i, o) if name else TestCase(i, o) for i, o in pairs)
    except _MALFORMED as e:
        raise DataError(f"{path}: not a file of tests ({type(e).__name__}: {e})") from None
    return name, made


def with_tests(problem: Problem) -> Problem:
    """The problem with its tests in it. Raises `DataError` where they cannot be had."""
    assert problem.hidden is not None
    name, tests = read(problem.hidden)
    function = Function(f"Solution.{name}", header=LEETCODE_HEADER) if name else None
    return Problem(
        problem.id, "code", problem.statement, tests=tests, function=function, test_s=problem.test_s
    )
