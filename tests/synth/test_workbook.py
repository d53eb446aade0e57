"""The workbook as a sampler: it gets the prompts a language model gets, and answers in kind."""

from __future__ import annotations

import re
from collections import Counter
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.errors import ConfigError, DataError
from statewise.records import Draft, FinishReason, Rating
from statewise.sampler import Prompt, SamplingParams
from statewise.synth import formats
from statewise.synth.concepts import levels_for
from statewise.synth.workbook import (
    CONCEPTS,
    CORE_CONCEPTS,
    Partition,
    Workbook,
    canonical_key,
    contents,
    partition_of,
)
from statewise.synth.workbook.book import SKILLS
from statewise.text import chat_prompt

ONE = SamplingParams(max_tokens=2048)
NAMES = {kind: [c.name for c in CONCEPTS if c.kind == kind] for kind in ("math", "code")}
FAULTLESS = {"author_error": 0.0, "judge_error": 0.0, "teacher_error": 0.0}


def book(partition: Partition = "train", **settings: float) -> Workbook:
    return Workbook(seed=1, partition=partition, **(FAULTLESS | settings))


def answer(workbook: Workbook, text: str, id: str = "p") -> str:
    (completion,) = workbook.sample([Prompt(id, text)], ONE)
    assert completion.finish_reason is FinishReason.STOP
    return completion.text


def request(rng: Random, kind: str) -> tuple[tuple[str, ...], str]:
    size = rng.randint(1, 4 if kind == "math" else 2)
    return tuple(rng.sample(NAMES[kind], size)), rng.choice(levels_for(size))


def draft(workbook: Workbook, rng: Random, kind: str, id: str = "p") -> Draft:
    concepts, level = request(rng, kind)
    parsed = formats.parse_draft(answer(workbook, formats.author_prompt(concepts, level, kind), id))
    assert parsed is not None
    return Draft(id, kind, concepts, level, *parsed)


def boxed(text: str) -> str | None:
    found = re.findall(r"\\boxed\{(\d+)\}", text)
    return found[-1] if found else None


def test_the_book_holds_enough_concepts_domains_and_core_concepts() -> None:
    math = [c for c in CONCEPTS if c.kind == "math"]
    assert len(math) >= 40
    assert len({c.domain for c in math}) >= 8
    assert len(NAMES["code"]) >= 10
    assert len({c.name for c in CONCEPTS}) == len(CONCEPTS)
    core = [c for c in CORE_CONCEPTS if c.kind == "math"]
    assert 10 <= len(core) <= 12
    assert len({c.domain for c in core}) >= 6
    assert len(CORE_CONCEPTS) - len(core) == 3
    assert set(CORE_CONCEPTS) <= set(CONCEPTS)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["math", "code"]))
def test_a_faultless_line_runs_from_concepts_to_a_checked_solution(seed: int, kind: str) -> None:
    workbook, rng = book(), Random(seed)
    made = draft(workbook, rng, kind)
    assert all(name in made.rationale for name in made.concepts)
    verdict = formats.parse_rating(answer(workbook, formats.judge_prompt(made)))
    assert verdict is Rating.PERFECT
    solution = answer(workbook, chat_prompt(made.problem, kind))
    thoughts, visible = solution.split("\n</think>\n")
    assert thoughts
    if kind == "math":
        check = answer(workbook, formats.verifier_prompt(made.problem))
        assert boxed(visible) == boxed(check) is not None
        assert visible == f"\\boxed{{{boxed(check)}}}"
    else:
        assert re.fullmatch(r"```python\n.+\n```", visible, re.DOTALL)
        tests = formats.parse_tests(answer(workbook, formats.tests_prompt(made.problem)))
        assert tests is not None
        assert len(tests) >= 5
        assert len(set(tests)) >= 4


def test_the_same_seed_writes_the_same_book_in_any_order_and_company() -> None:
    rng = Random(0)
    prompts = [
        Prompt(f"d{i}", formats.author_prompt(*request(rng, kind), kind))
        for i in range(20)
        for kind in ("math", "code")
    ]
    params = SamplingParams(n=2, seed=3, max_tokens=2048)

    def pages(order: list[Prompt]) -> list[tuple[str, int, str]]:
        drawn = Workbook(seed=5, partition="train").sample(order, params)
        return sorted((c.prompt_id, c.sample, c.text) for c in drawn)

    forward = pages(prompts)
    assert forward == pages(prompts[::-1])
    assert forward == sorted(page for p in prompts for page in pages([p]))


def test_seed_prompt_id_and_sample_index_each_change_the_draft() -> None:
    text = formats.author_prompt(["means", "remainders"], "AMC10", "math")
    one = Workbook(seed=1, partition="train", **FAULTLESS)
    two = Workbook(seed=2, partition="train", **FAULTLESS)
    texts = [c.text for c in one.sample([Prompt("a", text)], SamplingParams(n=3))]
    texts += [c.text for c in one.sample([Prompt("b", text)], SamplingParams())]
    texts += [c.text for c in one.sample([Prompt("a", text)], SamplingParams(seed=9))]
    texts += [c.text for c in two.sample([Prompt("a", text)], SamplingParams())]
    assert len(set(texts)) == len(texts)


