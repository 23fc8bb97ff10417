"""The ways to a broker: what the client needs of NATS or of HTTP, whichever it is connected to."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol
from uuid import UUID

import msgspec

from broker.client.reading import text_of, usage_of, was_cut
from broker.errors import Unavailable
from schemas.files import Fault
from schemas.jetstream import Outgoing
from schemas.job import Job
from schemas.outcome import Usage
from schemas.subjects import Verb


@dataclass(frozen=True, slots=True)
class Piece:
    """A streamed chunk: the engine's OpenAI object, and its text, if it has some."""

    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    job: UUID | None
    body: bytes
    """The OpenAI response."""

    def text(self) -> str:
        """Return the text of the first choice; "" if it has none, as when a tool is called."""
        return text_of(self.body)

    def was_cut(self) -> bool:
        """Say whether the text ends where a limit of tokens was reached (`finish_reason` is `length`)."""
        return was_cut(self.body)

    def usage(self) -> Usage:
        """Return the tokens that the engine counted; 0 where it did not say."""
        return usage_of(self.body)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """An interactive request."""

    model: str
    job: Job
    payload: bytes
    """The job, packed."""
    timeout_s: float


class FileContent(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is to be stored."""

    sha256: str
    bytes: int
    name: str
    kept_s: int
    """How long it is kept if nobody deletes it."""


class NotYet(Unavailable):
    """A message was not stored, or it is not known whether it was. Sent again under the same name it is stored once."""


class News(Protocol):
    """Tells that results of a batch may have come."""

    held_s: float
    """How long a broker may keep a request for results until there are some."""

    def clear(self) -> None:
        """Forget what was told."""

    async def wait(self, timeout_s: float) -> None:
        """Wait until something was told since `clear`, at most so long."""


class Files(Protocol):
    """Stores files, and makes batches of them. All its methods raise: RequestRefused, Unavailable."""

    async def kept(self, content: FileContent) -> tuple[int, str | None]:
        """Return how many bytes of a file are stored, and its id if it is whole."""

    async def send(self, stream: BinaryIO, content: FileContent, *, offset: int, sent: Callable[[int], None]) -> str:
        """Send what follows the bytes that are stored, and return the file's id. Calls `sent` with how far it is."""

    async def create(self, ask: Mapping[str, Any]) -> None:
        """Make a batch of a file, once under its id."""

    async def delete(self, name: str) -> None:
        """Delete a file. Batches that were made of it go on."""

    def bad_lines(self, batch: UUID) -> AsyncIterator[Fault]:
        """Yield the lines of a batch that cannot run, in order."""


class Door(Protocol):
    """A connection for a tenant and a key. All its methods raise: RequestRefused, NoBroker, Unavailable."""

    tenant: str
    key: str

    @property
    def files(self) -> Files | None:
        """None: over this way jobs are sent in messages only."""

    async def call(self, verb: Verb, ask: bytes, *, within_s: float, held_s: float = 0.0) -> bytes:
        """Ask a broker, in JSON, and return its answer. `held_s`: how long it may keep what it cannot answer yet.

        Raises: RequestTimedOut, too.
        """

    async def store(self, message: Outgoing, name: str) -> None:
        """Store a message of jobs in SUBMIT. By one name it is stored once. Raises: NotYet, BacklogFull, too."""

    def converse(self, question: Question) -> AsyncGenerator[Piece | Reply, None]:
        """Ask a model: yield the pieces of a stream, if one was asked for, and the whole answer.

        Closing the generator ends the request. Raises: RequestTimedOut, too.
        """

    def news(self, batch: UUID) -> AbstractAsyncContextManager[News]:
        """Hear of results of a batch while the block runs."""
