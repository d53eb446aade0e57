"""Results as a short run on two cores leaves them: made up, but of a real run's shape and size."""

import math
import random

from statewise.report import RunResults

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
    return {
        "n_problems": problems,
        "n_samples": total,
        "pass_at_1": p,
        "stderr": stderr,
        "interval": [max(0.0, p - 1.96 * stderr), min(1.0, p + 1.96 * stderr)],
        "pass_at_k": {str(k): 1 - (1 - p) ** k**0.4 for k in (1, 4, 16) if k <= samples},
        "majority": min(1.0, p + 0.045) if majority is None else majority,
        "outcomes": {
            "correct": correct,
            "incorrect": total - correct - truncated - no_answer,
            "no_answer": no_answer,
            "truncated": truncated,
            "unscored": 0,
        },
        "mean_tokens": 118.4,
        "sampling": {"temperature": 0.8, "top_p": 1.0, "max_tokens": 256},
    }


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
            {
                "step": step,
                "tokens": tokens,
                "loss": base * math.exp(draw.gauss(0, 0.06)),
                "lr": 3e-3 * min(1, step / 40) * (0.55 + 0.45 * math.cos(math.pi * step / 635)),
                "phase": phase,
                "tokens_per_s": 13_400 + draw.gauss(0, 200),
            }
        )
    return points


def difference(rows, name, one, other):
    mean = sum(r[one] - r[other] for r in rows if r["set"] == name) / 3
    return {"set": name, "mean": mean, "interval": [mean - 0.027, mean + 0.027]}


