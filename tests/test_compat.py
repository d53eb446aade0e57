"""The published commands: every flag, the published fields, and what they do better on purpose."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from statewise import sandbox
from statewise.compat import calc_acc_aime, calc_acc_lcb, infer_longcot
from statewise.compat.infer_longcot import Plan, infer, parser
from statewise.compat.scoring import (
    published_equal,
    published_extract,
    published_output_equal,
)
from statewise.errors import DataError, RunError
from statewise.model import Mamba2Config, Mamba2LM
from statewise.records import Completion, FinishReason
from statewise.sampler import SamplingParams
from statewise.text import BPETokenizer, well_formed

SHARED = Path(__file__).parents[2] / "shared" / "data"
ROOT = Path(__file__).parents[1]
GOOD = "<think>\nso\n</think>\n\n\\boxed{2}"


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    lines = path.read_bytes().decode().split("\n")  # a text may hold other line ends
    return [json.loads(line) for line in lines if line]


# --- infer_longcot.py


def test_every_published_flag_is_there_with_its_default():
    asked = parser().parse_args(["--data_path", "d", "--output_path", "o", "--model_path", "m"])
    found = {k: v for k, v in vars(asked).items() if k not in ("data_path", "output_path")}
    assert found == {
        "model_path": "m", "tokenizer_path": None, "dtype": "bfloat16", "n_gpus": 8,
        "temperature": 0.0, "top_p": 0.95, "repetition_penalty": 1.0, "max_len": 32768,
        "use_chat_template": False, "n": 8, "max_retries": 8, "use_mamba2": False, "slots": 16,
        "by": "auto",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "valid"),
    [(GOOD, True), ("<think>a</think>b", True), ("a</think>b", False), ("<think>a", False),
     ("<think> </think>b", False), ("<think>a</think>", False), ("<think>a</think> \n", False),
     ("<think>a<think></think>b", False), ("<think>a</think>b</think>", False)],
)  # fmt: skip
def test_the_think_format_is_the_published_one(text, valid):
    assert well_formed(text) is valid


class Scripted:
    """Answers by (prompt, seed, sample); counts what it was asked, and may be killed."""

    def __init__(self, reply, killed_after=None):
        self.reply, self.asked, self.killed_after = reply, 0, killed_after

    def sample(self, prompts, params):
        for prompt in prompts:
            for i in range(params.n):
                if self.asked == self.killed_after:
                    raise KeyboardInterrupt
                self.asked += 1
                text = self.reply(prompt.text, params.seed, i)
                yield Completion(prompt.id, i, text, FinishReason.STOP, 3, 5, params.seed)


ROWS = [{"prompt": f"p{i}", "source": "aime2024", "idx": i} for i in range(3)]
GOOD_REPLY = GOOD.removeprefix("<think>\n")


def plan(n=2, retries=1):
    return Plan(ROWS, [row["prompt"] for row in ROWS], SamplingParams(n=n), retries)


def test_a_line_a_run_and_prompt_run_by_run_with_the_published_fields_first(tmp_path):
    sampler = Scripted(lambda p, s, i: f"{p} {i}\n</think>\n\nx")
    assert infer(sampler, plan(), tmp_path / "o.jsonl") == 6
    rows = read(tmp_path / "o.jsonl")
    assert [(row["run"], row["idx"]) for row in rows] == [(r, i) for r in (0, 1) for i in range(3)]
    for row in rows:
        assert list(row)[:4] == ["prompt", "source", "idx", "completion"]
        assert row["completion"] == f"<think>\np{row['idx']} {row['run']}\n</think>\n\nx"
        assert (row["valid"], row["attempts"], row["finish_reason"]) == (True, 1, "stop")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["o.jsonl"]


def test_killed_at_any_moment_it_ends_in_the_same_file_and_samples_nothing_twice(tmp_path):
    def reply(p, s, i):
        return GOOD_REPLY + f"{p}{i}"

    infer(Scripted(reply), plan(), tmp_path / "whole.jsonl")
    for moment in range(6):
        out = tmp_path / f"{moment}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            infer(Scripted(reply, killed_after=moment), plan(), out)
        assert not out.exists()
        infer(Scripted(reply), plan(), out)
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_broken_think_format_is_asked_for_again_and_the_last_one_is_marked(tmp_path):
    seeds = []

    def reply(p, seed, i):
        seeds.append((p, seed))
        return GOOD_REPLY if p == "p0" or (p == "p1" and seed > 1_000_003) else "never closed"

    assert infer(Scripted(reply), plan(n=1, retries=3), tmp_path / "o.jsonl") == 2
    found = {row["prompt"]: (row["valid"], row["attempts"]) for row in read(tmp_path / "o.jsonl")}
    assert found == {"p0": (True, 1), "p1": (True, 3), "p2": (False, 3)}
    assert seeds == [
        ("p0", 0), ("p1", 0), ("p2", 0), ("p1", 1_000_003), ("p2", 1_000_003),
        ("p1", 2_000_006), ("p2", 2_000_006),
    ]  # fmt: skip


def test_an_output_that_is_there_is_never_overwritten(tmp_path):
    out = tmp_path / "o.jsonl"
    infer(Scripted(lambda *_: GOOD_REPLY), plan(), out)
    before, again = out.read_bytes(), Scripted(lambda *_: "other")
    assert infer(again, plan(), out) == 6
    assert again.asked == 0
    assert out.read_bytes() == before
    out.write_text('{"mine": 1}\n')
    with pytest.raises(RunError, match="exists and holds something else"):
        infer(again, plan(), out)
    assert read(out) == [{"mine": 1}]


def test_half_a_surrogate_pair_in_a_row_or_an_answer_loses_nothing_of_what_was_sampled(tmp_path):
    rows = [{"prompt": "p\ud83d", "note": "\udc00"}, {"prompt": "q"}]
    asked = Plan(rows, [row["prompt"] for row in rows], SamplingParams(n=2), 1)
    reply = "a\ud83d\n</think>\n\nx"
    with pytest.raises(KeyboardInterrupt):
        infer(Scripted(lambda *_: reply, killed_after=3), asked, tmp_path / "o.jsonl")
    again = Scripted(lambda *_: reply)
    assert infer(again, asked, tmp_path / "o.jsonl") == 4
    assert again.asked == 2  # the runs of the one prompt that lacked one
    found = read(tmp_path / "o.jsonl")
    assert [(row["run"], row["prompt"]) for row in found] == [
        (r, row["prompt"]) for r in (0, 1) for row in rows
    ]
    assert found[0]["note"] == "\udc00"
    assert {row["completion"] for row in found} == {f"<think>\n{reply}"}


def test_a_partial_file_of_something_else_is_named_and_stays(tmp_path):
    partial = tmp_path / "o.jsonl.partial"
    for mine in ('{"run": 0, "index": 0}', '{"run": [], "index": 0, "valid": true}'):
        partial.write_text(f"{mine}\n")
        with pytest.raises(DataError, match=r"o\.jsonl\.partial:1: .*; the file holds something"):
            infer(Scripted(lambda *_: "x"), plan(), tmp_path / "o.jsonl")
        assert partial.read_text() == f"{mine}\n"


def test_a_partial_file_of_other_settings_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        infer(Scripted(lambda *_: "x", killed_after=2), plan(), tmp_path / "o.jsonl")
    with pytest.raises(RunError, match="was begun with other settings"):
        infer(Scripted(lambda *_: "x"), plan(n=3), tmp_path / "o.jsonl")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    tokenizer = BPETokenizer.train(["some words to learn from, 1 + 1 = 2"] * 3, vocab_size=280)
    config = Mamba2Config(d_model=32, n_layer=1, d_state=16, headdim=16, vocab_size=288)
    Mamba2LM(config).save(folder, tokenizer)
    return folder


def test_the_readmes_command_lines_run_on_a_local_model(model, tmp_path):
    data = written(tmp_path / "aime_test.jsonl", [
        {"idx": i, "prompt": f"<|im_start|>user\n{i}?<|im_end|>\n", "source": "aime2024",
         "reference_solution": f"#### {i}"} for i in range(2)
    ])  # fmt: skip
    out = tmp_path / "deep" / "predictions.jsonl"
    flags = f"""--data_path {data} --output_path {out} --model_path {model} --n_gpus 1
        --temperature 0.8 --repetition_penalty 1.1 --max_len 6 --n 3 --max_retries 1
        --use_mamba2 True""".split()
    command = [sys.executable, str(ROOT / "compat" / "infer_longcot.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(read(out)) == 6
    command = [sys.executable, str(ROOT / "compat" / "calc_acc_aime.py"), "--input_path", out]
    done = subprocess.run(
        [*map(str, command), "--expected_runs", "3"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1]).values()
    assert result["outcomes"]["truncated"] == 6
    assert result["n_samples"] == 6


@pytest.mark.parametrize("settings", [None, "{", '{"chat_template": "{{ messages[7].x.y }}"}'])
def test_a_chat_template_that_is_not_there_or_fails_is_told(model, tmp_path, capsys, settings):
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(settings)
    data = written(tmp_path / "in.jsonl", ROWS)
    flags = f"--data_path {data} --output_path {tmp_path / 'o'} --model_path {folder}"
    assert infer_longcot.main([*flags.split(), "--use_chat_template", "True"]) == 1
    told = "m: transformers finds no chat template that it can use ("
    assert told in capsys.readouterr().err


# As they stand in PromptCoT_Mamba/README.md; "$MODEL" is the only word that is filled in.
README = """
python infer_longcot.py \\
    --data_path data/aime_test.jsonl \\
    --output_path data/aime_test_predictions.jsonl \\
    --model_path $MODEL \\
    --n_gpus 1 \\
    --temperature 0.8 \\
    --repetition_penalty 1.1 \\
    --max_len 65536 \\
    --n 16 \\
    --max_retries 1 \\
    --use_mamba2 True

