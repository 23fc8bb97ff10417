"""Makes the partitions of a day when an id first needs them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from broker.ledger.connection import Connection
from broker.ledger.sql import query
from schemas.ids import ms_of

_DAY_MS = 24 * 3600 * 1000
_GREATEST = (1 << 128) - 1


class Days:
    """Remembers the days whose partitions exist."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    async def ensure(self, connection: Connection, jobs: Iterable[UUID]) -> None:
        """Make what is missing. Ids were dated within a week of their admission, so these are few."""
        missing = {day_of(job) for job in jobs} - self._known
        for day in sorted(missing):
            async with connection.transaction():
                await connection.execute(query("add_day"), _name(day), *bounds(day))
            self._known.add(day)


def day_of(job: UUID) -> int:
    """Return the day of a job's partitions, counted from 1970."""
    return ms_of(job) // _DAY_MS


def bounds(day: int) -> tuple[UUID, UUID]:
    """Return the first id of the day and the first of the next."""
    return _least_id(day), _least_id(day + 1)


def _name(day: int) -> str:
    """Return what the names of the day's partitions end with."""
    return datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).strftime("%Y%m%d")


def _least_id(day: int) -> UUID:
    """Return the least 128-bit value that an id of this day can have."""
    return UUID(int=min((day * _DAY_MS) << 80, _GREATEST))