EXAMPLE = {
    "concepts": ["greatest common divisor", "arithmetic sequence"],
    "level": "two composed concepts",
    "rationale": "The greatest common divisor of two numbers is a small whole number, so it can "
    "serve as the common difference of a sequence; the solver must finish one before the other.",
    "statement": "Let d be the greatest common divisor of 84 and 126. An arithmetic sequence "
    "begins with 5 and grows by d at each step. What is its ninth term?",
    "trace": "<think>\ngcd(84, 126): 126 - 84 = 42; 84 = 2 * 42. So d = 42.\n"
    "Ninth term: 5 + 8 * 42 = 5 + 336 = 341.\n</think>\nThe ninth term is \\boxed{341}.",
    "answer": "341",
}


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
                {
                    "seed": seed,
                    "set": name,
                    "statewise": final[name] + jitter,
                    "transformer": final[name] - 0.11 + 2 * draw.gauss(0, 0.012),
                }
            )
            curriculum_rows.append(
                {
                    "seed": seed,
                    "set": name,
                    "phase 1": first[name] + jitter,
                    "phase 1+2": final[name] + jitter,
                    "phase 2 alone": alone[name] + draw.gauss(0, 0.012),
                }
            )
    rows = []
    for batch, ours, theirs in ((1, 410, 380), (16, 4_900, 4_300)):
        for length in (64, 128, 256, 512, 1024, 2048, 4096):
            rows.append(
                {
                    "length": length,
                    "batch": batch,
                    "statewise_tokens_per_s": ours * (1 - 0.01 * math.log2(length / 64)),
                    "transformer_tokens_per_s": theirs / (1 + length * batch / 9_000),
                    "statewise_state_bytes": 6 * (10 * 32 * 32 + 3 * 384) * 4,
                    "transformer_kv_bytes": length * 6 * 2 * 80 * 4,
                }
            )
    stages = {"synth": 21.4, "train": 391.0, "eval": 96.2, "compare": 74.5, "bench": 31.0}
    parts = {
        "name": "mini",
        "recipe_toml": RECIPE,
        "recipe_sha256": "6f1b0c5e" * 8,
        "seed": 0,
        "wall_s": 617.3,
        "started_at": "2026-01-31 09:00:00 UTC",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {
            "python": "3.12.8",
            "statewise": "0.1.0",
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
        },
        "device": {
            "cpu": "AMD EPYC 7B13",
            "cores": 2,
            "threads": 2,
            "memory_bytes": 8_334_426_112,
            "gpu": None,
        },
        "stages": {
            **{k: {"wall_s": v, "skipped": k == "synth"} for k, v in stages.items()},
            "report": {"wall_s": 3.2, "skipped": False},
        },
        "model": {
            "parameters": 1_287_440,
            "state_bytes_per_sequence": 273_408,
            "config": {"d_model": 160, "n_layer": 6, "d_state": 32, "headdim": 32, "n_groups": 1},
        },
        "synth": {
            "funnel": [
                {"stage": "drafted", "math": 4_000, "code": 600},
                {"stage": "well formed", "math": 3_921, "code": 588},
                {"stage": "judged perfect by both", "math": 3_318, "code": 497},
                {"stage": "not duplicate", "math": 3_102, "code": 421},
                {"stage": "not contaminated", "math": 3_094, "code": 419},
                {"stage": "solved and verified", "math": 3_007, "code": 402},
                {"stage": "examples", "math": 3_007, "code": 402},
            ],
            "judges": {"agreement": 0.931, "unreadable": 12},
            "held_out": dict.fromkeys(SETS, 200),
            "contamination": {
                "highest similarity to a held-out problem": 0.71,
                "threshold": 0.8,
                "problems removed": 10,
            },
            "examples": [EXAMPLE],
        },
        "train": {
            "phases": [
                {
                    "name": "foundations",
                    "tokens": 1_998_848,
                    "steps": 244,
                    "wall_s": 149.1,
                    "tokens_per_s": 13_406.1,
                    "final_loss": 0.2412,
                },
                {
                    "name": "composed",
                    "tokens": 3_203_072,
                    "steps": 391,
                    "wall_s": 241.2,
                    "tokens_per_s": 13_279.7,
                    "final_loss": 0.1731,
                },
            ],
            "curve": curve(),
        },
        "eval": {name: accuracy(p) for name, p in final.items()},
        "eval_by_phase": {
            "after phase 1": {name: accuracy(p) for name, p in first.items()},
            "after phase 1+2": {name: accuracy(p) for name, p in final.items()},
        },
        "claims": {
            "architecture": {
                "statement": "At equal parameters and tokens the attention-free model answers "
                "at least as many held-out problems as the Transformer.",
                "held": True,
                "reason": "The paired difference lies above zero on all four sets.",
                "seeds": [0, 1, 2],
                "figures": {
                    "parameters": {"statewise": 1_287_440, "transformer": 1_301_920},
                    "tokens": 5_201_920,
                    "pass_at_1": architecture_rows,
                    "difference": [
                        difference(architecture_rows, n, "statewise", "transformer") for n in SETS
                    ],
                },
            },
            "curriculum": {
                "statement": "Both phases in order beat phase 2 alone at equal tokens.",
                "held": False,
                "reason": "Phase 2 alone is not worse: the difference on three composed concepts "
                "is −1.1 points, its interval includes zero.",
                "seeds": [0, 1, 2],
                "figures": {
                    "tokens": {"phase 1": 1_998_848, "phase 1+2": 5_201_920},
                    "pass_at_1": curriculum_rows,
                    "difference": [
                        difference(curriculum_rows, n, "phase 1+2", "phase 2 alone") for n in SETS
                    ],
                },
            },
            "efficiency": {
                "statement": "State and speed do not depend on the length generated.",
                "held": True,
                "reason": "At 4,096 tokens the speed is 94 % of that at 64, the Transformer's is "
                "12 % of its own, in batches of 16.",
                "seeds": [0],
                "figures": {"rows": rows, "dtype": "float32"},
            },
        },
        "samples": [
            {
                "set": "workbook-2",
                "prompt": "A triangle has angles of 35° and 62°. Let r be the remainder of its "
                "third angle divided by 7. Compute 3 * r + 4.",
                "completion": "<think>\n180 - 35 - 62 = 83.\n83 = 7 * 11 + 6, so r = 6.\n"
                "3 * 6 + 4 = 22.\n</think>\nThe answer is \\boxed{22}.",
                "outcome": "correct",
                "reference": "22",
            },
            {
                "set": "workbook-3",
                "prompt": "How many digits does 17 have in base 2? Add it to gcd(48, 36) and take "
                "the sum modulo 9.",
                "completion": "<think>\n17 = 10001 in base 2: 5 digits.\ngcd(48, 36) = 12.\n"
                "5 + 12 = 17, 17 mod 9 = 7.\n</think>\nThe answer is \\boxed{7}.",
                "outcome": "incorrect",
                "reference": "8",
            },
        ],
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
        model={"parameters": 3_412_000, "state_bytes_per_sequence": 410_112},
        eval={
            "math500": accuracy(0.012, 500, 4, majority=0.014),
            "aime2024": accuracy(0.0, 30, 16, majority=0.0),
        },
    )


def bare_results() -> RunResults:
    """Nothing but the recipe: every part of the report is absent."""
    return RunResults(name="bare", recipe_toml="", recipe_sha256="00" * 32, seed=0)
