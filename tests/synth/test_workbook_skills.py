"""What the workbook knows: every concept in both directions, and by two methods."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from statewise.synth.workbook.book import _CODE, _MATH, SKILLS
from statewise.synth.workbook.language import (
    _ASK,
    _DEFINE,
    Foreign,
    IllPosed,
    Language,
    Plan,
    Step,
    draw_link,
    draw_plan,
)
from statewise.synth.workbook.programs import (
    _PRINT,
    _READ,
    MOVES,
    Move,
    Part,
    Program,
    ProgramLanguage,
    draw_program,
)
from statewise.synth.workbook.reserved import WORDINGS
from statewise.synth.workbook.skill import Link, Skill, read_expression, skeleton

seeds = st.integers(0, 2**32)
by_name = pytest.mark.parametrize("skill", SKILLS, ids=lambda s: s.name)


@by_name
def test_derivation_and_check_agree_and_the_trace_ends_in_the_result(skill: Skill) -> None:
    rng = Random(skill.name)
    drawn = [args for _ in range(150) if (args := skill.draw(rng)) is not None]
    assert drawn
    for args in drawn:
        assert skill.accepts(args)
        trace, result = skill.derive(*args)
        assert result == skill.check(*args), args
        assert trace.endswith(str(result)), trace
        assert 0 <= result <= 999, args


@by_name
def test_every_wording_of_a_concept_is_written_and_read_back(skill: Skill) -> None:
    rng = Random(skill.name)
    plan = next(p for p in (draw_plan(rng, [skill]) for _ in range(50)) if p is not None)
    seen = set()
    for _ in range(120 * len(skill.wordings)):
        statement = _MATH.write(plan, rng)
        seen.add(skeleton(statement)[0])
        assert _MATH.read(statement)[0].key == plan.key
    questions = sum(1 for w in skill.wordings if w.question)
    assert len(skill.wordings) >= 3
    assert len(seen) == len(skill.wordings) * len(_ASK) + questions


@by_name
def test_the_reserved_wording_is_written_on_request_only_and_read_back(skill: Skill) -> None:
    rng = Random(skill.name)
    plan = next(p for p in (draw_plan(rng, [skill]) for _ in range(50)) if p is not None)
    plain = {skeleton(_MATH.write(plan, rng))[0] for _ in range(300)}
    reserved = {_MATH.write(plan, rng, reserved=True) for _ in range(30)}
    assert plain.isdisjoint(skeleton(s)[0] for s in reserved)
    assert {_MATH.read(s)[0].key for s in reserved} == {plan.key}


@by_name
def test_numbers_beyond_the_trained_range_are_beyond_every_number_of_training(skill: Skill) -> None:
    rng = Random(skill.name)
    beyond = [p for p in (draw_plan(rng, [skill], beyond=True) for _ in range(60)) if p]
    assert beyond
    for plan in beyond:
        args = plan.steps[0].accepted_values(None)
        assert skill.is_beyond(args)
        assert not skill.symmetric or skill.is_beyond(args[::-1])
        assert plan.verify() == plan.solve("mnk")[1]
    for plan in (draw_plan(rng, [skill]) for _ in range(60)):
        assert plan is None or not skill.is_beyond(plan.steps[0].accepted_values(None))


@by_name
def test_a_problem_beyond_the_trained_range_can_be_composed_of_any_two_concepts(
    skill: Skill,
) -> None:
    rng = Random(skill.name)
    names = ("sum of two numbers", "rectangle perimeters")  # their results are beyond, too
    other = next(s for s in SKILLS if s.name in names and s is not skill)
    pairs = [[skill, other], [other, skill]]
    assert any(draw_plan(rng, pair, beyond=True) for pair in pairs for _ in range(200))


@by_name
def test_a_solution_writes_down_what_is_given_from_the_last_sentence_to_the_first(
    skill: Skill,
) -> None:
    rng = Random(skill.name)
    others = [s for s in SKILLS if s.core and s is not skill]
    plans = (draw_plan(rng, [skill, *rng.sample(others, 2)]) for _ in range(2000))
    plan = next(p for p in plans if p is not None)
    lines, _ = plan.solve("mnk")
    givens = [plan.steps[0].givens(""), plan.steps[1].givens("m"), plan.steps[2].givens("n")]
    assert lines[:3] == givens[::-1]
    assert [line for line in lines[3:] if line in givens] == givens[1:]


@by_name
def test_a_step_is_drawn_of_what_may_be_drawn(skill: Skill) -> None:
    rng = Random(skill.name)
    plan = None
    for _ in range(300):
        plan = draw_plan(rng, [skill, skill], admits=lambda c: len(c) % 2 == 0)
        if plan is not None:
            assert all(len(content) % 2 == 0 for content in plan.contents)


@by_name
def test_a_concept_can_take_an_earlier_result(skill: Skill) -> None:
    rng = Random(skill.name)
    first = next(s for s in SKILLS if s.name == "total cost")
    plans = [draw_plan(rng, [first, skill]) for _ in range(100)]
    good = [p for p in plans if p is not None]
    assert len(good) >= 5
    for plan in good:
        statement = _MATH.write(plan, rng)
        read, variables = _MATH.read(statement)
        assert read.key == plan.key
        assert read.solve(variables)[1] == plan.verify()


@settings(max_examples=150)
@given(seed=seeds, size=st.integers(1, 4))
def test_a_composed_plan_survives_writing_reading_solving_and_checking(
    seed: int, size: int
) -> None:
    rng = Random(seed)
    plan = draw_plan(rng, rng.sample(SKILLS, size))
    assume(plan is not None)
    assert plan is not None
    read, variables = _MATH.read(_MATH.write(plan, rng))
    assert read.key == plan.key
    assert read.concepts == plan.concepts
    assert len(variables) == size - 1
    lines, answer = read.solve(variables)
    assert answer == plan.verify()
    assert 0 <= answer <= 999
    assert lines[-1].endswith(str(answer))


def test_every_opener_is_written() -> None:
    rng = Random(0)
    pair = [s for s in SKILLS if s.name in ("means", "remainders")]
    texts = []
    while len(texts) < 300:
        plan = draw_plan(rng, pair)
        if plan is not None:
            texts.append(_MATH.write(plan, rng))
    for opener in _DEFINE + _ASK:
        start = opener.split("{")[0]
        assert any(start in text for text in texts), start


@given(factor=st.integers(1, 4), addend=st.integers(-99, 99), value=st.integers(0, 200))
def test_an_expression_is_read_back_and_its_trace_ends_in_its_value(
    factor: int, addend: int, value: int
) -> None:
    link = Link(factor, addend)
    marked, found = skeleton(f"when {link.text('m')} is divided by 9")
    assert marked == "when # is divided by #"
    assert read_expression(found[0]) == ("m", link)
    assert link.trace("m", value).split("=")[-1] == str(factor * value + addend)


@given(seed=seeds, value=st.integers(0, 400), lo=st.integers(1, 50), width=st.integers(5, 100))
def test_a_drawn_expression_falls_within_reach(seed: int, value: int, lo: int, width: int) -> None:
    link = draw_link(Random(seed), value, (lo, lo + width))
    assume(link is not None)
    assert lo <= link.of(value) <= lo + width


def test_operands_that_commute_make_one_problem() -> None:
    gcd, remainders = (
        next(s for s in SKILLS if s.name == name)
        for name in ("greatest common divisor", "remainders")
    )
    assert Plan((Step(gcd, (84, 36)),)).key == Plan((Step(gcd, (36, 84)),)).key
    assert Plan((Step(remainders, (84, 36)),)).key != Plan((Step(remainders, (36, 84)),)).key


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("What is the mean of m + 5, 12 and 3?", "m is not defined"),
        ("Let m be the mean of 4, 5 and 6. Find the remainder when 40 is divided by 7.", "used"),
        ("Let m be the mean of 4, 5 and 6.", "no question"),
        ("Find the mean of 4, 5 and 6. Find the mean of 4, 5 and 6.", "follows"),
        (
            "Let m be the mean of 5, 5 and 5. Let m be the mean of m, 5 and 5. Find the mean of m, "
            "5 and 5.",
            "twice",
        ),
    ],
)
def test_a_statement_that_asks_nothing_answerable_is_ill_posed(statement: str, why: str) -> None:
    with pytest.raises(IllPosed, match=why):
        _MATH.read(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "What is the remainder when 40 is divided by 0?",
        "What is the largest prime factor of 1000000007?",
        "What is the mean of 4, 5 and 7?",
        "What is the sum of 150 and the product of 9 and 9?",
    ],
)
def test_a_question_without_an_answer_or_beyond_size_is_ill_posed(statement: str) -> None:
    plan, variables = _MATH.read(statement)
    with pytest.raises(IllPosed):
        plan.verify()
    with pytest.raises(IllPosed):
        plan.solve(variables)


@given(st.text())
def test_reading_refuses_what_it_does_not_know(text: str) -> None:
    for read in (_MATH.read, _CODE.read):
        with pytest.raises((Foreign, IllPosed)):
            read(text)


def test_an_absurdly_long_number_is_refused_before_it_is_read() -> None:
    with pytest.raises(Foreign, match="characters"):
        _MATH.read(f"What is the digit sum of the number {'9' * 5000}?")


def test_a_literal_number_must_be_the_one_of_the_wording() -> None:
    _MATH.read("Find the number of multiples of 7 from 1 to 60.")
    with pytest.raises(Foreign):
        _MATH.read("Find the number of multiples of 7 from 2 to 60.")


def test_wordings_that_cannot_be_told_apart_are_refused() -> None:
    a, b = SKILLS[0], SKILLS[1]
    twin = Skill(a.name, a.domain, a.slots, a.carrier, a.reach, a.wordings, a.derive, a.check)
    with pytest.raises(ValueError, match="told apart"):
        Language([a, b, twin], WORDINGS)
    with pytest.raises(ValueError, match="told apart"):
        ProgramLanguage([MOVES[5], MOVES[5]])


def run_in_process(source: str, text: str) -> str:
    """What one of the book's own programs prints, without the price of a process."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "stdin", io.StringIO(text))
        exec(compile(source, "program", "exec"), {})
    return out.getvalue()


