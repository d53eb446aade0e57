"""Results as a short run on two cores leaves them: made up, but of a real run's shape and size."""

import math
import random

from statewise import verdict
from statewise.report.results import (
    ArmFigures,
    Choice,
    ClaimResult,
    Claims,
    Comparison,
    Contrast,
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
    ScoreRow,
    SetDifference,
    SetResult,
    SourceRead,
    Spike,
    StageTime,
    SynthFigures,
    TrainFigures,
    TrainPhase,
    Trial,
)
from statewise.report.wording import set_phrase
from statewise.sampler import SamplingParams
from statewise.speed import IN_LLAMA_CPP, IN_TORCH, OURS, OURS_IN_TORCH, Bench, BenchRow, Speed
from statewise.verdict import Evidence, Word

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
NOVEL = ("workbook-pairs", "workbook-numbers", "workbook-wording")
EVALUATED = (*SETS, *NOVEL)
OUR_CHOICE, THEIRS = Choice("recipe", 1.0, 1.0), Choice("4 layers, 8 heads", 0.5, 2.0)
ARMS = {
    "curriculum": ArmFigures(
        "curriculum", "attention-free", OUR_CHOICE, 570_592, 5_200_000, 1.71e13, 280_576
    ),
    "mixture": ArmFigures(
        "last phase's mixture from the start",
        "attention-free", OUR_CHOICE, 570_592, 5_200_000, 1.71e13, 280_576,
    ),
    "foundation": ArmFigures(
        "first phase's data to the end",
        "attention-free", OUR_CHOICE, 570_592, 5_200_000, 1.71e13, 280_576,
    ),
    "no-programs": ArmFigures(
        "curriculum without programs",
        "attention-free", OUR_CHOICE, 570_592, 5_200_000, 1.71e13, 280_576,
    ),
    "transformer": ArmFigures(
        "Transformer", "transformer", THEIRS, 571_904, 5_200_000, 1.62e13, 262_144
    ),
    "transformer-compute": ArmFigures(
        "Transformer at equal training compute",
        "transformer", THEIRS, 571_904, 5_488_000, 1.71e13, 262_144,
    ),
    "transformer-window": ArmFigures(
        "sliding-window Transformer", "window", THEIRS, 571_904, 5_200_000, 1.6e13, 280_064
    ),
}  # fmt: skip


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


def source_read(source, samples, tokens, *, passes, left_out=None, cut=0, held_out=0):
    """What a phase read of a source, as a run writes it down."""
    different = min(samples, round(samples / passes))
    return SourceRead(source, samples, tokens, different, passes, left_out or {}, cut, held_out)


def phase_read(filled, *sources, packing="in-order"):
    """What a phase read, in rows of 1,024 tokens."""
    rows = round(sum(s.tokens for s in sources) / filled / 1_024)
    return PhaseRead(packing, rows, 1_024, filled, sources)


def curve():
    draw = random.Random(0)
    points, tokens = [], 0
    for step in range(1, 636):
        tokens += 8192
        phase = "foundation" if tokens <= 800_000 else "promptcot"
        base = 0.24 + 6.4 * math.exp(-tokens / 260_000)
        if phase == "promptcot":
            base = 0.17 + 0.3 * math.exp(-(tokens - 800_000) / 700_000)
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


