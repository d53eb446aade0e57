"""An evaluation that is interrupted anywhere ends in the same result."""

import json
from dataclasses import replace

import pytest

from statewise import sandbox
from statewise.errors import DataError, RunError
from statewise.eval import runner
from statewise.eval.runner import evaluate
from statewise.records import Completion, Outcome, Problem, TestCase, TestsFile, Verdict, read_jsonl
from statewise.sampler import SamplingParams, ScriptedSampler
from statewise.text import PromptConfig

PROBLEMS = [Problem(f"p{i}", "math", f"What is {i} + {i}?", str(2 * i)) for i in range(5)]
PARAMS = SamplingParams(n=4, seed=7)


def reply(prompt: str, i: int) -> str:
    """Right for some samples, wrong, silent or unfinished for others."""
    number = int(prompt.split("What is ")[1].split()[0])
    answers = [f"\\boxed{{{2 * number}}}", f"\\boxed{{{number}}}", "no idea"]
    return "thinking" if i == 3 else f"thinking</think>{answers[(number + i) % 3]}"


class Killed(BaseException):
    pass


class Interrupted:
    """A sampler that stops dead after some completions, and counts them."""

    def __init__(self, after: int) -> None:
        self.after, self.given = after, 0

    def sample(self, prompts, params):
        for completion in ScriptedSampler(reply).sample(prompts, params):
            if self.given == self.after:
                raise Killed
            self.given += 1
            yield completion


class Never:
    def sample(self, prompts, params):
        assert list(prompts) == []
        return iter(())


def lines(path):
    return path.read_text().splitlines()


def test_every_sample_is_on_disk_with_its_verdict(tmp_path):
    result = evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path)
    completions = read_jsonl(tmp_path / "completions.jsonl", Completion)
    verdicts = read_jsonl(tmp_path / "verdicts.jsonl", Verdict)
    assert len(completions) == len(verdicts) == 20 == result.n_samples
    assert result.outcomes == {o.value: sum(v.outcome is o for v in verdicts) for o in Outcome}
    assert result.outcomes["truncated"] == 5
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["sampling"]["seed"] == 7


@pytest.mark.parametrize("after", [0, 1, 5, 19])
def test_a_kill_midway_changes_nothing(tmp_path, after):
    whole = evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Killed):
        evaluate(Interrupted(after), PROBLEMS, PARAMS, folder)
    assert len(lines(folder / "completions.jsonl")) == after
    # The last line of each file is torn, as a kill may leave it.
    for name in ("completions.jsonl", "verdicts.jsonl"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: max(0, len(data) - 9)])
    assert evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, folder) == whole
    for name in ("completions.jsonl", "verdicts.jsonl"):
        assert sorted(lines(folder / name)) == sorted(lines(tmp_path / "whole" / name))


def test_a_finished_evaluation_samples_and_grades_nothing_again(tmp_path, monkeypatch):
    first = evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path)
    monkeypatch.setattr(runner, "grade_completion", None)
    assert evaluate(Never(), PROBLEMS, PARAMS, tmp_path) == first


def test_missing_verdicts_are_made_up_for_without_sampling(tmp_path):
    first = evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path)
    (tmp_path / "verdicts.jsonl").write_text("")
    assert evaluate(Never(), PROBLEMS, PARAMS, tmp_path) == first


def test_a_problem_that_was_done_is_not_sampled_again(tmp_path):
    with pytest.raises(Killed):
        evaluate(Interrupted(6), PROBLEMS, PARAMS, tmp_path)
    second = Interrupted(100)
    evaluate(second, PROBLEMS, PARAMS, tmp_path)
    assert second.given == 16  # four problems anew, two samples of one dropped


