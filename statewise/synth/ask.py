"""Put questions to a role and keep every answer on disk as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from statewise.errors import RunError
from statewise.log import Log
from statewise.progress import task
from statewise.records import Completion
from statewise.sampler import Prompt, Sampler, SamplingParams


def ask(
    sampler: Sampler, prompts: Sequence[Prompt], params: SamplingParams, path: Path
) -> dict[str, list[Completion]]:
    """All answers to some prompts; those that the file already holds are not asked for again.

    Args:
        sampler: who plays the role.
        prompts: the questions, with distinct ids.
        params: how to sample.
        path: JSONL file of completions; grows answer by answer, so a kill loses at most one.

    Returns:
        Prompt id -> its completions, by sample number.

    Raises:
        DataError: the file holds something else.
        RunError: the sampler left a question unanswered.
    """
    samples = [(p.id, i) for p in prompts for i in range(params.n)]
    with Log(path, Completion, key=lambda c: (c.prompt_id, c.sample)) as log:
        missing = log.missing(samples)
        unanswered = {id_ for id_, _ in missing}
        with task(f"{path.parent.name}/{path.stem}", len(samples), "answers") as shown:
            shown.start_at(len(samples) - len(missing))
            for completion in sampler.sample([p for p in prompts if p.id in unanswered], params):
                if (completion.prompt_id, completion.sample) not in log:
                    log.append(completion)
                    shown.advance()
        if missing := log.missing(samples):
            raise RunError(
                f"{path}: {len(missing)} answers were not given, the first of them sample "
                f"{missing[0][1]} of {missing[0][0]!r}"
            )
        return {p.id: [log[p.id, i] for i in range(params.n)] for p in prompts}
