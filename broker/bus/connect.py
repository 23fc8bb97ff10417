"""A connection to NATS as the broker needs it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.errors import Error, NoServersError

from broker.errors import Unavailable

log = logging.getLogger(__name__)
_PENDING_BYTES = 16 * 1024 * 1024
"""What may wait to be written; twice the largest message."""


@asynccontextmanager
async def connected(url: str, *, name: str, patient: bool = True) -> AsyncIterator[Client]:
    """A connection that reconnects for ever once it stood. `patient`: waits for the first one too.

    Raises: Unavailable.
    """
    nc = await _connect(url, name=name, patient=patient)
    try:
        yield nc
    finally:
        await nc.close()


async def _connect(url: str, *, name: str, patient: bool) -> Client:
    async def noted(error: Exception) -> None:
        log.warning("nats error=%s", str(error) or type(error).__name__)

    async def lost() -> None:
        log.warning("nats disconnected")

    async def back() -> None:
        log.warning("nats reconnected")

    try:
        return await nats.connect(
            url,
            name=name,
            error_cb=noted,
            disconnected_cb=lost,
            reconnected_cb=back,
            allow_reconnect=patient,
            max_reconnect_attempts=-1 if patient else 1,
            reconnect_time_wait=1,
            pending_size=_PENDING_BYTES,
            skip_subject_validation=True,  # schemas.subjects builds them all
        )
    except (OSError, NoServersError, Error) as error:
        raise Unavailable("NATS", f"{url}: {str(error) or type(error).__name__}") from error
