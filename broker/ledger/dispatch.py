"""The backlog as the leader reads it, and queued → running."""

from collections.abc import Sequence
from uuid import UUID

from broker.core.records import Flow, Pick, Place, Running, Shard, WaitingJob
from broker.errors import Deposed
from broker.ledger.connection import Connection
from broker.ledger.rows import attempt_of
from broker.ledger.sql import query
from schemas.job import Attempt, Lane
from schemas.units import Ms

_BEGINNING = Place(Ms(-1), UUID(int=0))


async def flows(connection: Connection) -> list[Flow]:
    rows = await connection.fetch(query("flows"))
    return [Flow(row["model"], Lane(row["lane"]), row["tenant"]) for row in rows]


async def heads(connection: Connection, flow: Flow, *, after: Place | None, limit: int) -> list[WaitingJob]:
    start = after or _BEGINNING
    rows = await connection.fetch(
        query("heads"), flow.model, flow.lane, flow.tenant, start.deadline_ms, start.job, limit
    )
    return [WaitingJob(Place(deadline, job), attempt, tuple(tried or ())) for deadline, job, attempt, tried in rows]


async def move_due(connection: Connection, *, now: Ms, limit: int) -> list[tuple[Flow, Place]]:
    rows = await connection.fetch(query("move_due"), now, limit)
    return [
        (Flow(row["model"], Lane(row["lane"]), row["tenant"]), Place(row["deadline_ms"], row["job"])) for row in rows
    ]


async def next_due(connection: Connection) -> Ms | None:
    due: Ms | None = await connection.fetchval(query("next_due"))
    return due


async def dispatch(
    connection: Connection, picks: Sequence[Pick], *, shard: Shard, term: int, now: Ms
) -> list[Attempt]:
    """Raises: Deposed."""
    jobs = [pick.place.job for pick in picks]
    rows = await connection.fetch(
        query("dispatch"),
        [pick.flow.model for pick in picks],
        [pick.flow.lane for pick in picks],
        [pick.flow.tenant for pick in picks],
        [pick.place.deadline_ms for pick in picks],
        jobs,
        [pick.deployment for pick in picks],
        now,
        min(jobs),
        max(jobs),
        term,
        shard,
    )
    if not rows and await connection.fetchval(query("term"), shard) != term:
        raise Deposed(f"term {term} is over")
    return [attempt_of(row) for row in rows]


async def running(connection: Connection) -> list[Running]:
    return [Running(*row) for row in await connection.fetch(query("running"))]


async def attempts_of(connection: Connection, attempts: Sequence[Running]) -> list[Attempt]:
    jobs = [one.job for one in attempts]
    rows = await connection.fetch(query("attempts_of"), jobs, [one.attempt for one in attempts], min(jobs), max(jobs))
    return [attempt_of(row) for row in rows]
