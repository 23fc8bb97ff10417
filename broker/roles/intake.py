"""Takes the jobs that producers submitted into the ledger.

A group of messages at a time: decode → admit (pure) → ledger commit → announce → ack. Every step is safe to repeat: a
job that is known already stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from broker.bus.dead_letters import dead_letter_of, one_per_message
from broker.bus.groups import Groups, ack_all
from broker.bus.notices import announce_waiting
from broker.bus.results import announce_results
from broker.core.admit import AdmissionContext, admit
from broker.core.principal import Identify
from broker.core.records import BatchInfo, DeadLetter, Entry
from broker.metrics import BrokerMetrics
from broker.ports import DeadLetterLedger, IntakeLedger
from broker.retrying import bisected, until_available
from schemas import subjects
from schemas.catalog import Catalog
from schemas.codec import TRACEPARENT, Undecodable, decode_jobs
from schemas.ids import derived_id
from schemas.jetstream import Delivered, Message, NatsConnection, delivered
from schemas.job import Job, Lane

ROOM = 2000
"""How many messages of a lane may be held here or on their way: two groups, one gathering while one is committed."""
GROUP_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Submitted:
    """A decoded message."""

    message: Message
    source: subjects.Source
    at: Delivered
    jobs: Mapping[int | None, Job]
    """The jobs by their place in a message of several. A message of one has it at None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """The intake of one lane."""

    nc: NatsConnection
    ledger: IntakeLedger
    dead_letters: DeadLetterLedger
    principal: Identify
    catalog: Callable[[], Catalog]
    metrics: BrokerMetrics
    lane: Lane

    async def serve(self) -> None:
        """Take jobs in until cancelled."""
        consumer = subjects.intake_consumer(self.lane)
        async with Groups(
            self.nc, stream=subjects.SUBMIT, consumer=consumer, room=ROOM, group_bytes=GROUP_BYTES
        ).open() as groups:
            while True:
                await self.take(await groups.next())

    async def take(self, messages: Sequence[Message]) -> None:
        """Record a group of messages, announce what was recorded, then ack the messages."""
        submitted, dead_letters = _decode(messages)
        named = {job.batch for one in submitted for job in one.jobs.values() if job.batch is not None}
        batches = await until_available(lambda: self.ledger.batches_of(named)) if named else {}
        catalog = self.catalog()
        dead_letters += await self._record(
            [(entry, one.message) for one in submitted for entry in self._admitted(one, catalog, batches)]
        )
        if dead_letters:
            await until_available(lambda: self.dead_letters.record(one_per_message(dead_letters)))
            self.metrics.dead_letters.inc(len(dead_letters))
        await ack_all(self.nc, messages)

    def _admitted(self, one: Submitted, catalog: Catalog, batches: Mapping[UUID, BatchInfo]) -> list[Entry]:
        context = AdmissionContext(
            principal=self.principal(one.source.tenant, one.source.key),
            lane=one.source.lane,
            model=one.source.model,
            catalog=catalog,
            now=one.at.at_ms,
            new_id=partial(derived_id, subjects.SUBMIT, one.at.sequence, one.at.at_ms),
            batches=batches,
            traceparent=(one.message.headers or {}).get(TRACEPARENT),
        )
        return [admit(job, context, place=place) for place, job in one.jobs.items()]

    async def _record(self, submitted: Sequence[tuple[Entry, Message]]) -> list[DeadLetter]:
        """Commit entries and announce them. Returns the dead letters of those that the ledger cannot take."""
        if not submitted:
            return []
        entries = [entry for entry, _ in submitted]
        by_id = {entry.id: message for entry, message in submitted}
        admitted, culprits = await bisected(entries, self.ledger.admit)
        for part in admitted:
            self.metrics.admitted(self.lane, waiting=len(part.waiting), refused=len(part.refused))
            await announce_waiting(self.nc, part.waiting)
            await announce_results(self.nc, part.refused)
        dead_letters = [_dead_letter(by_id[entry.id], str(why)) for entry, why in culprits]
        dead_letters += [
            _dead_letter(by_id[job], f"id {job} is another job's already: ids are never used twice")
            for part in admitted
            for job in part.conflicts
        ]
        return dead_letters


def _decode(messages: Sequence[Message]) -> tuple[list[Submitted], list[DeadLetter]]:
    """Decode messages. One that can be read in part only is among both."""
    submitted: list[Submitted] = []
    dead_letters: list[DeadLetter] = []
    for message in messages:
        try:
            jobs, why = decode_jobs(message.data, message.headers)
            source = subjects.parse_submit(message.subject)
        except (Undecodable, ValueError) as error:
            dead_letters.append(_dead_letter(message, str(error)))
            continue
        if why is not None:
            dead_letters.append(_dead_letter(message, why))
        submitted.append(Submitted(message, source, delivered(message.reply), jobs))
    return submitted, dead_letters


def _dead_letter(message: Message, why: str) -> DeadLetter:
    return dead_letter_of(message, stream=subjects.SUBMIT, why=why)
