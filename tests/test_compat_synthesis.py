"""The published commands of synthesis: flags, fields, and what they do better on purpose."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from statewise.compat import (
    concept_sampling,
    problem_filtering,
    problem_generation,
    rejection_sampling_reward,
)
from statewise.sampler import ScriptedSampler
from statewise.synth.formats import draft_block, parse_request

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


# --- problem_generation.py, rejection_sampling_reward.py, and all four in a row


def played(monkeypatch, module, reply):
    """Let a function play a command's model; every text that it was asked."""
    texts = []

    def answered(text, sample):
        texts.append(text)
        return reply(text)

    monkeypatch.setattr(module, "open_model", lambda a: ScriptedSampler(answered))
    return texts


def flags(data, out, **more):
    named = {"data_path": data, "output_path": out, "model_path": "m"} | more
    return [word for k, v in named.items() for word in (f"--{k}", str(v))]


def test_generation_and_judging_have_the_published_flags_and_defaults():
    shared = {"model_path": "m", "tokenizer_path": None, "dtype": "bfloat16", "n_gpus": 8}
    shared |= {"temperature": 0.0, "max_len": 2048, "use_chat_template": False, "seed": 42}
    ours = {"slots": 16, "by": "auto"}
    for module, more in (
        (problem_generation, {"top_p": 1.0, "repetition_penalty": 1.0}),
        (rejection_sampling_reward, {"kind": "math"}),
    ):
        asked = vars(module.parser().parse_args(flags("d", "o")))
        asked = {k: v for k, v in asked.items() if k not in ("data_path", "output_path")}
        assert asked == shared | ours | more


def author(text):
    """Writes a draft; for one level without its last tag, for another in capitals."""
    concepts, level = parse_request(text)
    draft = draft_block(f"so {concepts[0]}", f"What of {', '.join(concepts)}?")
    return draft.rpartition("\n")[0] if level == "AIME" else draft


def kind_judge(text):
    return "Solvability: Perfect\n**Final Judgement:** [perfect]"


def stern_judge(text):
    return "It is imperfect.\nFinal Judgement: bad" if "USAMO" in text else kind_judge(text)


def test_the_four_commands_read_each_others_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, sets, drafts = written(tmp_path / "c.jsonl", CONCEPTS), tmp_path / "s", tmp_path / "d"
    argv = ["--data_path", data, "--output_path", str(sets), "--data_size", "40"]
    assert concept_sampling.main(argv) == 0
    played(monkeypatch, problem_generation, author)
    assert problem_generation.main(flags(sets, drafts)) == 0
    for i, judge in enumerate((kind_judge, stern_judge)):
        asked = played(monkeypatch, rejection_sampling_reward, judge)
        assert rejection_sampling_reward.main(flags(drafts, tmp_path / f"j{i}")) == 0
        assert len(asked) == sum(row["level"] != "AIME" for row in read(sets))
    out = tmp_path / "pairs"
    argv = ["--template", str(tmp_path / "j{}"), "--output_path", str(out)]
    assert problem_filtering.main(argv) == 0
    kept = [row for row in read(sets) if row["level"] not in ("AIME", "USAMO")]
    assert 0 < len(kept) < 40
    assert read(out) == [
        {"prompt": row["prompt"], "completion": author(row["prompt"])} for row in kept
    ]
    rows = read(tmp_path / "j1")
    assert {"foundational_concepts", "level", "prompt", "completion"} < set(rows[0])
    for row in rows:
        torn = row["level"] == "AIME"
        bad = torn or row["level"] == "USAMO"
        assert row["judgement"] == ("bad" if bad else "perfect")
        assert row["rationale_and_problem"] == author(row["prompt"])
        assert ("no judge was asked" in row["completion"]) == torn


@pytest.mark.parametrize("module", [problem_generation, rejection_sampling_reward])
def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path, monkeypatch, module):
    rows = [
        {"prompt": f"p{i}", "foundational_concepts": ["a"], "level": "AIME"}
        | {"completion": draft_block("r", f"problem {i}")}
        for i in range(6)
    ]
    data, out = written(tmp_path / "d.jsonl", rows), tmp_path / "out.jsonl"
    left = [3]

    def dying(text):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return "Final Judgement: perfect"

    played(monkeypatch, module, dying)
    with pytest.raises(KeyboardInterrupt):
        module.main(flags(data, out))
    assert not out.exists()
    asked = played(monkeypatch, module, lambda text: "Final Judgement: perfect")
    assert module.main(flags(data, out, temperature=0.5)) == 0  # other settings, asked anew
    assert len(asked) == 6
    out.unlink()
    asked = played(monkeypatch, module, lambda text: "Final Judgement: perfect")
    assert module.main(flags(data, out)) == 0
    assert len(asked) == 3
    assert not list(tmp_path.glob("*.partial"))
    assert len(read(out)) == 6


@pytest.mark.parametrize("module", [problem_generation, rejection_sampling_reward])
def test_an_output_that_is_there_is_not_overwritten(tmp_path, monkeypatch, capsys, module):
    row = {"prompt": "p", "foundational_concepts": [], "level": "AIME", "completion": "x"}
    data, out = written(tmp_path / "d.jsonl", [row]), tmp_path / "out.jsonl"
    out.write_text("mine")
    played(monkeypatch, module, lambda text: "x")
    assert module.main(flags(data, out)) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"level": "AIME", "completion": "x"}, "d.jsonl:1: field 'foundational_concepts'"),
        ({"foundational_concepts": [1], "level": "a", "completion": "x"}, "foundational_concepts"),
        ({"foundational_concepts": [], "level": 3, "completion": "x"}, "fields 'level' and"),
    ],
)
def test_a_draft_that_lacks_a_field_is_told(tmp_path, capsys, row, told):
    data = written(tmp_path / "d.jsonl", [row])
    assert rejection_sampling_reward.main(flags(data, tmp_path / "o")) == 1
    assert told in capsys.readouterr().err


COMMANDS = ["concept_sampling", "problem_filtering", "problem_generation"]
COMMANDS += ["rejection_sampling_reward"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_start_under_their_published_names(name):
    told = subprocess.run(
        [sys.executable, str(ROOT / "compat" / f"{name}.py"), "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--output_path" in told
