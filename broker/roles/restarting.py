"""Keeps roles running while NATS and Postgres come and go, and knows how each of them is."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from broker.errors import BadData, Conflict, Unavailable
from schemas.codec import UNREADABLE
from schemas.health import ENDED, RUNS
from schemas.jetstream import NatsError

log = logging.getLogger(__name__)
_PAUSE_S = 1.0


class Roles:
    """The roles of a process. Each is run by `keep`."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Roles({self._states})"

    @property
    def states(self) -> Mapping[str, str]:
        """What each role does: it runs, starts again (and why), or has ended."""
        return self._states

    async def keep(
        self, name: str, role: Callable[[], Awaitable[None]], *, once: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Start the role again when NATS or Postgres failed under it, or it got what cannot be read or recorded.

        What is in a message ends no broker. Any other exception is a bug and ends the process. The role begins when `once`
        returns.
        """
        try:
            if once is not None:
                self._states[name] = RUNS
                await once()
            while True:
                self._states[name] = RUNS
                try:
                    await role()
                except (Unavailable, Conflict, BadData, NatsError, OSError, *UNREADABLE) as error:
                    why = str(error) or type(error).__name__
                    log.warning("role starts again role=%s error=%s", name, why)
                    self._states[name] = f"starts again: {why}"
                await asyncio.sleep(_PAUSE_S)
        finally:
            self._states[name] = ENDED
