"""The official harness of LiveCodeBench, asked: `python program_peers.py FOLDER`.

FOLDER is a checkout of LiveCodeBench/LiveCodeBench. Reads programs as JSON lines (`inputs`,
`outputs`, `fn_name`, `code`) and answers each with a line: `credited`, `error`, `wall_s`. Programs
run with the user's rights: ask it only what can be trusted. Only the harness is imported, which
needs numpy and tqdm.
"""

import json
import os
import sys
import time


def main():
    """Answer every line."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what harness and programs print
    sys.path.insert(0, sys.argv[1])
    from lcb_runner.evaluation.compute_code_generation_metrics import check_correctness

    for line in sys.stdin:
        item = json.loads(line)
        tests = {k: item[k] for k in ("inputs", "outputs", "fn_name")}
        began, results, error = time.perf_counter(), [], ""
        try:
            sample = {"input_output": json.dumps(tests)}
            results, told = check_correctness(sample, item["code"], timeout=6, debug=False)
            error = str(told.get("error") or told.get("error_message") or "")
        except Exception as e:  # its own: no verdict came back in time
            error = f"{type(e).__name__}: {e}"
        wall_s = time.perf_counter() - began
        credited = bool(results) and all(r is True or r > 0 for r in results)
        row = {"credited": credited, "error": error[:200], "wall_s": wall_s}
        out.write(json.dumps(row) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
