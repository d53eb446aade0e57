"""The pages: what they say, that foreign text stays text, and that nothing is fetched."""

import dataclasses
import io
import random
import re
import typing
from bisect import bisect
from html.parser import HTMLParser
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import (
    ARMS,
    EVALUATED,
    accuracy,
    bare_results,
    bench_row,
    benchmark_results,
    claim,
    claim_that_is,
    contrast,
    efficiency_figures,
    full_results,
    phase_read,
    source_read,
)

from statewise.report import markdown, page, paper
from statewise.report.figures import CONTESTANTS, FIGURES, crossover, draw_all
from statewise.report.results import (
    ArmFigures,
    Choice,
    ClaimResult,
    Claims,
    CurvePoint,
    Device,
    FunnelStep,
    ModelFigures,
    Overlap,
    Role,
    SampleAnswer,
    SampleProblem,
    StageTime,
    SynthFigures,
    TrainFigures,
    TrainPhase,
    Trial,
    finite,
)
from statewise.report.story import compose
from statewise.speed import IN_LLAMA_CPP, Bench, BenchRow, break_even_told
from statewise.verdict import Word, supports

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
    scores = {"curriculum": {text: 0.5, "b": 0.5}, "transformer": {text: 0.4, "b": 0.4}}
    compared = claim(text, scores, [contrast(scores, "transformer", seeds=1, beside=["b"])])
    choice = Choice(text, 1.0, 1.0)
    figures = dataclasses.replace(
        compared.figures,
        arms=dict.fromkeys(scores, ArmFigures(text, text, choice, 1, 1, 1.0, 1)),
        trials=tuple(Trial(text, choice, (rate,), 1, 1, 0.5) for rate in (0.1, 0.2)),
    )
    compared = dataclasses.replace(compared, headline=text, reason=text, figures=figures)
    claims = Claims(compared, compared, ClaimResult(text, Word.HELD, text, text, (0,), None))
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
            {text: Role(text, text, None), "x" + text: Role("workbook", text, 0.1)},
            (FunnelStep(text, 1, 0),),
            {text: text},
            {text: 3},
            {text: 0.5},
            {text: Overlap(1, 0, 1, 0)},
            (example,),
        ),
        train=TrainFigures(
            (TrainPhase(text, 3, 1, 1.0, 3.0, 0.1),),
            (),
            {text: phase_read(0.5, source_read(text, 1, 3, passes=1.0, left_out={text: 2}))},
        ),
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
    assert {"accuracy", "architecture", "sweep", "funnel"} <= svgs.keys()
    for drawing in svgs.values():
        assert "<script" not in drawing.svg


def pruned(value, draw):
    """Results with any part, and any set, that may be absent left out."""
    if isinstance(value, Bench):  # from one file: whole or absent
        return value
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


UNTESTED = claim_that_is(None)
KINDS = {True: "for", False: "against", None: "neither"}


def with_architecture(claim):
    return full_results(claims=Claims(claim, UNTESTED, UNTESTED))


@pytest.mark.parametrize("word", list(Word))
def test_each_word_stands_as_a_badge_over_its_claim_and_once_in_the_summary(word):
    claim = claim_that_is(word)
    assert claim.word is word
    rendered = html(with_architecture(claim))
    badge = re.search(r'Architecture <span class="badge ([a-z ]+)">. ([a-z ]+)<', rendered)
    assert badge[2] == word
    assert badge[1].split()[0] == KINDS[supports(word)]
    assert ("light" in badge[1]) == ("indicated" in word)
    assert f"### Architecture: {word}\n" in md(with_architecture(claim))
    summary = re.search(r'<p class="lead">(The paper.*?)</p>', rendered)[1]
    assert summary.count(f"Architecture: {claim.headline}.") == 1
    assert len(re.findall(rf"\b{word}\b", summary)) == 1
    assert "least favourable" in summary


def cells_under(rendered, caption):
    """The rows of the tables whose captions end so, each as its cells' text."""
    rows = []
    for table in re.findall(rf'<p class="caption">[^<]*{caption}</p>(.*?)</table>', rendered, re.S):
        body = table.split("<tbody>")[1]
        rows.append(
            [re.findall(r"<t[hd][^>]*>([^<]*)<", r) for r in re.findall(r"<tr.*?</tr>", body)]
        )
    return rows


shares = st.integers(0, 20).map(lambda n: n / 20)


