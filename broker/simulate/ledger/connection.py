"""What areas of `broker.ledger` run on in memory instead of Postgres: each statement is a function over the tables
(`statements`). So what a page of an instruction decides, or what is audited, is decided by the very code of the ledger.

A statement, or a block of them in a transaction, is done in one go, with the gate of its process before and behind it.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

from asyncpg import UniqueViolationError

from broker.errors import Conflict
from broker.ledger.connection import Connection, Database
from broker.ledger.errors import translated
from broker.ledger.sql import query
from broker.simulate.ledger.checks import check_values
from broker.simulate.ledger.locks import Held, Holder
from broker.simulate.ledger.statements import STATEMENTS
from broker.simulate.ledger.statements.jobs import copy
from broker.simulate.ledger.transactions import Session

_WITH_JSON_AS_TEXT = frozenset({query("record_bad_lines"), query("fail_expansion")})


class MemoryDatabase:
    """Stands in for `broker.ledger.connection.Database`. `area` is what the gate is told."""

    def __init__(self, session: Session, area: str) -> None:
        self._session = session
        self._area = area

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        with translated():
            yield cast("Connection", MemoryConnection(self._session, self._area))


def database_of(session: Session, area: str) -> Database:
    """Return what an area of `broker.ledger` takes for its database."""
    return cast("Database", MemoryDatabase(session, area))


@contextmanager
def _as_the_driver() -> Iterator[None]:
    """Raise what the driver raises for a key that is taken, which some areas of the ledger go on from."""
    try:
        yield
    except Conflict as error:
        raise UniqueViolationError(str(error)) from error


class MemoryConnection:
    """Stands in for a connection of the driver, as far as the ledger uses one."""

    def __init__(self, session: Session, area: str) -> None:
        self._session = session
        self._area = area
        self._is_in_transaction = False
        self._holder = Holder(session.gate)

    @asynccontextmanager
    async def transaction(self, *, isolation: str | None = None) -> AsyncIterator[None]:
        """Keep all that the block changes, or nothing of it. A block within one is a part of it.

        Once it has changed something, nothing else may be awaited in it. So there is no other transaction meanwhile,
        whatever isolation is asked for. Before that it may hold rows, and wait for what is no ledger.
        """
        del isolation
        if self._is_in_transaction:
            yield
            return
        await self._session.gate.before(self._area)
        self._is_in_transaction = True
        try:
            with self._alone():
                yield
        finally:
            self._is_in_transaction = False
            self._session.tables.locks.release(self._holder)
        await self._session.gate.after(self._area)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        """Run a statement, when all rows are free that it must hold, and return the rows that it answers."""
        if self._is_in_transaction:
            return await self._rows(statement, values)
        await self._session.gate.before(self._area)
        try:
            with self._alone():
                rows = await self._rows(statement, values)
        finally:
            self._session.tables.locks.release(self._holder)
        await self._session.gate.after(self._area)
        return rows

    async def fetchrow(self, statement: str, *values: Any) -> Any:
        """Return the first row. None: there is none."""
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None

    async def fetchval(self, statement: str, *values: Any) -> Any:
        """Return the first column of the first row. None: there is none."""
        row = await self.fetchrow(statement, *values)
        if row is None:
            return None
        return next(iter(row.values())) if isinstance(row, dict) else row[row.__struct_fields__[0]]

    async def execute(self, statement: str, *values: Any) -> str:
        """Return how many rows a statement has changed, as the driver does for those that insert."""
        return f"INSERT 0 {len(await self.fetch(statement, *values))}"

    async def copy_records_to_table(
        self, table: str, *, records: Iterable[Sequence[object]], columns: Sequence[str], schema_name: str
    ) -> None:
        """Insert rows. It is always done in a transaction."""
        del schema_name
        with _as_the_driver():
            copy(self._session.tables, table, records, columns)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Make the block a transaction. No other may wait that has changed something."""
        assert not self._session.tables.is_changing, self._area  # noqa: S101
        with self._session.tables.transaction():
            yield

    async def _rows(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        tables = self._session.tables
        while True:
            check_values(values, keeps_json_as_text=statement in _WITH_JSON_AS_TEXT)
            try:
                with tables.locks.of(self._holder), _as_the_driver():
                    return STATEMENTS[statement](tables, *values)
            except Held as held:
                await tables.locks.freed(held.key)
