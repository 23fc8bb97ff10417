"""Settle: what workers report becomes the record.

A group of outcomes → one transaction: executions, cost, states, results, batch counts → announce → ack, last.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.bus.groups import Groups, ack_all
from broker.bus.heard import announce_settled, announce_waiting
from broker.bus.letters import letter_of
from broker.bus.results import announce_results
from broker.core.records import DeadLetter, Settled, Verdict
from broker.core.settle import Prices, decide, needs_look, unstorable
from broker.leases import Leases
from broker.ledger import PgLedger
from broker.metrics import Metrics
from broker.patience import bisected, patiently
from broker.ports import Clock
from schemas import subjects
from schemas.catalog import Revision
from schemas.codec import Bundle
from schemas.jetstream import delivered
from schemas.outcome import Report
from schemas.units import Ms

log = logging.getLogger(__name__)
ROOM = 512
"""Messages, of many reports each when there is much to do."""
GROUP_BYTES = 2 * 1024 * 1024
LINGER_S = 0.02
"""Interactive outcomes have been answered before they come here, so their record waits for more of them: a transaction
for each would take the time of the requests that come next."""
_reports = Bundle(Report)


class _Kind(msgspec.Struct, frozen=True):
    """Of a report, whether it is of an interactive attempt."""

    live: msgspec.Raw | None = None


_kinds = Bundle(_Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    nc: Client
    ledger: PgLedger
    revision: Callable[[], Revision]
    alive: Callable[[], Collection[str]]
    """The deployments that can take a job now."""
    clock: Clock
    leases: Leases
    unit: Callable[[], float]
    """Uniform in [0, 1), for the jitter of retries."""
    metrics: Metrics

    async def serve(self) -> None:
        """For ever."""
        consumer = subjects.SETTLE_CONSUMER
        groups = Groups(self.nc, stream=subjects.OUTCOME, consumer=consumer, room=ROOM, group_bytes=GROUP_BYTES)
        async with groups.open():
            while True:
                messages = await groups.next()
                if _are_answered(messages):
                    await asyncio.sleep(LINGER_S)
                    messages = [*messages, *await groups.came()]
                await self.settle(messages)

    async def settle(self, messages: Sequence[Msg]) -> None:
        """Record what a group of executions came to, announce it, then let the messages go. Safe to repeat."""
        reports, letters = _sorted_out(messages)
        if reports:
            verdicts = await self._verdicts(reports)
            settled, culprits = await bisected(verdicts, self._record)
            for verdict, why in culprits:
                log.error("outcome cannot be stored job=%s attempt=%d error=%s", verdict.job, verdict.attempt, why)
                settled.append(await patiently(partial(self._record, [unstorable(verdict)])))
            for part in settled:
                await self._announce(part)
            await announce_settled(self.nc, [(report.job, report.attempt) for report in reports])
            self.leases.settled(reports)
        if letters:
            await patiently(lambda: self.ledger.bury(letters))
            self.metrics.dead_letters.inc(len(letters))
        await ack_all(self.nc, messages)
        self.metrics.reported(reports, lag_ms=Ms(self.clock() - delivered(messages[0].reply).at_ms))

    async def _verdicts(self, reports: Sequence[Report]) -> list[Verdict]:
        look = {report.job for report in reports if needs_look(report)}
        jobs = await patiently(lambda: self.ledger.open_jobs(look)) if look else {}
        revision = self.revision()
        prices = Prices(catalog=revision.catalog, source=f"catalog:{revision.number}")
        return decide(reports, jobs, prices=prices, alive=self.alive(), now=self.clock(), unit=self.unit())

    async def _record(self, verdicts: Sequence[Verdict]) -> Settled:
        return await self.ledger.settle(verdicts, now=self.clock())

    async def _announce(self, settled: Settled) -> None:
        self.metrics.settled(settled)
        await announce_results(self.nc, settled.final)
        await announce_waiting(self.nc, [(one.flow, one.place) for one in settled.requeued])


def _are_answered(messages: Sequence[Msg]) -> bool:
    """Whether they are of interactive attempts only."""
    return all(kind.live is not None for message in messages for kind in _kinds.unpack(message.data)[0])


def _sorted_out(messages: Sequence[Msg]) -> tuple[list[Report], list[DeadLetter]]:
    reports: list[Report] = []
    letters: list[DeadLetter] = []
    for message in messages:
        read, why = _reports.unpack(message.data)
        reports += read
        if why is not None:
            letters.append(letter_of(message, stream=subjects.OUTCOME, why=why))
    return reports, letters
