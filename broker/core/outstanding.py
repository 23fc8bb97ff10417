"""Counts the attempts that are dispatched and not settled, and what is reserved for them, between two readings of the
ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core.records import EndedAttempt, Running
from schemas.units import Ms, NanoUsd

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
        self._reserved: Counter[str] = Counter()
        self._released: Counter[str] = Counter()
        self._rates: dict[str, Rate] = defaultdict(Rate)

    def __repr__(self) -> str:
        return f"Outstanding({dict(self._counts)})"

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    @property
    def reserved(self) -> Mapping[str, int]:
        """What the attempts are estimated to cost, in nano-USD, by deployment; of those with a daily cap."""
        return self._reserved

    @property
    def released(self) -> Mapping[str, int]:
        """What was reserved and is not any more, since the beginning, by deployment."""
        return self._released

    def reserved_for(self, attempt: Running) -> NanoUsd | None:
        """Return what is reserved for an attempt. None: the attempt is not known yet."""
        known = self._running.get(attempt.job)
        return known.reserved if known is not None and known.attempt == attempt.attempt else None

    def per_s(self) -> dict[str, float]:
        return {deployment: rate.per_s for deployment, rate in self._rates.items()}

    def recount(self, running: Sequence[Running]) -> None:
        """Replace the count by what runs by the ledger, whatever notices were received or lost."""
        self._running = {one.job: one for one in running}
        self._counts = Counter(one.deployment for one in running)
        before, self._reserved = self._reserved, Counter()
        for one in running:
            if one.reserved:
                self._reserved[one.deployment] += one.reserved
        self._released += before - self._reserved

    def dispatched(self, attempts: Sequence[Running], now: Ms) -> None:
        for one in attempts:
            if not self._counts[one.deployment]:
                self._rates[one.deployment].begin(now)
            self._running[one.job] = one
            self._counts[one.deployment] += 1
            if one.reserved:
                self._reserved[one.deployment] += one.reserved

    def settled(self, attempts: Iterable[EndedAttempt], now: Ms) -> None:
        """Remove settled attempts. Unknown ones change nothing, nor do those that a later attempt has followed."""
        over: Counter[str] = Counter()
        for one in attempts:
            running = self._running.get(one.job)
            if running is not None and running.attempt == one.attempt:
                del self._running[one.job]
                over[running.deployment] += 1
                if running.reserved:
                    self._reserved[running.deployment] -= running.reserved
                    self._released[running.deployment] += running.reserved
        self._counts -= over
        for deployment, count in over.items():
            self._rates[deployment].add(count, now)
