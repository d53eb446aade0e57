"""The reader of answers: what it makes of LaTeX, and that no text can make it fail otherwise."""

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from statewise.eval.mathematics.equality import Reference, same
from statewise.eval.mathematics.evaluator import Costly, close, exact
from statewise.eval.mathematics.expressions import Unreadable, node, number, read
from statewise.eval.mathematics.latex import grouped, scan, spelled
from statewise.eval.mathematics.units import agree, unit_of

PIECES = (
    r"\frac", r"\sqrt", r"\text{", r"\left", r"\right", r"\{", r"\}", r"\pi", r"\sum_{k=1}^{3}",
    r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", r"\%", r"\$", "{", "}", "(", ")", "[", "]", "|",
    "^", "_", "&", ",", ";", ":", "=", "<", "+", "-", "*", "/", "!", "'", ".", " ", "~", "1", "23",
    "x", "e", "i", "f(", "and", "cm", "°", "\ud800", "\u0661", "\x00", r"\sin", r"\log_", r"\pm",
    r"\mid", r"\cup", r"\in", r"\infty", r"\binom", r"\overline{3}", "0.", r"\lfloor",
)  # fmt: skip
SOUP = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@given(st.one_of(SOUP, st.text(max_size=60)), st.one_of(SOUP, st.text(max_size=30)))
@example("\\", "x")
@example("1\\pm", "x")
def test_any_text_is_a_tree_or_unreadable_and_any_two_compare_or_cost_too_much(text, other):
    try:
        tree = read(text)
    except Unreadable:
        return
    assert same(tree, tree)
    with contextlib.suppress(Unreadable, Costly, ArithmeticError, ValueError):
        assert isinstance(Reference(text).equals(other), bool)


@given(SOUP)
def test_spelling_is_stable(text):
    once = spelled(grouped(scan(text)))
    assert spelled(scan(text)) == spelled(scan(text))
    assert isinstance(once, str)


@pytest.mark.parametrize("piece", [*PIECES, "{{", "x_{", "|x", "1 ", r"\frac{1}", "((", "x^", "--"])
def test_a_text_that_is_made_to_cost_time_costs_none(piece):
    text = piece * (2_000 // len(piece))
    began = time.process_time()
    for commas in (True, False):
        with contextlib.suppress(Unreadable):
            read(text, commas=commas)
    assert time.process_time() - began < 2.0


@given(st.fractions(), st.fractions())
def test_sums_products_and_quotients_of_fractions_are_exact(a, b):
    x, y = (rf"\left(\frac{{{f.numerator}}}{{{f.denominator}}}\right)" for f in (a, b))
    assert exact(read(f"{x}+{y}")) == a + b
    assert exact(read(f"{x}-{y}")) == a - b
    assert exact(read(f"{x}\\cdot{y}")) == a * b
    if b:
        assert exact(read(f"{x}/{y}")) == a / b


@given(st.integers(1, 300), st.integers(1, 10**6))
def test_however_small_two_numbers_are_they_are_told_apart(power, factor):
    a = read(f"\\frac{{{factor}}}{{10^{{{power}}}}}")
    b = read(f"\\frac{{{factor + 1}}}{{10^{{{power}}}}}")
    assert not close(a, b)
    irrational = [node("product", n, read("\\sqrt{2}")) for n in (a, b)]
    assert not close(*irrational)
    assert close(irrational[0], node("product", read("\\sqrt{8}"), a, number(Fraction(1, 2))))


@given(st.sampled_from(["x", "X", "a", "A", "\\theta", "\\Theta", "n", "N"]), st.integers(2, 9))
def test_a_letter_is_itself_and_no_other(letter, n):
    tree = read(f"{n}{letter}+1")
    assert same(tree, read(f"1+{letter}\\cdot {n}"))
    for other in ("x", "X", "a", "A", "\\theta", "\\Theta", "n", "N"):
        if other != letter:
            assert not same(tree, read(f"{n}{other}+1"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("5 6", None),
        ("1 1/2", "number"), (r"1\frac{1}{2}", "number"), (r"1\frac{3}{2}", "product"),
        ("1,000", "number"), ("1,00", "list"), ("(1,200)", "tuple"), ("1 000", "number"),
        ("60-minute", "quantity"), ("60-x", "sum"), ("60 cm", "quantity"), ("60x", "product"),
        (r"\text{May 5}", "phrase"), (r"\text{two lines}", "text"), ("f(x)", "call"),
        ("x(x+1)", "product"), (r"\{x\mid x>1\}", "builder"), (r"2\text{ and }3", "list"),
        ("1:2:3", "ratio"), ("a<b<c", "relation"), ("12_7", "numeral"), ("x_7", "symbol"),
    ],
)  # fmt: skip
def test_what_a_text_is_read_as(text, kind):
    if kind is None:
        with pytest.raises(Unreadable):
            read(text)
    else:
        assert read(text).kind == kind


@pytest.mark.parametrize(
    ("reference", "answer", "factor"),
    [
        ("hours", "minutes", Fraction(1, 60)), ("cm", "m", 100), ("square cm", "cm^2", 1),
        ("cm^2", "cm", None), ("dollars", "\\$", 1), ("dollars", "€", None), ("km/h", "mph",
         Fraction(201168, 125000)), ("apples", "red apples", 1), ("apples", "oranges", None),
        ("hours", "dollars", None), ("degrees", "hours", None), ("sq. units", "units^2", 1),
    ],
)  # fmt: skip
def test_units_convert_agree_or_differ(reference, answer, factor):
    a, b = unit_of(reference), unit_of(answer)
    assert a is not None
    assert b is not None
    assert agree(a, b) == factor
