"""A golden table that grows with every bug, the limits, and text that no model should write."""

import io
import json
import os
import random
import re
import resource
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from answer_pairs import top_level
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import DataError
from statewise.eval.answers import (
    Grade,
    as_integer,
    as_kind,
    canonical,
    grade,
    literal,
    undecided,
)
from statewise.eval.benchmarks import BENCHMARKS, load_benchmark
from statewise.eval.mathematics import workers
from statewise.eval.mathematics.equality import Reference
from statewise.eval.mathematics.worker import answers
from statewise.eval.mathematics.workers import Comparison, MathChecker
from statewise.records import FinishReason, Outcome

HERE = Path(__file__).parent
DATA = HERE.parents[1].parent / "shared" / "data"
TABLE = [json.loads(line) for line in (HERE / "answers.jsonl").read_text().splitlines()]


def never(reference, answer, **_):
    raise AssertionError(f"the checker was asked about {reference!r} and {answer!r}")


class FakeWorker:
    """A worker's end of the pipe, on which some lines lie and no more come."""

    def __init__(self, lines):
        self.lines = lines

    def start(self):
        worker = workers._Worker.__new__(workers._Worker)
        read, write = os.pipe()
        for line in self.lines:
            os.write(write, (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
        worker._process = SimpleNamespace(stdin=io.BytesIO(), stdout=os.fdopen(read, "rb", 0))
        worker._pending, worker._ready, worker.over_answer = b"", False, False
        worker.close = lambda: (os.close(write), worker._process.stdout.close())
        return worker


def boxed(answer: str) -> str:
    return f"because</think>\\boxed{{{answer}}}"


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r['output'][-40:]} vs {r['reference']}")
def test_the_golden_table_holds(row):
    result = grade(row["output"], row["reference"], kind=row["kind"])
    assert result.outcome == row["outcome"], result


def test_nothing_in_a_box_was_executed():
    assert not list(Path.cwd().glob("pwned"))


@pytest.mark.parametrize(
    ("reference", "answer", "right", "wrong", "rule"),
    [
        ("\\frac{x}{y}", "\\dfrac xy", "\\tfrac{x}{y}", None, "exact"),
        ("12", "12.0", "+12", "13", "integer"),
        ("0.5", "1/2", ".50", "0.51", "rational"),
        ("4210_5", "4210", "04210_5", "4211_5", "base"),
        ("13:30", "1:30 \\text{ p.m.}", "13:30:00", "1:30 \\text{ a.m.}", "time"),
        ("(C)", "(C) 42", "C. 42", "D. 42", "choice"),
        ("x+1", "1+x", "x+\\frac{2}{2}", "x+2", "expression"),
    ],
)
def test_a_grade_names_the_rule_that_decided(reference, answer, right, wrong, rule):
    for text in (answer, right):
        assert grade(boxed(text), reference) == Grade(Outcome.CORRECT, text, rule)
    if wrong is not None:
        assert grade(boxed(wrong), reference) == Grade(Outcome.INCORRECT, wrong, rule)


def test_a_grade_by_a_tolerance_or_of_an_integer_names_that():
    assert grade(boxed("4.25"), "4.2", tolerance=0.1).rule == "tolerance"
    assert grade(boxed("4.35"), "4.2", tolerance=0.1).rule == "tolerance"
    assert grade(boxed("4.3"), "4.2", tolerance=0.1).outcome is Outcome.CORRECT
    assert grade(boxed("4.1"), "4.2", tolerance=0.1).outcome is Outcome.CORRECT
    assert grade(boxed("x"), "5", kind="integer").rule == "integer"
    found = grade(boxed("5"), "x", kind="integer")
    assert found == Grade(Outcome.UNSCORED, "5", "the reference 'x' is not an integer")


def test_a_completion_cut_at_the_token_limit_is_truncated_even_with_a_box():
    result = grade(boxed("2"), "2", finish_reason=FinishReason.LENGTH)
    assert result == Grade(Outcome.TRUNCATED, None, "token limit")


# Properties

integers = st.integers(-(10**12), 10**12)


@given(integers, st.integers(0, 4), st.sampled_from(["", "^\\circ", "\\%", ".", ".0"]))
def test_an_integer_equals_itself_however_it_is_dressed(n, zeros, tail):
    sign, digits = ("-" if n < 0 else ""), str(abs(n))
    for kind in ("math", "integer"):
        for text in (f"{sign}{'0' * zeros}{digits}{tail}", f"{n:,}", f"${n}$"):
            assert grade(boxed(text), str(n), kind=kind).outcome is Outcome.CORRECT


@given(integers, integers)
def test_different_integers_are_different_and_never_reach_the_checker(a, b):
    expected = Outcome.CORRECT if a == b else Outcome.INCORRECT
    for kind in ("math", "integer"):
        assert grade(boxed(str(a)), str(b), kind=kind, checker=never).outcome is expected


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_are_compared_exactly(a, b):
    text = f"\\frac{{{a.numerator}}}{{{a.denominator}}}"
    result = grade(boxed(text), f"{b.numerator}/{b.denominator}", checker=never)
    assert (result.outcome is Outcome.CORRECT) == (a == b)


@given(st.decimals(-1000, 1000, places=3))
def test_a_decimal_is_the_fraction_that_it_says(d):
    assert literal(str(d)) == Fraction(str(d))
    assert canonical(str(d)) == canonical(f"{Fraction(str(d))}")


@given(st.text())
def test_a_vote_is_for_one_spelling_and_for_the_same_when_that_is_voted_for(text):
    spelling = canonical(text)
    assert isinstance(spelling, str)
    assert canonical(spelling) == spelling or literal(spelling) is None


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [("\\dfrac{x}{ y }", "\\frac xy"), ("\\text{ Yes. }", "Yes"), (" ; ", ";"), ("5 cm", "5"),
     ("50\\%", "50"), ("5^\\circ", "5"), ("\\$5", "5"), ("1 1/2", "3/2"),
     ("x" * 3_000, "x" * 3_000),
     ("5x", "5x"), ("1,000x", "1000x"), ("2/4", "1/2"), ("(5)", "(5)"), ("-5", "-5")],
)  # fmt: skip
def test_what_is_voted_for_is_the_number_or_the_text_that_is_written(answer, spelling):
    assert canonical(answer) == spelling


