"""Defines the port to NATS: everything that broker and workers use of a connection.

Every implementation raises nats-py's errors, which are imported from here.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from nats.errors import (
    BadHeaderError,
    BadSubjectError,
    BadSubscriptionError,
    ConnectionClosedError,
    FlushTimeoutError,
    MaxPayloadError,
    NoRespondersError,
    NoServersError,
    OutboundBufferLimitError,
    SlowConsumerError,
    StaleConnectionError,
)
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

__all__ = [
    "BadHeaderError",
    "BadSubjectError",
    "BadSubscriptionError",
    "ConnectionClosedError",
    "FlushTimeoutError",
    "MaxPayloadError",
    "Message",
    "NatsConnection",
    "NatsError",
    "NatsTimeoutError",
    "NoRespondersError",
    "NoServersError",
    "OutboundBufferLimitError",
    "SlowConsumerError",
    "StaleConnectionError",
    "Subscription",
    "is_refusal",
]


def is_refusal(error: BaseException) -> bool:
    """Say whether a server refuses whoever connects. It says so too while nobody is there who could check a key."""
    return "Authorization Violation" in str(error) or "Authentication Timeout" in str(error)


class Message(Protocol):
    @property
    def subject(self) -> str: ...

    @property
    def reply(self) -> str:
        """The subject for an answer or an acknowledgement; empty if none is expected."""

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> dict[str, str] | None: ...


class Subscription(Protocol):
    async def next_msg(self, timeout: float | None = ...) -> Message:  # noqa: ASYNC109 - nats-py's own signature
        """Wait for the next message of a subscription without a callback. Raises: NatsTimeoutError."""

    async def unsubscribe(self) -> None: ...

    async def drain(self) -> None:
        """Unsubscribe once the messages that were already sent have been handled."""


class NatsConnection(Protocol):
    """A connection that reconnects by itself. Each call may raise NatsError."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and reconnected. Answers to requests of the old connection do not come."""

    @property
    def max_payload(self) -> int: ...

    def new_inbox(self) -> str:
        """Make a subject that nobody else uses."""

    async def publish(
        self, subject: str, payload: bytes = ..., reply: str = ..., headers: dict[str, str] | None = ...
    ) -> None: ...

    async def write(self, commands: bytes) -> None:
        """Write many commands of the protocol (`PUB`, `HPUB`) in one buffer, while connected.

        The next publish wakes the writer at the latest.
        """

    async def request(
        self,
        subject: str,
        payload: bytes = ...,
        timeout: float = ...,  # noqa: ASYNC109 - nats-py's own signature
        old_style: bool = ...,  # noqa: FBT001
        headers: dict[str, str] | None = ...,
    ) -> Message:
        """Publish, and wait for an answer. Raises: NatsTimeoutError, NoRespondersError."""

    async def subscribe(
        self,
        subject: str,
        queue: str = ...,
        cb: Callable[[Message], Awaitable[None]] | None = ...,
        *,
        pending_msgs_limit: int = ...,
        pending_bytes_limit: int = ...,
    ) -> Subscription: ...

    async def flush(self, timeout: int = ...) -> None:  # noqa: ASYNC109 - nats-py's own signature
        """Wait until the server has everything that was published. Raises: NatsTimeoutError."""