@given(
    st.lists(st.tuples(shares, shares, shares), min_size=1, max_size=4),
    st.sampled_from([0.01, 0.06, 0.2]),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_badge_says_more_than_the_tables_under_it(sets, half, seeds, both_decide):
    names = [f"set-{i}" for i in range(len(sets))]
    arms = ("curriculum", "mixture", "foundation")
    scores = {
        arm: {name: shares[i] for name, shares in zip(names, sets, strict=True)}
        for i, arm in enumerate(arms)
    }
    contrasts = [
        contrast(scores, "mixture", seeds=seeds, half=half),
        contrast(scores, "foundation", seeds=seeds, half=half, decides=both_decide),
    ]
    decided = claim("S", scores, contrasts, seeds=seeds)
    rendered = html(with_architecture(decided))
    badge = re.search(r'Architecture <span class="badge [a-z ]+">. ([a-z ]+)<', rendered)[1]
    assert badge == decided.word
    tables = cells_under(rendered, ": decides")
    assert len(tables) == 1 + both_decide
    words = [row[-1] for table in tables for row in table[:-1]]
    assert words == [d.word for c in contrasts if c.decides for d in c.sets]
    every = {row[-1] for table in cells_under(rendered, "") for row in table}
    if seeds == 1:
        assert badge not in {"held", "reversed"}
        assert not {"held", "reversed"} & every
    for_, against = {"held", "indicated"}, {"reversed", "reversal indicated"}
    if badge in for_:
        assert set(words) & for_
        assert not set(words) & (against | {"too weak to say"})
    if badge in against:
        assert set(words) & against
        assert not set(words) & (for_ | {"too weak to say"})
    if "too weak to say" in words:
        assert badge == "too weak to say"


@pytest.mark.parametrize("word", list(Word))
def test_a_contrast_shows_both_scores_and_what_it_could_have_seen(word):
    claim = claim_that_is(word)
    (rows,) = cells_under(html(with_architecture(claim)), ": decides")
    (shown,) = claim.figures.contrasts
    assert len(rows) == len(shown.sets) + 1
    assert rows[-1][0] == "all sets"
    for row, d in zip(rows, (*shown.sets, shown.together), strict=True):
        assert float(row[1]) == pytest.approx(100 * d.first, abs=0.051)
        assert float(row[2]) == pytest.approx(100 * d.second, abs=0.051)
        assert float(row[3].replace("−", "-")) == pytest.approx(100 * d.mean, abs=0.051)
        low, high = (float(x.replace("−", "-")) for x in row[4].split(" to "))
        assert (low, high) == pytest.approx([100 * x for x in d.interval], abs=0.051)
        assert float(row[5]) == pytest.approx(100 * d.detectable, abs=0.051)
        assert row[6] == d.word


def test_what_was_left_open_for_one_reason_is_one_line():
    reason = "Not compared in this run: no seeds."
    kept = full_results().claims.efficiency
    results = full_results(claims=Claims(UNTESTED, UNTESTED, kept))
    rendered = html(results)
    assert f"Left open: architecture and curriculum. {reason}" in rendered
    assert rendered.count(reason) == 1
    assert len(re.findall('<h3 class="claim">(?:Archi|Curri|Effi)', rendered)) == 1
    assert "How the intervals were made" not in rendered
    assert "Efficiency: held. Not tested in this run: architecture and curriculum." in rendered


def test_one_seed_is_said_to_cover_problems_alone():
    alone, three = claim_that_is(Word.INDICATED), claim_that_is(Word.HELD)
    assert "the intervals cover problems alone" in html(with_architecture(alone))
    assert "the intervals cover problems alone" not in html(with_architecture(three))


def test_every_arm_is_shown_on_what_training_never_had():
    results = full_results()
    for name in ("architecture", "curriculum"):
        figures = getattr(results.claims, name).figures
        alone = full_results(
            claims=Claims(dataclasses.replace(getattr(results.claims, name)), UNTESTED, UNTESTED)
        )
        (rows,) = cells_under(html(alone), "Curriculum minus every other arm")
        others = [arm.label for arm in figures.arms.values()][1:]
        for label in ("Pairs never trained together", "Numbers beyond training"):
            assert [row[1].replace("&#x27;", "'") for row in rows if row[0] == label] == others
        assert len(rows) == 3 * len(others)


def test_the_worth_of_a_source_is_told_beside_the_published_ablation():
    rendered = html(full_results())
    (rows,) = cells_under(rendered, "whose tokens the others fill")
    programs = next(row for row in rows if row[0] == "Programs")
    assert programs[1:] == ["65.2", "66.1", "−0.9", "−3.9 to +2.1", "0.0", "+65.2",
                            "+62.2 to +68.2"]  # fmt: skip
    assert "AIME24 fell from 35.2 to 11.7" in rendered
    assert "LiveCodeBench fell from 29.9 to 13.6" in rendered
    assert "fell from" not in html(with_architecture(claim_that_is(Word.HELD)))


def test_the_chosen_trials_stand_out_and_one_that_diverged_says_so():
    rendered = html(full_results())
    table = rendered.split("All 16 trials")[1].split("</table>")[0]
    strong = re.findall(r'<tr class="strong">(.*?)</tr>', table)
    chosen = [re.findall(r"<t[hd][^>]*>([^<]*)<", row)[:4] for row in strong]
    assert chosen == [
        ["attention-free", "recipe", "1×", "1×"],
        ["transformer", "4 layers, 8 heads", "0.5×", "2×"],
    ]
    assert table.count("diverged") == 2
    ringed = [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in FIGURES["sweep"](full_results()).axes[0].lines
        if line.get_markersize() == 8
    ]
    best = {t.architecture: t for t in full_results().claims.architecture.figures.trials
            if t.choice in (ARMS["curriculum"].choice, ARMS["transformer"].choice)}  # fmt: skip
    assert sorted(ringed) == sorted((t.peak_rates[0], t.loss) for t in best.values())


def test_what_decides_is_drawn_above_what_training_never_had():
    for name in ("architecture", "curriculum"):
        axes = FIGURES[name](full_results()).axes[0]
        labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
        assert labels[:4] == ["Single concepts", "Two composed", "Three composed", "Programs"]
        assert labels[4] == "Pairs never trained together"
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [len(line.get_xdata()) for line in dots] == [3] * 7 * 4


PLAYED = full_results().synth


def test_what_was_read_of_each_source_is_told_with_why_the_rest_was_not():
    results = full_results()
    assert cells_below(results, "What was read") == [
        ["foundation", "@workbook", "3,204", "794,624", "3,000", "1.07", "0", "0", "0"],
        ["promptcot", "solutions.jsonl", "9,120", "4,100,352", "9,120", "0.76", "43", "5", "100"],
        ["promptcot", "@workbook", "1,237", "306,944", "1,237", "0.41", "0", "0", "0"],
    ]
    text = Outline(html(results)).text.replace("\u00a0", " ")
    assert "filled to 89.1 % (foundation) and 98.7 % (promptcot) with documents" in text
    reasons = "solutions.jsonl: 31 longer than a row and 12 near an evaluation problem."
    assert f"Left out of {reasons}" in text
    assert "Left out of @workbook" not in text
    assert "; of @workbook" not in text


def test_a_training_of_which_it_was_not_written_down_what_it_read_says_nothing_of_it():
    results = full_results()
    older = dataclasses.replace(results, train=dataclasses.replace(results.train, read={}))
    assert "What was read" not in html(older)


def synthesis(**changes):
    results = full_results(synth=dataclasses.replace(PLAYED, **changes))
    text = Outline(html(results)).text.replace("\u00a0", " ")
    return text.split("Synthesis\n")[1].split("Sample problems")[0]


def test_a_synthesis_by_the_workbook_says_so_and_what_its_errors_make_of_the_figures():
    text = synthesis()
    assert "the workbook, played every role; no language model" in text
    assert "templates filled with numbers" in text
    assert "errs on purpose" in text
    assert "author in 5.0 %" in text
    assert "0.98 × 0.98 = 0.960" in text
    assert "1 − 0.03 = 97 %" in text


def test_a_role_that_a_model_plays_is_not_ascribed_to_the_workbook():
    model = Role("checkpoint", "org/model", None)
    text = synthesis(roles={**PLAYED.roles, "author": model})
    assert "author, org/model (checkpoint)" in text
    assert "no language model" not in text
    assert "templates filled with numbers" not in text
    assert "played the judge 1, judge 2, verifier and teacher" in text
    text = synthesis(roles=dict.fromkeys(PLAYED.roles, model))
    assert "workbook" not in text.lower()


def test_a_workbook_that_does_not_err_is_not_said_to():
    text = synthesis(roles=dict.fromkeys(PLAYED.roles, Role("workbook", "", 0.0)))
    assert "played every role" in text
    assert "on purpose" not in text
    assert "agreement is about" not in text


def test_the_steps_that_training_holds_are_told_with_the_nearest_statement():
    assert "no training problem holds one" in synthesis()
    assert "but for the set of reserved wordings" in synthesis()
    text = synthesis(overlap={"workbook-1": Overlap(100, 72, 100, 76)})
    assert "Of 100 steps" in text
    assert "training problems solve 76 on their way" in text
    assert "but for the set" not in text
    rows = cells_below(full_results(), "How far the evaluation is from training")
    assert rows[0] == ["Single concepts", "200", "0", "200", "0", "0.593"]


def cells_below(results, heading):
    """The rows of the first table under a heading, each as its cells' text."""
    table = html(results).split(heading)[1].split("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", table.split("<tbody>")[1])
    return [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in rows]


def test_what_training_never_had_is_told_apart_in_the_summary():
    summary = re.search(r'<p class="lead">(A Mamba.*?)</p>', html(full_results()))[1]
    seen, _, novel = summary.partition("Of problems with what training never had, it solves ")
    assert "on programs" in seen
    assert "pairs never trained together" not in seen
    assert "on pairs never trained together" in novel
    for results, told in ((full_results(), 1), (benchmark_results(), 0)):
        rendered = html(results)
        assert rendered.count("two concepts that no training problem composes") == told
        assert rendered.split("<h2>")[0].count("what training never had") == told


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
    n = len(EVALUATED)
    assert bars == [bars[0]] * n + [bars[n]] * n
    assert bars[0] != bars[n]


def overlapping(figure):
    """Pairs of texts within the axes of a figure that lie upon one another."""
    figure.savefig(io.BytesIO())
    texts = [text for axes in figure.axes for text in axes.texts]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)]


