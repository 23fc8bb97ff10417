"""The partitions of a day, made when an id first needs them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

from broker.ledger.connection import Connection
from broker.ledger.sql import query
from schemas.ids import ms_of

_DAY_MS = 24 * 3600 * 1000


class Days:
    """The days whose partitions are known to exist."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    async def ensure(self, connection: Connection, jobs: Iterable[UUID]) -> None:
        """Make what is missing. Ids are within a week of now, so these are few."""
        missing = {ms_of(job) // _DAY_MS for job in jobs} - self._known
        for day in sorted(missing):
            async with connection.transaction():
                await connection.execute(query("add_day"), _name(day), _bound(day), _bound(day + 1))
            self._known.add(day)


def day_of(job: UUID) -> str:
    """What the partitions of its day end with."""
    return _name(ms_of(job) // _DAY_MS)


@lru_cache(maxsize=64)
def _name(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).strftime("%Y%m%d")


def _bound(day: int) -> UUID:
    """The least 128-bit value that an id of this day can have."""
    return UUID(int=(day * _DAY_MS) << 80)
