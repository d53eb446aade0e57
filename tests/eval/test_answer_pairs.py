"""No unequal answer is credited and no equal one is lost, over generated pairs of both kinds."""

import json
from collections import Counter
from pathlib import Path

import pytest
from answer_pairs import EQUAL, UNEQUAL, pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.eval.answers import grade
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.records import Outcome

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REFERENCES = (
    r"""
7 12 -3 0 100 2048 31250 1000000 -17 3.14 0.05 12.50 -2.75
\frac{1}{2} -\frac{3}{7} \frac{22}{7} \frac{x+1}{x-1} \frac{\sqrt{3}}{2} \frac{5\pi}{6}
\frac{1}{n+1}
\sqrt{2} 2\sqrt{3} -\sqrt{5} 1+\sqrt{7} \sqrt[3]{4} \sqrt{x^2+1} 10\sqrt{10} \frac{1+\sqrt{5}}{2}
\pi 4\pi \frac{\pi}{3} 2\pi+1 e e^2 \ln{2} \log_{2}{3} 2^{10} 3^{n} x^2 5^{-3}
x^2+2x+1 3x-7 2a+3b n^2-n (x-2)(x+5) ab+bc R-r 2^{n+1}-2 \binom{n}{2} n!+1
(1,2) (3,-4) \left(2,\frac{\pi}{2}\right) (0,0,5) [2,5) (-1,4] \left[-2,\frac{1}{2}\right]
(-\infty,3) (-\infty,-1)\cup(2,\infty) \{1,2,3\} 1,2 -1,4,9 x=5 y=2x+1 x<5 2\le{x}\le{7}
5\text{~cm} 12\text{~hours} 60\text{~dollars} 7\mbox{~inches}^2 90^\circ 45\% \$18
\text{even} \text{(C)}
6-5i 2i -1+3i \frac{1}{2}+\frac{1}{2}i 4210_{5} 3:4 2\frac{1}{3}
\begin{pmatrix}1\\2\end{pmatrix} \begin{pmatrix}1&0\\3&-2\end{pmatrix}
""".replace("~", " ~ ")
    .replace(" ~ ", "~")
    .split()
)


def outcomes(rules, references, count, seed):
    """What became of generated pairs: by rule, and those by outcome."""
    made = pairs(references, rules, count, seed)
    graded = [(*p, grade(f"so</think>\\boxed{{{p[2]}}}", p[1])) for p in made]
    return {outcome: [g for g in graded if g[3].outcome is outcome] for outcome in Outcome}


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_an_unequal_answer_is_never_credited(seed):
    found = outcomes(UNEQUAL, REFERENCES, 40, seed)
    assert found[Outcome.CORRECT] == []
    assert found[Outcome.UNSCORED] == []
    assert len(found[Outcome.INCORRECT]) == 40


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_an_equal_answer_is_credited(seed):
    found = outcomes(EQUAL, REFERENCES, 40, seed)
    assert len(found[Outcome.CORRECT]) == 40, [f for o, fs in found.items()
                                               if o is not Outcome.CORRECT for f in fs]  # fmt: skip


def test_every_rule_of_both_kinds_is_used():
    for rules in (UNEQUAL, EQUAL):
        used = Counter(name for name, _, _ in pairs(REFERENCES, rules, 1_000, 0))
        assert {r.__name__ for r in rules} == set(used)


def real_references():
    names = [n for n, b in BENCHMARKS.items() if "code" not in n and "humaneval" not in n]
    if not all((DATA / BENCHMARKS[n].file).is_file() for n in names):
        pytest.skip(f"no {DATA} with all mathematical benchmarks")
    found = {p.answer for n in names for p in load_benchmark(n, DATA) if p.checker != "several"}
    train = DATA / "math_train_answers.jsonl"
    if train.is_file():
        found |= {json.loads(line)["answer"] for line in train.read_text().splitlines()} - {None}
    return sorted(found - {"", "t(0,4]"})  # a gap, and a misprint that nobody can read


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_of_five_thousand_unequal_answers_to_real_references_none_is_credited(seed):
    found = outcomes(UNEQUAL, real_references(), 5_000, seed)
    assert found[Outcome.CORRECT] == []
    assert found[Outcome.UNSCORED] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_of_five_thousand_equal_answers_to_real_references_hardly_any_is_lost(seed):
    found = outcomes(EQUAL, real_references(), 5_000, seed)
    lost = [f for o, fs in found.items() if o is not Outcome.CORRECT for f in fs]
    assert len(lost) <= 10, lost  # 0.2 %; the aim is 1 %


def test_what_people_report_of_graders_has_its_right_outcome():
    path = DATA / "field-cases" / "answers.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = []
    for r in rows:
        found = grade(r["completion"], r["answer"], kind=r["checker"])
        # What we cannot evaluate is wrong, not unscored, where the reference is readable.
        wanted = "incorrect" if r["expected"] == "unscored" else r["expected"]
        if found.outcome != wanted:
            wrong.append((r["completion"], r["answer"], found))
    assert len(rows) > 200
    assert wrong == []
