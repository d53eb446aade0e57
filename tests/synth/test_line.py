"""The line from concepts to examples: what it keeps, what it counts, and where it starts again."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from itertools import combinations, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise import sandbox
from statewise.errors import ConfigError, DataError
from statewise.eval.answers import grade
from statewise.eval.codetests import grade_program
from statewise.records import (
    Completion,
    Concept,
    Example,
    FinishReason,
    Outcome,
    Problem,
    Rating,
    TestCase,
    Verdict,
    read_jsonl,
)
from statewise.sampler import ScriptedSampler
from statewise.synth import formats, line
from statewise.synth.config import Import, ProblemSet, Role, SynthConfig
from statewise.synth.line import Roles, choose_concepts, sample_concepts, write_set
from statewise.synth.overlap import overlap
from statewise.synth.selection import Selector
from statewise.synth.workbook import CONCEPTS, CORE_CONCEPTS, Workbook, reserved_pairs
from statewise.text import chat_prompt

MATH = [c for c in CONCEPTS if c.kind == "math"]
CODE = [c for c in CORE_CONCEPTS if c.kind == "code"]
ERRING = {"author": 0.2, "judge": 0.1, "teacher": 0.3}
FAULTLESS = {"author": 0.0, "judge": 0.0, "teacher": 0.0}
CONFIG = SynthConfig()
MIXED = ProblemSet("mixed", (1, 2, 3), 60)


def workbook_roles(partition="train", rates=ERRING):
    author, one, two, verifier, teacher = (
        Workbook(
            seed=i,
            partition=partition,
            author_error=rates["author"],
            judge_error=rates["judge"],
            teacher_error=rates["teacher"],
        )
        for i in range(5)
    )
    return Roles(author, (one, two), verifier, teacher)


def write(folder, wanted=MIXED, roles=None, config=CONFIG, concepts=MATH, **settings):
    roles = workbook_roles() if roles is None else roles
    settings = {"seed": 0, "tests": {}} | settings
    return write_set(wanted, concepts, roles, config, folder, **settings)


def funnel(folder):
    return json.loads((folder / "funnel.json").read_text())


def numbers(folder):
    return [number for _, number in funnel(folder)["steps"]]


def answers(folder, role):
    return {(c.prompt_id, c.sample): c for c in read_jsonl(folder / f"{role}.jsonl", Completion)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write(folder)
    return folder


# With the workbook in every role.


def test_the_funnel_narrows_and_its_ends_are_the_files(mixed):
    steps = numbers(mixed)
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == MIXED.count
    assert steps[-1] == len(read_jsonl(mixed / "problems.jsonl", Problem))
    assert steps[0] > steps[1] > steps[2] > steps[-1] > 0
    assert steps[1] == sum(
        formats.parse_draft(c.text) is not None for c in answers(mixed, "author").values()
    )
    assert (funnel(mixed)["name"], funnel(mixed)["kind"]) == ("mixed", "math")


def test_only_what_all_judges_call_perfect_is_kept(mixed):
    kept = {p.id for p in read_jsonl(mixed / "problems.jsonl", Problem)}
    ratings = [
        {id_: formats.parse_rating(c.text) for (id_, _), c in answers(mixed, judge).items()}
        for judge in ("judge-1", "judge-2")
    ]
    perfect = {i for i in ratings[0] if all(r[i] is Rating.PERFECT for r in ratings)}
    assert kept <= perfect
    assert len(perfect) == numbers(mixed)[2]
    for judge, own in zip(("judge-1", "judge-2"), ratings, strict=True):
        counts = Counter(r.value for r in own.values())
        assert funnel(mixed)["ratings"][judge] == {r.value: counts[r.value] for r in Rating}
    agreed = sum(ratings[0][i] is ratings[1][i] for i in ratings[0])
    assert funnel(mixed)["agreement"] == agreed / len(ratings[0]) < 1


def test_every_example_is_graded_correct_against_its_problems_answer(mixed):
    problems = read_jsonl(mixed / "problems.jsonl", Problem)
    examples = read_jsonl(mixed / "examples.jsonl", Example)
    assert examples
    for problem, example in zip(problems, examples, strict=True):
        assert example.prompt == chat_prompt(problem.statement)
        assert (example.source, example.concepts) == (problem.source, problem.concepts)
        verdict = grade(example.completion, problem.answer, finish_reason=FinishReason.STOP)
        assert verdict.outcome is Outcome.CORRECT


def test_a_problem_is_about_the_concepts_and_the_level_that_were_asked_for(mixed):
    asked = sample_concepts(MIXED, MATH, MIXED.count, seed=0)
    problems = read_jsonl(mixed / "problems.jsonl", Problem)
    assert problems
    for problem in problems:
        names, level = asked[int(problem.id.rpartition("-")[2])]
        assert (problem.concepts, problem.level) == (names, level)
        assert problem.kind == "math"


def test_no_error_of_the_teacher_reaches_an_example(tmp_path):
    rates = FAULTLESS | {"teacher": 0.5}
    write(tmp_path, roles=workbook_roles(rates=rates))
    problems = {p.id: p for p in read_jsonl(tmp_path / "problems.jsonl", Problem)}
    texts = {e.completion for e in read_jsonl(tmp_path / "examples.jsonl", Example)}
    wrong = 0
    for (id_, _), c in answers(tmp_path, "teacher").items():
        if id_ not in problems:
            wrong += 1
            assert c.text not in texts
        else:
            assert c.text in texts
    assert wrong + len(problems) == numbers(tmp_path)[-2]
    assert MIXED.count // 4 < wrong < 3 * MIXED.count // 4


def test_a_teacher_that_always_errs_leaves_no_example(tmp_path):
    write(tmp_path, roles=workbook_roles(rates=FAULTLESS | {"teacher": 1.0}))
    assert numbers(tmp_path)[-2:] == [60, 0]
    assert read_jsonl(tmp_path / "examples.jsonl", Example) == []


def test_of_several_solutions_the_first_right_one_is_kept(tmp_path):
    config = dataclasses.replace(CONFIG, teacher_samples=3)
    problems = write(
        tmp_path, config=config, roles=workbook_roles(rates=FAULTLESS | {"teacher": 0.5})
    )
    given_, later = answers(tmp_path, "teacher"), 0
    examples = read_jsonl(tmp_path / "examples.jsonl", Example)
    for problem, example in zip(problems, examples, strict=True):
        right = [
            grade(given_[problem.id, i].text, problem.answer, finish_reason=FinishReason.STOP)
            for i in range(3)
        ]
        first = [v.outcome for v in right].index(Outcome.CORRECT)
        assert example.completion == given_[problem.id, first].text
        later += first > 0
    assert later > 5
    assert len(problems) > 45


def test_with_no_errors_nothing_is_lost_but_duplicates(tmp_path):
    write(tmp_path, roles=workbook_roles(rates=FAULTLESS))
    steps = numbers(tmp_path)
    assert steps[0] == steps[1] == steps[2]
    assert steps[3] == steps[-1]
    assert funnel(tmp_path)["agreement"] == 1


def test_held_out_problems_are_those_wanted_and_none_of_them_is_trained_on(tmp_path):
    held_out = [ProblemSet("held-1", (1,), 20), ProblemSet("held-2", (2, 3), 20)]
    tests = {}
    for wanted in held_out:
        roles = workbook_roles("held_out", FAULTLESS | {"author": 0.1, "teacher": 0.05})
        problems = write(tmp_path / wanted.name, wanted, roles, tests=tests, asked=True)
        assert len(problems) == wanted.count
        assert problems == read_jsonl(tmp_path / wanted.name / "problems.jsonl", Problem)
        assert len(read_jsonl(tmp_path / wanted.name / "examples.jsonl", Example)) == wanted.count
        assert numbers(tmp_path / wanted.name)[0] > wanted.count
        tests[wanted.name] = [p.statement for p in problems]
    trained = write(tmp_path / "mixed", dataclasses.replace(MIXED, count=300), tests=tests)
    seen = overlap(tests, [p.statement for p in trained])
    assert [row["problems"] for row in seen.values()] == [20, 20]
    assert [row["steps_trained"] for row in seen.values()] == [0, 0]
    assert set(funnel(tmp_path / "mixed")["nearest"]) == {"held-1", "held-2"}
    assert max(funnel(tmp_path / "mixed")["nearest"].values()) < CONFIG.contamination


def test_a_draft_that_an_evaluation_set_holds_is_dropped_and_counted(tmp_path):
    problems = write(tmp_path / "first")
    tests = {"exam": [f"Think hard. {p.statement}" for p in problems[:5]]}
    write(tmp_path / "second", tests=tests)
    clean = {p.statement for p in read_jsonl(tmp_path / "second" / "problems.jsonl", Problem)}
    assert clean.isdisjoint(p.statement for p in problems[:5])
    steps = numbers(tmp_path / "second")
    assert steps[3] - steps[4] >= 5
    assert numbers(tmp_path / "first")[:4] == steps[:4]


@pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
def test_programs_are_kept_where_they_pass_the_tests_that_were_written_for_them(tmp_path):
    wanted = ProblemSet("programs", (1,), 6, "code")
    problems = write(
        tmp_path, wanted, workbook_roles(rates=FAULTLESS | {"teacher": 0.4}), concepts=CODE
    )
    examples = read_jsonl(tmp_path / "examples.jsonl", Example)
    assert 0 < len(problems) < numbers(tmp_path)[-2]
    for problem, example in zip(problems, examples, strict=True):
        assert problem.answer is None
        assert problem.tests
        assert example.prompt == chat_prompt(problem.statement, "code")
    kept = {p.id: p for p in problems}
    for (id_, _), c in answers(tmp_path, "teacher").items():
        if id_ in kept:
            assert c.text in {e.completion for e in examples}
    problem, example = problems[0], examples[0]
    verdict = grade_program(example.completion, problem, finish_reason=FinishReason.STOP)
    assert verdict.outcome is Outcome.CORRECT


@pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
def test_a_program_that_leans_on_what_a_harness_adds_is_not_trained_on():
    problem = Problem("roots", "code", "?", tests=(TestCase("16\n", "4\n"),))

    def solution(sample, program):
        text = f"so</think>\n```python\n{program}\n```"
        return Completion("roots", sample, text, FinishReason.STOP, 9, 9, seed=0)

    leaning = solution(0, "print(isqrt(int(input())))")
    whole = solution(1, "import math\nprint(math.isqrt(int(input())))")
    assert line._first_right(problem, [leaning, whole]) is whole
    assert line._first_right(problem, [leaning]) == ""


def test_a_program_that_cannot_be_run_stops_the_line_instead_of_thinning_it(tmp_path, monkeypatch):
    unscored = Verdict("", 0, Outcome.UNSCORED, rule="no isolation")
    monkeypatch.setattr(line, "grade_completion", lambda *_, **__: unscored)
    wanted = ProblemSet("programs", (1,), 4, "code")
    with pytest.raises(DataError, match=r"synth: problem programs-0000\d: .* \(no isolation\)"):
        write(tmp_path, wanted, workbook_roles(rates=FAULTLESS), concepts=CODE)
    assert not (tmp_path / "examples.jsonl").exists()


# Kills.


class Killed(BaseException):
    """The end of the process."""


class Mortal:
    """A role that counts what it answers; all roles of a roles share one lifetime."""

    def __init__(self, inner, role, asked, lifetime):
        self.inner, self.role, self.asked, self.lifetime = inner, role, asked, lifetime

    def sample(self, prompts, params):
        for completion in self.inner.sample(prompts, params):
            if self.lifetime[0] == 0:
                raise Killed
            self.lifetime[0] -= 1
            self.asked[self.role, completion.prompt_id, completion.sample] += 1
            yield completion


def mortal(roles, asked, lifetime):
    def role(inner, name):
        return Mortal(inner, name, asked, lifetime)

    judges = tuple(role(judge, f"judge-{i}") for i, judge in enumerate(roles.judges))
    return Roles(
        role(roles.author, "author"),
        judges,
        role(roles.verifier, "verifier"),
        role(roles.teacher, "teacher"),
    )


@given(st.lists(st.integers(0, 120), min_size=1, max_size=4))
@settings(max_examples=12)
def test_killed_anywhere_it_ends_in_the_same_files_and_asks_nothing_twice(
    tmp_path_factory, mixed, lifetimes
):
    folder, asked = tmp_path_factory.mktemp("killed"), Counter()
    for lifetime in lifetimes:
        try:
            write(folder, roles=mortal(workbook_roles(), asked, [lifetime]))
        except Killed:
            continue
    write(folder, roles=mortal(workbook_roles(), asked, [-1]))
    names = sorted(p.name for p in mixed.iterdir())
    assert sorted(p.name for p in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (mixed / name).read_bytes(), name
    assert set(asked.values()) == {1}


# With roles that answer as a language model might.


SUMS = [Concept("addition", "arithmetic"), Concept("carrying", "arithmetic")]


def model_author():
    """Sums of two numbers, in drafts that keep to the form now and then."""
    forms = cycle(
        [
            "{rationale}{problem}",
            "Sure! Here is a problem.\n{rationale}\n\n{problem}\nI hope you like it.",
            "{problem}{rationale}",
            "{rationale}Problem: what is {a} + {b}?",
            "{rationale}{problem}{problem}",
            "I cannot help with that.",
            "{rationale}<!-- BEGIN PROBLEM -->\n<!-- END PROBLEM -->",
            "",
        ]
    )
    number = iter(range(1, 1000))

    def reply(prompt, _):
        assert formats.parse_request(prompt) is not None
        a = next(number)
        return next(forms).format(
            rationale="<!-- BEGIN RATIONALE -->\nadd them\n<!-- END RATIONALE -->\n",
            problem=f"<!-- BEGIN PROBLEM -->\nWhat is {a} + {7 * a}?\n<!-- END PROBLEM -->",
            a=a,
            b=7 * a,
        )

    return ScriptedSampler(reply)


def said(*closings):
    """A judge that closes its critiques with these lines in turn."""
    turns = cycle(closings)
    return ScriptedSampler(lambda *_: f"Format: Perfect - fine.\nAll is perfect?\n{next(turns)}")


def model_solver(*forms):
    """Adds up the two numbers it is asked for, and puts the sum in these forms in turn."""
    turns = cycle(forms)

    def reply(prompt, _):
        a, b = re.search(r"What is (\d+) \+ (\d+)\?", prompt).groups()
        return next(turns).format(sum=int(a) + int(b), wrong=int(a) + int(b) + 1)

    return ScriptedSampler(reply)


ALWAYS_PERFECT = ("Final Judgement: perfect",)
RIGHT = ("so {sum}\n</think>\n\\boxed{{{sum}}}",)


def model_roles(
    author=None,
    judges=(ALWAYS_PERFECT, ALWAYS_PERFECT),
    verifier=("Both ways give \\boxed{{{sum}}}.",),
    teacher=RIGHT,
):
    return Roles(
        author or model_author(),
        tuple(said(*closings) for closings in judges),
        model_solver(*verifier),
        model_solver(*teacher),
    )


SUM_SET = ProblemSet("sums", (1, 2), 16)


def write_sums(folder, wanted=SUM_SET, config=CONFIG, **roles):
    return write(folder, wanted, model_roles(**roles), config, concepts=SUMS)


def test_drafts_that_miss_the_form_are_counted_and_left_out(tmp_path):
    problems = write_sums(tmp_path)
    assert [p.statement for p in problems] == [f"What is {a} + {7 * a}?" for a in (1, 2, 9, 10)]
    assert numbers(tmp_path)[:3] == [16, 4, 4]
    assert [p.answer for p in problems] == ["8", "16", "72", "80"]


def well_formed():
    number = iter(range(1, 1000))

    def reply(*_):
        a = next(number)
        return formats.draft_block("add them", f"What is {a} + {7 * a}?")

    return ScriptedSampler(reply)


@pytest.mark.parametrize(
    ("closing", "rating"),
    [
        ("Final Judgement: perfect", Rating.PERFECT),
        ("**Final Judgement:** [Perfect].", Rating.PERFECT),
        ("Final Judgement: acceptable", Rating.ACCEPTABLE),
        ("Final Judgement: bad", Rating.BAD),
        ("Final Judgement: not perfect", Rating.UNREADABLE),
        ("Final Judgement: imperfect", Rating.UNREADABLE),
        ("The draft is perfect.", Rating.UNREADABLE),
        ("Final Judgement: perfect\nOn second thoughts, no.", Rating.UNREADABLE),
        ("", Rating.UNREADABLE),
    ],
)
def test_one_judge_that_does_not_say_perfect_is_enough(tmp_path, closing, rating):
    judges = (ALWAYS_PERFECT, (closing,))
    problems = write_sums(tmp_path, author=well_formed(), judges=judges)
    good = rating is Rating.PERFECT
    assert len(problems) == (16 if good else 0)
    assert funnel(tmp_path)["ratings"]["judge-2"][rating] == 16
    assert funnel(tmp_path)["agreement"] == (1 if good else 0)


def test_any_number_of_judges_may_sit(tmp_path):
    three = dataclasses.replace(CONFIG, judges=(Role(),) * 3)
    mood = ("Final Judgement: perfect", "Final Judgement: bad")
    judges = (ALWAYS_PERFECT, ALWAYS_PERFECT, mood)
    problems = write_sums(tmp_path, author=well_formed(), judges=judges, config=three)
    assert len(problems) == 8
    assert funnel(tmp_path)["agreement"] == 0.5


def test_a_statement_that_was_written_twice_is_kept_once(tmp_path):
    same = formats.draft_block("add them", "What is 2 + 3?")
    assert len(write_sums(tmp_path, author=ScriptedSampler(lambda *_: same))) == 1
    assert numbers(tmp_path)[2:4] == [16, 1]


def test_a_solution_counts_only_if_it_is_finished_boxed_and_right(tmp_path):
    teacher = (
        RIGHT[0],
        "so {wrong}\n</think>\n\\boxed{{{wrong}}}",
        "so \\boxed{{{sum}}}",
        "so {sum}\n</think>\nThe sum is {sum}.",
        "so \\boxed{{{sum}}}\n</think>\n\\boxed{{{wrong}}}",
        "I give up.",
        "step " * 5000 + "</think>\n\\boxed{{{sum}}}",
        "\\boxed{{{wrong}}}? No:\n</think>\nIt is\n\\boxed{{ {sum} }}.",
    )
    problems = write_sums(tmp_path, author=well_formed(), teacher=teacher)
    assert [p.id for p in problems] == [f"sums-{i:05d}" for i in (0, 7, 8, 15)]


@pytest.mark.parametrize(
    ("verified", "taught", "reason"),
    [
        ("{sum}\\text{{ apples}}", "{sum}\\text{{ fruits}}", "units"),
        ("{sum}\\text{{ cm}}", "{wrong}0\\text{{ mm}}", None),  # converted, and not equal
        ("{sum}.33", "{sum}\\frac{{1}}{{3}}", "rounding"),  # a mixed number
        ("{sum}.33", "{sum}.3333", "rounding"),
        ("\\frac{{{sum}}}", "{sum}", "the reference cannot be read: it ends early"),
        ("{sum}", "9^{{9^{{9^9}}}}", None),  # what nobody can evaluate is wrong
        ("{sum}\\text{{ cm}}", "{wrong}\\text{{ cm}}", None),
        ("{sum}.33", "{wrong}.3333", None),
        ("{sum}", "{wrong}", None),
    ],
)
def test_what_cannot_be_graded_is_no_mistake_of_the_teacher_and_counted_with_its_reason(
    tmp_path, verified, taught, reason
):
    verifier = (f"\\boxed{{{{{verified}}}}}",)
    problems = write_sums(
        tmp_path,
        author=well_formed(),
        verifier=verifier,
        teacher=(f"so</think>\\boxed{{{{{taught}}}}}",),
    )
    assert problems == []
    assert funnel(tmp_path)["ungraded"] == ({reason: 16} if reason else {})


def test_one_right_solution_is_enough_whatever_cannot_be_graded_before_it(tmp_path):
    twice = dataclasses.replace(CONFIG, teacher_samples=2)
    teacher = ("so</think>\\boxed{{2^{{3^{{4}}}}}}", *RIGHT)
    problems = write_sums(tmp_path, author=well_formed(), teacher=teacher, config=twice)
    assert len(problems) == 16
    assert funnel(tmp_path)["ungraded"] == {}


def test_a_problem_whose_answer_nobody_confirms_is_left_out(tmp_path):
    verifier = (
        "\\boxed{{{sum}}}",
        "\\boxed{{{wrong}}}",
        "It is {sum}.",
        "x</think>\\boxed{{{sum}}}",
        "\\boxed{{{sum}}}?</think>I cannot say.",
    )
    problems = write_sums(tmp_path, author=well_formed(), verifier=verifier)
    assert [int(p.id[-5:]) % 5 for p in problems] == [0, 3, 0, 3, 0, 3, 0]


@pytest.mark.parametrize("text", ["no tests", "```json\n[]\n```", '```json\n[{"input": 1}]\n```'])
def test_a_program_without_readable_tests_is_left_out(tmp_path, monkeypatch, text):
    passed = Verdict("", 0, Outcome.CORRECT)
    monkeypatch.setattr(line, "grade_completion", lambda *_, **__: passed)
    roles = model_roles(author=well_formed())
    roles = dataclasses.replace(roles, verifier=ScriptedSampler(lambda *_: text))
    concepts = [Concept("loops", "programs", "code")]
    wanted = ProblemSet("programs", (1,), 3, "code")
    assert write(tmp_path, wanted, roles, concepts=concepts) == []
    assert numbers(tmp_path)[-2:] == [3, 0]


def test_too_few_held_out_problems_are_an_error_that_says_how_many(tmp_path):
    with pytest.raises(DataError) as e:
        write(tmp_path, SUM_SET, model_roles(), concepts=SUMS, asked=True)
    asked = len(answers(tmp_path, "author"))
    survived = sum(i % 8 < 2 for i in range(asked))  # as the author keeps to the form
    assert str(e.value) == (
        f"synth: evaluation set 'sums' wants 16 problems, but only {survived} of {asked} drafts "
        "survived; lower count or widen synth.concepts"
    )
    assert not (tmp_path / "problems.jsonl").exists()


# What is held out, and what is new in it.


def test_the_overlap_counts_steps_that_training_solves_on_its_way():
    trained = "Let m be the sum of 20 and 30. What is the sum of m and 40?"
    tests = {
        "within": ["What is the sum of 40 and 50?", "What is the sum of 41 and 50?"],
        "half": ["Let u be the sum of 30 and 20. Find the sum of u and 41."],
        "foreign": ["What is the meaning of life?"],
    }
    assert overlap(tests, [trained]) == {
        "within": {"problems": 2, "problems_trained": 1, "steps": 2, "steps_trained": 1},
        "half": {"problems": 1, "problems_trained": 0, "steps": 2, "steps_trained": 1},
    }


def test_pairs_that_are_kept_apart_are_composed_in_the_set_about_them_and_nowhere_else():
    names = [c.name for c in CONCEPTS if c.kind == "math"]
    apart = set(map(frozenset, reserved_pairs(names)))
    assert len(apart) == pytest.approx(len(names) * (len(names) - 1) / 20, rel=0.3)

    def pairs(wanted, *, keep):
        drawn = sample_concepts(wanted, CONCEPTS, 300, 0, apart=keep)
        return [{frozenset(p) for p in combinations(chosen, 2)} & apart for chosen, _ in drawn]

    plain = ProblemSet("plain", (2, 3), 300)
    assert any(pairs(plain, keep=False))
    assert not any(pairs(plain, keep=True))
    assert all(pairs(ProblemSet("new", (2, 3), 300, novelty="pairs"), keep=True))


def test_concepts_without_a_pair_that_is_kept_apart_cannot_make_a_set_about_those():
    free = [c for c in CONCEPTS if c.name in ("total cost", "sum of two numbers")]
    assert not reserved_pairs([c.name for c in free])
    with pytest.raises(ConfigError, match="0 pairs are kept out of training"):
        sample_concepts(ProblemSet("new", (2,), 1, novelty="pairs"), free, 1, 0)


def test_novelty_is_refused_where_nobody_can_write_it():
    with pytest.raises(ConfigError, match=r"sets\.0\.novelty"):
        SynthConfig(sets=(ProblemSet("a", (1,), 1, novelty="wording"),))
    with pytest.raises(ConfigError, match="sizes: a pair takes two"):
        ProblemSet("a", (1, 2), 1, novelty="pairs")
    author = Role(kind="endpoint", path="http://localhost/v1", served_as="m")
    new = ProblemSet("a", (1,), 1, novelty="numbers")
    with pytest.raises(ConfigError, match=r"held_out\.0\.novelty: only the workbook"):
        SynthConfig(held_out=(new,), author=author)
    SynthConfig(held_out=(dataclasses.replace(new, novelty="pairs", sizes=(2,)),), author=author)
    assert SynthConfig(development=(dataclasses.replace(new),)).keeps_pairs_apart is False


# Concepts.


def chosen(*names):
    return choose_concepts(SynthConfig(concepts=names), CONCEPTS, CORE_CONCEPTS)


def test_concepts_are_named_singly_or_by_list_and_counted_once():
    assert chosen("all") == list(CONCEPTS)
    assert chosen("core") == list(CORE_CONCEPTS)
    name = next(c.name for c in CONCEPTS if c not in CORE_CONCEPTS)
    assert {c.name for c in chosen("core", name)} == {c.name for c in CORE_CONCEPTS} | {name}
    assert len(chosen("core", "core", CORE_CONCEPTS[0].name)) == len(CORE_CONCEPTS)


def test_an_unknown_concept_is_named_with_the_known_ones():
    with pytest.raises(ConfigError) as e:
        chosen("core", "astrology")
    assert str(e.value).startswith("synth.concepts.1: unknown concept 'astrology'; known are core")
    assert CONCEPTS[0].name in str(e.value)


def test_an_author_that_is_a_model_takes_any_concept_for_either_kind_of_problem():
    author = Role("endpoint", "http://localhost/v1", served_as="m")
    config = SynthConfig(concepts=("core", "astrology"), author=author)
    found = choose_concepts(config, CONCEPTS, CORE_CONCEPTS)
    assert found[: len(CORE_CONCEPTS)] == list(CORE_CONCEPTS)
    assert [(c.name, c.kind) for c in found[len(CORE_CONCEPTS) :]] == [
        ("astrology", "math"),
        ("astrology", "code"),
    ]


def test_levels_are_those_that_a_set_names_or_those_that_compose_so_many_concepts():
    wanted = ProblemSet("x", (2,), 40, levels=("USAMO", "AHSME"))
    assert {level for _, level in sample_concepts(wanted, MATH, 40, 0)} == {"USAMO", "AHSME"}
    wanted = dataclasses.replace(wanted, levels=())
    assert {level for _, level in sample_concepts(wanted, MATH, 40, 0)} == {"AMC10", "AMC12"}


def test_selected_sets_keep_reserved_pairs_apart_too():
    names = [c.name for c in MATH]
    apart = reserved_pairs(names)
    selector = Selector([list(pair) for pair in apart] + [[n] for n in names], temperature=9.0)
    for wanted, new in (
        (ProblemSet("plain", (2, 3), 30), False),
        (ProblemSet("new", (2, 3), 30, novelty="pairs"), True),
    ):
        drawn = sample_concepts(wanted, [], 30, 0, apart=True, selector=selector)
        assert [len(chosen) for chosen, _ in drawn] == [2, 3] * 15
        assert all(bool(reserved_pairs(chosen)) == new for chosen, _ in drawn)


def test_too_few_concepts_are_an_error_that_names_the_set():
    with pytest.raises(ConfigError) as e:
        sample_concepts(ProblemSet("big", (1, 3), 5), SUMS, 5, seed=0)
    assert str(e.value) == ("synth: set 'big' composes 3 math concepts, but synth.concepts holds 2")
    with pytest.raises(ConfigError, match=r"composes 1 code concepts, but synth.concepts holds 0"):
        sample_concepts(ProblemSet("big", (1,), 5, "code"), SUMS, 5, seed=0)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.integers(0, 99))
def test_concept_sets_have_the_sizes_asked_for_evenly_and_without_repetition(sizes, seed):
    wanted = ProblemSet("x", sizes, 8 * len(sizes))
    drawn = sample_concepts(wanted, MATH, wanted.count, seed)
    assert [len(names) for names, _ in drawn] == [*sizes] * 8
    assert all(len(set(names)) == len(names) for names, _ in drawn)
    assert drawn == sample_concepts(wanted, MATH, wanted.count, seed)
    assert drawn != sample_concepts(wanted, MATH, wanted.count, seed + 1)
    assert drawn[:5] == sample_concepts(wanted, MATH, 5, seed)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Role("checkpoint"), "path: names no model; kind = 'checkpoint' needs"),
        (lambda: Role(path="m"), 'path: belongs to kind = "checkpoint" or'),
        (lambda: Role("endpoint", "http://x/v1"), "served_as: names the model"),
        (lambda: Role(error=1.0), r"error: must be in \[0, 1\), found 1.0"),
        (lambda: ProblemSet("x", (1,), 0), "count: must be at least 1, found 0"),
        (lambda: ProblemSet("x", (), 1), "sizes: needs concept counts"),
        (lambda: ProblemSet("x", (0, 1), 1), "sizes: needs concept counts"),
        (lambda: SynthConfig(sets=(MIXED,), held_out=(MIXED,)), "'mixed' is used twice"),
        (lambda: SynthConfig(sets=(MIXED,), imports=(Import("mixed", "f"),)), "'mixed' is used"),
        (lambda: SynthConfig(judges=()), "judges: at least one judge is needed"),
    ],
)
def test_a_synthesis_that_cannot_run_is_refused_by_key(build, told):
    with pytest.raises(ConfigError, match=told):
        build()
