"""Bring the schema up to date: numbered files, in order, each once, under a lock."""

import hashlib
from functools import cache
from importlib.resources import files

import asyncpg

from broker.errors import Conflict, Unavailable
from broker.ledger.connection import Connection
from broker.ledger.errors import translated

_LOCK = 0x1_4FE2_3A90
_TABLE = """
create schema if not exists infermq;
create table if not exists infermq.migrations (
    name        text        not null primary key,
    checksum    text        not null,
    applied_at  timestamptz not null default clock_timestamp()
)"""


async def migrate(url: str) -> list[str]:
    """Apply what is missing, and return the names. Safe from several at once. Raises: Unavailable, Conflict."""
    with translated():
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("select pg_advisory_lock($1)", _LOCK)
            await connection.execute(_TABLE)
            missing = _missing(await _applied(connection))
            for name, text in missing:
                await _apply(connection, name, text)
            return [name for name, _ in missing]
        finally:
            await connection.close()


async def pending(url: str) -> list[str]:
    """Return the names that `migrate` would apply. Raises: Unavailable, Conflict."""
    with translated():
        connection = await asyncpg.connect(url)
        try:
            known = await connection.fetchval("select to_regclass('infermq.migrations')")
            return [name for name, _ in _missing(await _applied(connection) if known else {})]
        finally:
            await connection.close()


async def check_up_to_date(connection: Connection) -> None:
    """Check that this database has every migration. Raises: Unavailable, which says what to do."""
    try:
        missing = [name for name, _ in _missing(await _applied(connection))]
    except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError):
        missing = [name for name, _ in _all()]
    except Conflict as error:
        raise Unavailable("Postgres", str(error)) from error
    if missing:
        names = ", ".join(missing)
        raise Unavailable("Postgres", f"its tables are not up to date ({names} is missing): run `infermq migrate`")


async def _applied(connection: Connection) -> dict[str, str]:
    rows = await connection.fetch("select name, checksum from infermq.migrations")
    return {row["name"]: row["checksum"] for row in rows}


async def _apply(connection: Connection, name: str, text: str) -> None:
    async with connection.transaction():
        await connection.execute(text)
        await connection.execute(
            "insert into infermq.migrations (name, checksum) values ($1, $2)", name, _checksum(text)
        )


def _missing(applied: dict[str, str]) -> list[tuple[str, str]]:
    """Raises: Conflict, for a migration that is not what was applied under its name."""
    missing: list[tuple[str, str]] = []
    for name, text in _all():
        if name not in applied:
            missing.append((name, text))
        elif applied[name] != _checksum(text):
            raise Conflict(f"migration {name} was applied with other contents: this is not the software that made it")
    return missing


@cache
def _all() -> list[tuple[str, str]]:
    folder = files("broker.ledger.migrations")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(name, folder.joinpath(name).read_text()) for name in names]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
