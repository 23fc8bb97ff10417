"""Counts the attempts that are dispatched and not settled, between two readings of the ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core.records import EndedAttempt, Running
from schemas.units import Ms

_RATE_WINDOW_MS = 250


@dataclass(slots=True)
class Rate:
    """A rate per second, averaged over about the last second."""

    per_s: float = 0.0
    since_ms: Ms | None = None
    count: int = 0

    def begin(self, now: Ms) -> None:
        """Start a new window after idleness, which says nothing about the pool."""
        self.count, self.since_ms = 0, now

    def add(self, count: int, now: Ms) -> None:
        if self.since_ms is None:
            self.since_ms = now
        self.count += count
        if (elapsed := now - self.since_ms) >= _RATE_WINDOW_MS:
            self.per_s = (self.per_s + self.count * 1000 / elapsed) / 2
            self.count, self.since_ms = 0, now


class Outstanding:
    """How many attempts each deployment has outstanding, and how many it settles a second."""

    def __init__(self) -> None:
        self._running: dict[UUID, Running] = {}
        self._counts: Counter[str] = Counter()
        self._rates: dict[str, Rate] = defaultdict(Rate)

    def __repr__(self) -> str:
        return f"Outstanding({dict(self._counts)})"

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    def per_s(self) -> dict[str, float]:
        return {deployment: rate.per_s for deployment, rate in self._rates.items()}

    def recount(self, running: Sequence[Running]) -> None:
        """Replace the count by what runs by the ledger, whatever notices were received or lost."""
        self._running = {one.job: one for one in running}
        self._counts = Counter(one.deployment for one in running)

    def dispatched(self, attempts: Sequence[Running], now: Ms) -> None:
        for one in attempts:
            if not self._counts[one.deployment]:
                self._rates[one.deployment].begin(now)
            self._running[one.job] = one
            self._counts[one.deployment] += 1

    def settled(self, attempts: Iterable[EndedAttempt], now: Ms) -> None:
        """Remove settled attempts. Unknown ones change nothing, nor do those that a later attempt has followed."""
        over: Counter[str] = Counter()
        for one in attempts:
            running = self._running.get(one.job)
            if running is not None and running.attempt == one.attempt:
                del self._running[one.job]
                over[running.deployment] += 1
        self._counts -= over
        for deployment, count in over.items():
            self._rates[deployment].add(count, now)
