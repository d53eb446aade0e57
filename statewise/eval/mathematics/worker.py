"""A process that compares LaTeX answers: one JSON object in, two lines out, run by `workers.py`.

The first line says that the reference was read and evaluated, or why not; the second whether the
answer equals it. So whoever waits knows at whose cost time goes by. A question that does not end is
ended by the alarm below even if the asking process is gone.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator

from statewise.eval.mathematics.equality import Reference
from statewise.eval.mathematics.evaluator import Costly
from statewise.eval.mathematics.expressions import Unreadable
from statewise.eval.mathematics.units import Unit, unit_of

MEMORY_BYTES = 2 << 30
ALARM_S = 30  # more than any deadline of the asking side; the default action ends the process


def main() -> None:
    """Say that the import is done, then answer until the questions end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing a library prints may pass for a reply
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        question = json.loads(line)
        signal.alarm(ALARM_S)
        for reply in answers(question):
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
        signal.alarm(0)


def answers(question: dict[str, object]) -> Iterator[dict[str, object]]:
    """The two lines on a question, or one where the reference is at fault."""
    try:
        reference = prepared(
            str(question["reference"]), bool(question["several"]), str(question["unit"])
        )
    except (Unreadable, Costly, ArithmeticError, ValueError, MemoryError, RecursionError) as e:
        yield {"error": f"the reference cannot be read: {_told(e)}"}
        return
    yield {"reference": True}
    try:
        equal = reference.equals(str(question["answer"]))
    except (Unreadable, Costly) as e:
        kind = "not read" if isinstance(e, Unreadable) else "not evaluated"
        yield {"equal": False, "rule": f"{kind}: {_told(e)}"}
    except (ArithmeticError, ValueError, MemoryError, RecursionError) as e:
        yield {"equal": False, "rule": f"not evaluated: {_told(e)}"}
    else:
        yield {"equal": equal, "rule": "expression"}


def _told(e: BaseException) -> str:
    return (str(e) or type(e).__name__)[:80]


@functools.lru_cache(maxsize=256)
def prepared(text: str, several: bool, unit: str) -> Reference:
    """A reference, read once. Raises as `Reference` does."""
    found: Unit | None = unit_of(unit) if unit else None
    return Reference(text, several=several, unit=found)


if __name__ == "__main__":
    main()
