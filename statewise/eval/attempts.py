"""Sampling that asks again where the think format is broken, as the published script does.

Seeds belong to a (sample, attempt): a retry of one sample changes no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from statewise.records import Completion
from statewise.sampler import Prompt, Sampler, SamplingParams
from statewise.text import well_formed, with_think

RETRY_SEEDS = 1_000_003  # retries draw from seeds that no first attempt has


def sample(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    wanted: Collection[tuple[str, int]],
    *,
    attempts: int,
) -> Iterator[Completion]:
    """The wanted completions, each once: all first attempts, then retries sample by sample.

    Args:
        sampler: whatever continues prompts.
        prompts: those of the wanted completions.
        params: `n` samples a prompt; sample i of attempt k > 1 draws from the seed
            `seed + RETRY_SEEDS (k - 1) + i`.
        wanted: (prompt id, sample); what else the sampler returns is dropped.
        attempts: at a well-formed answer, the first included. The last is kept as it is.
    """
    left = set(wanted)
    by_id = {p.id: p for p in prompts}
    again: dict[int, list[Prompt]] = {}
    for completion in sampler.sample(prompts, params):
        key = (completion.prompt_id, completion.sample)
        if key not in left:
            continue
        left.remove(key)
        if attempts > 1 and not well_formed(with_think(completion.text)):
            again.setdefault(completion.sample, []).append(by_id[completion.prompt_id])
        else:
            yield completion
    for index, broken in sorted(again.items()):
        for attempt in range(2, attempts + 1):
            seed = params.seed + RETRY_SEEDS * (attempt - 1) + index
            still = []
            for completion in sampler.sample(broken, replace(params, n=1, seed=seed)):
                if attempt < attempts and not well_formed(with_think(completion.text)):
                    still.append(by_id[completion.prompt_id])
                else:
                    yield replace(completion, sample=index, attempts=attempt)
            broken = still
            if not broken:
                break
