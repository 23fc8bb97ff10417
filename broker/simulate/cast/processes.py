"""What every process of the cast needs of its world."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from broker.simulate.world.world import Process
from schemas.jetstream import NatsConnection


class Connect(Protocol):
    def __call__(
        self, process: Process, *, came_back: Callable[[], None] = ..., inboxes: str = ...
    ) -> AbstractAsyncContextManager[NatsConnection]:
        """Connect a process to NATS while the block runs, waiting for the server. After a loss, `came_back` is called.

        `inboxes` is how the subjects for its answers begin.
        """
