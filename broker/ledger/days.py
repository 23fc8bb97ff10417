"""The partitions of a day, made when an id first needs them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from broker.ledger.connection import Connection
from broker.ledger.sql import query
from schemas.ids import ms_of

_DAY_MS = 24 * 3600 * 1000
_GREATEST = (1 << 128) - 1


class Days:
    """The days whose partitions are known to exist."""

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
    """The day of its partitions, counted from 1970."""
    return ms_of(job) // _DAY_MS


def bounds(day: int) -> tuple[UUID, UUID]:
    """The ids of the day are from the first to below the second."""
    return _least_id(day), _least_id(day + 1)


def _name(day: int) -> str:
    """What the partitions of the day end with."""
    return datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).strftime("%Y%m%d")


def _least_id(day: int) -> UUID:
    """The least 128-bit value that an id of this day can have."""
    return UUID(int=min((day * _DAY_MS) << 80, _GREATEST))
