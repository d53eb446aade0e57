"""From the files of a run folder to the one value that the report is made from."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from statewise.errors import DataError
from statewise.pipeline.asking import written
from statewise.pipeline.claims import architecture_claim, curriculum_claim, efficiency_claim
from statewise.pipeline.stage import Run
from statewise.records import (
    Completion,
    Example,
    Problem,
    Verdict,
    from_json,
    read_json,
    read_jsonl,
    read_record,
)
from statewise.report.results import (
    Claims,
    CurvePoint,
    DevelopmentPoint,
    Device,
    FunnelStep,
    ModelFigures,
    Overlap,
    PhaseRead,
    Role,
    RunResults,
    SampleAnswer,
    SampleProblem,
    SetResult,
    Spike,
    StageTime,
    SynthFigures,
    TrainFigures,
    TrainPhase,
)
from statewise.synth.config import SynthConfig
from statewise.synth.line import Funnel
from statewise.train.spikes import Spikes
from statewise.train.trainer import Measured, Metrics

CURVE_POINTS = 400
SAMPLES_SHOWN = 2  # of each set: the first right one and the first wrong one
PACKAGES = ("statewise", "torch", "transformers", "tokenizers", "accelerate", "mpmath")


def gather(run: Run) -> RunResults:
    """Everything the run folder holds; what no stage has made from this recipe is absent.

    Raises:
        DataError: a file is missing, or is not what the stage writes.
    """
    r = run.recipe
    stages = {
        name: StageTime(wall_s=round(record.wall_s, 3))
        for name, record in run.pipeline.finished(run).items()
    }
    results = _eval(run) if "eval" in stages else {}
    return RunResults(
        name=r.name,
        recipe_toml=r.toml,
        recipe_sha256=r.sha256,
        seed=r.seed,
        wall_s=round(sum(s.wall_s for s in stages.values()), 3),
        commit=_commit(),
        versions=_versions(),
        device=_device(),
        stages=stages,
        model=ModelFigures(
            parameters=r.model.num_params,
            state_bytes_per_sequence=r.model.state_bytes(),
            config={name: getattr(r.model, name) for name in r.model.__slots__},
        ),
        synth=_synth(run) if "synth" in stages else None,
        train=_train(run) if "train" in stages else None,
        eval=results.get(r.train.phases[-1].name, {}),
        eval_by_phase=results,
        claims=Claims(
            architecture=architecture_claim(run, measured="compare" in stages),
            curriculum=curriculum_claim(run, measured="compare" in stages),
            efficiency=efficiency_claim(run, measured="bench" in stages),
        ),
        samples=tuple(_samples(run)) if "eval" in stages else (),
    )


def _synth(run: Run) -> SynthFigures:
    sets, s = run.path / "synth" / "sets", run.recipe.synth
    funnels = [read_record(sets / w.name / "funnel.json", Funnel) for w in s.sets]
    imports = [read_record(sets / i.name / "funnel.json", Funnel) for i in s.imports]
    left = {step: {"math": 0, "code": 0} for f in funnels for step, _ in f.steps}
    for f in funnels:
        for step, count in f.steps:
            left[step][f.kind] += count
    judges: dict[str, float | str | None] = {f"agreement, {f.name}": f.agreement for f in funnels}
    for f in imports:
        judges[f"imported, {f.name}"] = f"{f.steps[-1][1]} of {f.steps[0][1]} rows"
    for f in funnels:
        for reason, problems in f.ungraded.items():
            judges[f"not graded, {f.name}: {reason}"] = f"{problems} problems"
    nearest: dict[str, float] = {}
    for f in (*funnels, *imports):
        for name, share in f.nearest.items():
            nearest[name] = max(nearest.get(name, 0.0), share)
    path = run.path / "synth" / "overlap.json"
    return SynthFigures(
        roles=_roles(s) if s.sets or s.held_out or s.development else {},
        funnel=tuple(FunnelStep(step, **counts) for step, counts in left.items()),
        judges=judges,
        held_out={w.name: w.count for w in s.held_out},
        contamination=nearest,
        overlap={
            name: from_json(Overlap, row, f"{path}: {name}")
            for name, row in read_json(path).items()
        },
        examples=tuple(_examples(run)),
    )


def _roles(s: SynthConfig) -> dict[str, Role]:
    """Who played which role."""
    judges = {f"judge {i}": role for i, role in enumerate(s.judges, 1)}
    players = {"author": s.author, **judges, "verifier": s.verifier, "teacher": s.teacher}
    return {
        name: Role(
            source=role.source,
            model=role.served_as or role.path,
            error=role.error if role.source == "workbook" else None,
        )
        for name, role in players.items()
    }


def _examples(run: Run) -> Iterator[SampleProblem]:
    """One problem of each training set: the first that composes the most concepts."""
    for s in run.recipe.synth.sets:
        folder = run.path / "synth" / "sets" / s.name
        problems = read_jsonl(folder / "problems.jsonl", Problem)
        if not problems:
            continue
        at = max(range(len(problems)), key=lambda i: (len(problems[i].concepts), -i))
        problem = problems[at]
        drafts = {c.prompt_id: c.text for c in read_jsonl(folder / "author.jsonl", Completion)}
        draft = drafts.get(problem.id, "")
        yield SampleProblem(
            concepts=problem.concepts,
            level=problem.level,
            rationale=draft.split("-->", 1)[-1].split("<!--", 1)[0].strip(),
            statement=problem.statement,
            trace=read_jsonl(folder / "examples.jsonl", Example)[at].completion,
            answer=problem.answer,
        )


def _train(run: Run) -> TrainFigures:
    path = run.path / "train" / "metrics.jsonl"
    steps = read_jsonl(path, Metrics)
    phases = []
    begun = 0
    for phase in run.recipe.train.phases:
        of_phase = [step for step in steps if step.phase == phase.name]
        if not of_phase:
            raise DataError(f"{path}: holds no step of phase {phase.name!r}")
        tokens = of_phase[-1].tokens - begun
        ends = [begun, *(step.tokens for step in of_phase)]
        steps_tokens = [b - a for a, b in itertools.pairwise(ends)]
        wall = sum(n / m.tokens_per_s for n, m in zip(steps_tokens, of_phase, strict=True))
        tail = of_phase[-max(len(of_phase) // 20, 1) :]
        phases.append(
            TrainPhase(
                name=phase.name,
                tokens=tokens,
                steps=len(of_phase),
                wall_s=wall,
                tokens_per_s=tokens / wall,
                final_loss=sum(m.loss for m in tail) / len(tail),
            )
        )
        begun = of_phase[-1].tokens
    curve = tuple(
        CurvePoint(m.step, m.tokens, m.loss, m.lr, m.phase, m.tokens_per_s)
        for m in steps[:: max(len(steps) // CURVE_POINTS, 1)]
    )
    watch, spikes = Spikes(), []
    for m in steps:
        before = watch.take(m.phase, m.loss)
        if before is not None:
            spikes.append(Spike(m.phase, m.step, m.tokens, m.loss, before))
    development = tuple(
        DevelopmentPoint(m.phase, m.step, m.tokens, m.source, m.loss, m.targets)
        for m in read_jsonl(run.path / "train" / "development.jsonl", Measured)
    )
    return TrainFigures(
        tuple(phases),
        curve,
        _read(run.path / "train" / "sources.json"),
        tuple(spikes),
        development,
        steps[-1].skipped,
    )


def _read(path: Path) -> dict[str, PhaseRead]:
    """What each phase read; of a training from before this was written down, nothing."""
    rows = read_json(path) if path.exists() else {}
    return {name: from_json(PhaseRead, row, f"{path}: {name}") for name, row in rows.items()}


def _eval(run: Run) -> dict[str, dict[str, SetResult]]:
    results = {}
    asked = [s.name for s in getattr(run.recipe.synth, run.recipe.eval.on)]
    last = run.recipe.train.phases[-1]
    for phase in run.recipe.train.phases:
        base = run.path / "eval" / f"after-{phase.name}"
        every = phase is last or run.recipe.eval.phase_benchmarks
        names = [*asked, *(run.recipe.eval.benchmarks if every else ())]
        results[phase.name] = {
            name: read_record(base / name / "result.json", SetResult) for name in names
        }
    return results


def _samples(run: Run) -> Iterator[SampleAnswer]:
    base = run.path / "eval" / f"after-{run.recipe.train.phases[-1].name}"
    for name, problems in written(run).items():
        by_id = {p.id: p for p in problems}
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
            if v.problem_id not in by_id or (v.problem_id, v.sample) not in completions:
                raise DataError(
                    f"{base / name / 'verdicts.jsonl'}: sample {v.sample} of problem "
                    f"{v.problem_id!r} is not among the completions"
                )
            yield SampleAnswer(
                set=name,
                prompt=by_id[v.problem_id].statement,
                completion=completions[(v.problem_id, v.sample)].text,
                outcome=v.outcome.value,
                reference=by_id[v.problem_id].answer or "(test cases)",
            )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            continue
    return versions


def _device() -> Device:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return Device(
        cpu=cpu,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def _commit() -> str | None:
    """The revision of the checkout that this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
