"""Notices that brokers send over core NATS: to the dispatch leader, and to workers.

waiting    jobs of a flow wait: the first place at which one does
delayed    jobs wait for a later time: when the first of them is due
settled    these attempts are over
cancels    to the workers of a deployment: end these attempts
abort      to the workers of a deployment: end this interactive attempt
wanted     to the workers of a deployment: so many requests of this relay wait for a slot

The leader is not alone in this: every broker hears that an instruction was given.

A notice may be lost. The leader therefore reads the same from the ledger every few seconds, and names cancels again.
"""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from broker.core.records import EndedAttempt, Flow, Marked, Place
from schemas import subjects
from schemas.codec import ABORT, CANCEL, KIND, UNREADABLE, WANTED, packed
from schemas.jetstream import Message, NatsConnection, NatsError
from schemas.job import MOST_PRIORITY, Lane
from schemas.units import MOST_ATTEMPTS, Instant, Ms, Name, Tokens
from schemas.worker import MOST_CANCELS

log = logging.getLogger(__name__)
T = TypeVar("T")
_MOST_ENTRIES = 2000
"""The most entries in one message."""
_Waiting = list[tuple[Name, Lane, Name, Annotated[int, Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)], Instant, UUID]]
_Attempts = list[tuple[UUID, Annotated[int, Meta(ge=0, le=MOST_ATTEMPTS)], Tokens]]
"""The number is 0 of a job that ended before any attempt."""
_Settled = list[tuple[Name, Lane, Name, Annotated[_Attempts, Meta(max_length=_MOST_ENTRIES)]]]
_waiting: msgspec.msgpack.Decoder[_Waiting] = msgspec.msgpack.Decoder(
    Annotated[_Waiting, Meta(max_length=_MOST_ENTRIES)]
)
_delayed: msgspec.msgpack.Decoder[Ms] = msgspec.msgpack.Decoder(Instant)
_settled: msgspec.msgpack.Decoder[_Settled] = msgspec.msgpack.Decoder(
    Annotated[_Settled, Meta(max_length=_MOST_ENTRIES)]
)


def listener(
    decode: Callable[[bytes], T], take: Callable[[T], None], *, ignored: Callable[[], object]
) -> Callable[[Message], Awaitable[None]]:
    """Make the callback of a subscription, which decodes a message and hands it to `take`. Calls `ignored` if it cannot."""

    async def hear(message: Message) -> None:
        try:
            said = decode(message.data)
        except UNREADABLE as error:
            log.warning("ignored subject=%s bytes=%d error=%s", message.subject, len(message.data), error)
            ignored()
        else:
            take(said)

    return hear


async def announce_waiting(nc: NatsConnection, places: Iterable[tuple[Flow, Place]]) -> None:
    """Send the first place of each flow: the leader reads everything behind it."""
    lowest: dict[Flow, Place] = {}
    for flow, place in places:
        if flow not in lowest or place < lowest[flow]:
            lowest[flow] = place
    entries = [
        (flow.model, flow.lane, flow.tenant, place.rank, place.deadline_ms, place.job)
        for flow, place in lowest.items()
    ]
    for start in range(0, len(entries), _MOST_ENTRIES):
        await _publish(nc, subjects.CTL_WAITING, packed(entries[start : start + _MOST_ENTRIES]))


async def announce_delayed(nc: NatsConnection, due_ms: Sequence[Ms]) -> None:
    """Send the earliest of these times, at which jobs are due."""
    if due_ms:
        await _publish(nc, subjects.CTL_DELAYED, packed(min(due_ms)))


async def announce_settled(nc: NatsConnection, attempts: Sequence[EndedAttempt]) -> None:
    """Send attempts grouped by flow, so that a message names each flow once."""
    for start in range(0, len(attempts), _MOST_ENTRIES):
        by_flow: dict[Flow, list[tuple[UUID, int, int]]] = defaultdict(list)
        for one in attempts[start : start + _MOST_ENTRIES]:
            by_flow[one.flow].append((one.job, one.attempt, one.tokens))
        entries = [(flow.model, flow.lane, flow.tenant, theirs) for flow, theirs in by_flow.items()]
        await _publish(nc, subjects.CTL_SETTLED, packed(entries))


async def announce_instruction(nc: NatsConnection) -> None:
    """Tell every broker that there is an instruction to carry out."""
    await _publish(nc, subjects.CTL_INSTRUCTIONS, b"")


async def announce_cancels(nc: NatsConnection, attempts: Sequence[Marked]) -> None:
    """Tell the workers of each deployment to end its attempts among these."""
    by_deployment: dict[str, list[tuple[UUID, int]]] = defaultdict(list)
    for one in attempts:
        by_deployment[one.deployment].append((one.job, one.attempt))
    for deployment, theirs in by_deployment.items():
        for start in range(0, len(theirs), MOST_CANCELS):
            notice = packed(theirs[start : start + MOST_CANCELS])
            await _publish(nc, subjects.cancel_order(deployment), notice, {KIND: CANCEL})


async def announce_abort(nc: NatsConnection, deployment: str, reply_to: str) -> None:
    """Tell the workers of a deployment to end the interactive attempt that is answered on this subject."""
    await _publish(nc, subjects.abort_order(deployment), packed(reply_to), {KIND: ABORT})


async def announce_wanted(nc: NatsConnection, deployment: str, relay: str, count: int) -> None:
    """Tell the workers of a deployment how many requests wait at a relay for a slot of theirs."""
    await _publish(nc, subjects.wanted_order(deployment), packed((relay, count)), {KIND: WANTED})


async def _publish(nc: NatsConnection, subject: str, notice: bytes, headers: dict[str, str] | None = None) -> None:
    try:
        await nc.publish(subject, notice, headers=headers)
    except NatsError as error:
        log.warning("not announced subject=%s error=%s", subject, error)


def decode_waiting(notice: bytes) -> list[tuple[Flow, Place]]:
    """Raises: UNREADABLE."""
    return [
        (Flow(model, lane, tenant), Place(rank, deadline_ms, job))
        for model, lane, tenant, rank, deadline_ms, job in _waiting.decode(notice)
    ]


def decode_delayed(notice: bytes) -> Ms:
    """Raises: UNREADABLE."""
    return _delayed.decode(notice)


def decode_settled(notice: bytes) -> list[EndedAttempt]:
    """Raises: UNREADABLE."""
    flows = [(Flow(model, lane, tenant), theirs) for model, lane, tenant, theirs in _settled.decode(notice)]
    return [EndedAttempt(job, attempt, flow, tokens) for flow, theirs in flows for job, attempt, tokens in theirs]
