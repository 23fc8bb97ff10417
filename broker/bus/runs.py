"""Publishes attempts into RUN and rulings into OUTCOME, and reads what both streams still hold."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from uuid import UUID

import msgspec

from broker.bus.stored import sequence_of, stored_messages
from broker.core.seals import ruling_seal
from broker.errors import Unavailable
from broker.retrying import until_available
from schemas import subjects
from schemas.codec import SEAL, UNREADABLE, Bundle, bundled, bundles, grouped, packed
from schemas.jetstream import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    Progress,
    ack_subject,
    answer_all,
    last_sequence,
    progress_of,
    publish_atomically,
    publish_in_order,
)
from schemas.job import Attempt
from schemas.ruling import Lost, Ruling

log = logging.getLogger(__name__)


class RunKey(msgspec.Struct, frozen=True):
    """The fields that identify an Attempt. Decoding only them skips the body."""

    job: UUID
    number: int


class OutcomeKey(msgspec.Struct, frozen=True):
    """The fields that identify the attempt of a report, or of a ruling on one attempt."""

    job: UUID
    attempt: int
    type: str = ""
    """The tag of a ruling. A report has none."""


_LOST = Lost.__struct_config__.tag
_run_key = msgspec.msgpack.Decoder(RunKey)
_outcome_keys = Bundle(OutcomeKey)


class Runs:
    """Puts attempts into RUN. Only the leader does, so the stream's sequence tells whether all were stored."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._last: int | None = None
        """The last sequence of the stream, if it is known."""

    async def publish(self, attempts: Sequence[Attempt]) -> bool:
        """Publish attempts in this order. False: some may be missing, so the ledger must be compared with the streams."""
        messages = [Outgoing(subjects.run(attempt.deployment), packed(attempt)) for attempt in attempts]
        return all([await self._in_order(batch) for batch in _batches(messages)])

    async def _in_order(self, messages: Sequence[Outgoing]) -> bool:
        if not self._nc.is_connected:
            return False
        try:
            if self._last is None:
                self._last = await last_sequence(self._nc, subjects.RUN)
            before, self._last = self._last, await publish_in_order(self._nc, messages)
        except (NatsError, NotStored) as error:
            log.warning(
                "attempts may be missing count=%d error=%s", len(messages), str(error) or type(error).__name__
            )
            self._last = None
            return False
        return self._last == before + len(messages)


class Rulings:
    """Puts rulings into OUTCOME, where settle finds them among the workers' reports."""

    def __init__(self, nc: NatsConnection, batch_ids: Callable[[], str], seal_key: Callable[[], bytes]) -> None:
        """`batch_ids` never gives the same twice: an atomic batch that is sent again under its id is stored once."""
        self._nc = nc
        self._batch_ids = batch_ids
        self._seal_key = seal_key

    async def publish(self, rulings: Sequence[Ruling]) -> None:
        """Store them all, sealed. Waits while NATS is away."""
        payloads = [bundled(bundle) for bundle in bundles(packed(one) for one in rulings)]
        key = self._seal_key()
        messages = [Outgoing(subjects.RULING, one, {SEAL: ruling_seal(one, key)}) for one in payloads]
        for batch in _batches(messages):
            await until_available(partial(self._store, batch, self._batch_ids()))

    async def _store(self, batch: Sequence[Outgoing], batch_id: str) -> None:
        try:
            await publish_atomically(self._nc, batch, batch_id=batch_id)
        except (NatsError, NotStored) as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error


def _batches(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    return grouped(messages, lambda message: len(message.payload), most=BATCH_MESSAGES, most_bytes=BATCH_BYTES)


async def attempts_in_run(nc: NatsConnection) -> set[tuple[UUID, int]]:
    """Read which attempts are in RUN: those not leased yet, and those that a worker holds. Raises: Unavailable."""
    held = set()
    async for message in stored_messages(nc, subjects.RUN):
        with contextlib.suppress(*UNREADABLE):  # the worker that gets it terminates it
            key = _run_key.decode(message.data)
            held.add((key.job, key.number))
    return held


class DeliveredRun(msgspec.Struct, frozen=True):
    """A message of RUN that was delivered to a worker and is not acknowledged, unless it was so a moment ago."""

    sequence: int
    job: UUID
    attempt: int


async def delivered_runs(nc: NatsConnection, deployment: str, *, last: int) -> list[DeliveredRun]:
    """Read the messages of a deployment up to the `last` that was delivered. Raises: Unavailable."""
    found = []
    async for message in stored_messages(nc, subjects.RUN, subject=subjects.run(deployment), last=last):
        with contextlib.suppress(*UNREADABLE):  # the worker that gets it terminates it
            key = _run_key.decode(message.data)
            found.append(DeliveredRun(sequence_of(message, subjects.RUN), key.job, key.number))
    return found


async def run_progress(nc: NatsConnection, deployment: str) -> Progress:
    """Ask how much of RUN the workers of a deployment got. Raises: NatsError."""
    return await progress_of(nc, subjects.RUN, subjects.pool_consumer(deployment))


async def answer_runs(
    nc: NatsConnection, deployment: str, sequences: Sequence[int], word: bytes, *, deliveries: int
) -> None:
    """Answer messages of RUN in the place of the worker that got them: ACK or NAK. Raises: NatsError.

    `deliveries` is how many there were by the consumer's progress, asked for just before.
    """
    consumer = subjects.pool_consumer(deployment)
    acks = [ack_subject(subjects.RUN, consumer, sequence=sequence, delivery=deliveries) for sequence in sequences]
    await answer_all(nc, acks, word)


async def attempts_in_outcome(nc: NatsConnection) -> set[tuple[UUID, int]]:
    """Read of which attempts a report or ruling waits to be settled. That one execution was lost settles no attempt.

    Raises: Unavailable.
    """
    return {
        (key.job, key.attempt)
        async for message in stored_messages(nc, subjects.OUTCOME)
        for key in _outcome_keys.unpack(message.data)[0]
        if key.type != _LOST
    }
