"""Results as a short run on two cores leaves them: made up, but of a real run's shape and size."""

import math
import random

from statewise.report.results import (
    ArchitectureFigures,
    ClaimResult,
    Claims,
    CurriculumFigures,
    CurvePoint,
    Device,
    EfficiencyFigures,
    FunnelStep,
    ModelFigures,
    Overlap,
    RunResults,
    SampleAnswer,
    SampleProblem,
    ScoreRow,
    SetDifference,
    SetResult,
    StageTime,
    SynthFigures,
    TrainFigures,
    TrainPhase,
)
from statewise.sampler import SamplingParams
from statewise.speed import BenchRow, Speed

RECIPE = """\
name = "mini"
seed = 0
tokenizer = { kind = "bpe", vocab_size = 1024, split_digits = true }
model = { d_model = 160, n_layer = 6, d_state = 32, headdim = 32, tie_embeddings = true }

[synth]
drafts = 4000
judges = [{ kind = "workbook" }, { kind = "workbook" }]
held_out = 200

[train]
global_batch_tokens = 8192
phases = [
  { name = "foundations", sources = [{ path = "@workbook" }], tokens = 2000000, lr = 3e-3 },
  { name = "composed", sources = [{ path = "@synth" }], tokens = 3200000, lr = 1e-3 },
]

[eval]
samples = 16
sampling = { temperature = 0.8, max_tokens = 256 }
"""

SETS = ("workbook-1", "workbook-2", "workbook-3", "workbook-code")


def accuracy(p: float, problems: int = 200, samples: int = 16, majority: float | None = None):
    total = problems * samples
    correct = round(p * total)
    truncated = round((total - correct) * 0.12)
    no_answer = round((total - correct) * 0.03)
    stderr = 1.3 * math.sqrt(max(p * (1 - p), 1e-4) / problems)
    return SetResult(
        n_problems=problems,
        n_samples=total,
        n_scored=total,
        n_unscored=0,
        pass_at_1=p,
        stderr=stderr,
        interval=(max(0.0, p - 1.96 * stderr), min(1.0, p + 1.96 * stderr)),
        pass_at_k={str(k): 1 - (1 - p) ** k**0.4 for k in (1, 4, 16) if k <= samples},
        majority=min(1.0, p + 0.045) if majority is None else majority,
        outcomes={
            "correct": correct,
            "incorrect": total - correct - truncated - no_answer,
            "no_answer": no_answer,
            "truncated": truncated,
            "unscored": 0,
        },
        truncated=truncated / total,
        mean_tokens=118.4,
        per_problem={"a": p},
        sampling=SamplingParams(n=samples, temperature=0.8, max_tokens=256),
    )


def curve():
    draw = random.Random(0)
    points, tokens = [], 0
    for step in range(1, 636):
        tokens += 8192
        phase = "foundations" if tokens <= 2_000_000 else "composed"
        base = 0.24 + 6.4 * math.exp(-tokens / 260_000)
        if phase == "composed":
            base = 0.17 + 0.3 * math.exp(-(tokens - 2_000_000) / 700_000)
        points.append(
            CurvePoint(
                step=step,
                tokens=tokens,
                loss=base * math.exp(draw.gauss(0, 0.06)),
                lr=3e-3 * min(1, step / 40) * (0.55 + 0.45 * math.cos(math.pi * step / 635)),
                phase=phase,
                tokens_per_s=13_400 + draw.gauss(0, 200),
            )
        )
    return tuple(points)


def difference(rows, name, one, other):
    mean = sum(r.scores[one] - r.scores[other] for r in rows if r.set == name) / 3
    return SetDifference(name, mean, (mean - 0.027, mean + 0.027))


def speed(tokens_per_s, memory_bytes):
    return Speed(tokens_per_s, memory_bytes, 8 / tokens_per_s, 9_000.0, 12.0, 1e-4, 0.3, 2e-6)


def efficiency_figures(rows):
    return EfficiencyFigures(tuple(rows), 72, 256)


