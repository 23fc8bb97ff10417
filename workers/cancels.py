"""Remembers which dispatched attempts are cancelled, so that one that comes later is reported without being run."""

from collections import OrderedDict
from uuid import UUID

from schemas.units import Ms

REMEMBERED = 10_000
"""How many attempts are remembered, the latest. A guess: brokers name those that are not settled again each second."""
FOR_MS = Ms(600_000)
"""How long an attempt is remembered after a broker named it. It may wait in RUN for a slot so long."""


class Cancels:
    def __init__(self, *, most: int = REMEMBERED, for_ms: Ms = FOR_MS) -> None:
        self._most = most
        self._for_ms = for_ms
        self.heard: OrderedDict[tuple[UUID, int], Ms] = OrderedDict()
        """When each attempt was named last, the latest at the end."""

    def __repr__(self) -> str:
        return f"Cancels({len(self.heard)})"

    def note(self, job: UUID, attempt: int, now: Ms) -> None:
        """Remember that an attempt is cancelled."""
        self.heard[job, attempt] = now
        self.heard.move_to_end((job, attempt))
        while len(self.heard) > self._most or now - next(iter(self.heard.values())) > self._for_ms:
            self.heard.popitem(last=False)

    def has(self, job: UUID, attempt: int, now: Ms) -> bool:
        """Say whether an attempt was cancelled."""
        heard = self.heard.get((job, attempt))
        return heard is not None and now - heard <= self._for_ms
