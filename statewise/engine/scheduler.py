"""Which sequence runs in which slot: waiting -> running -> finished, over a fixed set of slots."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from statewise.engine.prefill import Prefill
from statewise.engine.request import Event, Request


@dataclass(slots=True, eq=False)
class Entry:
    """A request on its way through the engine."""

    id: int
    request: Request
    inbox: deque[Event]  # where its events go
    prefill: Prefill | None = None  # from the entry's turn until its last sample has started
    prompt_tokens: int = 0
    started: int = 0  # samples that have been given a slot
    finished: int = 0  # completions

    @property
    def begun(self) -> bool:
        """Whether its turn has come."""
        return self.prefill is not None or self.started > 0


@dataclass(slots=True, eq=False)
class Sequence:
    """One completion in the making."""

    entry: Entry
    sample: int
    ids: list[int] = field(default_factory=list)  # its tokens, but for the block in the making


class Scheduler:
    """Hands out slots to the samples of requests, first come, first served.

    The samples of a request follow one another, so that one prefilled prompt at a time has to be
    kept: that of the entry whose turn it is.
    """

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))  # a heap: the lowest free slot goes first
        self._waiting: deque[Entry] = deque()
        self._samples = 0  # of waiting entries, not started
        self.running: dict[int, Sequence] = {}

    @property
    def room(self) -> int:
        """Free slots for which no sample waits; negative when more wait than are free."""
        return len(self._free) - self._samples

    def add(self, entry: Entry) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(entry)
        self._samples += entry.request.params.n

    def turn(self) -> Entry | None:
        """The waiting request that gets the next slot; None when no slot is free or nobody waits.

        It is the same one until all its samples have started.
        """
        return self._waiting[0] if self._free and self._waiting else None

    def start(self) -> Iterator[tuple[int, Sequence]]:
        """Give free slots to samples of the request whose turn it is; yields each start."""
        entry = self._waiting[0]
        while self._free and entry.started < entry.request.params.n:
            slot = heapq.heappop(self._free)
            sequence = Sequence(entry, entry.started)
            entry.started += 1
            self._samples -= 1
            self.running[slot] = sequence
            yield slot, sequence
        if entry.started == entry.request.params.n:
            self._waiting.popleft()

    def retire(self, slot: int) -> None:
        """Take the sequence out of `slot` and free the slot."""
        del self.running[slot]
        heapq.heappush(self._free, slot)

    def remove(self, entry: Entry) -> list[int]:
        """Forget a request, wherever it is; returns the slots that this freed."""
        if entry.started < entry.request.params.n:
            self._waiting.remove(entry)
            self._samples -= entry.request.params.n - entry.started
        slots = [s for s, sequence in self.running.items() if sequence.entry is entry]
        for slot in slots:
            self.retire(slot)
        return slots
