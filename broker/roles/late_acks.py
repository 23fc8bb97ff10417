"""Acks the RUN messages of workers that died after their outcome was stored and before they could ack it.

A living worker acks its own messages. Without this, a job that is already recorded would run again when the dead
worker's lease ran out.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from schemas.jetstream import ACK, NatsConnection, answer_all
from schemas.outcome import Report
from schemas.units import Ms
from schemas.worker import BEAT_LIFETIME_MS, WorkerBeat

LATER_S = BEAT_LIFETIME_MS / 1000 + 1
"""How long after settlement to look: by then a dead worker's last beat has expired, and its leases have not."""
_LOOK_S = 1.0


class LateAcks:
    """Remembers the leases of settled reports, and acks those whose worker is gone when it looks again."""

    def __init__(
        self, nc: NatsConnection, *, beats: Callable[[], Sequence[WorkerBeat]], later_s: float = LATER_S
    ) -> None:
        self._nc = nc
        self._beats = beats
        self._later_s = later_s
        self._settled: deque[tuple[float, tuple[str, str], Ms, list[str]]] = deque()
        """Of each worker of a settled group: when to look, its deployment and name, when it began the first, the acks."""

    def __repr__(self) -> str:
        return f"LateAcks(groups={len(self._settled)})"

    def settled(self, reports: Sequence[Report]) -> None:
        """Remember the leases behind these reports, which the ledger has recorded."""
        by_worker: dict[tuple[str, str], list[Report]] = defaultdict(list)
        for report in reports:
            if report.run_ack is not None:
                by_worker[report.deployment, report.worker].append(report)
        due = asyncio.get_running_loop().time() + self._later_s
        for worker, theirs in by_worker.items():
            acks = [report.run_ack for report in theirs if report.run_ack is not None]
            self._settled.append((due, worker, min([report.timings.started_ms for report in theirs]), acks))

    async def serve(self) -> None:
        """Look once a second until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Ack what is due, if no worker of its name beats in its deployment, or only another process."""
        now = asyncio.get_running_loop().time()
        alive: dict[tuple[str, str], Ms] = {}
        for beat in self._beats():  # a report does not say which key its worker has: the oldest of a name counts
            name = beat.deployment, beat.worker
            alive[name] = min(beat.started_ms, alive.get(name, beat.started_ms))
        while self._settled and self._settled[0][0] <= now:
            _, worker, began, acks = self._settled.popleft()
            if alive.get(worker, began + 1) > began:
                await answer_all(self._nc, acks, ACK)
