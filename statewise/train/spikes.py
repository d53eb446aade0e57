"""Loss spikes: steps whose loss stands far above that of the steps before them."""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 64  # steps that a step is compared with
LEAST = 16  # of them, before anything is called a spike
RISE = 0.5  # nats above their median, and
SPREAD = 6.0  # of their standard deviations, as the median distance from the median tells it
NORMAL = 1.4826  # standard deviations in a median distance, of normal numbers


class Spikes:
    """Looks at one loss after the other; every phase is compared with itself alone."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=WINDOW)
        self._phase = ""
        self._within = False

    def take(self, phase: str, loss: float) -> float | None:
        """Look at the next step.

        Args:
            phase: its phase.
            loss: its loss, in nats.

        Returns:
            The median of the losses before, where a spike begins with this step; else None.
        """
        if phase != self._phase:
            self._before.clear()
            self._phase, self._within = phase, False
        median, high = 0.0, False
        if len(self._before) >= LEAST:
            median = statistics.median(self._before)
            distance = statistics.median(abs(x - median) for x in self._before)
            high = loss > median + max(RISE, SPREAD * NORMAL * distance)
        begins = high and not self._within
        self._within = high
        self._before.append(loss)
        return median if begins else None
