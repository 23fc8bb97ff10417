"""Logs the failures of attempts by deployment and kind: a line at once, and then at most one every few seconds."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from broker.core.records import Verdict

log = logging.getLogger(__name__)
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

    def note(self, verdicts: Sequence[Verdict]) -> None:
        """Count the failed attempts among these, and log what is due."""
        self._counts.update(
            (one.executed.deployment, one.executed.failure)
            for one in verdicts
            if one.executed is not None and one.executed.failure is not None
        )
        if not self._counts:
            return
        now = self.now_s()
        for key in [key for key in self._counts if now - self._last_s.get(key, -self.every_s) >= self.every_s]:
            deployment, kind = key
            log.warning("attempts failed deployment=%s kind=%s count=%d", deployment, kind, self._counts.pop(key))
            self._last_s[key] = now
