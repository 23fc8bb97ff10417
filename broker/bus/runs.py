"""Publishes attempts into RUN and rulings into OUTCOME, and reads what both streams still hold."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from uuid import UUID

import msgspec

from broker.errors import Unavailable
from broker.retrying import until_available
from schemas import subjects
from schemas.codec import UNREADABLE, Bundle, bundled, bundles, grouped, packed
from schemas.jetstream import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    Message,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    header_number,
    last_sequence,
    publish_atomically,
    publish_in_order,
)
from schemas.job import Attempt
from schemas.ruling import Ruling

log = logging.getLogger(__name__)
_PAGE = 256
_PAGE_BYTES = 4 * 1024 * 1024
_QUIET_S = 5.0


class RunKey(msgspec.Struct, frozen=True):
    """The fields that identify an Attempt. Decoding only them skips the body."""

    job: UUID
    number: int


class OutcomeKey(msgspec.Struct, frozen=True):
    """The fields that identify the attempt of a report, or of a ruling on one attempt."""

    job: UUID
    attempt: int


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

    def __init__(self, nc: NatsConnection, batch_ids: Callable[[], str]) -> None:
        """`batch_ids` never gives the same twice: an atomic batch that is sent again under its id is stored once."""
        self._nc = nc
        self._batch_ids = batch_ids

    async def publish(self, rulings: Sequence[Ruling]) -> None:
        """Store them all. Waits while NATS is away."""
        messages = [Outgoing(subjects.RULING, bundled(bundle)) for bundle in bundles(packed(one) for one in rulings)]
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
    async for payload in _payloads(nc, subjects.RUN):
        with contextlib.suppress(*UNREADABLE):  # the worker that gets it terminates it
            key = _run_key.decode(payload)
            held.add((key.job, key.number))
    return held


async def attempts_in_outcome(nc: NatsConnection) -> set[tuple[UUID, int]]:
    """Read of which attempts a report or ruling waits to be settled. Raises: Unavailable."""
    return {
        (key.job, key.attempt)
        async for payload in _payloads(nc, subjects.OUTCOME)
        for key in _outcome_keys.unpack(payload)[0]
    }


async def _payloads(nc: NatsConnection, stream: str) -> AsyncIterator[bytes]:
    """Read everything in a stream, by direct get, a page at a time (ADR-31)."""
    sequence = 1
    try:
        while page := await _page(nc, stream, sequence):
            for message in page:
                yield message.data
            last = header_number(page[-1].headers or {}, "Nats-Sequence")
            if last is None or last < sequence:
                raise Unavailable("NATS", f"{stream} could not be read: a message without its sequence")
            sequence = last + 1
    except (NatsError, TimeoutError) as error:
        raise Unavailable("NATS", f"{stream} could not be read: {str(error) or type(error).__name__}") from error


async def _page(nc: NatsConnection, stream: str, sequence: int) -> list[Message]:
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        query = {"seq": sequence, "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        await nc.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(query).encode(), inbox)
        page: list[Message] = []
        async with asyncio.timeout(_QUIET_S):
            while True:
                message = await subscription.next_msg(timeout=_QUIET_S)
                match (message.headers or {}).get("Status"):
                    case None:
                        page.append(message)
                    case "204" | "404":
                        return page
                    case status:
                        raise Unavailable("NATS", f"{stream} could not be read: status {status}")
    finally:
        await subscription.unsubscribe()
