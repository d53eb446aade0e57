"""Problems times samples, to completions, to verdicts: each on disk as soon as it is there.

A set's folder holds `settings.json`, `completions.jsonl` and `verdicts.jsonl`. Killed at any moment
and started again, an evaluation samples what is missing and grades what is ungraded; because a
sample depends on prompt, parameters and its index alone, it ends in the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from statewise.errors import DataError, RunError
from statewise.eval.answers import Grade, Kind, as_kind, grade
from statewise.eval.attempts import sample
from statewise.eval.codetests import grade_program
from statewise.eval.metrics import SetResult, summarise
from statewise.records import (
    Completion,
    FinishReason,
    JsonlAppender,
    Outcome,
    Problem,
    Verdict,
    content_id,
    read_jsonl,
    write_json,
)
from statewise.sampler import Prompt, Sampler, SamplingParams
from statewise.sandbox import Limits
from statewise.text import PUBLISHED_PROMPT, PromptConfig, as_opened

Progress = Callable[[int, int, Verdict], None]
Key = tuple[str, int]
GRADERS = 2  # threads; each waits for a sandbox or a checker process


def evaluate(
    sampler: Sampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    out_dir: Path,
    *,
    checker: Kind = "math",
    limits: Limits | None = None,
    prompt: PromptConfig = PUBLISHED_PROMPT,
    attempts: int = 1,
    progress: Progress | None = None,
) -> SetResult:
    """Sample, grade and summarise one set of problems; resumes what was begun in `out_dir`.

    Args:
        sampler: whatever continues prompts.
        problems: the set, ids unique.
        params: `params.n` samples a problem.
        out_dir: the set's folder; made if need be.
        checker: how answers of mathematical problems are compared. Code runs its tests.
        limits: of each run of a program.
        prompt: how the problems are asked.
        attempts: at a well-formed think block; of no meaning where the prompt opens none.
        progress: called in this thread after each verdict with verdicts done, verdicts in all,
            and the verdict.

    Raises:
        DataError: two problems share an id, or a file of the folder is damaged.
        RunError: the folder holds an evaluation of other problems or with other settings, or the
            sampler did not return what was asked.
    """
    by_id = {p.id: p for p in problems}
    if len(by_id) != len(problems):
        raise DataError("two problems of one set have the same id")
    asked = _Asked(params, prompt, attempts if prompt.opens_thinking else 1)
    judged = _Judged(checker, limits, prompt.opens_thinking)
    _settle(out_dir, problems, asked, judged)
    wanted = {(p.id, i) for p in problems for i in range(params.n)}
    with (
        JsonlAppender(out_dir / "completions.jsonl") as completions_file,
        JsonlAppender(out_dir / "verdicts.jsonl") as verdicts_file,
    ):
        # Read after the appenders have cut off a line torn by a kill.
        completions = {
            (c.prompt_id, c.sample): c
            for c in read_jsonl(out_dir / "completions.jsonl", Completion)
        }
        verdicts = {
            (v.problem_id, v.sample): v for v in read_jsonl(out_dir / "verdicts.jsonl", Verdict)
        }

        def graded(completion: Completion) -> Verdict:
            return judged.verdict(by_id[completion.prompt_id], completion)

        def keep(verdict: Verdict) -> None:
            verdicts_file.append(verdict)
            verdicts[(verdict.problem_id, verdict.sample)] = verdict
            if progress is not None:
                progress(len(verdicts), len(wanted), verdict)

        with _Graders(graded, keep) as graders:
            for key, completion in completions.items():
                if key not in verdicts:
                    graders.submit(completion)
            for completion in _missing(sampler, problems, asked, completions):
                completions_file.append(completion)
                completions[(completion.prompt_id, completion.sample)] = completion
                graders.submit(completion)
    order = sorted(wanted)
    return summarise(problems, [completions[k] for k in order], [verdicts[k] for k in order])


def regrade(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    *,
    checker: Kind = "math",
    limits: Limits | None = None,
    prompt: PromptConfig = PUBLISHED_PROMPT,
) -> list[Verdict]:
    """Verdicts on completions that lie on disk, in their order; nothing is sampled."""
    by_id = {p.id: p for p in problems}
    judged = _Judged(checker, limits, prompt.opens_thinking)
    with ThreadPoolExecutor(GRADERS) as pool:
        return list(pool.map(lambda c: judged.verdict(by_id[c.prompt_id], c), completions))


@dataclass(frozen=True, slots=True)
class _Asked:
    """How problems are asked."""

    params: SamplingParams
    prompt: PromptConfig
    attempts: int


@dataclass(frozen=True, slots=True)
class _Judged:
    """How completions are judged."""

    checker: Kind
    limits: Limits | None
    opened: bool  # the think block, by the prompt

    def verdict(self, problem: Problem, completion: Completion) -> Verdict:
        """The verdict on one completion."""
        text = completion.text if self.opened else as_opened(completion.text)
        return as_verdict(completion, self._grade(problem, text, completion.finish_reason))

    def _grade(self, problem: Problem, text: str, reason: FinishReason) -> Grade:
        if problem.kind == "code":
            return grade_program(text, problem, finish_reason=reason, limits=self.limits)
        if problem.answer is None:
            return Grade(Outcome.UNSCORED, rule="the problem has no reference answer")
        return grade(
            text,
            problem.answer,
            kind=as_kind(problem.checker, self.checker),
            unit=problem.unit,
            tolerance=problem.tolerance,
            finish_reason=reason,
        )


def as_verdict(completion: Completion, found: Grade) -> Verdict:
    """A grade as the verdict on its completion."""
    return Verdict(
        problem_id=completion.prompt_id,
        sample=completion.sample,
        outcome=found.outcome,
        extracted=found.extracted,
        rule=found.rule,
        seed=completion.seed,
        finish_reason=completion.finish_reason.value,
        completion_tokens=completion.completion_tokens,
    )


def _settle(out_dir: Path, problems: Sequence[Problem], asked: _Asked, judged: _Judged) -> None:
    """Write down what this folder evaluates, or make sure that it is the same as before."""
    content = [
        json.dumps({**asdict(p), "hidden": p.hidden and p.hidden.md5}, sort_keys=True)
        for p in sorted(problems, key=lambda p: p.id)
    ]
    settings = {
        "problems": content_id(*content),
        "n_problems": len(problems),
        "checker": judged.checker,
        "sampling": asdict(asked.params),
        "limits": asdict(judged.limits or Limits()),
        "prompt": asdict(asked.prompt),
        "attempts": asked.attempts,
    }
    path = out_dir / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise RunError(f"{path}: cannot be read ({e}); remove {out_dir} to evaluate anew") from None
    differing = [k for k in settings if not isinstance(found, dict) or found.get(k) != settings[k]]
    if differing:
        raise RunError(
            f"{out_dir}: holds an evaluation with other settings ({', '.join(differing)} differ; "
            f"see {path.name}); choose another folder, or remove this one to evaluate anew"
        )


def _missing(
    sampler: Sampler, problems: Sequence[Problem], asked: _Asked, done: dict[Key, Completion]
) -> Iterator[Completion]:
    """Sample what is not on disk. A problem begun is asked for again up to its last missing sample.

    A sample depends on its index and not on how many are asked for, so those already there would
    come back the same; they are dropped.
    """
    asks: dict[int, list[Prompt]] = {}
    missing: set[Key] = set()  # all of them; each is crossed out as it comes
    for p in problems:
        gaps = [i for i in range(asked.params.n) if (p.id, i) not in done]
        if gaps:
            kind = "function" if p.function else p.kind
            text = asked.prompt.render(p.statement, kind, instructed=p.instructed)
            asks.setdefault(gaps[-1] + 1, []).append(Prompt(p.id, text))
            missing.update((p.id, i) for i in gaps)
    for n, prompts in sorted(asks.items()):
        for completion in sample(
            sampler,
            prompts,
            replace(asked.params, n=n),
            frozenset(missing),
            attempts=asked.attempts,
        ):
            missing.remove((completion.prompt_id, completion.sample))
            yield completion
    if missing:
        first = min(missing)
        raise RunError(
            f"the sampler left out {len(missing)} completions, among them sample {first[1]} of "
            f"problem {first[0]!r}"
        )


class _Graders:
    """Grades in a few threads while sampling goes on; verdicts are kept in the calling thread."""

    def __init__(
        self, graded: Callable[[Completion], Verdict], keep: Callable[[Verdict], None]
    ) -> None:
        self._graded, self._keep = graded, keep
        self._pool = ThreadPoolExecutor(GRADERS, thread_name_prefix="grader")
        self._running: set[Future[Verdict]] = set()

    def submit(self, completion: Completion) -> None:
        """Grade soon. Keeps what is ready, and waits where grading falls far behind."""
        self._running.add(self._pool.submit(self._graded, completion))
        self._collect(wait_for_one=len(self._running) > 16 * GRADERS)

    def _collect(self, *, wait_for_one: bool) -> None:
        timeout = None if wait_for_one else 0
        done, self._running = wait(self._running, timeout, return_when=FIRST_COMPLETED)
        for future in done:
            self._keep(future.result())

    def __enter__(self) -> _Graders:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            while self._running:
                self._collect(wait_for_one=True)
        self._pool.shutdown(cancel_futures=True)
