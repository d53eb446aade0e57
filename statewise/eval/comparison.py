"""Two kinds of training compared: problems and seeds are both samples of what might have been.

Every seed's two models answer the same problems. The differences form a table of seeds by
problems, and its mean varies with the seeds, the problems, and the rest: a two-way random-effects
model, crossed, with one number a cell. Its variance components are the ANOVA estimators (Searle,
Casella and McCulloch, Variance Components, 1992, chapter 4), the degrees of freedom of their sum
Satterthwaite's (Biometrics Bulletin 2, 1946). With three seeds, resampling them would have ten
outcomes; this has Student's tails instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from statewise.errors import DataError
from statewise.eval.metrics import Interval

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Contrast:
    """How far one kind of model lies above another, over seeds and problems.

    Attributes:
        n_seeds, n_problems: the size of the table.
        mean: of the differences.
        interval: its 95 % interval.
        detectable: the smallest true difference that as many seeds and problems, varying as these
            do, would have told from zero four times in five.
        between_seeds, between_problems: standard deviations that are not explained by the other;
            0 where the estimate is negative, None for fewer than two.
    """

    n_seeds: int
    n_problems: int
    mean: float
    interval: Interval
    detectable: float
    between_seeds: float | None
    between_problems: float | None


def contrast(a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]]) -> Contrast:
    """a minus b.

    Args:
        a, b: of each seed, in the same order, the score of each problem.

    Raises:
        DataError: seeds or problems of the two differ, or there are none, or a single number.
    """
    names = sorted(a[0]) if a else []
    if len(a) != len(b) or any(sorted(scores) != names for scores in (*a, *b)):
        raise DataError("nothing to compare: the two sides have other seeds or other problems")
    rows = [[x[name] - y[name] for name in names] for x, y in zip(a, b, strict=True)]
    table = np.array(rows, dtype=np.float64).reshape(len(a), len(names))
    if table.size < 2:
        raise DataError("nothing to compare: one difference alone has no spread")
    return _estimate(table)


def _estimate(table: np.ndarray) -> Contrast:
    """The mean of a table of seeds by problems, and how it varies."""
    seeds, problems = table.shape
    mean = float(table.mean())
    by_seed, by_problem = table.mean(axis=1), table.mean(axis=0)
    # Mean squares, each with its degrees of freedom; of one seed there is only that of problems.
    squares = {
        "seed": (problems * float(((by_seed - mean) ** 2).sum()), seeds - 1),
        "problem": (seeds * float(((by_problem - mean) ** 2).sum()), problems - 1),
        "rest": (
            float(((table - by_seed[:, None] - by_problem + mean) ** 2).sum()),
            (seeds - 1) * (problems - 1),
        ),
    }
    ms = {name: total / df if df else 0.0 for name, (total, df) in squares.items()}
    # A component may come out negative; the variance of the mean is never below what one way has.
    summed = max(ms["seed"] + ms["problem"] - ms["rest"], ms["seed"], ms["problem"])
    spread = sum(ms[name] ** 2 / df for name, (_, df) in squares.items() if df)
    df = summed**2 / spread if spread else 1.0
    stderr = math.sqrt(summed / table.size)
    half = _student(0.975, df) * stderr if stderr else 0.0
    return Contrast(
        n_seeds=seeds,
        n_problems=problems,
        mean=mean,
        interval=Interval(mean - half, mean + half),
        detectable=half + (_student(POWER, df) * stderr if stderr else 0.0),
        between_seeds=_deviation(ms["seed"] - ms["rest"], problems) if seeds > 1 else None,
        between_problems=_deviation(ms["problem"] - ms["rest"], seeds) if problems > 1 else None,
    )


def _deviation(excess: float, each: int) -> float:
    return math.sqrt(max(excess, 0.0) / each)


def _student(probability: float, df: float) -> float:
    """A quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(probability, df))
