"""Shares between brokers which interactive requests are suspected, in a bucket whose entries end by themselves."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from broker.bus.stored import stored_messages
from broker.core.request_suspects import RequestSuspects
from broker.errors import Unavailable
from schemas import subjects
from schemas.codec import UNREADABLE, jsoned
from schemas.jetstream import Message, NatsConnection, NatsError
from schemas.units import DeathCount, Ms

log = logging.getLogger(__name__)


class SuspectedRequest(msgspec.Struct, frozen=True):
    """An entry of the bucket, under the key of the request."""

    deaths_alone: DeathCount


_entry = msgspec.json.Decoder(SuspectedRequest)


class SuspectBucket:
    """Hears what brokers found out, and tells them. What is lost is found out again, by another death."""

    def __init__(self, nc: NatsConnection, suspects: RequestSuspects, *, clock: Callable[[], Ms]) -> None:
        self._nc = nc
        self._suspects = suspects
        self._clock = clock

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Know what brokers know already, and hear of more while the block runs."""
        subscription = await self._nc.subscribe(subjects.suspected_request("*"), cb=self._on_entry)
        try:
            try:
                async for message in stored_messages(self._nc, f"KV_{subjects.SUSPECTS_BUCKET}"):
                    self._note((message.headers or {}).get("Nats-Subject", ""), message.data)
            except Unavailable as error:
                log.warning("suspected requests not read error=%s", error)
            yield
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def tell(self, key: str, deaths_alone: int | None) -> None:
        """Tell all brokers that a request is suspected; None: that it is not."""
        try:
            if deaths_alone is None:
                await self._nc.publish(subjects.suspected_request(key), b"", headers={"KV-Operation": "DEL"})
            else:
                await self._nc.publish(subjects.suspected_request(key), jsoned(SuspectedRequest(deaths_alone)))
        except NatsError as error:
            log.warning("not told of a suspected request error=%s", str(error) or type(error).__name__)

    async def _on_entry(self, message: Message) -> None:
        self._note(message.subject, message.data)

    def _note(self, subject: str, data: bytes) -> None:
        key = subject.rpartition(".")[2]
        if not data:
            self._suspects.cleared(key)
            return
        try:
            entry = _entry.decode(data)
        except UNREADABLE as error:
            log.warning("suspected request ignored error=%s", error)
            return
        self._suspects.suspected(key, entry.deaths_alone, self._clock())
