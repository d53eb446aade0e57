"""The pages: what they say, that foreign text stays text, and that nothing is fetched."""

import dataclasses
import random
import re
import typing
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import (
    accuracy,
    bare_results,
    benchmark_results,
    efficiency_figures,
    full_results,
    speed,
)

from statewise.report import markdown, page, paper
from statewise.report.figures import FIGURES, crossover, draw_all
from statewise.report.results import (
    ClaimResult,
    Claims,
    Device,
    FunnelStep,
    ModelFigures,
    Overlap,
    SampleAnswer,
    SampleProblem,
    StageTime,
    SynthFigures,
    TrainFigures,
    TrainPhase,
    finite,
)
from statewise.report.story import compose
from statewise.speed import BenchRow

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """The tags of a page with their attributes, its text, and whether its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


def html(results, svgs=None):
    svgs = svgs or {}
    return page.render(compose(finite(results)[0], svgs.keys()), svgs)


def md(results):
    return markdown.render(compose(finite(results)[0], ()))


@pytest.fixture(scope="module")
def drawn_page():
    svgs = {name: d.svg for name, d in draw_all(full_results()).items()}
    return html(full_results(), svgs)


def test_the_page_needs_nothing_from_elsewhere(drawn_page):
    outline = Outline(drawn_page)
    assert outline.open == []
    links = []
    for tag, attributes in outline.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "image"}
        assert not attributes.keys() & {"src", "srcset", "data", "onload", "onclick"}
        for key in ("href", "xlink:href"):
            target = attributes.get(key) or "#"
            if not target.startswith("#"):
                links.append((target, tag, attributes.get("class")))
    assert links == [(paper.URL, "a", "citation")]
    assert "@import" not in drawn_page
    assert set(re.findall(r"url\((.)", drawn_page)) <= {"#"}


def test_ids_are_unique_and_every_reference_within_the_page_is_met(drawn_page):
    ids = re.findall(r'\bid="([^"]+)"', drawn_page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#([^")]+)', drawn_page)
    assert references
    assert set(references) <= set(ids)


def test_the_figures_carry_no_date_and_no_machine(drawn_page):
    assert "<metadata" not in drawn_page
    assert "dc:date" not in drawn_page
    assert drawn_page.count("<svg") == len(FIGURES) - 1  # no benchmark of the paper was asked
    assert drawn_page.count("aria-label=") >= len(FIGURES)


def with_foreign_text(text):
    """Full results with `text` in every place a recipe, a data file or a model can reach."""
    results = full_results()
    example = SampleProblem((text, "b"), text, text, text, text, text)
    claims = Claims(
        *(ClaimResult(text, True, text, (0,), figures) for figures in (None, None, None))
    )
    return dataclasses.replace(
        results,
        name=text,
        recipe_toml=text,
        recipe_sha256=text,
        commit="0" + text,
        versions={text: text},
        device=Device(text, 1, 1, 1, text),
        stages={text: StageTime(1.0)},
        model=ModelFigures(10, 10, {text: text}),
        synth=SynthFigures(
            (FunnelStep(text, 1, 0),),
            {text: text},
            {text: 3},
            {text: 0.5},
            {text: Overlap(1, 0, 1, 0)},
            (example,),
        ),
        train=TrainFigures((TrainPhase(text, 3, 1, 1.0, 3.0, 0.1),), ()),
        eval={text: accuracy(0.5)},
        eval_by_phase={text: {text: accuracy(0.5)}},
        claims=claims,
        samples=(SampleAnswer(text, text, text, "x" + text, text),),
    )


def shape(text):
    outline = Outline(text)
    assert outline.open == []
    return [(tag, attributes.get("class")) for tag, attributes in outline.tags]


# What would be markup somewhere, mixed with anything at all.
FOREIGN = st.lists(
    st.sampled_from(
        ["<script>alert(1)</script>", "</pre>", "<!--", "]]>", "&lt;", '"', "'", "|", "```", "$x$"]
    )
    | st.sampled_from(["\n", "# h", "[a](b)", "\\", "*", "~~~~", "</details>", "\u2028", "{{}}"])
    | st.text(max_size=5),
    max_size=6,
).map(lambda parts: "x" + "".join(parts))


@given(FOREIGN)
@settings(max_examples=30, deadline=None)
def test_foreign_text_never_becomes_markup_in_the_page(text):
    assert shape(html(with_foreign_text(text))) == shape(html(with_foreign_text("x")))


def test_a_script_in_foreign_text_is_shown_as_text():
    text = "<script>alert(1)</script>"
    rendered = html(with_foreign_text(text))
    assert "<script" not in rendered
    assert Outline(rendered).text.count(text) > 10


def markdown_shape(text):
    """Headings, tables' cells and fences: what Markdown makes of a text, code left out."""
    out, fence = [], None
    for line in text.split("\n"):
        opening = re.match(r"(`{3,})text$", line)
        if fence is None and opening:
            fence = opening[1]
            out.append("fence")
        elif fence is not None:
            if line == fence:
                fence = None
        elif line.startswith("|"):
            out.append(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)))
        elif line.startswith(("#", "<", ">")):
            out.append(line[:3])
    assert fence is None
    return out