EXAMPLE = SampleProblem(
    concepts=("greatest common divisor", "arithmetic sequence"),
    level="two composed concepts",
    rationale="The greatest common divisor of two numbers is a small whole number, so it can "
    "serve as the common difference of a sequence; the solver must finish one before the other.",
    statement="Let d be the greatest common divisor of 84 and 126. An arithmetic sequence "
    "begins with 5 and grows by d at each step. What is its ninth term?",
    trace="<think>\ngcd(84, 126): 126 - 84 = 42; 84 = 2 * 42. So d = 42.\n"
    "Ninth term: 5 + 8 * 42 = 5 + 336 = 341.\n</think>\nThe ninth term is \\boxed{341}.",
    answer="341",
)


def full_results(**changes) -> RunResults:
    """A complete run: every part of the report has material; the curriculum claim fails."""
    final = dict(zip(SETS, (0.913, 0.784, 0.741, 0.652), strict=True))
    first = dict(zip(SETS, (0.884, 0.231, 0.094, 0.118), strict=True))
    alone = dict(zip(SETS, (0.902, 0.791, 0.752, 0.671), strict=True))
    draw = random.Random(1)
    architecture_rows, curriculum_rows = [], []
    for seed in (0, 1, 2):
        for name in SETS:
            jitter = draw.gauss(0, 0.012)
            architecture_rows.append(
                ScoreRow(
                    seed,
                    name,
                    {
                        "statewise": final[name] + jitter,
                        "transformer": final[name] - 0.11 + 2 * draw.gauss(0, 0.012),
                    },
                )
            )
            curriculum_rows.append(
                ScoreRow(
                    seed,
                    name,
                    {
                        "phase 1": first[name] + jitter,
                        "phase 1+2": final[name] + jitter,
                        "phase 2 alone": alone[name] + draw.gauss(0, 0.012),
                    },
                )
            )
    rows = [
        BenchRow(
            length=length,
            batch=batch,
            copy_bytes_per_s=2e10,
            statewise=speed(
                ours * (1 - 0.01 * math.log2(length / 64)), 6 * (10 * 32 * 32 + 3 * 384) * 4
            ),
            transformer=speed(theirs / (1 + length * batch / 9_000), length * 6 * 2 * 80 * 4),
        )
        for batch, ours, theirs in ((1, 410, 380), (16, 4_900, 4_300))
        for length in (64, 128, 256, 512, 1024, 2048, 4096)
    ]
    stages = {"synth": 21.4, "train": 391.0, "eval": 96.2, "compare": 74.5, "bench": 31.0}
    parts = {
        "name": "mini",
        "recipe_toml": RECIPE,
        "recipe_sha256": "6f1b0c5e" * 8,
        "seed": 0,
        "wall_s": 617.3,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {
            "python": "3.12.8",
            "statewise": "0.1.0",
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
        },
        "device": Device("AMD EPYC 7B13", 2, 2, 8_334_426_112, None),
        "stages": {
            **{k: StageTime(v) for k, v in stages.items()},
            "report": StageTime(3.2),
        },
        "model": ModelFigures(
            1_287_440,
            273_408,
            {"d_model": 160, "n_layer": 6, "d_state": 32, "headdim": 32, "n_groups": 1},
        ),
        "synth": SynthFigures(
            funnel=(
                FunnelStep("drafted", 4_000, 600),
                FunnelStep("well formed", 3_921, 588),
                FunnelStep("judged perfect by both", 3_318, 497),
                FunnelStep("not duplicate", 3_102, 421),
                FunnelStep("not contaminated", 3_094, 419),
                FunnelStep("solved and verified", 3_007, 402),
                FunnelStep("examples", 3_007, 402),
            ),
            judges={"agreement, composed": 0.931, "imported, published": "12 of 30 rows"},
            held_out=dict.fromkeys(SETS, 200),
            contamination={"largest containment left of a workbook-1 problem": 0.71},
            overlap={"workbook-1": Overlap(200, 0, 200, 0)},
            examples=(EXAMPLE,),
        ),
        "train": TrainFigures(
            phases=(
                TrainPhase("foundations", 1_998_848, 244, 149.1, 13_406.1, 0.2412),
                TrainPhase("composed", 3_203_072, 391, 241.2, 13_279.7, 0.1731),
            ),
            curve=curve(),
        ),
        "eval": {name: accuracy(p) for name, p in final.items()},
        "eval_by_phase": {
            "after phase 1": {name: accuracy(p) for name, p in first.items()},
            "after phase 1+2": {name: accuracy(p) for name, p in final.items()},
        },
        "claims": Claims(
            architecture=ClaimResult(
                statement="At equal parameters and tokens the attention-free model answers "
                "at least as many held-out problems as the Transformer.",
                held=True,
                reason="The paired difference lies above zero on all four sets.",
                seeds=(0, 1, 2),
                figures=ArchitectureFigures(
                    parameters={"statewise": 1_287_440, "transformer": 1_301_920},
                    tokens=5_201_920,
                    pass_at_1=tuple(architecture_rows),
                    difference=tuple(
                        difference(architecture_rows, n, "statewise", "transformer") for n in SETS
                    ),
                ),
            ),
            curriculum=ClaimResult(
                statement="Both phases in order beat phase 2 alone at equal tokens.",
                held=False,
                reason="Phase 2 alone is not worse: the difference on three composed concepts "
                "is −1.1 points, its interval includes zero.",
                seeds=(0, 1, 2),
                figures=CurriculumFigures(
                    tokens={"phase 1": 1_998_848, "phase 1+2": 5_201_920},
                    pass_at_1=tuple(curriculum_rows),
                    difference=tuple(
                        difference(curriculum_rows, n, "phase 1+2", "phase 2 alone") for n in SETS
                    ),
                ),
            ),
            efficiency=ClaimResult(
                statement="State and speed do not depend on the length generated.",
                held=True,
                reason="At 4,096 tokens the speed is 94 % of that at 64, the Transformer's is "
                "12 % of its own, in batches of 16.",
                seeds=(0,),
                figures=efficiency_figures(rows),
            ),
        ),
        "samples": (
            SampleAnswer(
                set="workbook-2",
                prompt="A triangle has angles of 35° and 62°. Let r be the remainder of its "
                "third angle divided by 7. Compute 3 * r + 4.",
                completion="<think>\n180 - 35 - 62 = 83.\n83 = 7 * 11 + 6, so r = 6.\n"
                "3 * 6 + 4 = 22.\n</think>\nThe answer is \\boxed{22}.",
                outcome="correct",
                reference="22",
            ),
            SampleAnswer(
                set="workbook-3",
                prompt="How many digits does 17 have in base 2? Add it to gcd(48, 36) and take "
                "the sum modulo 9.",
                completion="<think>\n17 = 10001 in base 2: 5 digits.\ngcd(48, 36) = 12.\n"
                "5 + 12 = 17, 17 mod 9 = 7.\n</think>\nThe answer is \\boxed{7}.",
                outcome="incorrect",
                reference="8",
            ),
        ),
    }
    return RunResults(**{**parts, **changes})


def benchmark_results() -> RunResults:
    """A run on real problems: two benchmarks, low scores, no claims, no synthesis, no bench."""
    return RunResults(
        name="real",
        recipe_toml='name = "real"\n',
        recipe_sha256="ab" * 32,
        seed=3,
        wall_s=412.0,
        model=ModelFigures(3_412_000, 410_112, {}),
        eval={
            "math500": accuracy(0.012, 500, 4, majority=0.014),
            "aime2024": accuracy(0.0, 30, 16, majority=0.0),
        },
    )


def bare_results() -> RunResults:
    """Nothing but the recipe: every part of the report is absent."""
    return RunResults(name="bare", recipe_toml="", recipe_sha256="00" * 32, seed=0)