def test_a_text_longer_than_the_limit_is_cut_and_says_so() -> None:
    text = formats.author_prompt(["means"], "Foundation", "math")
    (cut,) = book().sample([Prompt("a", text)], SamplingParams(max_tokens=3))
    assert cut.finish_reason is FinishReason.LENGTH
    assert cut.completion_tokens == 3


@pytest.mark.parametrize("kind", ["math", "code"])
@pytest.mark.parametrize("partition", get_args(Partition))
def test_every_step_of_a_problem_is_of_the_partition_it_was_written_for(
    kind: str, partition: Partition
) -> None:
    workbook, rng = Workbook(seed=1, partition=partition, **FAULTLESS), Random(partition)
    steps = 0
    for i in range(150):
        made = draft(workbook, rng, kind, f"d{i}")
        found = contents(made.problem)
        assert found is not None
        assert len(found) == len(made.concepts)
        assert {partition_of(step) for step in found} == {partition}
        steps += len(found)
    assert steps > 200


def test_a_step_is_the_same_whether_its_number_is_given_or_arrived_at() -> None:
    given = "What is the sum of 40 and 50?"
    arrived = "Let m be the sum of 20 and 30. What is the sum of m and 40?"
    assert contents(given) == ("sum of two numbers(40,50)",)
    assert contents(arrived) == ("sum of two numbers(20,30)", "sum of two numbers(40,50)")
    assert contents("What is the meaning of life?") is None


def test_novelty_of_wording_and_of_numbers_is_seen_in_what_the_author_writes() -> None:
    text = formats.author_prompt(["means", "remainders"], "AMC10", "math")
    params = SamplingParams(n=20, max_tokens=2048)
    skills = {s.name: s for s in SKILLS}
    beyond = {}
    for novelty in ("none", "numbers", "wording"):
        author = Workbook(seed=1, partition="held_out", novelty=novelty, author_error=0)
        texts = [formats.parse_draft(c.text)[1] for c in author.sample([Prompt("a", text)], params)]
        reserved = [("three numbers" in t) + ("left over when" in t) for t in texts]
        assert set(reserved) == ({2} if novelty == "wording" else {0})
        first = [re.fullmatch(r"(.+)\((.+)\)", contents(t)[0]).groups() for t in texts]
        beyond[novelty] = [skills[n].is_beyond(tuple(map(int, a.split(",")))) for n, a in first]
    assert all(beyond["numbers"])
    assert not any(beyond["none"] + beyond["wording"])


def test_programs_have_no_novelty_of_their_own() -> None:
    text = formats.author_prompt(["sum of a list"], "Foundation", "code")
    with pytest.raises(DataError, match="programs without novelty"):
        answer(Workbook(seed=1, partition="held_out", novelty="numbers"), text)


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda c: c.name)
def test_every_concept_has_held_out_problems_of_its_own(concept) -> None:
    text = formats.author_prompt([concept.name], "Foundation", concept.kind)
    keys = set()
    for c in book("held_out").sample([Prompt("a", text)], SamplingParams(n=8, max_tokens=2048)):
        parsed = formats.parse_draft(c.text)
        assert parsed is not None
        keys.add(canonical_key(parsed[1]))
    assert len(keys) >= 2


def test_one_step_in_ten_is_held_out_and_one_kept_for_development() -> None:
    share = Counter(partition_of(f"remainders({x},{y})") for x in range(100) for y in range(50))
    # 5,000 fair draws at 0.1 deviate by more than 0.02 with odds below 1 in 100,000.
    assert abs(share["held_out"] / 5_000 - 0.1) < 0.02
    assert abs(share["development"] / 5_000 - 0.1) < 0.02


def test_a_statement_that_is_not_the_books_has_no_key() -> None:
    assert canonical_key("How many roads must a man walk down?") is None
    assert canonical_key("What is the mean of 4, 5 and 6?") == "means(4,5,6)"


def rejected(workbook: Workbook, rng: Random, kind: str, count: int) -> Counter[str]:
    """What two faultless judges make of this many drafts."""
    judge, fates = book(), Counter[str]()
    for i in range(count):
        concepts, level = request(rng, kind)
        parsed = formats.parse_draft(
            answer(workbook, formats.author_prompt(concepts, level, kind), f"d{i}")
        )
        if parsed is None:
            fates["untagged"] += 1
            continue
        made = Draft(f"d{i}", kind, concepts, level, *parsed)
        fates[formats.parse_rating(answer(judge, formats.judge_prompt(made)))] += 1
    return fates


@pytest.mark.parametrize("kind", ["math", "code"])
def test_every_spoilt_draft_is_caught_and_spoiling_keeps_its_rate(kind: str) -> None:
    always = rejected(book(author_error=1.0), Random(0), kind, 120)
    assert always[Rating.PERFECT] == 0
    assert min(always["untagged"], always[Rating.BAD]) > 10
    fates = rejected(book(author_error=0.2), Random(1), kind, 400)
    # 400 draws at 0.2 have a deviation of 0.02: five of them are allowed. The seeds are fixed.
    assert abs(1 - fates[Rating.PERFECT] / 400 - 0.2) < 0.1