def contrast(
    scores, second, *, seeds, half=0.03, reach=0.2, decides=True, beside=NOVEL, compared=()
):
    """The curriculum minus another arm, decided as the pipeline decides it.

    Args:
        scores: of each arm, pass@1 of every set.
        second: the other arm.
        seeds: how many.
        half: half an interval's width.
        reach, decides: as the results have them.
        beside: the sets that decide nothing.
        compared: what else is asked whether it reaches that.
    """
    both = ("curriculum", second)

    def evidence(names):
        one, other = (sum(scores[arm][n] for n in names) / len(names) for arm in both)
        mean = one - other
        others = {arm: sum(scores[arm][n] for n in names) / len(names) for arm in compared}
        shares = {"curriculum": one, second: other, **others}
        return Evidence(mean, (mean - half, mean + half), shares)

    def row(name, e, word):
        one, other = (e.scores[arm] for arm in both)
        return SetDifference(name, one, other, e.difference, e.interval, 1.4 * half, word)

    sets = {name: evidence([name]) for name in scores["curriculum"] if name not in beside}
    together = evidence(list(sets))
    decision = verdict.over_sets(sets, together, seeds=seeds, reach=reach)
    others = {n: evidence([n]) for n in beside if n in scores["curriculum"]}
    return Contrast(
        first="curriculum",
        second=second,
        decides=decides,
        word=decision.word,
        worst=decision.worst,
        together=row("", together, decision.word),
        sets=tuple(row(n, e, decision.sets[n]) for n, e in sets.items()),
        beside=tuple(
            row(n, e, verdict.of_set(e, seeds=seeds, reach=reach)) for n, e in others.items()
        ),
    )


def claim(statement, scores, contrasts, *, seeds=3, trials=()):
    """What came of a comparison, from its contrasts and pass@1 of each arm and set."""
    judged = [c for c in contrasts if c.decides]
    word = verdict.of_parts([c.word for c in judged])
    worst = min(judged, key=lambda c: verdict.rank(c.word))
    draw = random.Random(1)
    rows = tuple(
        ScoreRow(
            seed, name, {arm: min(1.0, max(0.0, scores[arm][name] + draw.gauss(0, 0.012)))
                         for arm in scores}
        )
        for seed in range(seeds)
        for name in scores["curriculum"]
    )  # fmt: skip
    return ClaimResult(
        statement=statement,
        word=word,
        headline=f"{word}; least favourable: {set_phrase(worst.worst)} against "
        f"{ARMS[worst.second].label}",
        reason="Set by set as the table says.",
        seeds=tuple(range(seeds)),
        figures=Comparison(
            arms={arm: ARMS[arm] for arm in scores},
            scores=rows,
            decides=tuple(d.set for d in contrasts[0].sets),
            contrasts=tuple(contrasts),
            trials=tuple(trials),
            problems=200,
            samples=4,
            reach=0.2,
        ),
    )


# By the word that comes of it: pass@1 of both on the sets that decide, and how many seeds.
OF_EACH_WORD = {
    Word.HELD: ((0.97, 0.89, 0.75, 0.66), (0.9, 0.8, 0.62, 0.52), 3),
    Word.INDICATED: ((0.97, 0.89, 0.75, 0.66), (0.9, 0.8, 0.62, 0.52), 1),
    Word.REVERSED: ((0.9, 0.8, 0.62, 0.52), (0.97, 0.89, 0.75, 0.66), 3),
    Word.REVERSAL_INDICATED: ((0.9, 0.8, 0.62, 0.52), (0.97, 0.89, 0.75, 0.66), 1),
    Word.MIXED: ((0.976, 0.893, 0.637, 0.6), (0.942, 0.815, 0.688, 0.6), 3),
    Word.UNDECIDED: ((0.97, 0.89, 0.65, 0.6), (0.975, 0.88, 0.66, 0.59), 3),
    Word.TOO_WEAK: ((0.195, 0.005, 0.005, 0.1), (0.03, 0.04, 0.025, 0.0), 3),
}


def claim_that_is(word):
    """An architecture claim that comes to a word; None: one that was not measured."""
    if word is None:
        return ClaimResult("S", None, "", "Not compared in this run: no seeds.")
    ours, theirs, seeds = OF_EACH_WORD[word]
    scores = {
        "curriculum": dict(zip(SETS, ours, strict=True)),
        "transformer": dict(zip(SETS, theirs, strict=True)),
    }
    return claim("S", scores, [contrast(scores, "transformer", seeds=seeds)], seeds=seeds)


