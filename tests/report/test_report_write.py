"""The files of a report: what is in them, that they are whole, and that they are the same twice."""

import json
import math
import re
from html import unescape

import matplotlib
import pytest
from report_example import SETS, bare_results, benchmark_results, full_results

from statewise.errors import DataError, RunError
from statewise.report import RunResults, write_report


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
        assert {"held", "figures", "seeds", "reason"} <= report["claims"][claim].keys()
    assert report["claims"]["curriculum"]["held"] is False


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
        "throughput",
        "memory",
        "loss",
        "funnel",
    }


@pytest.mark.parametrize("results", [bare_results(), benchmark_results()], ids=lambda r: r.name)
def test_absent_parts_are_said_to_be_absent_and_nothing_is_invented(results, tmp_path):
    write_report(results, tmp_path)
    report = strict_json(tmp_path / "report.json")
    assert all(claim["held"] is None for claim in report["claims"].values())
    for name in ("report.md", "report.html"):
        text = unescape((tmp_path / name).read_text())
        assert text.count("Not measured in this run.") >= 5
        assert "The paper's three claims were not tested in this run." in text
        assert "did not hold" not in text
    drawn = {p.stem for p in (tmp_path / "figures").glob("*.svg")}
    assert drawn == ({"accuracy", "beside-published"} if results.eval else set())


def test_figures_of_an_earlier_report_do_not_stay_behind(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "memory.png").write_bytes(b"old")
    (tmp_path / "figures" / "mine.png").write_bytes(b"kept")
    write_report(bare_results(), tmp_path)
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["mine.png"]


def test_nan_and_infinity_become_null_and_are_named(tmp_path):
    train = {
        "phases": [{"name": "foundations", "tokens": 10, "final_loss": math.nan}],
        "curve": [
            {"tokens": 5, "loss": 2.0, "lr": 0.1, "phase": "foundations"},
            {"tokens": 10, "loss": math.inf, "lr": 0.1, "phase": "foundations"},
        ],
    }
    write_report(full_results(train=train), tmp_path)
    report = strict_json(tmp_path / "report.json")
    assert report["train"]["phases"][0]["final_loss"] is None
    assert report["not_finite"] == ["train.phases[0].final_loss", "train.curve[1].loss"]
    html = (tmp_path / "report.html").read_text()
    assert "train.phases[0].final_loss" in html
    assert "NaN or infinite" in html


def test_a_value_that_is_not_json_is_named(tmp_path):
    with pytest.raises(DataError, match=r"model\.config is a set"):
        write_report(full_results(model={"config": {1, 2}}), tmp_path)


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path):
    samples = [{"prompt": "p", "completion": "\ud83d", "outcome": "incorrect"}]
    write_report(RunResults("n", "", "0", 0, samples=samples), tmp_path)
    assert strict_json(tmp_path / "report.json")["samples"][0]["completion"] == "?"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(RunError, match=r"taken.*cannot be written.*--out"):
        write_report(bare_results(), tmp_path / "taken")


def test_results_come_back_from_their_json():
    value = json.loads(json.dumps({"name": "n", "recipe_toml": "", "recipe_sha256": "0"}))
    assert RunResults.from_json({**value, "seed": 1, "commit": None, "eval": {}}).seed == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "x"}, "no field 'recipe'"),
        ({"seed": None}, "needs the field 'seed'"),
        ({"seed": "one"}, "results.seed: expected int"),
        ({"eval": []}, "results.eval: expected Json"),
        ({"samples": {}}, "results.samples: expected list"),
        ({"wall_s": True}, "results.wall_s"),
    ],
)
def test_results_that_are_not_results_are_refused_by_name(change, message):
    good = {"name": "n", "recipe_toml": "", "recipe_sha256": "0", "seed": 0}
    with pytest.raises(DataError, match=re.escape(message)):
        RunResults.from_json({**good, **change})
