"""The key of the brokers' seals."""

from broker.errors import Unavailable
from broker.ledger.connection import Connection, Database
from broker.ledger.sql import query


class PgSealKeys:
    """Implements `broker.ports.SealKeyLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key: bytes | None = None

    async def agree(self, candidate: bytes) -> bytes:
        async with self._database.connection() as connection:
            self._key = bytes(await connection.fetchval(query("agree_on_seal_key"), candidate))
        return self._key

    async def current(self, connection: Connection) -> bytes:
        """Return the key, to seal what is dispatched. Raises: Unavailable, if there is none yet."""
        if self._key is None:
            self._key = await connection.fetchval(query("seal_key"))
        if self._key is None:
            raise Unavailable("Postgres", "the ledger has no key for seals yet")
        return self._key