@given(integers)
def test_an_integer_is_read_behind_a_label_before_a_unit_and_in_brackets(n):
    for text in (
        f"({n})", f"\\{{{n}\\}}", f"{n}\\text{{ km/h}}", f"n = {n}", f"{n} = n",
        f"the answer is {n}",
        f"{n}\\ \\text{{eggs}}", f"€{n}", f"{n},", f"{n}\\\\", f"{n}-minute", f"\\text{{Sum: }}{n}",
    ):  # fmt: skip
        assert as_integer(text) == n, text


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_numbers_with_white_space_between_them_are_no_number(a, b):
    for space in (" ", "\\,", "~", "\\ ", "\\quad ", "\\text{ }"):
        stated = boxed(f"{a}{space}{b}")
        groups = len(str(a)) < 4 and len(str(b)) == 3
        assert (grade(stated, f"{a}{b}").outcome is Outcome.CORRECT) == groups
        assert (grade(stated, f"{a}{b}", kind="integer").outcome is Outcome.CORRECT) == groups


SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "dozen": 12,
          "trillion": 10**12, "score": 20, "gross": 144, "lakh": 10**5, "crore": 10**7}  # fmt: skip
CHANGING = """
or and nor xor vs versus more fewer less greater smaller least most than not no never none neither
minus plus times over under above below beyond between upwards downwards negative factorial choose
half am pm noon midnight bc bce ad base mod modulo remainder divided multiplied doubled tripled
power root sqrt inverse reciprocal log ln sin cos tan exp pi infinity infinite undefined if when
where for since because is was were be with without by from to into but unless otherwise impossible
maybe perhaps possibly probably alternatively approximately roughly nearly almost around about up
down point points loss debt deficit wrong false exclusive inclusive tens ones digits off short k b
bn january february march april may june july august september october november december zero one
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety quarter quarters
pair pairs couple third thirds halves fourths fifth sixths sevenths eighths ninths tenth tenths
elevenths twelfths thirteenths twentieths hundredths thousandths millionths
""".split()


@pytest.mark.parametrize("word", CHANGING)
def test_a_word_that_makes_another_number_of_the_one_before_it_is_no_unit(word):
    assert as_integer(f"5\\text{{ {word} eggs}}") is None
    assert word in ("or", "and") or as_integer(f"5\\text{{ {word}}}") is None


