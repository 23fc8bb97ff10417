"""Takes the jobs that producers submitted into the ledger.

A group of messages at a time: decode → admit (pure) → ledger commit → announce → ack. Every step is safe to repeat: a
job that is known already stays as it is.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from msgspec.structs import replace

from broker.bus.dead_letters import dead_letter_of, one_per_message
from broker.bus.groups import Groups, ack_all
from broker.bus.notices import announce_waiting
from broker.bus.results import announce_results
from broker.core.admit import AdmissionContext, admit, under_another_id, unreadable, unstorable
from broker.core.principal import Identify, Principal, known_or_bare
from broker.core.records import BatchInfo, DeadLetter, Entry, Settled
from broker.metrics import BrokerMetrics
from broker.ports import DeadLetterLedger, IntakeLedger
from broker.retrying import bisected, until_available
from schemas import subjects
from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.codec import TRACEPARENT, JobNames, Undecodable, decode_jobs, unreadable_jobs
from schemas.dead import DeadCause
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
    unreadable: Mapping[int | None, tuple[JobNames, str]]
    """Those that cannot be decoded: what can be read of each, and the reason."""

    def new_id(self, place: int | None) -> UUID:
        """Make an id for the job at this place, the same one whenever the message is delivered."""
        return derived_id(subjects.SUBMIT, self.at.sequence, self.at.at_ms, place)

    def own_id(self, entry: Entry) -> UUID:
        """Make another id for a job of this message, the same one whenever the message is delivered."""
        return derived_id(f"{subjects.SUBMIT}:{entry.id}:{entry.body_hash.hex()}", self.at.sequence, self.at.at_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """The intake of one lane."""

    nc: NatsConnection
    ledger: IntakeLedger
    dead_letters: DeadLetterLedger
    identify: Identify
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
        named |= {names.batch for one in submitted for names, _ in one.unreadable.values() if names.batch is not None}
        batches = await until_available(lambda: self.ledger.batches_of(named)) if named else {}
        callers = [await until_available(partial(self._caller, one)) for one in submitted]
        catalog = self.catalog()
        dead_letters += await self._record(
            [
                (entry, one)
                for one, caller in zip(submitted, callers, strict=True)
                for entry in self._entries(one, caller, catalog, batches)
            ]
        )
        if dead_letters:
            await until_available(lambda: self.dead_letters.record(one_per_message(dead_letters)))
            self.metrics.dead_letters.inc(len(dead_letters))
        await ack_all(self.nc, messages)

    async def _caller(self, one: Submitted) -> Principal | Problem:
        """Say who submitted a message, as it was when the stream took it: what was accepted then stays so."""
        return await self.identify(one.source.tenant, one.source.key, one.at.at_ms)

    def _entries(
        self, one: Submitted, caller: Principal | Problem, catalog: Catalog, batches: Mapping[UUID, BatchInfo]
    ) -> list[Entry]:
        context = AdmissionContext(
            principal=known_or_bare(caller, one.source.tenant, one.source.key),
            denied=caller if isinstance(caller, Problem) else None,
            lane=one.source.lane,
            model=one.source.model,
            catalog=catalog,
            now=one.at.at_ms,
            new_id=one.new_id,
            batches=batches,
            traceparent=(one.message.headers or {}).get(TRACEPARENT),
        )
        entries = [admit(job, context, place=place) for place, job in one.jobs.items()]
        if one.unreadable:
            entries += [unreadable(*why, context, place=place) for place, why in one.unreadable.items()]
        return entries

    async def _record(self, submitted: Sequence[tuple[Entry, Submitted]]) -> list[DeadLetter]:
        """Commit entries and announce them. Returns the dead letters of those that the ledger cannot take.

        Such a job is recorded as failed without what cannot be stored, and one whose id is another's under another id: its
        producer sees it fail. If the producer chose none, the job only gets another: nobody can take ids before that others
        are given.
        """
        if not submitted:
            return []
        entries = [entry for entry, _ in submitted]
        conflicts, culprits = await self._admit(entries)
        if not conflicts and not culprits:
            return []
        sources = {id(entry): one for entry, one in submitted}
        again = [_under_another_id(entry, sources[id(entry)]) for entry in conflicts]
        again += [unstorable(entry, sources[id(entry)].own_id(entry), why) for entry, why in culprits]
        await self._admit(again)
        return [_dead_letter(sources[id(entry)].message, DeadCause.UNSTORABLE, why) for entry, why in culprits]

    async def _admit(self, entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, str]]]:
        """Commit entries and announce them. Returns those whose id is another's, and those that cannot be stored."""
        admitted, culprits = await bisected(entries, self.ledger.admit)
        codes = {entry.id: entry.refused.code for entry in entries if entry.refused is not None}
        for part in admitted:
            refused = Counter([codes.get(one.job, "duplicate_key") for one in part.refused])
            self.metrics.admitted(self.lane, waiting=len(part.waiting), refused=refused)
            await announce_waiting(self.nc, part.waiting)
            self.metrics.settled(Settled(part.cancelled, ()))
            await announce_results(self.nc, (*part.refused, *part.cancelled))
        return [entry for part in admitted for entry in part.conflicts], [(one, str(why)) for one, why in culprits]


def _under_another_id(entry: Entry, one: Submitted) -> Entry:
    own = one.own_id(entry)
    was_chosen = any(job.id == entry.id for job in one.jobs.values())
    return under_another_id(entry, own) if was_chosen else replace(entry, id=own)


def _decode(messages: Sequence[Message]) -> tuple[list[Submitted], list[DeadLetter]]:
    """Decode messages. One that cannot be read, or in part only, is among both, unless nobody can tell whose it is."""
    submitted: list[Submitted] = []
    dead_letters: list[DeadLetter] = []
    for message in messages:
        jobs: Mapping[int | None, Job] = {}
        try:
            source = subjects.parse_submit(message.subject)
            jobs, why = decode_jobs(message.data, message.headers)
        except Undecodable as error:
            why = str(error)
        except ValueError as error:
            dead_letters.append(_dead_letter(message, DeadCause.NOT_A_JOB, str(error)))
            continue
        broken: Mapping[int | None, tuple[JobNames, str]] = {}
        if why is not None:
            dead_letters.append(_dead_letter(message, DeadCause.NOT_A_JOB, why))
            broken = unreadable_jobs(message.data, message.headers)
        submitted.append(Submitted(message, source, delivered(message.reply), jobs, broken))
    return submitted, dead_letters


def _dead_letter(message: Message, cause: DeadCause, why: str) -> DeadLetter:
    return dead_letter_of(message, stream=subjects.SUBMIT, cause=cause, why=why)
