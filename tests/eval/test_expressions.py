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


@given(st.fractions(0, 10**12), st.integers(2, 64), st.integers(1, 5))
def test_a_root_of_a_power_is_exact_and_what_has_no_rational_root_is_not(f, degree, power):
    inside, count = number(f**degree), number(degree)
    assert exact(node("root", inside, count)) == f
    assert exact(node("power", inside, node("quotient", number(power), count))) == f**power
    if degree % 2:
        assert exact(node("root", number(-(f**degree)), count)) == -f
    else:
        assert exact(node("root", number(-(f**degree)), count)) == (None if f else 0)
    assert exact(node("root", number(7 * f**degree), count)) == (None if f else 0)


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


NAMES = {
    r"\frac": r"\dfrac \tfrac \cfrac \nicefrac \sfrac \flatfrac", r"\binom": r"\dbinom \tbinom",
    r"\le": r"\leq \leqslant \leqq ≤", r"\ge": r"\geq \geqslant \geqq ≥", r"\ne": r"\neq ≠",
    "<": r"\lt", ">": r"\gt", ":": r"\colon ∶", "*": r"\ast \times \cdot \bullet × · ⋅",
    "/": r"\div ÷", r"\emptyset": r"\varnothing \empty ∅", "|": r"\lvert \rvert \vert",
    r"\dots": r"\ldots \cdots \dotsc \dotsb \dotsm \dotso \hdots ...  …",
    r"\|": r"\lVert \rVert \Vert", r"\{": r"\lbrace", r"\}": r"\rbrace", "[": r"\lbrack",
    "]": r"\rbrack", "(": r"\lparen", ")": r"\rparen", r"\ni": r"\owns",
    r"\text{and}": r"\land \wedge", r"\text{or}": r"\lor \vee", r"\to": r"\rightarrow → "
    r"\longrightarrow", r"\implies": r"\Rightarrow \Longrightarrow", r"\log": r"\lg",
    r"\setminus": r"\backslash \smallsetminus", r"\tan": r"\tg", r"\cot": r"\ctg",
    r"\arctan": r"\arctg \atan", r"\arcsin": r"\asin", r"\arccos": r"\acos", r"\phi": r"\varphi φ",
    r"\epsilon": r"\varepsilon ε", r"\theta": r"\vartheta θ", r"^\circ": "° ^\\degree ^\\degrees "
    "^\\textdegree", "€": r"\euro", "¢": r"\cent", "£": r"\pounds", r"\$": r"\textdollar",
    r"\cup": r"\bigcup ∪", r"\cap": r"\bigcap ∩", r"i": r"\imath \i", "j": r"\jmath \j",
    "^": r"\sp", "_": r"\sb", r"\mathbb{R}": r"\reals ℝ", r"\mathbb{Z}": "ℤ", r"\mathbb{N}": "ℕ",
    r"\mathbb{Q}": "ℚ", r"\pm": "±", r"\mp": "∓", r"\approx": "≈", r"\in": "∈", r"\infty": "∞",
    r"\sqrt": "√", r"\sqrt[3]": "∛", r"\angle": "∠", r"\langle": "⟨", r"\rangle": "⟩",
    r"\lfloor": "⌊", r"\rfloor": "⌋", r"\lceil": "⌈", r"\rceil": "⌉", r"\mu": "µ μ", r"\pi": "π",
    r"\Omega": "Ω", r"\alpha": "α", r"\omega": "ω", r"\Pi": "Π", r"\sigma": "σ", "'": "′ ’ ‘",
    "-": "− – — － ﹣", "%": "％ \\%", "½": r"\frac{1}{2}", "x^{12}": "x¹²", "x_{10}": "x₁₀",
    "x^{-n+34567890}": "x⁻ⁿ⁺³⁴⁵⁶⁷⁸⁹⁰", "x_{-n+123456789}": "x₋ₙ₊₁₂₃₄₅₆₇₈₉", "𝑥": "x", "５": "5",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_sign_by_another_name_is_the_same_sign(name):
    for other in NAMES[name].split():
        tokens = [t[:2] for t in scan(f"7 {name} {{y}}")]
        assert [t[:2] for t in scan(f"7 {other} {{y}}")] == tokens, other


TYPESETTING = r"""
\left \right \middle \displaystyle \textstyle \scriptstyle \scriptscriptstyle \limits \nolimits
\strut \mathstrut \allowbreak \nobreak \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr
\Biggl \Biggr \bigm \mathbf \boldsymbol \bm \mathit \mathsf \mathtt \mathnormal \boxed \fbox
\underline \ensuremath \mathopen \mathclose \mathord \mathop \mathbin \mathrel \rm \bf \it \sf \tt
\normalfont \pmb \bold \centering \large \Large \LARGE \huge \Huge \small \tiny \noindent \nonumber
\notag \framebox \blacksquare \square \Box \checkmark \qed \quad \qquad \enspace \thinspace
\medspace \thickspace \space \hfill \newline \hspace{2em} \hspace*{1cm} \vspace{3mm} \phantom{x}
\hphantom{x} \vphantom{x} \color{red} \label{a} \tag{1} \kern3pt \hskip-0.5em \mspace{3mu}
\textcolor{red} \colorbox{red} \, \; \: \> \! \/ \( \) \[ \] ~ $ \hskip.5in
""".split()


@pytest.mark.parametrize("command", TYPESETTING)
def test_what_only_typesets_says_nothing(command):
    assert [t._replace(gap=False) for t in scan(f"x+{command} y")] == scan("x+y")


@pytest.mark.parametrize("wrapper", "text textbf textit textrm textsf texttt textup textnormal"
                         " textsc textmd mbox hbox mathrm operatorname emph".split())  # fmt: skip
def test_words_are_words_in_whatever_group(wrapper):
    assert scan(f"5\\{wrapper}{{ apples }}") == scan("5\\text{ apples}")


@pytest.mark.parametrize("name", "aligned align align* equation gathered gather split displaymath"
                         " math center cases dcases".split())  # fmt: skip
def test_an_environment_around_an_answer_says_nothing(name):
    assert [t[:2] for t in scan(f"\\begin{{{name}}}&x=5\\end{{{name}}}")] == [
        t[:2] for t in scan("x=5")
    ]


@pytest.mark.parametrize("accent", "overline bar vec hat tilde dot ddot widehat widetilde"
                         " overrightarrow mathcal mathbb mathfrak mathscr overleftrightarrow"
                         " underbrace overbrace".split())  # fmt: skip
def test_a_letter_under_an_accent_is_another_letter(accent):
    assert read(f"\\{accent} A").kind == "symbol"
    assert same(read(f"2\\{accent}{{A}}"), read(f"\\{accent} A\\cdot 2"))
    assert not same(read(f"2\\{accent}{{A}}"), read("2A"))
    assert not same(read(f"2\\{accent}{{A}}"), read(f"2\\{accent}{{B}}"))


FUNCTIONS = """
sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp arccot gcd lcm max min det Re
Im arg sgn floor ceil
""".split()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_be_named_in_words(name):
    applied = read(f"\\{name}(x)")
    assert applied.kind == "function"
    for group in ("operatorname", "text", "mathrm"):
        assert read(f"\\{group}{{{name}}}(x)") == applied, group


@pytest.mark.parametrize("name", [*FUNCTIONS[:15], "sqrt"])
def test_a_function_may_be_named_in_plain_text(name):
    assert read(f"2{name}(3)") == read(f"2\\{name}(3)")
    assert not same(read(f"2{name}(3)"), read("2" + "\\cdot ".join(name) + "(3)"))


@pytest.mark.parametrize("name", "pi theta alpha beta omega infty".split())
def test_a_greek_letter_may_be_named_in_plain_text(name):
    assert read(f"2{name}") == read(f"2\\{name}")
    assert read("2infinity") == read("2\\infty")


# What people write of a unit, in another unit.
MEASURES = {
    "metre": "1000 mm, 100 cm, 10 dm, 1000000000 nm, 1/1000 km, 1 m, 1 meter, 1 metres",
    "inch": "2.54 cm, 1 in, 1 inches, 1 inche, 1/12 ft, 1/12 foot, 1/12 feet, 1/36 yd, 1/36 yard",
    "mile": "1.609344 km, 1760 yards, 5280 feet, 1 mi, 1 miles",
    "kilometer": "1000 meter, 1 kilometre", "cm": "1 centimetre, 1 centimeter, 1/10 decimetre,"
    " 1/10 decimeter, 10 millimetre, 10 millimeter, 10000000 nanometer",
    "week": "7 days, 7 d, 168 hours, 168 h, 168 hr, 10080 min, 10080 minutes, 604800 s, 604800 sec,"
    " 604800 seconds, 604800000 ms, 604800000 milliseconds, 1 wk",
    "decade": "10 years, 10 yr, 120 months, 120 mo",
    "kg": "1000 g, 1000 grams, 1000 gramme, 1000 gm, 1000000 mg, 1000000 milligrams, 1/1000 tonne,"
    " 1 kilo, 1 kilogram", "pound": "16 ounces, 16 oz, 453.59237 g, 1 lb, 1 pounds",
    "litre": "1000 ml, 1000 mL, 1000 cc, 1000 millilitres, 1000 milliliters, 1 L, 1 l, 1 liter,"
    " 1000 cm^3, 1000 cubic cm, 1/1000 m^3", "gallon": "4 quarts, 4 qt, 8 pints, 8 pt, 16 cups,"
    " 231 in^3, 1 gal", "hectare": "10000 m^2, 1 ha", "acre": "43560 square feet",
    "dollar": "100 cents, 100 ¢, 100 pennies, 100 penny, 1 \\$, 1 usd, 1 bucks",
    "euro": "1 €, 1 eur", "£": "1 gbp", "¥": "1 yen", "rupee": "1 ₹, 1 rs", "degree": "1 deg",
    "radian": "1 rad", "%": "1 percent, 1 pct, 1 percentage", "newton": "1 N", "joule": "1 J",
    "kWh": "3600000 J", "watt": "1 W", "volt": "1 V", "pascal": "1 Pa", "hertz": "1 Hz",
    "ampere": "1 A, 1 amp", "mole": "1 mol", "mph": "1 mile per hour", "km/h": "1 kmh, 1 kph,"
    " 1 kmph, 5/18 m/s, 5/18 mps", "fps": "1 feet per second", "m^2": "1 sq m, 1 square m,"
    " 1 m squared", "m^3": "1 cubic m, 1 cu m, 1 m cubed",
}  # fmt: skip


@pytest.mark.parametrize("unit", MEASURES)
def test_a_unit_is_so_many_of_another(unit):
    for said in MEASURES[unit].split(", "):
        count, _, other = said.partition(" ")
        a, b = unit_of(f"\\text{{{unit}}}"), unit_of(f"\\text{{{other}}}")
        assert a is not None, unit
        assert b is not None, other
        assert a.words == b.words == frozenset(), said
        assert agree(a, b) == 1 / Fraction(count), said