def test_a_problem_is_asked_for_again_up_to_its_last_missing_sample(tmp_path):
    first = evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path)
    kept = [json.loads(line) for line in lines(tmp_path / "completions.jsonl")]
    lost = (("p1", 0), ("p3", 0), ("p4", 2))
    (tmp_path / "completions.jsonl").write_text(
        "".join(json.dumps(c) + "\n" for c in kept if (c["prompt_id"], c["sample"]) not in lost)
    )
    asked = []

    class Recording:
        def sample(self, prompts, params):
            asked.append(([p.id for p in prompts], params.n))
            return ScriptedSampler(reply).sample(prompts, params)

    assert evaluate(Recording(), PROBLEMS, PARAMS, tmp_path) == first
    assert asked == [(["p1", "p3"], 1), (["p4"], 3)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"params": replace(PARAMS, seed=8)}, "sampling"),
        ({"params": replace(PARAMS, n=5)}, "sampling"),
        ({"problems": PROBLEMS[:4]}, "problems"),
        ({"problems": [*PROBLEMS[:4], replace(PROBLEMS[4], answer="9")]}, "problems"),
        ({"checker": "integer"}, "checker"),
        ({"limits": sandbox.Limits(wall_s=1)}, "limits"),
        ({"attempts": 2}, "attempts"),
        ({"prompt": PromptConfig("plain")}, "prompt"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path, change, named):
    evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path)
    options = {"problems": PROBLEMS, "params": PARAMS, **change}
    with pytest.raises(RunError, match=rf"other settings \(.*{named}.* differ"):
        evaluate(ScriptedSampler(reply), out_dir=tmp_path, **options)


def test_hidden_tests_are_told_by_what_they_hold_and_not_by_where_they_lie(tmp_path):
    def problems(path, md5):
        return [Problem("p", "code", "?", hidden=TestsFile(path, md5))]

    sampler = ScriptedSampler(lambda *_: "so</think>no program")
    first = evaluate(sampler, problems("here", "0f"), PARAMS, tmp_path)
    assert evaluate(Never(), problems("there", "0f"), PARAMS, tmp_path) == first
    with pytest.raises(RunError, match=r"other settings \(problems differ"):
        evaluate(Never(), problems("here", "0e"), PARAMS, tmp_path)


@pytest.mark.skipif(sandbox.isolation().kind == "none", reason="no isolation here")
def test_programs_are_graded_by_the_rules_that_are_asked_for_and_no_folder_mixes_them(tmp_path):
    problems = [Problem("p", "code", "?", tests=(TestCase("", "3"),))]
    shares = []
    for rules in ("official", "strict"):
        sampler = ScriptedSampler(lambda *_: "so</think>\n```python\nprint(3.0)\n```")
        result = evaluate(sampler, problems, PARAMS, tmp_path / rules, rules=rules)
        assert result.by_rules == {"official": 1.0, "strict": 0.0}
        shares.append(result.pass_at_1)
    assert shares == [1.0, 0.0]
    with pytest.raises(RunError, match=r"other settings \(rules differ"):
        evaluate(Never(), problems, PARAMS, tmp_path / "strict", rules="official")


def test_damaged_settings_are_named(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(RunError, match=r"settings\.json: cannot be read"):
        evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path)


def test_a_sampler_that_leaves_samples_out_is_an_error(tmp_path):
    class Lazy:
        def sample(self, prompts, params):
            yield from list(ScriptedSampler(reply).sample(prompts, params))[:-1]

    with pytest.raises(RunError, match=r"left out 1 completions, among them sample 3 of .*'p4'"):
        evaluate(Lazy(), PROBLEMS, PARAMS, tmp_path)


def test_a_sampler_that_says_everything_twice_is_heard_once(tmp_path):
    class Twice:
        def sample(self, prompts, params):
            for completion in ScriptedSampler(reply).sample(prompts, params):
                yield from (completion, completion)

    once = evaluate(ScriptedSampler(reply), PROBLEMS, PARAMS, tmp_path / "once")
    assert evaluate(Twice(), PROBLEMS, PARAMS, tmp_path / "twice") == once
    assert len(lines(tmp_path / "twice" / "completions.jsonl")) == 20


def test_equal_ids_in_one_set_are_an_error(tmp_path):
    with pytest.raises(DataError, match="same id"):
        evaluate(ScriptedSampler(reply), [PROBLEMS[0]] * 2, PARAMS, tmp_path)


def test_a_problem_without_a_reference_is_unscored(tmp_path):
    problem = Problem("p", "math", "What is 1 + 1?")
    result = evaluate(ScriptedSampler(reply), [problem], SamplingParams(n=3), tmp_path)
    assert (result.n_unscored, result.pass_at_1) == (3, None)


def test_progress_counts_up_to_the_end(tmp_path):
    seen = []
    evaluate(
        ScriptedSampler(reply),
        PROBLEMS,
        PARAMS,
        tmp_path,
        progress=lambda done, total, verdict: seen.append((done, total)),
    )
    assert seen == [(i, 20) for i in range(1, 21)]


