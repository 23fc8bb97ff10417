"""Knows the revision of the catalog that is in force, and the copy of it that NATS holds, which workers follow.

The ledger keeps all revisions and says which is the newest. What comes over NATS is only a hint to look there
(`broker.roles.catalog_refresh`), and holds by itself only while the ledger cannot be read.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

import msgspec

from broker.bus.stored import sequence_of, stored_messages, subject_of
from broker.core.revisions import NONE, for_deployment
from broker.errors import Conflict, Unavailable
from schemas import subjects
from schemas.catalog import Catalog, Revision
from schemas.codec import UNREADABLE, grouped, jsoned
from schemas.jetstream import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    LAST_SEQUENCE,
    ApiRefused,
    Kind,
    Message,
    NatsConnection,
    NatsError,
    NotStored,
    Outgoing,
    ask,
    content_of,
    last_stored,
    publish_atomically,
    publish_one,
)
from schemas.units import Ms

log = logging.getLogger(__name__)
_STREAM = f"KV_{subjects.CATALOG_BUCKET}"
_ACTIVE = subjects.ACTIVE_CATALOG
_DELETED = {"KV-Operation": "DEL"}
_revision = msgspec.json.Decoder(Revision)


class _State(msgspec.Struct, frozen=True):
    subjects: dict[str, int] = {}


class _Subjects(msgspec.Struct, frozen=True):
    state: _State


def _messages(revision: Revision, gone: Collection[str], instead_of: int | None) -> list[Outgoing]:
    """Return what the bucket must hold: an entry for each deployment, the number, and the revision.

    That comes last: who listens hears a message before it is stored, and all are stored with the last.
    """
    expected = {} if instead_of is None else {LAST_SEQUENCE: str(instead_of)}
    entries = [
        Outgoing(subjects.catalog_entry(name), jsoned(for_deployment(revision, name)))
        for name in revision.catalog.deployments
    ]
    return [
        *entries,
        *(Outgoing(subject, b"", _DELETED) for subject in sorted(gone)),
        Outgoing(subjects.CATALOG_NUMBER, jsoned(revision.number)),
        Outgoing(_ACTIVE, jsoned(revision), expected),
    ]


def _size(message: Outgoing) -> int:
    return len(message.payload)


class Catalogs:
    """The revision in force here, and what the bucket holds."""

    def __init__(self, nc: NatsConnection, *, ignored: Callable[[], object] = lambda: None) -> None:
        """`ignored` is called for each message that is no revision."""
        self._nc = nc
        self._ignored = ignored
        self._right: tuple[tuple[int, int], int] | None = None
        """The content of the bucket when all in it was right, and of which revision."""
        self._known = asyncio.Event()
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

    @property
    def is_known(self) -> bool:
        """Whether the ledger or the bucket has said which is in force, be it none."""
        return self._known.is_set()

    async def known(self) -> None:
        """Wait until it is known what is in force. Until then no job is refused for what it asks for."""
        await self._known.wait()

    @property
    def catalog(self) -> Catalog:
        """The catalog in force. Raises: Unavailable, until it is known."""
        if not self.is_known:
            raise Unavailable("Postgres", "the catalog is not known yet")
        return self.active.catalog

    def use(self, revision: Revision) -> None:
        """Have this revision in force here."""
        self._known.set()
        if revision != self.active:
            self.active = revision
            self.changed.set()

    async def publish(self, revision: Revision, *, instead_of: int | None = None) -> None:
        """Write this revision into the bucket, and for the workers of each deployment what it says of theirs.

        With `instead_of`, only if that is still the sequence of the revision in the bucket. All of it is written at once, or
        nothing; what does not fit into one batch, a batch after the other. Raises: Conflict, if it is not; Unavailable.
        """
        try:
            gone = await self._entries() - {subjects.catalog_entry(name) for name in revision.catalog.deployments}
            messages = _messages(revision, gone, instead_of)
            for batch in grouped(messages, _size, most=BATCH_MESSAGES, most_bytes=BATCH_BYTES):
                batch_id = f"{revision.number}-{self._nc.new_inbox()[-22:]}"
                await publish_atomically(self._nc, batch, batch_id=batch_id)
        except (NatsError, NotStored) as error:
            if isinstance(error, NotStored) and error.kind is Kind.OVERTAKEN:
                raise Conflict("another broker has just written a catalog") from error
            raise Unavailable("NATS", str(error) or type(error).__name__) from error

    async def declare_pools(self, names: Iterable[str], *, lease_ms: Ms) -> None:
        """Tell workers that they can pull, and how long a lease lasts. Raises: Unavailable."""
        for name in names:
            try:
                await publish_one(self._nc, Outgoing(subjects.declared_pool(name), jsoned(lease_ms)))
            except (NatsError, NotStored) as error:
                raise Unavailable("NATS", str(error) or type(error).__name__) from error

    async def is_told(self, revision: Revision) -> bool:
        """Say whether workers can read what this revision says of their deployments, and nothing of others.

        What the bucket holds is only read when something was written or deleted. Raises: NatsError, Unavailable.
        """
        content = await content_of(self._nc, _STREAM)
        if self._right == (content, revision.number):
            return True
        held = {subject_of(message): message async for message in stored_messages(self._nc, _STREAM)}
        wanted = {one.subject: one.payload for one in _messages(revision, (), None)}
        entries = subjects.CATALOG_ENTRIES.removesuffix("*")
        found = {
            subject: message.data
            for subject, message in held.items()
            if message.data and (subject in wanted or subject.startswith(entries))
        }
        is_right = found == wanted
        newest = max((sequence_of(message, _STREAM) for message in held.values()), default=0)
        self._right = (content, revision.number) if is_right and (newest, len(held)) == content else None
        return is_right

    async def _entries(self) -> set[str]:
        """List the subjects of entries that the bucket holds. Raises: NatsError."""
        found = await ask(
            self._nc, f"STREAM.INFO.{_STREAM}", _Subjects, {"subjects_filter": subjects.CATALOG_ENTRIES}
        )
        return set(found.state.subjects)

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
