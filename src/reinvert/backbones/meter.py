"""What work on a model takes: the clock, and the evaluations of its network.

meter = Meter(model.tally)
...
meter.spent()        # Spent(seconds=1.204, forwards=200, backwards=0)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from reinvert.backbones.base import Tally


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock, to the millisecond, and single-sample evaluations of the network."""

    seconds: float
    forwards: int
    backwards: int


class Meter:
    """Begins to measure where it is made."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._before, self._started = tally, tally.copy(), time.perf_counter()

    def spent(self) -> Spent:
        """What was spent until now."""
        seconds, spent = time.perf_counter() - self._started, self._tally.since(self._before)
        return Spent(round(seconds, 3), spent.forwards, spent.backwards)
