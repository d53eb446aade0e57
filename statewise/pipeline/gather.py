"""From the files of a run folder to the one value that the report is made from."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from statewise.errors import DataError
from statewise.pipeline.asking import held_out
from statewise.pipeline.claims import architecture_claim, curriculum_claim, efficiency_claim
from statewise.pipeline.stage import Run
from statewise.records import (
    Completion,
    Problem,
    Verdict,
    iter_rows,
    read_json,
    read_jsonl,
)
from statewise.report import RunResults

Json = dict[str, Any]
CURVE_POINTS = 400
SAMPLES_SHOWN = 2  # of each set: the first right one and the first wrong one
PACKAGES = ("statewise", "torch", "transformers", "tokenizers", "accelerate", "math-verify")


def gather(run: Run) -> RunResults:
    """Everything the run folder holds; what no stage has made from this recipe is absent."""
    r = run.recipe
    stages = {
        name: {"wall_s": round(record.wall_s, 3), "skipped": False}
        for name, record in run.pipeline.finished(run).items()
    }
    results = _eval(run) if "eval" in stages else {}
    return RunResults(
        name=r.name,
        recipe_toml=r.toml,
        recipe_sha256=r.sha256,
        seed=r.seed,
        wall_s=round(sum(s["wall_s"] for s in stages.values()), 3),
        commit=_commit(),
        versions=_versions(),
        device=_device(),
        stages=stages,
        model={
            "parameters": r.model.num_params,
            "state_bytes_per_sequence": r.model.state_bytes(),
            "config": {name: getattr(r.model, name) for name in r.model.__slots__},
        },
        synth=_synth(run) if "synth" in stages else {},
        train=_train(run) if "train" in stages else {},
        eval=results.get(r.train.phases[-1].name, {}),
        eval_by_phase=results,
        claims={
            "architecture": architecture_claim(run, measured="compare" in stages),
            "curriculum": curriculum_claim(run, measured="compare" in stages),
            "efficiency": efficiency_claim(run, measured="bench" in stages),
        },
        samples=_samples(run) if "eval" in stages else [],
    )


def _rows(path: Path) -> list[Json]:
    return [row for _, row in iter_rows(path)]


def _synth(run: Run) -> Json:
    base = run.path / "synth"
    paths = [base / "sets" / s.name / "funnel.json" for s in run.recipe.synth.sets]
    imports = [base / "sets" / i.name / "funnel.json" for i in run.recipe.synth.imports]
    funnels = [read_json(p) for p in paths]
    steps: dict[str, Json] = {}
    for funnel in funnels:
        for step, count in funnel["steps"]:
            row = steps.setdefault(step, {"stage": step, "math": 0, "code": 0})
            row[funnel["kind"]] += count
    agreed = {f"agreement, {f['name']}": f["agreement"] for f in funnels}
    brought = [read_json(p) for p in imports]
    for f in brought:
        first, last = f["steps"][0][1], f["steps"][-1][1]
        agreed[f"imported, {f['name']}"] = f"{last} of {first} rows"
    nearest: Json = {}
    for f in (*funnels, *brought):
        for name, share in f["nearest"].items():
            key = f"largest containment left of a {name} problem"
            nearest[key] = max(nearest.get(key, 0.0), share)
    return {
        "funnel": list(steps.values()),
        "judges": agreed,
        "held_out": {s.name: s.count for s in run.recipe.synth.held_out},
        "contamination": nearest,
        "examples": _examples(run),
    }


def _examples(run: Run) -> list[Json]:
    """One problem of each training set: the first that composes the most concepts."""
    found = []
    for s in run.recipe.synth.sets:
        folder = run.path / "synth" / "sets" / s.name
        problems = _rows(folder / "problems.jsonl")
        if not problems:
            continue
        at = max(range(len(problems)), key=lambda i: (len(problems[i]["concepts"]), -i))
        problem = problems[at]
        author = {row["prompt_id"]: row["text"] for row in _rows(folder / "author.jsonl")}
        trace = _rows(folder / "examples.jsonl")[at]["completion"]
        drafted = author.get(problem["id"], "")
        rationale = drafted.split("-->", 1)[-1].split("<!--", 1)[0].strip()
        found.append(
            {
                "concepts": problem["concepts"],
                "level": problem["level"],
                "rationale": rationale,
                "statement": problem["statement"],
                "trace": trace,
                "answer": problem["answer"],
            }
        )
    return found


def _train(run: Run) -> Json:
    path = run.path / "train" / "metrics.jsonl"
    rows = _rows(path)
    phases = []
    begun = 0
    for phase in run.recipe.train.phases:
        own = [row for row in rows if row["phase"] == phase.name]
        if not own:
            raise DataError(f"{path}: holds no step of phase {phase.name!r}")
        tokens = own[-1]["tokens"] - begun
        ends = [begun, *(o["tokens"] for o in own)]
        steps_tokens = [b - a for a, b in itertools.pairwise(ends)]
        wall = sum(n / o["tokens_per_s"] for n, o in zip(steps_tokens, own, strict=True))
        tail = own[-max(len(own) // 20, 1) :]
        phases.append(
            {
                "name": phase.name,
                "tokens": tokens,
                "steps": len(own),
                "wall_s": wall,
                "tokens_per_s": tokens / wall,
                "final_loss": sum(o["loss"] for o in tail) / len(tail),
            }
        )
        begun = own[-1]["tokens"]
    every = max(len(rows) // CURVE_POINTS, 1)
    keys = ("step", "tokens", "loss", "lr", "phase", "tokens_per_s")
    curve = [{k: row[k] for k in keys} for row in rows[::every]]
    return {"phases": phases, "curve": curve}


def _eval(run: Run) -> Json:
    found: Json = {}
    own = [s.name for s in run.recipe.synth.held_out]
    names = [*own, *run.recipe.eval.benchmarks]
    for phase in run.recipe.train.phases:
        base = run.path / "eval" / f"after-{phase.name}"
        last = phase is run.recipe.train.phases[-1]
        sets = {name: read_json(base / name / "result.json") for name in (names if last else own)}
        for result in sets.values():
            result.pop("per_problem", None)
        found[phase.name] = sets
    return found


def _samples(run: Run) -> list[Json]:
    base = run.path / "eval" / f"after-{run.recipe.train.phases[-1].name}"
    shown = []
    for name, problems in held_out(run).items():
        by_id: dict[str, Problem] = {p.id: p for p in problems}
        completions = {
            (c.prompt_id, c.sample): c
            for c in read_jsonl(base / name / "completions.jsonl", Completion)
        }
        verdicts = read_jsonl(base / name / "verdicts.jsonl", Verdict)
        verdicts.sort(key=lambda v: (v.problem_id, v.sample))
        seen: set[str] = set()
        for v in verdicts:
            if v.outcome.value in seen or len(seen) == SAMPLES_SHOWN:
                continue
            seen.add(v.outcome.value)
            shown.append(
                {
                    "set": name,
                    "prompt": by_id[v.problem_id].statement,
                    "completion": completions[(v.problem_id, v.sample)].text,
                    "outcome": v.outcome.value,
                    "reference": by_id[v.problem_id].answer or "(test cases)",
                }
            )
    return shown


def _versions() -> Json:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            continue
    return found


def _device() -> Json:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _commit() -> str | None:
    """The revision of the checkout that this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
