"""Leases of workers that died between an outcome and the ack of its message.

A worker lets go of its own. For the dead the broker does, so that what is recorded is not run again when a lease ends.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from nats.aio.client import Client

from schemas.jetstream import ACK, answer_all
from schemas.outcome import Report
from schemas.units import Ms
from schemas.worker import BEAT_LIFETIME_MS, WorkerBeat

LATER_S = BEAT_LIFETIME_MS / 1000 + 1
"""By then a worker that died is known to be gone; its leases last longer."""
_LOOK_S = 1.0


class Leases:
    def __init__(self, nc: Client, *, beats: Callable[[], Sequence[WorkerBeat]], later_s: float = LATER_S) -> None:
        self._nc = nc
        self._beats = beats
        self._later_s = later_s
        self._settled: deque[tuple[float, str, Ms, list[str]]] = deque()
        """When to look, the worker, when it began the first of them, and their ack subjects."""

    def __repr__(self) -> str:
        return f"Leases(groups={len(self._settled)})"

    def settled(self, reports: Sequence[Report]) -> None:
        by_worker: dict[str, list[Report]] = defaultdict(list)
        for report in reports:
            if report.run_ack is not None:
                by_worker[report.worker].append(report)
        due = asyncio.get_running_loop().time() + self._later_s
        for worker, theirs in by_worker.items():
            acks = [report.run_ack for report in theirs if report.run_ack is not None]
            self._settled.append((due, worker, min(report.timings.started_ms for report in theirs), acks))

    async def serve(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        now = asyncio.get_running_loop().time()
        alive = {beat.worker: beat.started_ms for beat in self._beats()}
        while self._settled and self._settled[0][0] <= now:
            _, worker, began, acks = self._settled.popleft()
            if alive.get(worker, began + 1) > began:  # gone, or another process of that name
                await answer_all(self._nc, acks, ACK)
