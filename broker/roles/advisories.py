"""Counts, logs and keeps what JetStream gives up on, so that nothing is given up on in silence."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from broker.bus.dead_letters import dead_letter_of, one_per_message
from broker.bus.desired import ADVISED
from broker.bus.groups import Groups, ack_all
from broker.core.records import DeadLetter
from broker.metrics import BrokerMetrics
from broker.ports import DeadLetterLedger
from broker.retrying import until_available
from schemas import subjects
from schemas.codec import UNREADABLE
from schemas.dead import DeadCause
from schemas.jetstream import Message, NatsConnection, NatsError
from schemas.jetstream.lookup import Stored, stored_at

log = logging.getLogger(__name__)
_ROOM = 1000
_GROUP_BYTES = 1024 * 1024
_STREAMS = frozenset({subjects.SUBMIT, subjects.RUN, subjects.NOW, subjects.OUTCOME})
_PREFIX = "$JS.EVENT.ADVISORY.CONSUMER."
_CAUSES = {"MAX_DELIVERIES": DeadCause.MAX_DELIVERIES, "MSG_TERMINATED": DeadCause.TERMINATED}


DELETED = "Unacknowledged message was deleted"
"""Why a server terminates a message that is in the stream no more. After another node came to lead a consumer, it says so of
messages that were acked and deleted just before (nats-server #7984)."""


class _Advisory(msgspec.Struct, frozen=True):
    """What an advisory says. Anybody who may publish can have written it."""

    stream: str
    consumer: str
    stream_seq: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    deliveries: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisories:
    """Makes dead letters of the messages of infermq's streams. Those of other streams are counted only.

    So are those that were deleted: nothing is left of them to keep, and nearly all were acked.
    """

    nc: NatsConnection
    ledger: DeadLetterLedger
    metrics: BrokerMetrics

    async def serve(self) -> None:
        """Run until cancelled."""
        groups = Groups(self.nc, stream=subjects.ADVISORY, consumer=ADVISED, room=_ROOM, group_bytes=_GROUP_BYTES)
        async with groups.open():
            while True:
                await self.take(await groups.next())

    async def take(self, messages: Sequence[Message]) -> None:
        """Record a group of advisories, then ack them. Safe to repeat."""
        dead_letters = []
        for message in messages:
            kind, _, where = message.subject.removeprefix(_PREFIX).partition(".")
            self.metrics.advisories.labels(kind.lower()).inc()
            log.warning("advisory kind=%s consumer=%s", kind.lower(), where)
            advisory = _read(message)
            if (
                kind in _CAUSES
                and advisory is not None
                and advisory.stream in _STREAMS
                and advisory.reason != DELETED
            ):
                dead_letters.append(await self._dead_letter(message, _CAUSES[kind], advisory))
        if dead_letters:
            await until_available(lambda: self.ledger.record(one_per_message(dead_letters)))
            self.metrics.dead_letters.inc(len(dead_letters))
        await ack_all(self.nc, messages)

    async def _dead_letter(self, message: Message, cause: DeadCause, advisory: _Advisory) -> DeadLetter:
        """Make one of the message that the advisory speaks of, if it is still there; else of the advisory itself."""
        said = f": {advisory.reason}" if advisory.reason else ""
        why = f"given up by the consumer {advisory.consumer} after {advisory.deliveries} deliveries{said}"
        stored = await self._stored(advisory)
        if stored is None:
            return _of(message, cause, advisory, why=f"{why}; the message itself is gone")
        return _of(message, cause, advisory, why=why, stored=stored)

    async def _stored(self, advisory: _Advisory) -> Stored | None:
        try:
            return await stored_at(self.nc, advisory.stream, advisory.stream_seq)
        except (NatsError, TimeoutError):
            return None


def _of(
    message: Message, cause: DeadCause, advisory: _Advisory, *, why: str, stored: Stored | None = None
) -> DeadLetter:
    letter = dead_letter_of(message, stream=advisory.stream, cause=cause, why=why)
    letter = msgspec.structs.replace(letter, sequence=advisory.stream_seq)
    if stored is None:
        return letter
    return msgspec.structs.replace(
        letter, subject=stored.subject, payload=stored.payload, headers=dict(stored.headers)
    )


def _read(message: Message) -> _Advisory | None:
    try:
        return msgspec.json.decode(message.data, type=_Advisory)
    except UNREADABLE:
        return None
