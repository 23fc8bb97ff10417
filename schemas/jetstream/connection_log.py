"""Logs that a connection to NATS is waited for, lost, or back: each once, however often it is tried again meanwhile."""

import asyncio
import logging
from collections.abc import Callable

from schemas.jetstream.connection import NatsConnection
from schemas.jetstream.trust import why
from schemas.urls import public

log = logging.getLogger(__name__)


class ConnectionLog:
    """The callbacks of a connection."""

    def __init__(self, nc: NatsConnection, url: str, *, came_back: Callable[[], object]) -> None:
        """`came_back` is called whenever the connection was lost and is there again."""
        self._nc, self._where, self._came_back = nc, public(url), came_back
        self._has_connected = False
        self._is_closing = False
        self._is_waiting = False
        self._why = ""
        self._lost_s: float | None = None

    def connected(self) -> None:
        """Note that the connection is there for the first time."""
        self._has_connected = True

    def closing(self) -> None:
        """Note that the connection is closed on purpose."""
        self._is_closing = True

    async def on_error(self, error: Exception) -> None:
        self._why = why(error)
        if self._has_connected:
            level = logging.WARNING if self._nc.is_connected else logging.DEBUG
            log.log(level, "nats error=%s", self._why)
            return
        level = logging.DEBUG if self._is_waiting else logging.WARNING
        self._is_waiting = True
        log.log(
            level, "waiting for NATS at %s: is it running, and reachable from here? error=%s", self._where, self._why
        )

    async def on_lost(self) -> None:
        if self._lost_s is None and not self._is_closing:
            self._lost_s = asyncio.get_running_loop().time()
            log.error("nats disconnected url=%s error=%s: it is tried again each second", self._where, self._why)

    async def on_back(self) -> None:
        lost_s, self._lost_s = self._lost_s, None
        now_s = asyncio.get_running_loop().time()
        log.warning("nats reconnected url=%s away_s=%.1f", self._where, now_s - (now_s if lost_s is None else lost_s))
        self._came_back()
