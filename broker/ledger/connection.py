"""The connections to Postgres, and what a query runs on: asyncpg's connection, or a pool's proxy of one."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from broker.errors import NoConnection
from broker.ledger.errors import translated

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

log = logging.getLogger(__name__)
SETTINGS = {
    "application_name": "infermq",
    # Every query goes by key. Plans made for a partition's first rows must not outlive them.
    "plan_cache_mode": "force_custom_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_CONNECT_S = 10.0
"""How long a new connection may take. A guess: it takes milliseconds, unless the network drops what is sent."""
_CLOSE_S = 1.0
"""How long Postgres may take to say goodbye. A guess: one that hangs never does."""


async def as_it_is(_: object) -> None:
    """Leave a session as it is when it goes back to the pool, which saves a round trip each time.

    No query of ours leaves anything behind in it. A transaction that is still open is rolled back in any case.
    """


class Database:
    """The connections that all areas of a ledger share."""

    _lost_s: float | None = None
    """When Postgres could not be reached for the first time, by the loop's clock. None: it answers."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, connections: int, check: Callable[[Connection], Coroutine[Any, Any, None]] = as_it_is
    ) -> AsyncIterator[Self]:
        """Connect when the first query comes, and disconnect in the end: Postgres need not be there yet.

        `check` looks at each new connection, and raises Unavailable for a database that is not as it should be.
        """
        pool = await asyncpg.create_pool(
            url,
            min_size=0,
            max_size=connections,
            server_settings=SETTINGS,
            reset=as_it_is,
            init=check,
            timeout=_CONNECT_S,
        )
        try:
            yield cls(pool)
        finally:
            with contextlib.suppress(TimeoutError):  # then it is terminated
                async with asyncio.timeout(_CLOSE_S):
                    await pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection while the block runs. Raises: Unavailable, Conflict, BadData, DayNotKept."""
        began_s = asyncio.get_running_loop().time()
        try:
            with translated():
                async with self._pool.acquire() as connection:
                    yield connection
        except NoConnection as error:
            self._note_lost(error)
            raise
        if self._lost_s is not None and began_s > self._lost_s:  # what began before says nothing of now
            self._note_back(self._lost_s)

    def _note_lost(self, error: NoConnection) -> None:
        if self._lost_s is None:
            self._lost_s = asyncio.get_running_loop().time()
            log.error("postgres disconnected error=%s: jobs and outcomes wait, it is tried again by itself", error)

    def _note_back(self, lost_s: float) -> None:
        self._lost_s = None
        log.warning("postgres reconnected away_s=%.1f", asyncio.get_running_loop().time() - lost_s)