@given(FOREIGN)
@settings(max_examples=30, deadline=None)
def test_foreign_text_never_becomes_markup_in_the_markdown(text):
    rendered = md(with_foreign_text(text))
    assert markdown_shape(rendered) == markdown_shape(md(with_foreign_text("x")))


def test_drawn_labels_take_foreign_text_as_it_is():
    text = "$\\frac{<script> & 北京"
    svgs = draw_all(with_foreign_text(text))
    assert {"accuracy", "funnel"} <= svgs.keys()
    for drawing in svgs.values():
        assert "<script" not in drawing.svg


def pruned(value, draw):
    """Results with any part, and any set, that may be absent left out."""
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        kept = {}
        for f in dataclasses.fields(value):
            inner = getattr(value, f.name)
            absent = type(None) in typing.get_args(hints[f.name]) and draw.random() < 0.2
            kept[f.name] = None if absent else pruned(inner, draw)
        return dataclasses.replace(value, **kept)
    if isinstance(value, tuple):
        return tuple(pruned(inner, draw) for inner in value)
    if isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
        return {k: pruned(v, draw) for k, v in value.items() if draw.random() < 0.85}
    return value


def partial_results(seed):
    whole = full_results()
    train = dataclasses.replace(whole.train, curve=whole.train.curve[::100])
    return pruned(dataclasses.replace(whole, train=train), random.Random(seed))


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_any_part_may_be_absent(seed):
    results = partial_results(seed)
    assert shape(html(results))
    assert not {"nan", "None"} & set(re.findall(r"\w+", md(results)))


