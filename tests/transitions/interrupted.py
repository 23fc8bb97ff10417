"""Connections to Postgres that are lost after a number of statements, each time that somebody asks for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.errors import Unavailable
from broker.ledger.connection import Connection, Database

_STATEMENTS = frozenset({"execute", "fetch", "fetchrow", "fetchval", "copy_records_to_table"})


class Cut:
    """Ends the connection after the next statement `left`, or commit: it is done, and nobody hears of it."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.was_made = False

    def set(self, statements: int | None) -> None:
        self.left, self.was_made = statements, False

    def count(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left <= 0:
            self.left, self.was_made = None, True
            raise Unavailable("Postgres", "the test cut the connection")


class _Counted:
    """A connection that counts what it is asked."""

    def __init__(self, connection: Connection, cut: Cut) -> None:
        self._connection = connection
        self._cut = cut

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._connection, name)
        if name not in _STATEMENTS:
            return asked

        async def counted(*values: Any, **more: Any) -> Any:
            answer = await asked(*values, **more)
            self._cut.count()
            return answer

        return counted

    @asynccontextmanager
    async def transaction(self, **more: Any) -> AsyncIterator[None]:
        async with self._connection.transaction(**more):
            yield
        self._cut.count()


def interrupted(cut: Cut) -> type[Database]:
    """A database whose connections end as `cut` says."""

    class Interrupted(Database):
        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Connection]:
            async with super().connection() as connection:
                yield connection if cut.left is None else _Counted(connection, cut)  # type: ignore[misc]

    return Interrupted
