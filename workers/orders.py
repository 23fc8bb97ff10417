"""Takes the orders of brokers to the workers of a deployment: to end what it runs, and for whom to keep slots free.

NATS checks no reply subject, so whoever may ask the server something can have its answer delivered here: an acknowledgement,
the status of a pull, a stored message. An order is therefore only what says its kind in a header, and has its type.
"""

import logging
from collections.abc import Callable

import msgspec

from schemas import subjects
from schemas.codec import ABORT, CANCEL, KIND, UNREADABLE, WANTED
from schemas.jetstream import Message, NatsConnection, Subscription
from schemas.worker import AbortNotice, CancelNotice, WantedNotice

log = logging.getLogger(__name__)
_cancels: msgspec.msgpack.Decoder[CancelNotice] = msgspec.msgpack.Decoder(CancelNotice)
_wanted: msgspec.msgpack.Decoder[WantedNotice] = msgspec.msgpack.Decoder(WantedNotice)
_abort: msgspec.msgpack.Decoder[AbortNotice] = msgspec.msgpack.Decoder(AbortNotice)


class Orders:
    """Listens to the orders for one deployment, and to no other's."""

    def __init__(
        self,
        nc: NatsConnection,
        deployment: str,
        *,
        cancel: Callable[[CancelNotice], None],
        abort: Callable[[AbortNotice], None],
        wanted: Callable[[WantedNotice], None],
    ) -> None:
        self._nc = nc
        self._deployment = deployment
        self._cancel = cancel
        self._abort = abort
        self._wanted = wanted
        self._subscriptions: list[Subscription] = []

    async def open(self) -> None:
        cancels, aborts = subjects.cancel_order(self._deployment), subjects.abort_order(self._deployment)
        self._subscriptions = [
            await self._nc.subscribe(cancels, cb=self._heard_cancels),
            await self._nc.subscribe(aborts, cb=self._heard_abort),
            await self._nc.subscribe(subjects.wanted_order(self._deployment), cb=self._heard_wanted),
        ]

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    async def _heard_cancels(self, message: Message) -> None:
        if _is(message, CANCEL):
            try:
                attempts = _cancels.decode(message.data)
            except UNREADABLE as error:
                log.warning("undecodable cancels bytes=%d error=%s", len(message.data), error)
            else:
                self._cancel(attempts)

    async def _heard_abort(self, message: Message) -> None:
        if _is(message, ABORT):
            try:
                reply_to = _abort.decode(message.data)
            except UNREADABLE as error:
                log.warning("undecodable abort bytes=%d error=%s", len(message.data), error)
            else:
                self._abort(reply_to)

    async def _heard_wanted(self, message: Message) -> None:
        if _is(message, WANTED):
            try:
                wanted = _wanted.decode(message.data)
            except UNREADABLE as error:
                log.warning("undecodable wanted bytes=%d error=%s", len(message.data), error)
            else:
                self._wanted(wanted)


def _is(message: Message, kind: str) -> bool:
    """Say whether a message is an order of this kind, and log that it is none."""
    if (message.headers or {}).get(KIND) == kind:
        return True
    log.warning("ignored: no order subject=%s bytes=%d", message.subject, len(message.data))
    return False
