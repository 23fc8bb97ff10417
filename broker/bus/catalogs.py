"""Knows the active revision of the catalog, from its bucket.

The ledger keeps all revisions. A broker reads the active one there again every few seconds, in case it missed a change.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from broker.errors import Unavailable
from schemas import subjects
from schemas.catalog import Catalog, Revision
from schemas.codec import UNREADABLE, jsoned
from schemas.jetstream import (
    Message,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    last_message,
    publish_one,
)
from schemas.units import Ms

log = logging.getLogger(__name__)
_STREAM = f"KV_{subjects.CATALOG_BUCKET}"
_ACTIVE = f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}"
_revision = msgspec.json.Decoder(Revision)
NONE = Revision(number=0, applied_ms=Ms(0), catalog=Catalog())
"""The revision before any catalog is applied: it has no model."""


class Catalogs:
    """The newest revision that this broker has seen."""

    def __init__(self, nc: NatsConnection, *, ignored: Callable[[], object] = lambda: None) -> None:
        """`ignored` is called for each message that is no revision. The one before it stays in force."""
        self._nc = nc
        self._ignored = ignored
        self.active = NONE
        self.changed = asyncio.Event()

    async def listen(self) -> None:
        """Follow the bucket, beginning with what it holds."""
        await self._nc.subscribe(_ACTIVE, cb=self._on_revision)
        with contextlib.suppress(NatsError):  # nothing was announced yet, or the role that refreshes finds it
            self._read(await last_message(self._nc, _STREAM, _ACTIVE))

    async def publish(self, revision: Revision) -> None:
        """Make this the revision that brokers and workers use, unless they use a newer one. Raises: Unavailable."""
        self._take(revision)
        if self.active is not revision:
            return
        try:
            await publish_one(self._nc, Outgoing(_ACTIVE, jsoned(revision)))
        except (NatsError, NotStored) as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error

    async def _on_revision(self, message: Message) -> None:
        self._read(message.data)

    def _read(self, data: bytes) -> None:
        try:
            self._take(_revision.decode(data))
        except UNREADABLE as error:
            log.warning("ignored subject=%s bytes=%d error=%s", _ACTIVE, len(data), error)
            self._ignored()

    def _take(self, revision: Revision) -> None:
        if revision.number > self.active.number:
            self.active = revision
            self.changed.set()
