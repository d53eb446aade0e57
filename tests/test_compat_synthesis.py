"""The published commands of synthesis: flags, fields, and what they do better on purpose."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from statewise.compat import concept_sampling, problem_filtering
from statewise.synth.formats import parse_request

ROOT = Path(__file__).parents[1]
CONCEPTS = [{"concepts": [f"c{i}", f"c{(i * i) % 11}", f"c{(3 * i) % 11}"]} for i in range(11)]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- concept_sampling.py


def test_sampling_has_the_published_flags_and_defaults():
    asked = vars(concept_sampling.parser().parse_args(["--data_path", "d", "--output_path", "o"]))
    assert asked["data_size"] == 2000
    assert asked["embed_path"] is None
    assert (asked["size"], asked["temperature"], len(asked["levels"])) == (5, 0.2, 8)


@pytest.mark.parametrize("embedded", [False, True])
def test_sampling_writes_the_published_fields_and_a_prompt_that_names_them(
    tmp_path, monkeypatch, capsys, embedded
):
    monkeypatch.chdir(tmp_path)
    data, out = written(tmp_path / "concepts.jsonl", CONCEPTS), tmp_path / "sets.jsonl"
    if embedded:  # of the default's name
        (tmp_path / "data").mkdir()
        rows = [{"sentence": f"c{i}", "embedding": [1.0, i]} for i in range(11)]
        written(tmp_path / concept_sampling.EMBEDDINGS, rows)
    argv = ["--data_path", data, "--output_path", str(out), "--data_size", "20"]
    assert concept_sampling.main(argv) == 0
    assert ("and similarity" in capsys.readouterr().out) == embedded
    rows = read(out)
    assert len(rows) == 20
    for row in rows:
        assert list(row) == ["foundational_concepts", "level", "prompt"]
        assert len(set(row["foundational_concepts"])) == 5
        assert row["level"] in concept_sampling.LEVELS
        task, _, block = row["prompt"].partition("\n\n")
        assert task == concept_sampling.TASK
        assert parse_request(block) == (tuple(row["foundational_concepts"]), row["level"])


def test_sampling_goes_by_its_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = written(tmp_path / "concepts.jsonl", CONCEPTS)
    found = []
    for i, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"{i}.jsonl"
        argv = ["--data_path", data, "--output_path", str(out), "--data_size", "9"]
        assert concept_sampling.main([*argv, "--seed", str(seed)]) == 0
        found.append(read(out))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        ([{"concepts": "a"}], [], "concepts.jsonl:1: field 'concepts'"),
        ([{"concepts": ["a", ""]}], [], "concepts.jsonl:1: field 'concepts'"),
        (CONCEPTS[:1], [], "a set of 5 concepts, but there are"),
        (CONCEPTS, ["--embed_path", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (CONCEPTS, ["--temperature", "0"], "--temperature: must be above 0"),
        (CONCEPTS, ["--data_size", "0"], "--data_size: must be at least 1"),
    ],
)
def test_what_cannot_be_sampled_from_is_told(tmp_path, monkeypatch, capsys, rows, more, told):
    monkeypatch.chdir(tmp_path)
    data, out = written(tmp_path / "concepts.jsonl", rows), tmp_path / "sets.jsonl"
    assert concept_sampling.main(["--data_path", data, "--output_path", str(out), *more]) == 1
    assert told in capsys.readouterr().err
    assert not out.exists()


# --- problem_filtering.py


def judged(prompt, *verdicts):
    """Rows of each judge for one draft."""
    return [
        {"prompt": prompt, "rationale_and_problem": f"draft of {prompt}", "judgement": v}
        for v in verdicts
    ]


DRAFTS = [
    judged("good", "perfect", "[perfect]"),
    judged("marked", " **perfect**.", "perfect"),
    judged("imperfect", "imperfect", "perfect"),
    judged("not perfect", "not perfect", "perfect"),
    judged("mixed", "perfect", "acceptable"),
    judged("bad", "perfect", "bad"),
    judged("unread", "perfect", ""),
    judged("so so", "acceptable", "acceptable"),
]


def filtered(tmp_path, judges, *flags):
    for i, rows in enumerate(judges):
        written(tmp_path / f"judged-{i}.jsonl", rows)
    out = tmp_path / "pairs.jsonl"
    template = str(tmp_path / "judged-{}.jsonl")
    code = problem_filtering.main(["--template", template, "--output_path", str(out), *flags])
    return code, read(out) if out.exists() else None


def test_only_what_all_judges_call_perfect_is_kept_and_imperfect_is_not(tmp_path):
    code, rows = filtered(tmp_path, list(zip(*DRAFTS, strict=True)))
    assert code == 0
    assert rows == [{"prompt": p, "completion": f"draft of {p}"} for p in ("good", "marked")]


def test_less_strictly_one_perfect_and_none_bad_is_kept(tmp_path):
    _, rows = filtered(tmp_path, list(zip(*DRAFTS, strict=True)), "--only_perfect", "False")
    assert [r["prompt"] for r in rows] == ["good", "marked", "mixed"]


def test_drafts_belong_together_by_what_they_say_not_by_their_line(tmp_path):
    first, second = (list(rows) for rows in zip(*DRAFTS, strict=True))
    _, rows = filtered(tmp_path, [first, second[::-1]])
    assert [r["prompt"] for r in rows] == ["good", "marked"]


def test_a_draft_that_a_judge_did_not_see_is_told(tmp_path, capsys):
    first, second = (list(rows) for rows in zip(*DRAFTS, strict=True))
    code, rows = filtered(tmp_path, [first, second[1:]])
    assert (code, rows) == (1, None)
    assert "judged-1.jsonl: 1 drafts are not judged as often" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["concept_sampling", "problem_filtering"])
def test_the_commands_start_under_their_published_names(name):
    told = subprocess.run(
        [sys.executable, str(ROOT / "compat" / f"{name}.py"), "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--output_path" in told