def test_a_judge_misreads_at_its_rate_and_in_every_way() -> None:
    author, judge, rng = book(), book(judge_error=0.3), Random(0)
    seen = Counter(
        formats.parse_rating(
            answer(judge, formats.judge_prompt(draft(author, rng, "math", str(i))))
        )
        for i in range(300)
    )
    assert abs(1 - seen[Rating.PERFECT] / 300 - 0.3) < 0.13
    assert min(seen[r] for r in (Rating.ACCEPTABLE, Rating.BAD, Rating.UNREADABLE)) > 5


def test_a_misreading_judge_praises_a_bad_draft() -> None:
    bad = Draft("d", "math", ("means",), "AIME", "why", "What is the mean of 4, 5 and 6?")
    assert formats.parse_rating(answer(book(), formats.judge_prompt(bad))) is Rating.BAD
    misled = answer(book(judge_error=1.0), formats.judge_prompt(bad))
    assert formats.parse_rating(misled) is Rating.PERFECT


@pytest.mark.parametrize(
    ("concepts", "level", "problem", "criterion"),
    [
        (("means",), "AMC10", "What is the mean of 4, 5 and 6?", "Difficulty"),
        (("medians",), "Foundation", "What is the mean of 4, 5 and 6?", "Coverage"),
        (("means",), "Foundation", "What is the mean of 4, 5 and 7?", "Solvability"),
        (("means",), "Foundation", "What is the mean of m, 5 and 7?", "Accuracy"),
        (("means",), "Foundation", "What is the meaning of life?", "Solvability"),
    ],
)
def test_a_judge_names_the_criterion_that_a_draft_fails(
    concepts: tuple[str, ...], level: str, problem: str, criterion: str
) -> None:
    text = answer(book(), formats.judge_prompt(Draft("d", "math", concepts, level, "why", problem)))
    assert f"{criterion}: Bad - " in text
    assert formats.parse_rating(text) is Rating.BAD


def test_a_judge_rejects_a_draft_whose_tags_are_broken() -> None:
    nested = Draft("d", "math", ("means",), "Foundation", "why", f"{formats.END_PROBLEM} x")
    text = answer(book(), formats.judge_prompt(nested))
    assert "Format: Bad" in text
    assert formats.parse_rating(text) is Rating.BAD


def test_every_slip_of_the_teacher_is_seen_by_the_verifier() -> None:
    rng, always, sometimes = Random(0), book(teacher_error=1.0), book(teacher_error=0.2)
    slips = 0
    for i in range(300):
        statement = draft(book(), rng, "math", f"d{i}").problem
        check = boxed(answer(book(), formats.verifier_prompt(statement)))
        prompt = chat_prompt(statement, "math")
        wrong = boxed(answer(always, prompt))
        assert wrong is not None
        assert wrong != check
        slips += boxed(answer(sometimes, prompt, f"d{i}")) != check
    assert abs(slips / 300 - 0.2) < 0.12


def test_a_slipped_program_differs_from_the_right_one() -> None:
    rng = Random(0)
    for i in range(50):
        prompt = chat_prompt(draft(book(), rng, "code", f"d{i}").problem, "code")
        assert answer(book(), prompt) != answer(book(teacher_error=1.0), prompt)


def test_an_ill_posed_problem_gets_no_answer_instead_of_a_guess() -> None:
    statement = "What is the mean of m, 5 and 7?"
    for prompt in (chat_prompt(statement, "math"), formats.verifier_prompt(statement)):
        assert boxed(answer(book(), prompt)) is None
    unfinished = "A single line holds positive integers with spaces between them."
    assert "python" not in answer(book(), chat_prompt(unfinished, "code"))
    assert formats.parse_tests(answer(book(), formats.tests_prompt(unfinished))) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Tell me a joke.", "knows the prompts of"),
        (chat_prompt("What is the meaning of life?", "math"), "only work on its own problems"),
        (chat_prompt("Sort a list.", "code"), "only work on its own problems"),
        (formats.verifier_prompt("What is the meaning of life?"), "only work on its own"),
        (formats.tests_prompt("Sort a list."), "only work on its own"),
        (formats.author_prompt(["group theory"], "AIME", "math"), "'group theory'"),
        (formats.author_prompt(["means"], "AIME", "code"), "no code concept 'means'"),
        (
            formats.author_prompt(
                ["sum of a list", "largest of a list", "length of a list"], "AIME", "code"
            ),
            "at most two",
        ),
        (formats.AUTHOR_TASK["math"], "without numbered concepts"),
    ],
)
def test_a_prompt_the_book_cannot_serve_is_an_error_that_says_so(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        answer(book(), text)


def test_a_mistaken_setting_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="judge_error"):
        Workbook(seed=0, partition="train", judge_error=2.0)
    with pytest.raises(ConfigError, match="novelty"):
        Workbook(seed=0, partition="train", novelty="style")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="partition"):
        Workbook(seed=0, partition="test")  # type: ignore[arg-type]