@pytest.mark.parametrize("word", SCALES)
def test_a_word_for_a_number_scales_the_one_before_it(word):
    assert as_integer(f"5\\text{{ {word}}}") == 5 * SCALES[word]
    assert grade(boxed(f"5\\text{{ {word}}}"), str(5 * SCALES[word])).outcome is Outcome.CORRECT
    assert grade(boxed(f"5\\text{{ {word}}}"), "5").outcome is Outcome.INCORRECT


ANNOUNCING = """
the answer answers final result ans is are total value values solution solutions therefore thus
hence so equals equal to our required correct option choice which gives we get have it be sum number
probability area distance he she they there has need needs will can must gets makes of an all
this that only exactly just
""".split()


@pytest.mark.parametrize("word", ANNOUNCING)
def test_a_word_that_only_announces_leaves_the_number_behind_it_as_it_is(word):
    assert as_integer(f"\\text{{the answer {word} }}5") == 5
    assert as_integer(f"\\text{{eggs {word} }}5") is None
    assert as_integer(f"\\text{{the {word} is not }}5") is None


def test_a_quantity_is_of_what_a_small_word_leads_to():
    for word in ("of the", "of a", "of an", "total", "exactly", "only", "whole"):
        assert as_integer(f"5\\text{{ eggs {word} box}}") == 5, word
        eggs = f"5\\text{{ {word} eggs}}"
        assert grade(boxed(eggs), "5\\text{ eggs}").outcome is Outcome.CORRECT, word
    for ending in ("th", "st", "nd", "rd"):
        assert grade(boxed(f"5\\text{{{ending}}}"), "5").outcome is Outcome.CORRECT, ending
        assert grade(boxed(f"5^{{{ending}}}"), "5").outcome is Outcome.CORRECT, ending
    for unit in ("ms", "in", "rs", "mo", "pt", "mi", "ha"):
        product = "\\cdot ".join(["5", *unit])
        assert grade(boxed(f"5{unit}"), product).outcome is Outcome.CORRECT, unit
        assert grade(boxed(f"5 {unit}"), "5").outcome is Outcome.CORRECT, unit
    for unit in ("cm", "kg", "km", "ft"):
        assert grade(boxed(f"5{unit}"), "5").outcome is Outcome.CORRECT, unit


ODD = ("\N{DEGREE SIGN}", "\N{ARABIC-INDIC DIGIT ONE}", "\x00", "\ud800", "\\", "__import__")
WORDS = ("\\boxed{", "\\fbox{", "\\frac", "\\text{", "\\sqrt", "\\pi", "\\left", "\\circ", "\\{")
LATEX = st.sampled_from(
    (*ODD, *WORDS, "</think>", "<think>", "23", "1_", *"{}()[]^_,.$%=+-/10x \n")
)
SOUP = st.lists(LATEX, max_size=40).map("".join)


@given(st.one_of(st.text(max_size=200), SOUP), SOUP, st.sampled_from(["math", "integer"]))
def test_grading_never_raises_whatever_the_text(completion, reference, kind):
    for text in (completion, f"</think>\\boxed{{{completion}}}"):
        result = grade(
            text, reference, kind=kind, checker=lambda *_, **__: Comparison(None, "asked")
        )
        assert isinstance(result.outcome, Outcome)
        assert (result.extracted is None) == (
            result.outcome in (Outcome.TRUNCATED, Outcome.NO_ANSWER)
        )


def test_an_oversized_answer_is_incorrect_and_its_rule_says_why():
    for kind in ("math", "integer", "several"):
        result = grade(boxed("x+" * 1_500 + "1"), "7", kind=kind, checker=never)
        assert result.outcome is Outcome.INCORRECT
        assert result.rule == "refused: 3,001 characters, the limit is 2,000"


def test_an_oversized_reference_leaves_an_answer_unscored_unless_it_is_spelled_alike():
    long = "x+" * 1_500 + "1"
    assert grade(boxed(long), long, checker=never).outcome is Outcome.CORRECT
    assert grade(boxed("7"), long, checker=never).outcome is Outcome.UNSCORED


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("(" * 100 + "x" + ")" * 100, "not read: more than 64 levels"),
        ("((((9!)!)!)!)", "not evaluated: a factorial too large to evaluate"),
        ("9^{9^{9^{9}}}", "not evaluated: a power too large to evaluate"),
        ("\\sum_{k=1}^{10^{9}} \\frac{1}{k}", "not evaluated: a sum of 1,000,000,000 terms"),
        ("\\int_0^1 x dx", "not read: at \\int"),
    ],
)
def test_what_we_do_not_evaluate_is_incorrect_and_nobody_gains_by_it(answer, rule):
    assert grade(boxed(answer), "9") == Grade(Outcome.INCORRECT, answer, rule)


