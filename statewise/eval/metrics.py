"""From verdicts to figures. The problem is the unit: samples of one problem are not independent.

pass@1 is the mean over problems of the mean over a problem's samples. Its standard error is the
spread of those means over problems (clustered by problem); the 95% interval is a bootstrap over
problems with a fixed seed. A sample whose checker failed is in none of these: it is counted, and
`n_scored` says how many are left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from statewise.errors import DataError
from statewise.eval.answers import canonical
from statewise.eval.rules import passed
from statewise.records import Completion, Outcome, Problem, Verdict

DRAWS, BOOTSTRAP_SEED = 10_000, 20_250_522


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SetResult:
    """Figures of one set of problems. None: not defined for these samples.

    Attributes:
        pass_at_1: mean over the problems with a scored sample of their mean.
        stderr: its standard error, clustered by problem; needs two problems.
        interval: its 95% bootstrap interval over problems, low and high.
        pass_at_k: unbiased, by k = 1, 2, 4, ... as text; a k is None if any problem has fewer
            scored samples.
        majority: share of problems whose most frequent answer is right; for mathematics only.
        truncated: share of samples cut at the token limit or inside their thinking.
        mean_tokens: of a completion.
        n_scored, n_unscored: samples with and without a verdict on the model.
        per_problem: mean of each problem's scored samples, for paired comparison.
        by_rules: pass@1 by each set of rules for programs; None without programs.
    """

    n_problems: int
    n_samples: int
    n_scored: int
    n_unscored: int
    pass_at_1: float | None
    stderr: float | None
    interval: Interval | None
    pass_at_k: dict[str, float | None]
    majority: float | None
    outcomes: dict[str, int]
    truncated: float | None
    mean_tokens: float | None
    per_problem: dict[str, float]
    by_rules: dict[str, float | None] | None = field(default=None, kw_only=True)


def pass_at_k(n: int, correct: int, k: int) -> float | None:
    """The chance that k of n samples, drawn without return, hold a correct one.

    1 - C(n - c, k) / C(n, k), in integers (Chen et al. 2021, arXiv:2107.03374). None when n < k.
    """
    if n < k:
        return None
    every = math.comb(n, k)
    return (every - math.comb(n - correct, k)) / every


def standard_error(means: Sequence[float]) -> float | None:
    """Standard error of the mean over problems; None for fewer than two."""
    if len(means) < 2:
        return None
    return float(np.std(means, ddof=1) / math.sqrt(len(means)))


def bootstrap(means: Sequence[float]) -> Interval | None:
    """95% percentile interval of the mean, problems drawn with return; the same every time."""
    if not means:
        return None
    values = np.asarray(means, dtype=np.float64)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = np.empty(DRAWS)
    rows = max(1, 2_000_000 // len(values))  # bounded memory for large sets
    for start in range(0, DRAWS, rows):
        count = min(rows, DRAWS - start)
        chosen = rng.integers(len(values), size=(count, len(values)))
        draws[start : start + count] = values[chosen].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(low), float(high))


def majority_answer(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The vote over one problem's samples: a verdict that stands for the winning answer.

    Samples without an answer do not vote. Answers that are literally the same number or string
    vote together; of equals, the one seen first by sample index wins.
    """
    votes: Counter[str] = Counter()
    first: dict[str, Verdict] = {}
    for v in sorted(verdicts, key=lambda v: v.sample):
        if v.extracted is not None:
            answer = canonical(v.extracted)
            votes[answer] += 1
            first.setdefault(answer, v)
    if not votes:
        return None
    return first[max(votes, key=lambda a: votes[a])]  # insertion order settles ties