def trials():
    """A sweep of two architectures, one of them in two shapes; one trial diverged."""
    tried = []
    for architecture, shape, best, n in (
        ("attention-free", "recipe", 1.0, 570_592),
        ("transformer", "4 layers, 8 heads", 0.5, 571_904),
        ("transformer", "6 layers, 4 heads", 0.25, 573_120),
    ):
        for rate in (0.125, 0.25, 0.5, 1.0, 2.0):
            loss = 0.41 + 0.06 * math.log2(rate / best) ** 2 + n / 1e8
            lost = architecture == "transformer" and rate == 2.0
            choice = Choice(shape, rate, 1.0)
            tried.append(
                Trial(architecture, choice, (5e-3 * rate, 5e-3 * rate), n, 1_040_000,
                      None if lost else loss)
            )  # fmt: skip
    tried.append(Trial("transformer", THEIRS, (2.5e-3, 2.5e-3), 571_904, 1_040_000, 0.4012))
    return tried


STATE = 6 * (10 * 32 * 32 + 3 * 384) * 4


def speed(tokens_per_s, memory_bytes, batch=8):
    """Six repeats around a speed."""
    times = tuple(batch / tokens_per_s * (1 + k / 100) for k in (-3, -1, 0, 0, 1, 3))
    return Speed(batch, times, memory_bytes, batch * memory_bytes + 5_000_000, 2e-6)


def bench_row(length, ours, theirs, state=STATE, each=3840, batches=(8, 8)):
    """One length: llama.cpp is the faster opponent."""
    return BenchRow(
        length,
        {
            OURS: speed(ours, state, batches[0]),
            OURS_IN_TORCH: speed(ours / 6, state, batches[0]),
            IN_TORCH: speed(theirs / 4, length * each, batches[1]),
            IN_LLAMA_CPP: speed(theirs, length * each, batches[1]),
        },
    )


def efficiency_figures(rows, under_budget=None):
    return Bench(
        threads=2,
        dtype="float32",
        copy_bytes_per_s=2e10,
        llama_cpp="0.3.36",
        not_measured="",
        rows=tuple(rows),
        budget_bytes=64 * 2**20,
        most_sequences=256,
        under_budget=tuple(rows if under_budget is None else under_budget),
    )


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


def scores_of(*arms):
    """pass@1 of each arm on all sets, those on what training never had among them."""
    shares = {
        "curriculum": (0.976, 0.893, 0.637, 0.652, 0.571, 0.402, 0.788),
        "mixture": (0.951, 0.889, 0.641, 0.644, 0.566, 0.395, 0.771),
        "foundation": (0.982, 0.204, 0.031, 0.661, 0.118, 0.377, 0.752),
        "no-programs": (0.975, 0.897, 0.648, 0.0, 0.58, 0.41, 0.781),
        "transformer": (0.942, 0.815, 0.688, 0.648, 0.612, 0.295, 0.801),
        "transformer-compute": (0.947, 0.822, 0.695, 0.651, 0.618, 0.3, 0.804),
        "transformer-window": (0.938, 0.79, 0.601, 0.64, 0.533, 0.288, 0.79),
    }
    return {arm: dict(zip(EVALUATED, shares[arm], strict=True)) for arm in arms}