# The workers


@pytest.fixture(scope="module")
def checker():
    checker = MathChecker(workers=1)
    yield checker
    checker.close()


@pytest.fixture(scope="module")
def impatient():
    checker = MathChecker(workers=1, deadline_s=1.5)
    yield checker
    checker.close()


SLOW = "+".join(["\\sum_{k=1}^{19999} \\sin(k)^{\\cos(k)}"] * 8)  # each on its own is allowed


def test_an_answer_that_hangs_is_wrong_and_the_next_one_is_answered(impatient):
    found = impatient.compare("7", SLOW)
    assert found.equal is False
    assert "took too long" in found.rule or "a sum of" in found.rule
    assert impatient.compare("2\\sqrt{3}", "\\sqrt{12}").equal is True


def test_a_worker_that_is_lost_over_an_answer_does_not_credit_it_and_over_a_reference_says_so():
    worker = FakeWorker(["ready", {"reference": True}])
    checker = MathChecker(workers=1, deadline_s=0.2)
    checker._idle.get()
    checker._idle.put(worker.start())
    assert checker.compare("7", "x") == Comparison(False, "checker took too long (0.2 s)")
    worker = FakeWorker(["ready"])
    checker._idle.get()
    checker._idle.put(worker.start())
    assert checker.compare("7", "x") == Comparison(
        None, "checker took too long with the reference (0.2 s)"
    )
    checker.close()


def test_a_worker_that_answered_before_is_lost_over_the_next_reference_as_over_the_first():
    worker = FakeWorker(["ready", {"reference": True}, {"equal": True, "rule": "expression"}])
    checker = MathChecker(workers=1, deadline_s=0.2)
    checker._idle.get()
    checker._idle.put(worker.start())
    assert checker.compare("7", "7") == Comparison(True, "expression")
    assert checker.compare("7", "x") == Comparison(
        None, "checker took too long with the reference (0.2 s)"
    )
    checker.close()


def test_without_a_word_on_it_one_answer_without_a_unit_is_asked_for(checker):
    for compare in (checker.compare, workers.compare):
        assert compare("1,200x", "1200x") == Comparison(True, "expression")
        assert compare("5", "5+1").equal is False
        assert compare("5", "300\\text{ s}").equal is False
        assert compare("5", "300\\text{ s}", unit="minute").equal is True
        assert compare("1,200", "200,1", several=True).equal is True


def test_a_reference_that_cannot_be_read_is_said_to_be_so(checker):
    found = checker.compare("\\frac{", "2")
    assert found.equal is None
    assert "reference cannot be read" in found.rule


@pytest.mark.parametrize("text", ["\ud800", "\n\n", "\u2028", "\x00", '"}', "$$", "\\"])
def test_odd_characters_do_not_bring_the_worker_out_of_step(checker, text):
    assert checker.compare("x^2", text).equal is False
    assert checker.compare("x^2", "x \\cdot x").equal is True


def test_a_worker_that_dies_is_replaced(checker):
    assert checker.compare("x", "x").equal is True
    worker = checker._idle.get()
    worker._process.kill()
    worker._process.wait()
    checker._idle.put(worker)
    assert checker.compare("x", "x").equal is True


def test_a_failing_checker_leaves_the_answer_unscored_with_the_reason():
    result = grade(boxed("\\sqrt{4}"), "2", checker=lambda *_, **__: Comparison(None, "it is lost"))
    assert result == Grade(Outcome.UNSCORED, "\\sqrt{4}", "it is lost")


def test_integers_start_no_worker(monkeypatch):
    monkeypatch.setattr(workers, "_Worker", never)
    assert grade(boxed("12"), "12").outcome is Outcome.CORRECT
    assert grade(boxed("13"), "12", kind="integer").outcome is Outcome.INCORRECT


def asked(reference, answer, several=False, unit=""):
    question = {"reference": reference, "answer": answer, "several": several, "unit": unit}
    return list(answers(question))


