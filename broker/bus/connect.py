"""Opens a connection to NATS as the broker needs it."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from broker.errors import Unavailable
from schemas.jetstream import NatsError, NoServersError
from schemas.jetstream.client import NatsClient
from schemas.urls import public

log = logging.getLogger(__name__)
_PENDING_BYTES = 16 * 1024 * 1024
"""How many bytes may wait to be written: twice the largest message."""


@asynccontextmanager
async def connected(
    url: str,
    *,
    name: str,
    came_back: Callable[[], None] = lambda: None,
    client: NatsClient | None = None,
    seed: str | None = None,
) -> AsyncIterator[NatsClient]:
    """Connect, waiting for the server now and whenever the connection is lost. After a loss, `came_back` is called.

    `client` is what to connect; by default, a new one. `seed` is that of a user of the server's configuration. Raises:
    Unavailable, if the URL cannot be used.
    """
    nc = client or NatsClient()
    where, is_first = public(url), True

    async def noted(error: Exception) -> None:
        waits = f"waiting for NATS at {where}: is it running, and reachable from here? " if is_first else "nats "
        log.warning("%serror=%s", waits, public(str(error)) or type(error).__name__)

    async def lost() -> None:
        log.warning("nats disconnected")

    async def back() -> None:
        log.warning("nats reconnected")
        came_back()

    try:
        try:
            await nc.connect(
                url,
                name=name,
                error_cb=noted,
                disconnected_cb=lost,
                reconnected_cb=back,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                pending_size=_PENDING_BYTES,
                nkeys_seed_str=seed,
                skip_subject_validation=True,  # all subjects are built in schemas.subjects
            )
        except (OSError, NoServersError, NatsError) as error:
            raise Unavailable("NATS", f"{where}: {public(str(error)) or type(error).__name__}") from error
        is_first = False
        yield nc
    finally:
        await nc.close()