python calc_acc_aime.py \\
    --input_path data/aime_test_predictions.jsonl \\
    --expected_runs 16

python infer_longcot.py \\
    --data_path data/livecodebench_test.jsonl \\
    --output_path data/livecodebench_test_predictions.jsonl \\
    --model_path $MODEL \\
    --n_gpus 1 \\
    --temperature 0.8 \\
    --repetition_penalty 1.1 \\
    --max_len 65536 \\
    --n 8 \\
    --max_retries 1 \\
    --use_mamba2 True

python calc_acc_lcb.py \\
    --input_path data/livecodebench_test_predictions.jsonl \\
    --cache_path cache/livecodebench_test_predictions.jsonl
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readmes_command_lines_run_unchanged_on_the_published_files(model, tmp_path):
    """960 and 2,232 completions of random weights, none of them cut at 65,536 tokens."""
    there = [SHARED / f"{n}.jsonl" for n in
             ("aime2024", "aime2025", "promptcot_lcb_v5_prompts_279")]  # fmt: skip
    if not all(path.is_file() for path in there):
        pytest.skip(f"no files in {SHARED}")
    place = tmp_path / "PromptCoT_Mamba"
    shutil.copytree(ROOT / "compat", place)
    (place / "data").mkdir()
    asked = "Please reason step by step, and put your final answer within \\boxed{}."
    rows = [row for path in there[:2] for row in read(path)]
    written(place / "data" / "aime_test.jsonl", [
        {"idx": i, "prompt": f"<|im_start|>user\n{row['problem']}\n{asked}<|im_end|>\n"
         "<|im_start|>assistant\n<think>\n",
         "reference_solution": f"{row['reference_solution']}\n#### {row['answer_as_published']}",
         "source": row["source"]} for i, row in enumerate(rows)
    ])  # fmt: skip
    data = (place / "data" / "aime_test.jsonl").read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith("6bd70e79ee82")  # the published bytes
    shutil.copy(there[2], place / "data" / "livecodebench_test.jsonl")
    script = README.replace("python ", f"{sys.executable} ")
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, cwd=place,
        env={**os.environ, "MODEL": str(model), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, size in (("aime_test", 960), ("livecodebench_test", 2232)):
        predictions = read(place / "data" / f"{name}_predictions.jsonl")
        assert len(predictions) == size
        assert {"prompt", "completion", "run", "seed", "finish_reason"} <= set(predictions[0])
    assert "aime2024: 0.0" in done.stdout
    assert "aime2025: 0.0" in done.stdout
    told = r"^livecodebench: .*, 279 problems, 2232 samples: ([^(]*)"
    counted = re.search(told, done.stdout, re.M)
    assert counted is not None
    outcomes = {name: int(n) for n, name in (o.split() for o in counted[1].split(", "))}
    assert outcomes.keys() <= {"no_answer", "truncated", "unscored"}  # it wrote no program
    assert sum(outcomes.values()) == 2232
    assert len(read(place / "cache" / "livecodebench_test_predictions.jsonl")) == 2232


# --- calc_acc_aime.py


def answers(runs=2):
    """Prompt 0 right in run 0 only, prompt 1 always, prompt 2 never; answers 70."""
    right = {(0, 0), *((r, 1) for r in range(runs))}
    return [
        {"prompt": f"p{i}", "source": "aime2024", "reference_solution": "so\n#### 70",
         "completion": f"<think>\n70\n</think>\n\n\\boxed{{{70 if (r, i) in right else 7000}}}"}
        for r in range(runs) for i in range(3)
    ]  # fmt: skip


def test_files_by_run_and_by_prompt_give_the_same_score(tmp_path, capsys):
    rows = answers()
    by_prompt = sorted(rows, key=lambda row: row["prompt"])
    shuffled = [{**row, "run": i // 3} for i, row in enumerate(rows)][::-1]
    told = []
    for variant in (rows, by_prompt, shuffled):
        path = written(tmp_path / "in.jsonl", variant)
        asked = ["--input_path", str(path), "--expected_runs", "2"]
        assert calc_acc_aime.main(asked) == 0
        told.append(capsys.readouterr().out)
    assert told[0].startswith("aime2024: 50.0 +/- 28.9 (95 %: ")
    assert "3 problems, 6 samples: 3 correct, 3 incorrect" in told[0]
    assert told[0] == told[1]
    assert told[0].splitlines()[0] == told[2].splitlines()[0]


def test_numbers_as_text_and_a_text_in_a_list_are_read_as_what_they_say(tmp_path, capsys):
    rows = [{**row, "run": i // 3, "completion_tokens": 5} for i, row in enumerate(answers())]
    told = []
    for as_text in (False, True):
        if as_text:
            rows = [
                {**row, "run": str(row["run"]), "completion_tokens": "5", "completion": [text]}
                for row in rows
                if (text := row["completion"])
            ]
        path = written(tmp_path / "in.jsonl", rows[::-1])
        asked = ["--input_path", str(path), "--expected_runs", "2", "--published-scoring"]
        assert calc_acc_aime.main(asked) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert '"mean_tokens": 5.0' in told[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("run", "first"), ("run", -1), ("run", 0.5), ("run", [0]), ("run", True), ("run", ""),
     ("completion_tokens", "many"), ("completion_tokens", {}), ("run", float("inf")),
     ("run", "9" * 5_000)],
)  # fmt: skip
def test_a_number_that_is_none_is_named_by_both_commands(tmp_path, capsys, field, value, lcb):
    rows = [{**row, field: value} for row in answers()]
    path = written(tmp_path / "aime.jsonl", rows)
    assert calc_acc_aime.main(["--input_path", str(path), "--expected_runs", "2"]) == 1
    assert f"aime.jsonl:1: field '{field}' must be a whole number" in capsys.readouterr().err
    path = written(lcb, [{**row, field: value} for row in read(lcb)])
    assert calc_acc_lcb.main(["--input_path", str(path), "--cache_path", str(tmp_path / "c")]) == 1
    assert f"in.jsonl:1: field '{field}' must be a whole number" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_source_of_which_nothing_could_be_scored_has_no_score(tmp_path, capsys):
    rows = [{**row, "reference_solution": "#### 1\\frac{"} for row in answers()]
    path = written(tmp_path / "in.jsonl", rows)
    assert calc_acc_aime.main(["--input_path", str(path), "--expected_runs", "2"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("aime2024: unscored, 3 problems, 6 samples: 6 unscored")


def test_the_originals_rules_read_a_reference_that_stands_under_answer(tmp_path, capsys):
    rows = [
        {k: v for k, v in {**row, "answer": 70}.items() if k != "reference_solution"}
        for row in answers()
    ]
    path = written(tmp_path / "in.jsonl", rows)
    asked = ["--input_path", str(path), "--expected_runs", "2", "--published-scoring"]
    assert calc_acc_aime.main(asked) == 0
    assert "by the original's rules: 100.0 ± 0.0" in capsys.readouterr().out


def test_an_output_that_cannot_be_read_or_written_is_told_without_a_traceback(
    tmp_path, capsys, lcb
):
    (tmp_path / "file").write_text("")
    for command, flags in (
        (calc_acc_aime, ["--input_path", tmp_path]),
        (calc_acc_lcb, ["--input_path", lcb, "--cache_path", tmp_path / "file" / "c.jsonl"]),
    ):
        assert command.main(list(map(str, flags))) == 1
        assert f"{command.__name__.rpartition('.')[2]}.py: error: " in capsys.readouterr().err


def test_the_originals_rules_give_the_originals_score_beside_ours(tmp_path, capsys):
    path = written(tmp_path / "in.jsonl", answers())
    asked = ["--input_path", str(path), "--expected_runs", "2", "--published-scoring"]
    assert calc_acc_aime.main(asked) == 0
    assert "by the original's rules: 100.0 ± 0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "found"),
    [("<think> maybe \\boxed{7", "7"), ("so the answer is 12.", "12"), ("3 or 4, I think", "4"),
     ("\\boxed{1} no \\boxed{2}", "2"), ("nothing", "")],
)  # fmt: skip
def test_the_original_looks_anywhere(text, found):
    assert published_extract(text) == found


def test_the_original_forgives_what_we_do_not():
    assert published_equal("7000", "70")
    assert published_equal("0.7", "70")
    assert published_equal("10001", "10000")
    assert not published_equal("71", "70")
    assert not published_equal("x", "70")


def test_a_run_that_is_missing_is_an_error_and_no_smaller_denominator(tmp_path, capsys):
    path = written(tmp_path / "in.jsonl", answers()[:-1])
    assert calc_acc_aime.main(["--input_path", str(path), "--expected_runs", "2"]) == 1
    assert "this prompt has 1 runs, expected 2" in capsys.readouterr().err


def test_a_row_without_prompt_or_source_is_named(tmp_path):
    path = written(tmp_path / "in.jsonl", [{"completion": "x"}])
    with pytest.raises(DataError, match=r"in.jsonl:1: field 'prompt' must be text"):
        calc_acc_aime.grouped(path, 1)


# --- calc_acc_lcb.py


@pytest.fixture
def lcb(tmp_path, monkeypatch):
    """A file of completions of two problems, right and wrong, and the folder of their tests."""
    folder = tmp_path / "tests"
    folder.mkdir()
    monkeypatch.setenv(calc_acc_lcb.FOLDER, str(folder))
    stored = {
        "1.json": {"inputs": ["3\n", "4\n"], "outputs": ["6\n", "8\n"], "fn_name": None},
        "2.json": {"inputs": ["[1, 2]\n3"], "outputs": ["[3, 3]"], "fn_name": "total"},
    }
    rows = []
    programs = {
        "1.json": ["print(2 * int(input()))", "print(6)"],
        "2.json": [
            "class Solution:\n    def total(self, xs, k):\n        return [sum(xs), k]",
            "class Solution:\n    def total(self, xs, k):\n        return None",
        ],
    }
    for name, tests in stored.items():
        content = {"input_output": json.dumps(tests)}
        (folder / name).write_text(json.dumps(content))
        md5 = hashlib.md5(json.dumps(content).encode(), usedforsecurity=False).hexdigest()
        for program in programs[name]:
            rows.append({
                "prompt": name, "question_id": name, "tests": {"fname": name, "md5": md5},
                "completion": f"<think>\nso\n</think>\n\n```python\n{program}\n```",
            })  # fmt: skip
    return written(tmp_path / "in.jsonl", rows)


@pytest.mark.skipif(sandbox.isolation().kind == "none", reason="no isolation here")
def test_programs_are_scored_by_the_releases_tests_and_verdicts_are_kept(lcb, tmp_path, capsys):
    cache = tmp_path / "cache.jsonl"
    asked = ["--input_path", str(lcb), "--cache_path", str(cache)]
    assert calc_acc_lcb.main(asked) == 0
    told = capsys.readouterr().out
    assert "livecodebench: 50.0 +/- 0.0, 2 problems, 4 samples: 2 correct, 2 incorrect" in told
    assert "2 correct, 2 incorrect (official 50.0, strict 50.0)\n" in told
    before = cache.read_bytes()
    assert calc_acc_lcb.main(asked) == 0
    assert cache.read_bytes() == before
    assert capsys.readouterr().out == told


@pytest.mark.skipif(sandbox.isolation().kind == "none", reason="no isolation here")
def test_the_originals_rules_for_programs_give_the_originals_score_beside_ours(
    lcb, tmp_path, capsys
):
    rows = read(lcb)
    first = rows[0]["completion"]
    bufferless = first.replace("int(input())", "int(__import__('sys').stdin.buffer.read())")
    extra = first + "\n```\n6\n```"  # the last fence is no program
    unfinished = first.replace("\n</think>\n\n", "\n")  # all of it is looked at
    for text in (bufferless, extra, unfinished):
        rows.append({**rows[0], "completion": text})
    written(lcb, rows)
    asked = ["--input_path", str(lcb), "--cache_path", str(tmp_path / "c"), "--published-scoring"]
    assert calc_acc_lcb.main(asked) == 0
    told = capsys.readouterr().out.splitlines()
    assert "4 correct, 2 incorrect, 1 truncated" in told[0]
    assert told[1] == "livecodebench, by the original's rules: 42.9"  # 3 of 7


@pytest.mark.parametrize(
    ("expected", "output", "equal"),
    [("1\n2", " 1 \n2\n\n", True), ("0.50", "0.5", True), ("1 2.0", "1.0 2", True),
     ("0.3333333", "0.333333", False), ("1", "1\n1", False), ("a b", "a  b", False)],
)  # fmt: skip
def test_the_originals_comparison_is_by_lines_and_exact_decimals(expected, output, equal):
    assert published_output_equal(expected, output) is equal


def test_an_interrupted_program_is_named_and_an_unknown_end_is_refused(lcb, tmp_path, capsys):
    said = ["max_tokens", "content_filter", "MAX_TOKENS", "abort"]
    rows = [{**row, "finish_reason": s} for row, s in zip(read(lcb), said, strict=True)]
    cache = tmp_path / "c.jsonl"
    asked = ["--input_path", str(written(lcb, rows)), "--cache_path", str(cache)]
    assert calc_acc_lcb.main(asked) == 0
    assert "4 truncated" in capsys.readouterr().out
    rules = ["token limit", "finish_reason content_filter", "token limit", "finish_reason abort"]
    assert [row["rule"] for row in read(cache)] == rules
    rows[2]["finish_reason"] = "bored"
    written(lcb, rows)
    assert calc_acc_lcb.main(asked) == 1
    assert "in.jsonl:3: finish_reason must be one of" in capsys.readouterr().err


def test_a_missing_or_other_test_file_leaves_its_problem_unscored(lcb, tmp_path, capsys):
    (tmp_path / "tests" / "1.json").unlink()
    (tmp_path / "tests" / "2.json").write_text(json.dumps({"input_output": "{}"}))
    asked = ["--input_path", str(lcb), "--cache_path", str(tmp_path / "c.jsonl")]
    assert calc_acc_lcb.main(asked) == 0
    told = capsys.readouterr()
    assert "unscored" in told.out.splitlines()[0]
    assert "1.json: No such file" in told.err
    assert "2.json: its md5 is" in told.err


def test_a_folder_as_cache_is_refused_and_stays(lcb, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("years")
    asked = ["--input_path", str(lcb), "--cache_path", str(tmp_path / "mine")]
    assert calc_acc_lcb.main(asked) == 1
    assert "is a folder" in capsys.readouterr().err
    assert (tmp_path / "mine" / "work.txt").read_text() == "years"


def test_the_scripts_are_the_modules_of_the_same_name():
    for module in (infer_longcot, calc_acc_aime, calc_acc_lcb):
        name = module.__name__.rpartition(".")[2]
        assert f"from {module.__name__} import main" in (ROOT / f"compat/{name}.py").read_text()
