"""The partitions of days. They are made by time, ahead of the jobs that will be of them, and never because of a message."""

from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from broker.ledger.connection import Connection, Database
from broker.ledger.sql import query
from broker.ports import Clock
from schemas.ids import NEWEST_MS, OLDEST_MS, ms_of
from schemas.units import Ms

_DAY_MS = 24 * 3600 * 1000
_AHEAD = 2
"""How many days more than the ids of now can be of: so long the ledger takes jobs although nobody makes new days."""
_GREATEST = (1 << 128) - 1


class Days:
    """Makes the days that an id may be of now. Implements `broker.ports.DayLedger`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: int | None = None
        """The day on which this process last saw to it."""

    async def keep(self) -> None:
        async with self._database.connection() as connection:
            await self.keep_on(connection)

    async def keep_on(self, connection: Connection) -> None:
        """Make the days that are missing, once a day. `connection` must not be in a transaction."""
        today = _day(now := self._clock())
        if today == self._kept:
            return
        standing = {_numbered(row["day"]) for row in await connection.fetch(query("days"))}
        for day in missing_days(standing, now):
            await connection.execute(query("add_day"), name_of(day), *bounds(day))
        self._kept = today


async def first_id(connection: Connection) -> UUID:
    """Return the least id that a job can have whose day is kept."""
    days = [_numbered(row["day"]) for row in await connection.fetch(query("days"))]
    return bounds(min(days, default=0))[0]


def missing_days(standing: Collection[int], now: Ms) -> list[int]:
    """List the days that must be made, in their order: of all that the id of a job may be dated on now, and two more.

    Those before the first that stands were dropped, and do not come back.
    """
    first, last = _day(Ms(now - OLDEST_MS)), _day(Ms(now + NEWEST_MS)) + _AHEAD
    kept = [day for day in standing if day <= last]
    return [day for day in range(max(first, min(kept, default=first)), last + 1) if day not in standing]


def day_of(job: UUID) -> int:
    """Return the day of a job's partitions, counted from 1970."""
    return _day(ms_of(job))


def _day(at: Ms) -> int:
    return at // _DAY_MS


def bounds(day: int) -> tuple[UUID, UUID]:
    """Return the first id of the day and the first of the next."""
    return _least_id(day), _least_id(day + 1)


def days_of(jobs: Collection[UUID]) -> tuple[UUID, UUID]:
    """Return the first id of the first job's day and the first after the last job's."""
    return bounds(day_of(min(jobs)))[0], bounds(day_of(max(jobs)))[1]


def name_of(day: int) -> str:
    """Return what the names of the day's partitions end with."""
    return datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).strftime("%Y%m%d")


def _numbered(name: str) -> int:
    return int(datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).timestamp() * 1000) // _DAY_MS


def _least_id(day: int) -> UUID:
    """Return the least 128-bit value that an id of this day can have."""
    return UUID(int=min((day * _DAY_MS) << 80, _GREATEST))
