"""Sums up what happens often by its kind, to be logged at once, and then once every few seconds."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from broker.core.records import Verdict

EVERY_S = 10.0
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True, kw_only=True)
class SummedLog(Generic[K]):
    """What happened, by its kind."""

    now_s: Callable[[], float]
    """A steady clock."""
    every_s: float = EVERY_S
    _counts: Counter[K] = field(default_factory=Counter)
    """What is not logged yet."""
    _last_s: dict[K, float] = field(default_factory=dict)
    """When there was a line on each."""

    def due(self, happened: Sequence[K] = ()) -> list[tuple[K, int]]:
        """Count these too. Return what to log now, and how many of each there were."""
        if not happened and not self._counts:
            return []
        self._counts.update(happened)
        now = self.now_s()
        kinds = [kind for kind in self._counts if now - self._last_s.get(kind, -math.inf) >= self.every_s]
        self._last_s |= dict.fromkeys(kinds, now)
        return [(kind, self._counts.pop(kind)) for kind in kinds]


class FailureLog(SummedLog[tuple[str, str]]):
    """The failures of attempts, by deployment and kind."""

    def failed(self, verdicts: Sequence[Verdict]) -> list[tuple[str, str, int]]:
        """Count the failed attempts among these. Return what to log now: deployment, kind of failure, and how many."""
        ran = [one.executed for one in verdicts if one.executed is not None]
        due = self.due([(one.deployment, one.failure) for one in ran if one.failure is not None])
        return [(*kind, count) for kind, count in due]
