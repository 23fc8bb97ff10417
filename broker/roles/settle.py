"""Settles jobs: records what workers report and brokers rule.

A group of outcomes at a time: one transaction (executions, cost, states, results, batch counts) → announce → ack, last.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.bus.dead_letters import dead_letter_of, one_per_message
from broker.bus.groups import Groups, ack_all
from broker.bus.notices import announce_delayed, announce_settled, announce_waiting
from broker.bus.outcomes import Outcomes, decode_outcomes
from broker.bus.results import announce_results
from broker.core.lost import lost_executions
from broker.core.price import Prices
from broker.core.records import DeadLetter, Executed, Settled, Verdict
from broker.core.settle import decide, needs_job, unrecordable
from broker.errors import BadData, Conflict, DayNotKept
from broker.metrics import BrokerMetrics
from broker.ports import AttemptLedger, Clock, DeadLetterLedger, SettlementLedger, SpendLedger
from broker.retrying import bisected, until_available
from broker.roles.failure_log import FailureLog
from broker.roles.late_acks import LateAcks
from schemas import subjects
from schemas.catalog import Revision
from schemas.dead import DeadCause
from schemas.jetstream import Message, NatsConnection, delivered
from schemas.outcome import Report
from schemas.ruling import Lost, Ruling
from schemas.units import Ms

log = logging.getLogger(__name__)
ROOM = 512
"""How many messages may be held here or on their way. Under load each of them has many reports."""
GROUP_BYTES = 2 * 1024 * 1024
LINGER_S = 0.05
"""How long to wait for more outcomes when all are interactive. Their requests are answered already, and a transaction for
each would take time from the next requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Settles the outcomes of all deployments. Several brokers may do so at once."""

    nc: NatsConnection
    ledger: SettlementLedger
    dead_letters: DeadLetterLedger
    attempts: AttemptLedger
    spend: SpendLedger
    revision: Callable[[], Revision]
    alive: Callable[[], Collection[str]]
    """The deployments that can take a job now."""
    clock: Clock
    late_acks: LateAcks
    seal_key: Callable[[], bytes]
    """What brokers seal with. Nothing else is believed."""
    unit: Callable[[], float]
    """Uniform in [0, 1), for the jitter of retries."""
    metrics: BrokerMetrics
    failures: FailureLog

    async def serve(self) -> None:
        """Settle outcomes until cancelled."""
        consumer = subjects.SETTLE_CONSUMER
        groups = Groups(self.nc, stream=subjects.OUTCOME, consumer=consumer, room=ROOM, group_bytes=GROUP_BYTES)
        async with groups.open():
            while True:
                outcomes = decode_outcomes(await groups.next(), seal_key=self.seal_key())
                if all(item.interactive is not None for item in outcomes.all):
                    await asyncio.sleep(LINGER_S)
                    outcomes += decode_outcomes(await groups.take_gathered(), seal_key=self.seal_key())
                await self.settle(outcomes)

    async def settle(self, outcomes: Outcomes) -> None:
        """Record a group of outcomes, announce what was recorded, then ack its messages. Safe to repeat."""
        dead_letters = [*outcomes.dead_letters]
        if items := outcomes.all:
            verdicts = await self._verdicts(items, outcomes.received)
            settled, culprits = await bisected(verdicts, self._record)
            if culprits:
                sources = {id(verdict): message for verdict, message in zip(verdicts, outcomes.sources, strict=True)}
                dead_letters += await self._quarantine(culprits, sources, settled)
            for part in settled:
                await self._announce(part)
            await announce_settled(self.nc, [one for part in settled for one in part.ended_attempts])
            self.late_acks.settled(outcomes.reports)
            lanes = {one.job.int: one.lane for part in settled for one in part.final}
            self.metrics.reported(outcomes.reports, verdicts, lanes)
            for deployment, kind, count in self.failures.failed(verdicts):
                log.warning("attempts failed deployment=%s kind=%s count=%d", deployment, kind, count)
        if dead_letters:
            await until_available(lambda: self.dead_letters.record(one_per_message(dead_letters)))
            self.metrics.dead_letters.inc(len(dead_letters))
            self.metrics.false_seals.inc(outcomes.false_seals)
        await ack_all(self.nc, outcomes.messages)
        self.metrics.decided(len(items), lag_ms=Ms(self.clock() - delivered(outcomes.messages[0].reply).at_ms))

    async def _verdicts(self, items: Sequence[Report | Ruling], received: Sequence[Ms]) -> list[Verdict]:
        look = {item.job for item in items if needs_job(item)}
        jobs = await until_available(lambda: self.ledger.open_jobs(look)) if look else {}
        revision = self.revision()
        prices = Prices(catalog=revision.catalog, source=f"catalog:{revision.number}")
        alive = self.alive() if jobs else ()  # asked only of jobs that may go on
        lost = [item for item in items if isinstance(item, Lost)]
        return decide(
            items,
            jobs,
            prices=prices,
            lost=await self._lost(lost, prices) if lost else {},
            alive=alive,
            received=received,
            now=self.clock(),
            unit=self.unit(),
        )

    async def _lost(self, lost: Sequence[Lost], prices: Prices) -> Mapping[UUID, Executed]:
        """Estimate what was lost."""
        requests = await until_available(lambda: self.attempts.requests_of({one.job for one in lost}))
        spend = await until_available(lambda: self.spend.read(self.clock()))
        return lost_executions(lost, requests=requests, recorded=spend.week, prices=prices)

    def _record(self, verdicts: Sequence[Verdict]) -> Awaitable[Settled]:
        return self.ledger.settle(verdicts, now=self.clock())

    async def _quarantine(
        self,
        culprits: Sequence[tuple[Verdict, BadData | Conflict]],
        sources: Mapping[int, Message],
        settled: list[Settled],
    ) -> list[DeadLetter]:
        """Keep the messages of outcomes that cannot be recorded, and end their jobs as failed, which adds to `settled`.

        Outcomes of days that are not kept are counted and dropped.
        """
        dead_letters = []
        for verdict, why in culprits:
            log.error("outcome cannot be stored job=%s attempt=%s error=%s", verdict.job, verdict.attempt, why)
            if isinstance(why, DayNotKept):
                self.metrics.outcomes_dropped.inc()
                continue
            reason = f"the outcome of job {verdict.job} cannot be recorded: {why}"
            dead_letters.append(_unrecordable(sources[id(verdict)], reason))
            settled += (await bisected([unrecordable(verdict)], self._record))[0]
        return dead_letters

    async def _announce(self, settled: Settled) -> None:
        self.metrics.settled(settled)
        await announce_results(self.nc, settled.final)
        await announce_waiting(self.nc, [(one.flow, one.place) for one in settled.requeued if one.due_ms is None])
        await announce_delayed(self.nc, [one.due_ms for one in settled.requeued if one.due_ms is not None])


def _unrecordable(message: Message, why: str) -> DeadLetter:
    return dead_letter_of(message, stream=subjects.OUTCOME, cause=DeadCause.UNRECORDABLE, why=why)
