"""The way between a connection and the server: what is sent comes later, or never, but never out of its order."""

from collections.abc import Callable
from typing import Protocol


class Link(Protocol):
    """One for each connection, as long as it lives. Each direction keeps its order, as TCP does.

    What is on its way when a connection is cut may still be carried: whoever gets it knows that it is too late.
    """

    def to_server(self, call: Callable[..., None], *args: object) -> None: ...

    def to_client(self, call: Callable[..., None], *args: object) -> None: ...


class DirectLink:
    """Carries everything at once."""

    def to_server(self, call: Callable[..., None], *args: object) -> None:
        call(*args)

    def to_client(self, call: Callable[..., None], *args: object) -> None:
        call(*args)
