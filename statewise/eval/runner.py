"""Problems times samples, to completions, to verdicts: each on disk as soon as it is there.

A set's folder holds `settings.json`, `completions.jsonl` and `verdicts.jsonl`. Killed at any moment
and started again, an evaluation samples what is missing and grades what is ungraded; because a
sample depends on prompt, parameters and its index alone, it ends in the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from statewise.errors import DataError, RunError
from statewise.eval.answers import Kind
from statewise.eval.attempts import sample
from statewise.eval.grading import grade_completion
from statewise.eval.metrics import SetResult, summarise
from statewise.eval.rules import Rules
from statewise.log import Log
from statewise.records import Completion, Problem, Verdict, content_id, read_json, write_json
from statewise.sampler import Prompt, Sampler, SamplingParams
from statewise.sandbox import Limits
from statewise.text import PUBLISHED_PROMPT, PromptConfig

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
    rules: Rules = "official",
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
        prompt: how the problems are asking.
        attempts: at a well-formed think block; of no meaning where the prompt opens none.
        rules: by which programs are graded.
        progress: called in this thread after each verdict with verdicts done, verdicts in all,
            and the verdict.

    Raises:
        DataError: two problems share an id, or a file of the folder is damaged.
        RunError: the folder holds an evaluation of other problems or with other settings, or the
            sampler did not return what was asking.
    """
    by_id = {p.id: p for p in problems}
    if len(by_id) != len(problems):
        raise DataError("two problems of one set have the same id")
    asking = _Asking(params, prompt, attempts if prompt.opens_thinking else 1)
    _settle(out_dir, problems, asking, checker, limits, rules)
    samples = sorted((p.id, i) for p in problems for i in range(params.n))
    with (
        Log(out_dir / "completions.jsonl", Completion, lambda c: (c.prompt_id, c.sample)) as log,
        Log(out_dir / "verdicts.jsonl", Verdict, lambda v: (v.problem_id, v.sample)) as verdicts,
    ):

        def graded(completion: Completion) -> Verdict:
            return grade_completion(
                by_id[completion.prompt_id],
                completion,
                kind=checker,
                limits=limits,
                opened=prompt.opens_thinking,
                rules=rules,
            )

        def keep(verdict: Verdict) -> None:
            verdicts.append(verdict)
            if progress is not None:
                progress(len(verdicts), len(samples), verdict)

        with _Graders(graded, keep) as graders:
            for key in verdicts.missing(log):
                graders.submit(log[key])
            for completion in _missing(sampler, problems, asking, log):
                log.append(completion)
                graders.submit(completion)
        return summarise(problems, [log[k] for k in samples], [verdicts[k] for k in samples])


@dataclass(frozen=True, slots=True)
class _Asking:
    """How problems are asking."""

    params: SamplingParams
    prompt: PromptConfig
    attempts: int


def _settle(
    out_dir: Path,
    problems: Sequence[Problem],
    asking: _Asking,
    checker: Kind,
    limits: Limits | None,
    rules: Rules,
) -> None:
    """Write down what this folder evaluates, or make sure that it is the same as before."""
    content = [
        json.dumps({**asdict(p), "hidden": p.hidden and p.hidden.md5}, sort_keys=True)
        for p in sorted(problems, key=lambda p: p.id)
    ]
    settings = {
        "problems": content_id(*content),
        "n_problems": len(problems),
        "checker": checker,
        "sampling": asdict(asking.params),
        "prompt": asdict(asking.prompt),
        "attempts": asking.attempts,
    }
    if limits is not None or any(p.kind == "code" for p in problems):
        settings |= {"limits": asdict(limits or Limits()), "rules": rules}
    path = out_dir / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    try:
        before = read_json(path)
    except DataError as e:
        raise RunError(f"{e}; remove {out_dir} to evaluate anew") from None
    differing = [k for k in settings if before.get(k) != settings[k]]
    if differing:
        raise RunError(
            f"{out_dir}: holds an evaluation with other settings ({', '.join(differing)} differ; "
            f"see {path.name}); choose another folder, or remove this one to evaluate anew"
        )


def _missing(
    sampler: Sampler, problems: Sequence[Problem], asking: _Asking, done: Mapping[Key, Completion]
) -> Iterator[Completion]:
    """Sample what is not on disk. A problem begun is asked for again up to its last missing sample.

    A sample depends on its index and not on how many are asked for, so those already there would
    come back the same; they are dropped.
    """
    asks: dict[int, list[Prompt]] = {}
    missing: set[Key] = set()  # all of them; each is crossed out as it comes
    for p in problems:
        gaps = [i for i in range(asking.params.n) if (p.id, i) not in done]
        if gaps:
            kind = "function" if p.function else p.kind
            text = asking.prompt.render(p.statement, kind, instructed=p.instructed)
            asks.setdefault(gaps[-1] + 1, []).append(Prompt(p.id, text))
            missing.update((p.id, i) for i in gaps)
    for n, prompts in sorted(asks.items()):
        for completion in sample(
            sampler,
            prompts,
            replace(asking.params, n=n),
            frozenset(missing),
            attempts=asking.attempts,
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