@pytest.mark.skipif(
    sandbox.isolation().kind == "none", reason=f"no isolation here: {sandbox.isolation().detail}"
)
def test_programs_are_run_on_their_tests(tmp_path):
    problem = Problem("double", "code", "Double it.", tests=(TestCase("4\n", "8\n"),))
    programs = ["print(2 * int(input()))", "print(8 if input() == '3' else 9)"]
    sampler = ScriptedSampler(lambda prompt, i: f"hm</think>\n```python\n{programs[i]}\n```\n")
    result = evaluate(sampler, [problem], SamplingParams(n=2), tmp_path)
    assert result.outcomes["correct"] == result.outcomes["incorrect"] == 1
    assert result.majority is None


# How they are asked


class Stammering:
    """Breaks the think format of some first attempts; what it says depends on the seed."""

    def __init__(self) -> None:
        self.asked: list = []

    def sample(self, prompts, params):
        prompts = list(prompts)
        self.asked.append((len(prompts), params.n, params.seed))
        for c in ScriptedSampler(reply).sample(prompts, params):
            first = params.seed == 7
            broken = first and c.sample == 1 and c.prompt_id in ("p1", "p2")
            text = "no end" if broken else f"so</think>\\boxed{{{params.seed}}}"
            yield replace(c, text=text, seed=params.seed + c.sample)


def test_a_broken_think_block_is_drawn_again_with_its_own_seed_and_only_that(tmp_path):
    sampler = Stammering()
    evaluate(sampler, PROBLEMS, replace(PARAMS, n=2), tmp_path, attempts=2)
    seed = 7 + 1_000_003 + 1
    assert sampler.asked == [(5, 2, 7), (2, 1, seed)]
    found = {
        (c.prompt_id, c.sample): c for c in read_jsonl(tmp_path / "completions.jsonl", Completion)
    }
    assert len(found) == 10
    for key, c in found.items():
        again = key in (("p1", 1), ("p2", 1))
        assert c.attempts == (2 if again else 1)
        assert (str(seed) in c.text) is again
    verdicts = read_jsonl(tmp_path / "verdicts.jsonl", Verdict)
    assert {
        (v.problem_id, v.sample): (v.seed, v.finish_reason, v.completion_tokens) for v in verdicts
    } == {k: (c.seed, c.finish_reason.value, c.completion_tokens) for k, c in found.items()}


def test_what_a_second_attempt_mended_is_not_drawn_a_third_time(tmp_path):
    asked = []

    class Slow:
        """`p1` is well formed from the second attempt on, `p2` from the third."""

        def sample(self, prompts, params):
            asked.append([p.id for p in prompts])
            late = {1: ("p1", "p2"), 2: ("p2",)}.get(len(asked), ())
            for c in ScriptedSampler(reply).sample(prompts, params):
                text = "no end" if c.prompt_id in late else "so</think>\\boxed{0}"
                yield replace(c, text=text)

    evaluate(Slow(), PROBLEMS, replace(PARAMS, n=1), tmp_path, attempts=4)
    assert asked == [[f"p{i}" for i in range(5)], ["p1", "p2"], ["p2"]]
    found = read_jsonl(tmp_path / "completions.jsonl", Completion)
    assert {c.prompt_id: c.attempts for c in found} == {"p0": 1, "p1": 2, "p2": 3, "p3": 1, "p4": 1}


def test_the_last_attempt_stays_whatever_it_is(tmp_path):
    always = ScriptedSampler(lambda prompt, i: "never closed")
    result = evaluate(always, PROBLEMS, replace(PARAMS, n=1), tmp_path, attempts=3)
    assert result.outcomes["truncated"] == 5
    assert {c.attempts for c in read_jsonl(tmp_path / "completions.jsonl", Completion)} == {3}


def test_a_plain_prompt_opens_nothing_so_an_answer_without_thinking_counts(tmp_path):
    plain = ScriptedSampler(
        lambda prompt, i: f"\\boxed{{{2 * int(prompt.split('What is ')[1].split()[0])}}}"
    )
    form = PromptConfig("plain")
    assert evaluate(plain, PROBLEMS, PARAMS, tmp_path / "a", prompt=form).pass_at_1 == 1
    assert evaluate(plain, PROBLEMS, PARAMS, tmp_path / "b").outcomes["truncated"] == 20
    with pytest.raises(RunError, match="prompt differ"):
        evaluate(plain, PROBLEMS, PARAMS, tmp_path / "a")