def full_results(**changes) -> RunResults:
    """A complete run: every part of the report has material, and the claims' words differ."""
    final = scores_of("curriculum")["curriculum"]
    first = scores_of("foundation")["foundation"]
    architecture = scores_of(
        "curriculum", "transformer", "transformer-compute", "transformer-window"
    )
    curricula = scores_of("curriculum", "mixture", "foundation", "no-programs")
    lengths = (128, 512, 2048, 8192)
    rows = [bench_row(n, 24_900 - 0.05 * n, 8e7 / (2_000 + 6 * n)) for n in lengths]
    fitting = [min(256, 64 * 2**20 // (3840 * n)) for n in lengths]
    full = [
        bench_row(n, 26_000 - 0.1 * n, 9e7 / (2_000 + 9 * n), batches=(245, most))
        for n, most in zip(lengths, fitting, strict=True)
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
            roles={
                "author": Role("workbook", "", 0.05),
                "judge 1": Role("workbook", "", 0.02),
                "judge 2": Role("workbook", "", 0.02),
                "verifier": Role("workbook", "", 0.0),
                "teacher": Role("workbook", "", 0.03),
            },
            funnel=(
                FunnelStep("concept sets drafted", 34_000, 600),
                FunnelStep("well formed", 33_329, 588),
                FunnelStep("called perfect by all judges", 31_080, 497),
                FunnelStep("not duplicates", 31_004, 421),
                FunnelStep("not near an evaluation problem", 30_991, 419),
                FunnelStep("solved and verified", 30_061, 402),
            ),
            judges={"agreement, composed": 0.960, "imported, published": "12 of 30 rows"},
            held_out=dict.fromkeys(EVALUATED, 200),
            contamination=dict.fromkeys(EVALUATED, 0.593),
            overlap={
                "workbook-1": Overlap(200, 0, 200, 0),
                "workbook-2": Overlap(200, 0, 400, 0),
                "workbook-wording": Overlap(200, 0, 400, 0),
            },
            examples=(EXAMPLE,),
        ),
        "train": TrainFigures(
            phases=(
                TrainPhase("foundation", 794_624, 97, 59.1, 13_406.1, 0.2412),
                TrainPhase("promptcot", 4_407_296, 538, 331.9, 13_279.7, 0.1731),
            ),
            curve=curve(),
            spikes=(Spike("promptcot", 200, 1_638_400, 1.31, 0.42),),
            development=tuple(
                DevelopmentPoint(phase, step, 8_192 * step, source, at / step**0.35, 14_000)
                for phase, step in (
                    ("foundation", 50),
                    ("foundation", 97),
                    ("promptcot", 300),
                    ("promptcot", 635),
                )
                for source, at in (("workbook-1", 2.0), ("workbook-3", 3.4))
            ),
            skipped=1,
            read={
                "foundation": phase_read(
                    0.8913, source_read("@workbook", 3_204, 794_624, passes=1.068)
                ),
                "promptcot": phase_read(
                    0.9871,
                    source_read(
                        "solutions.jsonl",
                        9_120,
                        4_100_352,
                        passes=0.76,
                        left_out={"longer than a row": 31, "near an evaluation problem": 12},
                        cut=5,
                        held_out=100,
                    ),
                    source_read("@workbook", 1_237, 306_944, passes=0.412),
                    packing="best-fit",
                ),
            },
        ),
        "eval": {name: accuracy(p) for name, p in final.items()},
        "eval_by_phase": {
            "after phase 1": {name: accuracy(p) for name, p in first.items()},
            "after phase 1+2": {name: accuracy(p) for name, p in final.items()},
        },
        "claims": Claims(
            architecture=claim(
                "A model of SSD layers alone matches or beats a Transformer of its size that was "
                "trained on the same tokens.",
                architecture,
                [
                    contrast(architecture, arm, seeds=3, decides=arm == "transformer")
                    for arm in list(architecture)[1:]
                ],
                trials=trials(),
            ),
            curriculum=claim(
                "Foundations first, then synthesised problems, solves more than either alone, at "
                "equal tokens.",
                curricula,
                [
                    contrast(
                        curricula,
                        arm,
                        seeds=3,
                        decides=arm != "no-programs",
                        compared=("mixture", "foundation"),
                    )
                    for arm in list(curricula)[1:]
                ],
                trials=trials(),
            ),
            efficiency=ClaimResult(
                statement="State and speed do not depend on the length generated.",
                word=Word.HELD,
                headline="",
                reason="At 4,096 tokens the speed is 94 % of that at 64, the Transformer's is "
                "12 % of its own, in batches of 16.",
                seeds=(0,),
                figures=efficiency_figures(rows, full),
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