@pytest.mark.parametrize("starts", [(0, 5), (0, 50), (0, 2, 4), (0, 97, 98, 99)])
def test_the_phases_names_never_run_into_each_other(starts):
    names = [f"the phase with the long name number {n}" for n in range(len(starts))]
    curve = tuple(
        CurvePoint(i, 1000 * (i + 1), 1.0, 1e-3, names[bisect(starts, i) - 1], 1.0)
        for i in range(100)
    )
    figure = FIGURES["loss"](full_results(train=TrainFigures((), curve)))
    assert overlapping(figure) == []
    (legend,) = figure.legends
    told = [text.get_text().split("  ") for text in legend.get_texts()]
    assert told == [[str(n), name] for n, name in enumerate(names, 1)]
    assert [text.get_text() for text in figure.axes[0].texts] == [n for n, _ in told]
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1


def test_the_funnels_steps_are_named_in_full():
    labels = FIGURES["funnel"](full_results()).axes[0].get_yticklabels()
    told = [label.get_text().replace("\n", " ") for label in labels]
    assert told == [step.stage for step in full_results().synth.funnel]


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
    rows = [bench_row(n, 2.0, 1.0, state, per_token) for n in sorted(lengths)]
    claim = ClaimResult("S", Word.HELD, "", "because", (0,), efficiency_figures(rows))
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


