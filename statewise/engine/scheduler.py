"""Which sequence runs in which slot: waiting -> running -> finished, over a fixed set of slots."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from statewise.sampler import Prompt


@dataclass(frozen=True, slots=True)
class Sequence:
    """One completion in the making: a prompt and the index of the sample."""

    prompt: Prompt
    sample: int


class Scheduler:
    """Hands out slots to `n` samples of each prompt, in order, as slots become free.

    The samples of a prompt follow one another, so that one prefilled prompt at a time has to be
    kept. A prompt is pulled from `prompts` only when a slot is free for its first sample.
    """

    def __init__(self, prompts: Iterator[Prompt], n: int, slots: int) -> None:
        self._waiting = (Sequence(prompt, i) for prompt in prompts for i in range(n))
        self._free = list(range(slots))  # a heap: the lowest free slot goes first
        self.running: dict[int, Sequence] = {}

    def admit(self) -> Iterator[tuple[int, Sequence]]:
        """Start waiting sequences until the slots are full or nobody waits; yields each start."""
        while self._free:
            sequence = next(self._waiting, None)
            if sequence is None:
                return
            slot = heapq.heappop(self._free)
            self.running[slot] = sequence
            yield slot, sequence

    def retire(self, slot: int) -> Sequence:
        """Take the sequence that has finished out of `slot` and free the slot."""
        heapq.heappush(self._free, slot)
        return self.running.pop(slot)
