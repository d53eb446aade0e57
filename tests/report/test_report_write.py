"""The files of a report: what is in them, that they are whole, and that they are the same twice."""

import json
import math
import re
from html import unescape

import matplotlib
import pytest
from report_example import SETS, accuracy, bare_results, benchmark_results, full_results

from statewise.errors import DataError, RunError
from statewise.records import read_record
from statewise.report import RunResults, write_report
from statewise.report.results import (
    CurvePoint,
    ModelFigures,
    SampleAnswer,
    SetResult,
    TrainFigures,
    TrainPhase,
    as_json,
)
from statewise.speed import OURS


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    out = tmp_path_factory.mktemp("full")
    write_report(full_results(), out)
    return out


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def strict_json(path):
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_report_json_has_the_promised_keys(full):
    report = strict_json(full / "report.json")
    assert report["recipe_sha256"] == full_results().recipe_sha256
    assert report["wall_s"] == 617.3
    assert report["state_bytes_per_sequence"] == 273_408
    assert {"synth", "train", "eval", "compare", "bench", "report"} <= report["stages"].keys()
    assert all("wall_s" in stage for stage in report["stages"].values())
    for name in SETS:
        row = report["eval"][name]
        assert {"n_problems", "n_samples", "pass_at_1", "stderr", "majority"} <= row.keys()
        assert row["outcomes"].keys() == {
            "correct",
            "incorrect",
            "no_answer",
            "truncated",
            "unscored",
        }
    for claim in ("architecture", "curriculum", "efficiency"):
        told = report["claims"][claim]
        assert {"word", "headline", "figures", "seeds", "reason"} <= told.keys()
    assert report["claims"]["architecture"]["word"] == "mixed"
    assert report["claims"]["curriculum"]["word"] == "undecided"
    assert report["claims"]["architecture"]["figures"]["contrasts"][0]["decides"] is True


def test_the_same_results_give_the_same_bytes_whatever_matplotlib_is_set_to(full, tmp_path):
    before = matplotlib.rcParams["font.size"]
    with matplotlib.rc_context({"font.size": 23, "axes.facecolor": "red"}):
        write_report(full_results(), tmp_path)
    assert contents(full) == contents(tmp_path)
    assert matplotlib.rcParams["font.size"] == before


def test_every_figure_the_markdown_embeds_was_drawn_and_the_other_way_round(full):
    text = (full / "report.md").read_text()
    embedded = set(re.findall(r"\]\((figures/\w+\.png)\)", text))
    assert embedded == {f"figures/{p.name}" for p in (full / "figures").glob("*.png")}
    assert {p.stem for p in (full / "figures").glob("*.svg")} == {
        "accuracy",
        "architecture",
        "curriculum",
        "sweep",
        "ratio",
        "throughput",
        "memory",
        "loss",
        "funnel",
    }


@pytest.mark.parametrize("results", [bare_results(), benchmark_results()], ids=lambda r: r.name)
def test_absent_parts_are_said_to_be_absent_and_nothing_is_invented(results, tmp_path):
    write_report(results, tmp_path)
    report = strict_json(tmp_path / "report.json")
    assert all(claim["word"] is None for claim in report["claims"].values())
    for name in ("report.md", "report.html"):
        text = unescape((tmp_path / name).read_text())
        assert text.count("Not measured in this run.") >= 5
        assert "The paper's three claims were not tested in this run." in text
        assert 'class="badge' not in text
        assert not re.search(r"^### (Archi|Curri|Effi)", text, re.MULTILINE)
    drawn = {p.stem for p in (tmp_path / "figures").glob("*.svg")}
    assert drawn == ({"accuracy", "beside-published"} if results.eval else set())


def test_figures_of_an_earlier_report_do_not_stay_behind(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "memory.png").write_bytes(b"old")
    (tmp_path / "figures" / "mine.png").write_bytes(b"kept")
    write_report(bare_results(), tmp_path)
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["mine.png"]


def test_nan_and_infinity_become_null_and_are_named(tmp_path):
    train = TrainFigures(
        phases=(TrainPhase("foundations", 10, 2, 1.0, 10.0, math.nan),),
        curve=(
            CurvePoint(1, 5, 2.0, 0.1, "foundations", 10.0),
            CurvePoint(2, 10, math.inf, 0.1, "foundations", 10.0),
        ),
    )
    write_report(full_results(train=train), tmp_path)
    report = strict_json(tmp_path / "report.json")
    assert report["train"]["phases"][0]["final_loss"] is None
    assert report["not_finite"] == ["train.phases[0].final_loss", "train.curve[1].loss"]
    html = (tmp_path / "report.html").read_text()
    assert "train.phases[0].final_loss" in html
    assert "NaN or infinite" in html


def test_a_value_that_is_not_json_is_named(tmp_path):
    with pytest.raises(DataError, match=r"model\.config\.sizes is a set"):
        write_report(full_results(model=ModelFigures(1, 1, {"sizes": {1, 2}})), tmp_path)


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path):
    samples = (SampleAnswer("s", "p", "\ud83d", "incorrect", "8"),)
    write_report(RunResults("n", "", "0", 0, samples=samples), tmp_path)
    assert strict_json(tmp_path / "report.json")["samples"][0]["completion"] == "?"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(RunError, match=r"taken.*cannot be written.*--out"):
        write_report(bare_results(), tmp_path / "taken")


def test_rows_of_scores_lie_flat_in_the_json_and_speeds_under_their_contestant(full):
    claims = strict_json(full / "report.json")["claims"]
    rows = claims["curriculum"]["figures"]["scores"]
    arms = {"curriculum", "mixture", "foundation", "no-programs"}
    assert rows[0].keys() == {"seed", "set", *arms}
    assert claims["curriculum"]["figures"]["arms"].keys() == arms
    rows = claims["efficiency"]["figures"]["rows"]
    assert rows[0].keys() == {"length", "contestants"}
    assert {"batch", "step_s", "memory_bytes", "floor_bytes"} <= rows[0]["contestants"][OURS].keys()


def test_what_came_of_each_problem_is_not_repeated_in_the_report(full):
    report = strict_json(full / "report.json")
    by_phase = [row for sets in report["eval_by_phase"].values() for row in sets.values()]
    assert by_phase
    assert report["eval"]
    for row in (*report["eval"].values(), *by_phase):
        assert "per_problem" not in row
        assert row["sampling"]["temperature"] == 0.8


def test_absent_parts_are_empty_objects_in_the_json(tmp_path):
    write_report(bare_results(), tmp_path)
    report = strict_json(tmp_path / "report.json")
    for part in ("device", "stages", "model", "synth", "train", "eval", "eval_by_phase"):
        assert report[part] == {}
    assert report["samples"] == []
    assert all(claim["figures"] == {} for claim in report["claims"].values())


def test_a_file_that_is_no_set_result_is_refused_by_field(tmp_path):
    path = tmp_path / "result.json"
    row = as_json(accuracy(0.5))
    path.write_text(json.dumps(row))
    assert read_record(path, SetResult) == accuracy(0.5)
    for change, message in (
        ({"pass_at_one": 0.5}, "no field 'pass_at_one'"),
        ({"interval": [0.1]}, "field 'interval': expected 2 values"),
        ({"outcomes": {"correct": "all"}}, "field 'outcomes': 'correct': expected int"),
    ):
        path.write_text(json.dumps(row | change))
        with pytest.raises(DataError, match=re.escape(f"{path}")) as told:
            read_record(path, SetResult)
        assert message in str(told.value)