@settings(max_examples=150)
@given(
    seed=seeds,
    size=st.integers(1, 2),
    inputs=st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=4),
)
def test_programs_print_what_their_references_compute(
    seed: int, size: int, inputs: list[list[int]]
) -> None:
    rng = Random(seed)
    program = draw_program(rng, rng.sample(MOVES, size))
    assume(program is not None)
    assert program is not None
    read = _CODE.read(_CODE.write(program, rng))
    assert read.key == program.key
    _, source = read.source()
    for numbers in inputs:
        assert run_in_process(source, " ".join(map(str, numbers))) == program.run(numbers)


@pytest.mark.parametrize("move", MOVES, ids=lambda m: m.name)
def test_every_wording_of_a_move_is_written_and_read_back(move: Move) -> None:
    rng = Random(move.name)
    program = next(p for p in (draw_program(rng, [move]) for _ in range(50)) if p is not None)
    seen = set()
    for _ in range(800):
        statement = _CODE.write(program, rng)
        assert _CODE.read(statement).key == program.key
        seen.add(skeleton(statement)[0])
    prints = len(_PRINT) * (len(move.wordings) if move.folds else 2 * len(move.wordings))
    assert len(seen) == len(_READ) * prints


def test_a_program_runs_as_a_program() -> None:
    move = next(m for m in MOVES if m.name == "common divisor of a list")
    program = Program((Part(move, (3,)),), 5)
    done = subprocess.run(
        [sys.executable, "-I", "-c", program.source()[1]],
        input="12 18 30\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == program.run([12, 18, 30]) == "23\n"


@pytest.mark.parametrize(
    "statement",
    [
        _READ[0],
        f"{_READ[0]} Keep only the numbers divisible by 7.",
        f"{_READ[0]} Use only those equal to 9 modulo 7. Print 2 times their sum, plus 5.",
        f"{_READ[0]} Print 2 times their sum, plus 5. Keep only the numbers divisible by 7.",
        f"{_READ[0]} Keep only the numbers divisible by 0. Print 2 times their sum, plus 5.",
        f"{_READ[0]} Print {'9' * 5000} times their sum, plus 5.",
        f"{_READ[0]} Print m times their sum, plus 5.",
    ],
)
def test_an_unfinished_programming_problem_is_ill_posed(statement: str) -> None:
    with pytest.raises(IllPosed):
        _CODE.read(statement)


def test_an_unknown_move_is_foreign() -> None:
    with pytest.raises(Foreign):
        _CODE.read(f"{_READ[0]} Sort them.")
