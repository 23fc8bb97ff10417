"""Does what a task does: it answers; and in a recorded run it writes its answer down, as infermq would.

The producer writes the bodies before it submits, a thousand to a transaction. Each task writes its answer and state, and
announces it: one statement, one transaction.
"""

import asyncio
import os
import threading
from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import psycopg

from broker.bench.peers.producer import POSTGRES
from broker.ledger.connection import as_it_is

_END = """
with ended as (update peers.jobs set state = 'succeeded', answer = {}, ended = now() where id = {} returning id)
select pg_notify('peers_ended', id::text) from ended
"""
_ID_LENGTH = 36
_CONNECTIONS = 8
_ROWS = 1000
_local = threading.local()
_pool: "asyncpg.Pool | None" = None
_opening = asyncio.Lock()


def _answer() -> str:
    return "y" * int(os.environ["PEER_ANSWER_BYTES"])


async def submitted(bodies: Sequence[str]) -> list[str]:
    """Write the bodies down in a recorded run. Return the arguments of the tasks: the id of a row and its body."""
    if not POSTGRES:
        return list(bodies)
    rows = [(uuid4(), body, "open") for body in bodies]
    connection = await asyncpg.connect(POSTGRES)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        await connection.copy_records_to_table(
            "jobs", records=part, columns=("id", "body", "state"), schema_name="peers"
        )
    await connection.close()
    return [f"{job}{body}" for job, body, _ in rows]


def answered(argument: str) -> str:
    """Answer a task in a thread or process, which has a connection of its own."""
    answer = _answer()
    if POSTGRES:
        if not hasattr(_local, "connection"):
            _local.connection = psycopg.connect(POSTGRES, autocommit=True)
        _local.connection.execute(_END.format("%s", "%s"), (answer, UUID(argument[:_ID_LENGTH])), prepare=True)
    return answer


async def answered_async(argument: str) -> str:
    """Answer a task in a coroutine. All coroutines of a process share a pool of connections."""
    answer = _answer()
    if POSTGRES:
        await (await _opened()).execute(_END.format("$1", "$2"), answer, UUID(argument[:_ID_LENGTH]))
    return answer


async def _opened() -> asyncpg.Pool:
    global _pool  # noqa: PLW0603 - the frameworks call a task with its arguments only
    async with _opening:
        if _pool is None:
            _pool = await asyncpg.create_pool(POSTGRES, min_size=1, max_size=_CONNECTIONS, reset=as_it_is)
    return _pool


class EndedTasks:
    """Counts the tasks that have ended, by their announcements."""

    def __init__(self) -> None:
        self._count = 0
        self._connection: asyncpg.Connection | None = None

    async def __call__(self) -> int:
        if self._connection is None:
            self._connection = await asyncpg.connect(POSTGRES)
            await self._connection.add_listener("peers_ended", self._count_one)
        return self._count

    def _count_one(self, *_: object) -> None:
        self._count += 1
