"""The revisions of the catalog."""

from broker.errors import Conflict
from broker.ledger.connection import Database
from broker.ledger.sql import query
from schemas.catalog import Revision, parse
from schemas.units import Ms


class PgCatalogs:
    """Implements `broker.ports.CatalogLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, toml: str, by: str, now: Ms, *, after: int | None = None) -> Revision:
        catalog = parse(toml)
        async with self._database.connection() as connection:
            number = await connection.fetchval(query("apply_catalog"), now, by, toml, after)
        if number is None:
            raise Conflict("another catalog was applied meanwhile: look at it, and apply yours again")
        return Revision(number, now, catalog)

    async def active(self) -> tuple[Revision, str] | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("active_catalog"))
        return None if row is None else (Revision(row["number"], row["applied_ms"], parse(row["toml"])), row["toml"])
