"""Knows the revision of the catalog that is in force, and the copy of it that NATS holds, which workers follow.

The ledger keeps all revisions and says which is the newest. What comes over NATS is only a hint to look there
(`broker.roles.catalog_refresh`), and holds by itself only while the ledger cannot be read.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from broker.core.revisions import NONE
from broker.errors import Unavailable
from schemas import subjects
from schemas.catalog import Revision
from schemas.codec import UNREADABLE, jsoned
from schemas.jetstream import (
    ApiRefused,
    Kind,
    Message,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    last_stored,
    publish_one,
)

log = logging.getLogger(__name__)
_STREAM = f"KV_{subjects.CATALOG_BUCKET}"
_ACTIVE = f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}"
_revision = msgspec.json.Decoder(Revision)


class Catalogs:
    """The revision in force here, and what the bucket holds."""

    def __init__(self, nc: NatsConnection, *, ignored: Callable[[], object] = lambda: None) -> None:
        """`ignored` is called for each message that is no revision."""
        self._nc = nc
        self._ignored = ignored
        self.active = NONE
        self.changed = asyncio.Event()
        """Set when another revision is in force."""
        self.heard = asyncio.Event()
        """Set when the bucket was written to."""
        self.note: str | None = None
        """What is unusual about the revision in force, for people to read."""

    async def listen(self) -> None:
        """Notice when the bucket is written to."""
        await self._nc.subscribe(_ACTIVE, cb=self._on_message)

    async def copy(self) -> tuple[Revision | None, int]:
        """Read the bucket: the revision, if it holds one that can be read, and the sequence. Raises: NatsError."""
        try:
            sequence, data = await last_stored(self._nc, _STREAM, _ACTIVE)
        except ApiRefused as error:
            if error.kind is not Kind.MISSING:
                raise
            return None, 0
        return self._read(data), sequence

    def use(self, revision: Revision) -> None:
        """Have this revision in force here."""
        if revision != self.active:
            self.active = revision
            self.changed.set()

    async def publish(self, revision: Revision, *, instead_of: int | None = None) -> None:
        """Write this revision into the bucket; with `instead_of`, only if that is still the bucket's sequence.

        Raises: Unavailable.
        """
        try:
            await publish_one(self._nc, Outgoing(_ACTIVE, jsoned(revision)), last_sequence=instead_of)
        except (NatsError, NotStored) as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error

    async def _on_message(self, message: Message) -> None:
        self._read(message.data)
        self.heard.set()

    def _read(self, data: bytes) -> Revision | None:
        try:
            return _revision.decode(data)
        except UNREADABLE as error:
            log.warning("ignored subject=%s bytes=%d error=%s", _ACTIVE, len(data), error)
            self._ignored()
            return None
