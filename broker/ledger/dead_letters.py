"""Messages that are no jobs or no outcomes."""

from collections.abc import Sequence

from broker.core.records import DeadLetter
from broker.ledger.connection import Database
from broker.ledger.rows import columns, json_text
from broker.ledger.sql import query


class PgDeadLetters:
    """Implements `broker.ports.DeadLetterLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, dead_letters: Sequence[DeadLetter]) -> None:
        rows = [
            (
                one.stream,
                one.sequence,
                one.received_ms,
                _storable(one.subject),
                _storable(one.reason),
                json_text({_storable(name): _storable(value) for name, value in one.headers.items()}),
                one.payload,
            )
            for one in dead_letters
        ]
        async with self._database.connection() as connection:
            await connection.execute(query("record_dead_letters"), *columns(rows, 7))


def _storable(text: str) -> str:
    """Postgres stores no NUL, and UTF-8 no lone surrogate."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
