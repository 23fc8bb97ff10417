"""Sums up the failures of attempts by deployment and kind, to be logged at once, and then once every few seconds."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.core.records import Verdict

EVERY_S = 10.0


@dataclass(slots=True, kw_only=True)
class FailureLog:
    now_s: Callable[[], float]
    """A steady clock."""
    every_s: float = EVERY_S
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What is not logged yet."""
    _last_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """When there was a line on each."""

    def due(self, verdicts: Sequence[Verdict]) -> list[tuple[str, str, int]]:
        """Count the failed attempts among these. Return what to log now: deployment, kind of failure, and how many."""
        ran = [one.executed for one in verdicts if one.executed is not None]
        failed = [(one.deployment, one.failure) for one in ran if one.failure is not None]
        if not failed and not self._counts:
            return []
        self._counts.update(failed)
        now = self.now_s()
        keys = [key for key in self._counts if now - self._last_s.get(key, -math.inf) >= self.every_s]
        self._last_s |= dict.fromkeys(keys, now)
        return [(*key, self._counts.pop(key)) for key in keys]
