"""Opens a connection to NATS as the broker needs it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from broker.errors import Unavailable
from schemas.jetstream import NatsError, NoServersError
from schemas.jetstream.client import NatsClient
from schemas.jetstream.connection_log import ConnectionLog
from schemas.jetstream.trust import Trust, why
from schemas.urls import public

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
    trust: Trust | None = None,
) -> AsyncIterator[NatsClient]:
    """Connect, waiting for the server now and whenever the connection is lost. After a loss, `came_back` is called.

    `client` is what to connect; by default, a new one. `seed` is that of a user of the server's configuration. Raises:
    Unavailable, if the URL cannot be used.
    """
    nc = client or NatsClient()
    told = ConnectionLog(nc, url, came_back=came_back)
    try:
        try:
            await nc.connect(
                url,
                name=name,
                error_cb=told.on_error,
                disconnected_cb=told.on_lost,
                reconnected_cb=told.on_back,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                pending_size=_PENDING_BYTES,
                nkeys_seed_str=seed,
                trust=trust,
                skip_subject_validation=True,  # all subjects are built in schemas.subjects
            )
        except (OSError, NoServersError, NatsError) as error:
            raise Unavailable("NATS", f"{public(url)}: {why(error)}") from error
        told.connected()
        yield nc
    finally:
        told.closing()
        await nc.close()