def test_the_worker_never_executes_text_and_says_first_what_it_made_of_the_reference(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for payload in ("__import__('os').mkdir('pwned')", "open('pwned','w')", 'exec("x")'):
        first, second = asked("7", payload)
        assert first == {"reference": True}
        assert second["equal"] is False
    assert not list(tmp_path.iterdir())
    assert asked("\\frac{", "1") == [{"error": "the reference cannot be read: an empty item"}]
    assert asked("1 < x \\le 2", "(1,2]")[1] == {"equal": True, "rule": "expression"}


@pytest.mark.parametrize("error", [ArithmeticError, ValueError, MemoryError, RecursionError])
def test_an_answer_over_which_the_worker_stumbles_is_wrong_and_a_reference_is_said_to_be_so(
    error, monkeypatch
):
    def stumble(*_, **__):
        raise error

    monkeypatch.setattr(Reference, "equals", stumble)
    assert asked("7", "x") == [
        {"reference": True}, {"equal": False, "rule": f"not evaluated: {error.__name__}"},
    ]  # fmt: skip
    monkeypatch.setattr(Reference, "__init__", stumble)
    assert asked("1234567", "x") == [{"error": f"the reference cannot be read: {error.__name__}"}]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limit of another process is told")
def test_a_worker_has_two_gibibytes_and_no_more(checker):
    assert checker.compare("x", "x").equal is True
    worker = checker._idle.get()
    checker._idle.put(worker)
    limits = resource.prlimit(worker._process.pid, resource.RLIMIT_AS)
    assert limits == (2 << 30, 2 << 30)


# Real references


def real(name: str):
    if not (DATA / BENCHMARKS[name].file).is_file():
        pytest.skip(f"no {DATA / BENCHMARKS[name].file}")
    return load_benchmark(name, DATA)


MATHEMATICS = [n for n in sorted(BENCHMARKS) if "humaneval" not in n and "code" not in n]


def by_its_checker(name, p, text):
    return grade(
        boxed(text),
        p.answer,
        kind=as_kind(p.checker, BENCHMARKS[name].checker),
        unit=p.unit,
        tolerance=p.tolerance,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MATHEMATICS)
def test_every_reference_passes_its_own_checker(name):
    for p in real(name):
        result = by_its_checker(name, p, p.answer)
        assert result.outcome is Outcome.CORRECT, (p.id, result)


def changed(reference):
    """The same answer with its last digit one higher."""
    places = [i for i, c in enumerate(reference) if c.isdigit()]
    if not places:
        return f"{reference} + 1"
    i = places[-1]
    return reference[:i] + str((int(reference[i]) + 1) % 10) + reference[i + 1 :]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MATHEMATICS)
