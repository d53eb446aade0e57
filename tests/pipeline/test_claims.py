"""From the files of a comparison to the words of the two claims that it decides."""

from __future__ import annotations

import numpy as np
import pytest
from small_run import write_recipe

from statewise.pipeline.claims import architecture_claim, curriculum_claim
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.stage import Run
from statewise.pipeline.stages import PIPELINE
from statewise.recipe import load_recipe
from statewise.records import to_json, write_json
from statewise.report.results import ArmFigures, Choice, SetResult
from statewise.sampler import SamplingParams
from statewise.verdict import Word

ARMS = ("curriculum", "mixture", "foundation", "transformer")
SETS = ("workbook-1", "workbook-2", "new")
PROBLEMS = 60


def result(scores: np.ndarray) -> SetResult:
    return SetResult(
        n_problems=len(scores),
        n_samples=len(scores),
        n_scored=len(scores),
        n_unscored=0,
        pass_at_1=float(scores.mean()),
        stderr=None,
        interval=None,
        pass_at_k={},
        majority=None,
        outcomes={},
        truncated=None,
        mean_tokens=None,
        per_problem={f"p{i}": float(x) for i, x in enumerate(scores)},
        sampling=SamplingParams(),
    )


@pytest.fixture
def compared(tmp_path):
    """Builds a run whose arms have these mean scores: arm -> one a set, for `seeds` seeds."""

    def build(means, seeds=3, arms=ARMS):
        settings = [
            f"claims.seeds={list(range(seeds))}",
            f"claims.arms={list(arms)}".replace("'", '"'),
            'synth.held_out=[{name="workbook-1", sizes=[1], count=3}, '
            '{name="workbook-2", sizes=[2], count=3}, '
            '{name="new", sizes=[1], count=3, novelty="wording"}]',
        ]
        recipe = load_recipe(write_recipe(tmp_path), settings)
        folder = tmp_path / "run"
        described = ArmFigures("a label", "x", Choice("recipe", 1.0, 1.0), 1, 1, 1.0, 1)
        for arm in arms:
            for seed in range(seeds):
                for name, mean in zip(SETS, means[arm], strict=True):
                    rng = np.random.default_rng([seed, *arm.encode(), *name.encode()])
                    scores = np.clip(mean + rng.normal(0, 0.02, PROBLEMS), 0, 1)
                    path = folder / "compare" / f"seed-{seed}" / "eval" / arm / name / "result.json"
                    write_json(path, to_json(result(scores)))
        write_json(folder / "compare" / "arms.json", {a: to_json(described) for a in arms})
        return Run(recipe, RunFolder(folder), PIPELINE, print)

    return build


GOOD = {
    "curriculum": (0.9, 0.8, 0.5),
    "mixture": (0.8, 0.7, 0.1),
    "foundation": (0.85, 0.3, 0.1),
    "transformer": (0.8, 0.7, 0.9),
}


def words(run):
    a, c = architecture_claim(run, measured=True), curriculum_claim(run, measured=True)
    return a.word, c.word


@pytest.mark.parametrize(
    ("changed", "architecture", "curriculum"),
    [
        ({}, Word.HELD, Word.HELD),
        ({"transformer": (0.95, 0.9, 0.0)}, Word.REVERSED, Word.HELD),
        ({"transformer": (0.8, 0.9, 0.0)}, Word.MIXED, Word.HELD),
        ({"transformer": (0.9, 0.8, 0.0)}, Word.UNDECIDED, Word.HELD),
        ({"transformer": (0.9, 0.1, 0.0)}, Word.TOO_WEAK, Word.HELD),
        ({"mixture": (0.8, 0.9, 0.1)}, Word.HELD, Word.MIXED),
        ({"mixture": (0.9, 0.8, 0.1)}, Word.HELD, Word.UNDECIDED),
        ({"foundation": (0.95, 0.9, 0.1), "mixture": (0.95, 0.9, 0.1)}, Word.HELD, Word.REVERSED),
        # Of three curricula two have learned a set: that the third has not is the finding.
        ({"foundation": (0.85, 0.0, 0.0)}, Word.HELD, Word.HELD),
        ({"foundation": (0.85, 0.0, 0.0), "mixture": (0.8, 0.1, 0.0)}, Word.HELD, Word.TOO_WEAK),
    ],
)
def test_the_words_are_those_of_the_scores(compared, changed, architecture, curriculum):
    assert words(compared(GOOD | changed)) == (architecture, curriculum)


def test_on_one_seed_nothing_is_held(compared):
    assert words(compared(GOOD, seeds=1)) == (Word.INDICATED, Word.INDICATED)


def test_the_headline_names_the_set_that_speaks_most_against_the_claim(compared):
    claim = architecture_claim(compared(GOOD | {"transformer": (0.8, 0.9, 0.0)}), measured=True)
    assert claim.headline.startswith("mixed; least favourable: two composed concepts against ")
    assert "reversed" in claim.headline
    contrast = claim.figures.contrasts[0]
    assert contrast.worst == "workbook-2"
    assert contrast.sets[1].first == pytest.approx(0.8, abs=0.02)
    assert contrast.sets[1].second == pytest.approx(0.9, abs=0.02)
    assert [d.word for d in contrast.sets] == [Word.HELD, Word.REVERSED]


def test_a_headline_says_a_word_once_where_the_worst_set_says_the_same(compared):
    claim = architecture_claim(compared(GOOD), measured=True)
    assert claim.headline.count("held") == 1


def test_the_contrasts_that_decide_are_marked(compared):
    arms = (*ARMS, "no-programs")
    run = compared(GOOD | {"no-programs": (0.9, 0.8, 0.5)}, arms=arms)
    marked = {k.second: k.decides for k in curriculum_claim(run, measured=True).figures.contrasts}
    assert marked == {"mixture": True, "foundation": True, "no-programs": False}


def test_what_training_never_had_is_told_and_decides_nothing(compared):
    claim = architecture_claim(compared(GOOD), measured=True)
    assert claim.figures.decides == ("workbook-1", "workbook-2")
    (new,) = claim.figures.contrasts[0].beside
    assert (new.set, new.word) == ("new", Word.REVERSED)
    assert new.mean == pytest.approx(-0.4, abs=0.02)


def test_a_problem_that_one_checker_failed_on_is_left_out_for_all(compared):
    run = compared(GOOD)
    path = run.path / "compare/seed-1/eval/transformer/workbook-1/result.json"
    broken = result(np.full(PROBLEMS, 0.8))
    del broken.per_problem["p7"]
    write_json(path, to_json(broken))
    claim = architecture_claim(run, measured=True)
    assert claim.word is Word.HELD


@pytest.mark.parametrize(
    ("seeds", "arms", "measured", "says"),
    [
        (3, ARMS, False, "was not run to its end"),
        (3, ("curriculum", "mixture", "foundation"), True, "leaves out transformer"),
        (0, ARMS, True, "names no claims.seeds"),
    ],
)
def test_what_was_not_compared_is_not_measured_and_says_why(compared, seeds, arms, measured, says):
    claim = architecture_claim(compared(GOOD, seeds, arms), measured=measured)
    assert (claim.word, claim.figures, claim.headline) == (None, None, "")
    assert says in claim.reason