def without_llama_cpp():
    whole = full_results().claims.efficiency.figures
    rows, full = (
        [
            BenchRow(r.length, {n: s for n, s in r.contestants.items() if n != IN_LLAMA_CPP})
            for r in each
        ]
        for each in (whole.rows, whole.under_budget)
    )
    figures = dataclasses.replace(
        efficiency_figures(rows, full), llama_cpp="", not_measured="nobody built it"
    )
    claim = ClaimResult("S", Word.HELD, "", "because", (0,), figures)
    return full_results(claims=dataclasses.replace(full_results().claims, efficiency=claim))


def test_the_page_shows_each_contestants_speed_and_its_share_of_the_floor():
    bench = full_results().claims.efficiency.figures
    rendered = md(full_results()).replace("\u00a0", " ")
    for rows in (bench.rows, bench.under_budget):
        for r in rows:
            for name, one in r.contestants.items():
                row = rf"\| {CONTESTANTS[name]} \| {r.length:,} \| {one.batch} "
                row += (
                    rf"\| {one.tokens_per_s:,.0f} \| .* \| {100 * bench.floor_share(one):.0f} % \|"
                )
                assert re.search(row, rendered), row


def test_the_page_shows_where_the_transformer_is_ahead_and_from_where_on_it_is_not():
    bench = full_results().claims.efficiency.figures
    rendered = md(full_results())
    assert bench.rows[0].ratio.median < 1 < bench.rows[1].ratio.median
    assert break_even_told(bench) in html(full_results(), {"ratio": "<svg></svg>"})
    for r in (*bench.rows, *bench.under_budget):
        low, high = r.ratio.interval
        assert f"| {r.ratio.median:.2f}× | {low:.2f} to {high:.2f} |" in rendered
    assert all(f"| {r.floor_ratio:.2f}× |" in rendered for r in bench.rows)


def test_the_page_says_against_whom_the_speed_was_measured():
    assert "llama.cpp (llama-cpp-python 0.3.36), on the same weights" in md(full_results())
    alone = md(without_llama_cpp())
    assert "in torch only (nobody built it)" in alone
    assert "Transformer in llama.cpp" not in alone


def test_what_was_measured_without_llama_cpp_is_drawn():
    drawn = draw_all(without_llama_cpp())
    assert {"ratio", "throughput", "memory"} <= drawn.keys()
    assert "Transformer in torch" in drawn["throughput"].svg
    assert "llama.cpp" not in drawn["throughput"].svg


def test_a_crossover_before_the_first_length_is_still_drawn():
    assert "memory" in matplotlib_figures(efficiency([64, 128], 1000, 100))


def test_a_cache_that_stays_below_the_state_is_said_to():
    results = efficiency([64, 128], 10**6, 10)
    svgs = {"memory": "<svg></svg>"}
    assert "stays below the state" in html(results, svgs)
