"""Other harnesses' checkers, asked in an environment of their own: `python grader_peers.py NAME`.

Reads items as JSON lines (`output`, `reference`) and answers each with a line: `credited` (None: it
failed), `error`, `wall_s`; the first line is the peer's version. Only the peer is imported.
"""

import importlib.metadata
import json
import sys
import time


def lm_eval_aime():
    """lm-evaluation-harness, task aime: string equality after its normalisation."""
    from lm_eval.tasks.aime import utils

    def ask(item):
        doc = {"answer": item["reference"]}
        return bool(utils.process_results(doc, [item["output"]])["exact_match"])

    return importlib.metadata.version("lm_eval"), ask


def lm_eval_minerva():
    """lm-evaluation-harness, task minerva_math, its figure `math_verify`."""
    from lm_eval.tasks.minerva_math import utils

    def ask(item):
        boxed = f"$\\boxed{{{item['reference']}}}$"
        doc = {"answer": item["reference"], "solution": boxed}
        return bool(utils.process_results(doc, [item["output"]])["math_verify"])

    return importlib.metadata.version("lm_eval"), ask


def math_verify():
    """Math-Verify as its documentation has it: parse both with the defaults, verify."""
    from math_verify import parse, verify

    def ask(item):
        return bool(verify(parse(f"${item['reference']}$"), parse(item["output"])))

    return importlib.metadata.version("math_verify"), ask


def lighteval_math():
    """lighteval, the metric of its math_500 and aime tasks."""
    from lighteval.metrics.metrics import Metrics
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    metric = Metrics.pass_at_k_math(sample_params={"k": 1, "n": 1})

    def ask(item):
        gold = f"ANSWER: $\\boxed{{{item['reference']}}}$"  # its task gives the worked solution
        doc = Doc(task_name="m", query="?", choices=[gold], gold_index=0)
        answer = ModelResponse(text=[item["output"]])
        return bool(metric.sample_level_fn.compute(doc=doc, model_response=answer))

    return importlib.metadata.version("lighteval"), ask


def main():
    """Answer every line."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what the peer prints
    version, ask = globals()[sys.argv[1]]()
    out.write(json.dumps({"version": version}) + "\n")
    out.flush()
    for line in sys.stdin:
        item = json.loads(line)
        began, credited, error = time.perf_counter(), None, ""
        try:
            credited = ask(item)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"[:200]
        wall_s = time.perf_counter() - began
        row = {"credited": credited, "error": error, "wall_s": wall_s}
        out.write(json.dumps(row) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
