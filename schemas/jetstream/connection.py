"""What broker and workers use of a connection to NATS: the seam beneath which another implementation can stand.

Whatever implements it raises nats-py's errors, which are named here and imported from here.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeoutError

__all__ = [
    "MaxPayloadError",
    "Message",
    "NatsConnection",
    "NatsError",
    "NatsTimeoutError",
    "NoRespondersError",
    "NoServersError",
    "Subscription",
]


class Message(Protocol):
    @property
    def subject(self) -> str: ...

    @property
    def reply(self) -> str:
        """Where an answer or an acknowledgement goes to; empty where none is expected."""

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> dict[str, str] | None: ...


class Subscription(Protocol):
    async def next_msg(self, timeout: float | None = ...) -> Message:  # noqa: ASYNC109 - nats-py's own signature
        """The next message, where no callback takes them. Raises: NatsTimeoutError."""

    async def unsubscribe(self) -> None: ...

    async def drain(self) -> None:
        """Handle what has been sent to it, then unsubscribe."""


class NatsConnection(Protocol):
    """A connection that comes back by itself. Each call may raise NatsError."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and came back: what the old one had asked for does not come."""

    @property
    def max_payload(self) -> int: ...

    def new_inbox(self) -> str:
        """A subject that nobody else knows of."""

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
        """Raises: NatsTimeoutError, NoRespondersError."""

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
        """Wait until the server has what was published. Raises: NatsTimeoutError."""