def summarise(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
) -> SetResult:
    """All figures of one set.

    Args:
        problems: the set; a problem without samples counts in `n_problems` alone.
        completions: one for each verdict, for tokens and truncation.
        verdicts: any number a problem.

    Raises:
        DataError: two verdicts for one sample, or a verdict on a problem that is not in the set.
    """
    by_problem: dict[str, list[Verdict]] = {p.id: [] for p in problems}
    seen = set()
    for v in verdicts:
        if v.problem_id not in by_problem:
            raise DataError(
                f"a verdict names the problem {v.problem_id!r}, which is not in the set"
            )
        if (v.problem_id, v.sample) in seen:
            raise DataError(f"two verdicts on sample {v.sample} of problem {v.problem_id!r}")
        seen.add((v.problem_id, v.sample))
        by_problem[v.problem_id].append(v)
    outcomes = Counter(v.outcome for v in verdicts)
    counts = {
        p: (len(scored), sum(v.outcome is Outcome.CORRECT for v in scored))
        for p, vs in by_problem.items()
        if (scored := [v for v in vs if v.outcome is not Outcome.UNSCORED])
    }
    means = {p: correct / n for p, (n, correct) in counts.items()}
    values = [means[p] for p in sorted(means)]
    cut = outcomes[Outcome.TRUNCATED]
    return SetResult(
        n_problems=len(problems),
        n_samples=len(verdicts),
        n_scored=len(verdicts) - outcomes[Outcome.UNSCORED],
        n_unscored=outcomes[Outcome.UNSCORED],
        pass_at_1=math.fsum(values) / len(values) if values else None,
        stderr=standard_error(values),
        interval=bootstrap(values),
        pass_at_k=_pass_at_powers(list(counts.values())),
        majority=_majority(problems, by_problem),
        outcomes={o.value: outcomes[o] for o in Outcome},
        truncated=cut / len(verdicts) if verdicts else None,
        mean_tokens=_mean([c.completion_tokens for c in completions]),
        per_problem=means,
        by_rules=_by_rules(problems, by_problem),
    )


def _by_rules(
    problems: Sequence[Problem], by_problem: Mapping[str, list[Verdict]]
) -> dict[str, float | None] | None:
    """pass@1 by each set of rules, whichever decided."""
    if all(p.kind != "code" for p in problems):
        return None
    scored = [s for v in by_problem.values() if (s := [x for x in v if x.outcome != "unscored"])]
    return {
        "official": _mean([_mean([passed(v, "official") for v in vs]) or 0.0 for vs in scored]),
        "strict": _mean([_mean([passed(v, "strict") for v in vs]) or 0.0 for vs in scored]),
    }


def _pass_at_powers(counts: list[tuple[int, int]]) -> dict[str, float | None]:
    """pass@k for k = 1, 2, 4, ... up to the most samples that a problem has."""
    largest = max((n for n, _ in counts), default=0)
    result: dict[str, float | None] = {}
    k = 1
    while k <= largest:
        each = [pass_at_k(n, correct, k) for n, correct in counts]
        defined = [x for x in each if x is not None]
        result[str(k)] = math.fsum(defined) / len(each) if len(defined) == len(each) else None
        k *= 2
    return result


def _majority(problems: Sequence[Problem], by_problem: Mapping[str, list[Verdict]]) -> float | None:
    """Share of problems won by the right answer; a problem without any vote is lost.

    A problem all of whose samples are unscored says nothing; nor does one whose winning answer the
    checker could not judge.
    """
    if any(p.kind == "code" for p in problems):
        return None
    won = []
    for verdicts in by_problem.values():
        if all(v.outcome is Outcome.UNSCORED for v in verdicts):
            continue
        winner = majority_answer(verdicts)
        if winner is None or winner.outcome is not Outcome.UNSCORED:
            won.append(winner is not None and winner.outcome is Outcome.CORRECT)
    return _mean(won)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


class Difference(NamedTuple):
    """How far one result lies above another on the same problems."""

    n_problems: int
    mean: float
    stderr: float | None
    interval: Interval


def paired_difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    """Mean of a's minus b's over the problems that both scored, with a bootstrap interval.

    Args:
        a, b: `SetResult.per_problem` of two evaluations.

    Raises:
        DataError: no problem was scored in both.
    """
    shared = sorted(a.keys() & b.keys())
    differences = [a[p] - b[p] for p in shared]
    interval = bootstrap(differences)
    if interval is None:
        raise DataError("nothing to compare: no problem was scored in both results")
    mean = math.fsum(differences) / len(differences)
    return Difference(len(shared), mean, standard_error(differences), interval)
