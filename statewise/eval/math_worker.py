"""A process that compares LaTeX with Math-Verify: one JSON object in, one out, a line each.

Run by `workers.py` as a script. It answers `{"equal": true}` or `{"error": "why not"}`. A question
that does not end is ended by the alarm below even if the asking process is gone; Math-Verify's own
timeouts are off, because they turn "undecided" into "different".
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 2 << 30
ALARM_S = 30  # more than any deadline of the asking side; the default action ends the process
DIGITS = 12  # where one side is a decimal, all of these must agree


def main() -> None:
    """Say that the import is done, then answer until the questions end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing a library prints may pass for a reply
    import logging

    logging.disable(logging.CRITICAL)
    compare = comparer()
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        question = json.loads(line)
        signal.alarm(ALARM_S)
        try:
            reply = compare(question["reference"], question["answer"])
        except Exception as e:
            reply = {"error": f"checker failed: {type(e).__name__}"}
        signal.alarm(0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def comparer() -> Any:
    """The comparison, with what it needs imported."""
    from math_verify import LatexExtractionConfig, parse, verify

    # The LaTeX parser alone: the one for plain expressions hands text to SymPy's `parse_expr`.
    latex = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> Any:
        boxed = "\\boxed{" + text.replace("\\$", "").replace("$", "") + "}"
        return parse(boxed, latex, fallback_mode="no_fallback", parsing_timeout=None)

    def compare(reference: str, answer: str) -> dict[str, object]:
        gold = read(reference)
        if not gold:
            return {"error": f"the reference cannot be read: {reference[:80]}"}
        stated = read(answer)
        if not stated:
            return {"equal": False}
        equal = verify(
            gold,
            stated,
            float_rounding=DIGITS,
            allow_set_relation_comp=True,
            timeout_seconds=None,
            raise_on_error=True,
        )
        return {"equal": bool(equal)}

    return compare


if __name__ == "__main__":
    main()
