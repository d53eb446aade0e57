"""Put questions to a role and keep every answer on disk as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from statewise.progress import task
from statewise.records import Completion, JsonlAppender, read_jsonl
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
    """
    wanted = {p.id for p in prompts}
    answers: dict[str, dict[int, Completion]] = {p.id: {} for p in prompts}
    with JsonlAppender(path) as log:
        for c in read_jsonl(path, Completion):
            if c.prompt_id in wanted:
                answers[c.prompt_id][c.sample] = c
        missing = [p for p in prompts if len(answers[p.id]) < params.n]
        total = len(prompts) * params.n
        with task(f"{path.parent.name}/{path.stem}", total, "answers") as shown:
            shown.start_at(sum(len(a) for a in answers.values()))
            for completion in sampler.sample(missing, params):
                known = answers[completion.prompt_id]
                if completion.sample not in known:
                    known[completion.sample] = completion
                    log.append(completion)
                    shown.advance()
    return {id_: [a[i] for i in sorted(a)] for id_, a in answers.items()}