@given(st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_any_part_may_be_absent_from_what_is_drawn(seed):
    assert matplotlib_figures(partial_results(seed)).keys() <= FIGURES.keys()


def matplotlib_figures(results):
    return {name: f for name, draw in FIGURES.items() if (f := draw(results)) is not None}


def test_intervals_and_all_five_outcomes_are_shown():
    results = full_results()
    text = Outline(html(results)).text
    low, high = results.eval["workbook-1"].interval
    assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    for outcome in ("correct", "incorrect", "no answer", "truncated", "unscored"):
        assert outcome in text
    assert f"{results.eval['workbook-code'].outcomes['truncated']}" in text


@pytest.mark.parametrize(
    ("held", "words", "kind"),
    [(True, "held", "held"), (False, "did not hold", "failed"), (None, "not measured", None)],
)
def test_each_claim_stands_under_its_own_verdict(held, words, kind):
    untested = ClaimResult("S", None, "not now")
    results = full_results(claims=Claims(untested, ClaimResult("S", held, "because"), untested))
    rendered = html(results)
    assert re.search(rf'Curriculum <span class="badge {kind or "unmeasured"}">. {words}<', rendered)
    assert "because" in rendered
    assert f"### Curriculum: {words}" in md(results)
    if held is not None:
        assert f"curriculum {words}" in Outline(rendered).text


def test_published_figures_are_marked_as_such_and_the_gaps_say_so():
    for text in (Outline(html(bare_results())).text, md(bare_results())):
        assert text.count("Published figures, not measured here") >= 2
        assert text.count("not found") >= 12
        assert "84.6" in text


def test_a_published_row_has_a_cell_for_every_benchmark():
    assert all(len(cells) == len(paper.BENCHMARKS) for _, cells in paper.ROWS)


def test_real_benchmarks_are_the_headline_where_no_workbook_was_solved():
    text = Outline(html(benchmark_results())).text
    assert "pass@1, MATH-500" in text
    assert "pass@1, AIME 2024" in text


def test_a_phase_keeps_its_colour_from_set_to_set():
    bars = [p.get_facecolor() for p in FIGURES["accuracy"](full_results()).axes[0].patches]
    assert bars == [bars[0]] * 4 + [bars[4]] * 4
    assert bars[0] != bars[4]


def test_an_interval_without_width_is_explained():
    alike = dataclasses.replace(accuracy(0.0), interval=(0.0, 0.0))
    assert "An interval without width" in html(full_results(eval={"aime2024": alike}))
    assert "An interval without width" not in html(full_results())


def test_the_majority_names_its_votes_only_where_every_problem_has_as_many():
    assert "majority of 16: " in html(full_results()).replace("\u00a0", " ")
    uneven = dataclasses.replace(accuracy(0.5), n_samples=3199)
    assert "majority: " in html(full_results(eval={"workbook-1": uneven}))


def test_programs_are_told_by_both_sets_of_rules_and_mathematics_by_none():
    both = dataclasses.replace(accuracy(0.5), by_rules={"official": 0.5, "strict": 0.4375})
    page = html(full_results(eval={"workbook-1": accuracy(0.5), "humaneval": both}))
    assert "HumanEval (official 50.0, strict 43.8)" in page
    assert "by both sets of rules" not in html(full_results(eval={"workbook-1": accuracy(0.5)}))
    unscored = dataclasses.replace(both, by_rules={"official": None, "strict": None})
    assert "by both sets of rules" not in html(full_results(eval={"humaneval": unscored}))


def test_the_largest_k_that_has_a_value_is_shown():
    row = dataclasses.replace(accuracy(0.5), pass_at_k={"1": 0.5, "8": 0.75, "16": None})
    assert "pass@8" in html(full_results(eval={"workbook-1": row}))


def efficiency(lengths, state, per_token):
    rows = [BenchRow(n, 1, 1.0, speed(1.0, state), speed(1.0, per_token * n)) for n in lengths]
    claim = ClaimResult("S", True, "because", (0,), efficiency_figures(rows))
    return full_results(claims=dataclasses.replace(full_results().claims, efficiency=claim))


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=6, unique=True),
    st.integers(1, 10**7),
    st.integers(1, 10**5),
)
def test_the_crossover_is_where_the_cache_is_as_large_as_the_state(lengths, state, per_token):
    meet = crossover(efficiency(lengths, state, per_token))
    if max(lengths) * per_token < state:
        assert meet is None
    else:
        assert meet == pytest.approx(state / per_token)


def test_a_crossover_before_the_first_length_is_still_drawn():
    assert "memory" in matplotlib_figures(efficiency([64, 128], 1000, 100))


def test_a_cache_that_stays_below_the_state_is_said_to():
    results = efficiency([64, 128], 10**6, 10)
    svgs = {"memory": "<svg></svg>"}
    assert "stays below the state" in html(results, svgs)
