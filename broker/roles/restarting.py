"""Keeps a role running while NATS and Postgres come and go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from broker.errors import Unavailable
from schemas.jetstream import NatsError

log = logging.getLogger(__name__)
_PAUSE_S = 1.0


async def restarting(role: Callable[[], Awaitable[None]]) -> None:
    """Start a role again when NATS or Postgres failed under it. Any other exception is a bug and ends the process."""
    while True:
        try:
            await role()
        except (Unavailable, NatsError, OSError) as error:
            log.warning("role starts again error=%s", str(error) or type(error).__name__)
        await asyncio.sleep(_PAUSE_S)