def test_no_reference_with_one_digit_changed_passes(name):
    problems = real(name)
    passed = {
        p.id: changed(p.answer)
        for p in problems[:: max(1, len(problems) // 250)]
        if not p.tolerance  # 4.3 is right where 4.2 is, within 0.1
        if by_its_checker(name, p, changed(p.answer)).outcome is Outcome.CORRECT
    }
    assert passed == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_answers_of_olympiadbench_pass_in_any_order_with_their_units_and_in_other_words():
    problems = [p for p in real("olympiadbench") if p.checker == "several" or p.unit or p.tolerance]
    assert len(problems) > 90
    failed = {}
    for p in problems:
        forms = [p.answer]
        if p.checker == "several":
            pieces = top_level(re.sub(r"\\\\text ?\{ ?and ?\}", ",", p.answer.replace("$", "")))
            forms += [", ".join(reversed(pieces)), " and ".join(pieces)]
        if p.unit:
            unit = p.unit.strip("$")
            forms += [f"{p.answer} {unit}", f"{p.answer}\\text{{ {unit}}}"]
        if p.tolerance:
            forms.append(str(float(p.answer) + p.tolerance / 2))
        for form in forms:
            found = by_its_checker("olympiadbench", p, form)
            if found.outcome is not Outcome.CORRECT:
                failed[p.id, form] = found
    assert failed == {}


def test_a_part_that_is_missing_double_or_too_many_is_not_forgiven():
    for wrong in ("1", "1, 1", "1, 2, 3", "(1, 2)", "1, 3", "2"):
        assert grade(boxed(wrong), "1, 2", kind="several").outcome is Outcome.INCORRECT, wrong
    for right in ("2, 1", "1 \\text{ and } 2", "x = 1, x = 2", "1; 2", "$2$ or $1$"):
        assert grade(boxed(right), "1, 2", kind="several").outcome is Outcome.CORRECT, right
    assert grade(boxed("\\pm 2"), "2, -2", kind="several").outcome is Outcome.CORRECT
    assert grade(boxed("(2,1),(1,2)"), "(1,2), (2,1)", kind="several").outcome is Outcome.CORRECT
    assert grade(boxed("(2,1),(2,1)"), "(1,2), (2,1)", kind="several").outcome is Outcome.INCORRECT


def test_a_unit_or_a_tolerance_counts_only_where_the_reference_has_it():
    assert grade(boxed("45 \\text{ minutes}"), "45", unit="minute").outcome is Outcome.CORRECT
    assert grade(boxed("45minutes"), "45", unit="minute", kind="integer").outcome is Outcome.CORRECT
    assert grade(boxed("46 min"), "45", unit="min").outcome is Outcome.INCORRECT
    assert grade(boxed("4.25"), "4.2", tolerance=0.1).outcome is Outcome.CORRECT
    assert grade(boxed("4.35"), "4.2", tolerance=0.1).outcome is Outcome.INCORRECT
    assert grade(boxed("4.25"), "4.2").outcome is Outcome.INCORRECT


def test_a_checker_that_does_not_exist_is_refused():
    assert as_kind("", "math") == "math"
    with pytest.raises(DataError, match="checker 'vibes': there are math, integer, several"):
        as_kind("vibes", "math")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aime2024", "aime2025", "gsm8k"])
def test_an_integer_reference_that_is_changed_fails(name):
    for p in real(name):
        for wrong in (int(p.answer) + 1, -int(p.answer) - 1, f"{p.answer}0{p.answer}"):
            result = grade(boxed(str(wrong)), p.answer, kind="integer")
            assert result.outcome is Outcome.INCORRECT, (p.id, wrong)


@pytest.mark.slow
def test_math500_references_equal_themselves_for_the_worker_and_no_other():
    problems = real("math500")
    others = [p.answer for p in problems]
    random.Random(0).shuffle(others)
    for p, other in zip(problems[::5], others[::5], strict=True):
        assert workers.compare(p.answer, p.answer).equal is True, p.id
        if canonical(p.answer) != canonical(other):
            assert grade(boxed(other), p.answer).outcome is Outcome.INCORRECT, (p.id, other)
        assert grade(boxed(f"{p.answer} + 1"), p.answer).outcome is not Outcome.CORRECT, p.id


@pytest.mark.parametrize(
    ("reference", "answer", "why"),
    [
        ("5\\text{ apples}", "5\\text{ fruits}", "units"),
        ("5 cats", "6 dogs", ""),
        ("3.33\\text{ cm}", "\\frac{100}{3}\\text{ mm}", "rounding"),
        ("5\\text{ cm}", "51\\text{ mm}", ""),
        ("5\\text{ cm}", "6 cm", ""),
        ("1 apple", "2 apples", ""),
        ("5\\text{ cm}", "6", ""),
        ("0.33", "\\frac{1}{3}", "rounding"),
        ("3.1416", "3.14", "rounding"),
        ("3.14 m", "3.1416\\text{ m}", "rounding"),
        ("3.14", "3.15", ""),
        ("3", "3.14", ""),
        ("3.0", "3.2", ""),
        ("7", "8", ""),
        ("x+1", "x+2", ""),
        ("2^{3^4}", "5 cm", ""),
    ],
)
def test_what_may_yet_be_equal_is_told_from_what_is_wrong(reference, answer, why):
    assert undecided(reference, answer) == undecided(answer, reference) == why


@given(st.text(), st.text(alphabet="0123.}{ ~,\\txcm"))
def test_whatever_the_text_it_is_undecided_for_one_of_the_reasons(reference, answer):
    assert undecided(reference, answer) in ("", "units", "rounding")


@pytest.mark.parametrize("piece", ["1 ", "}~", "\\,", "1\\text{ a", "} ", "1.", "1 a "])
def test_a_text_that_is_made_to_cost_time_costs_none(piece):
    long = piece * (2_000 // len(piece))
    assert undecided(3 * long, long) == undecided(long, 3 * long) == ""
    assert undecided(long, long[:-1]) in ("", "units", "rounding")
