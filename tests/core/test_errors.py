"""The driver's exceptions, in our words."""

import asyncpg
import pytest

from broker.errors import BadData, Conflict, Unavailable
from broker.ledger.errors import translated


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (asyncpg.UniqueViolationError("twice"), Conflict),
        (asyncpg.CharacterNotInRepertoireError("a NUL"), BadData),
        (asyncpg.NumericValueOutOfRangeError("2^63"), BadData),
        (asyncpg.CheckViolationError("no state"), BadData),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), BadData),
        (ConnectionRefusedError(), Unavailable),
        (asyncpg.ConnectionDoesNotExistError("closed"), Unavailable),
        (asyncpg.AdminShutdownError("stopping"), Unavailable),
        (asyncpg.TooManyConnectionsError("full"), Unavailable),
        (asyncpg.DeadlockDetectedError("each other"), Unavailable),
        (asyncpg.InterfaceError("closing"), Unavailable),
        (asyncpg.ReadOnlySQLTransactionError("a standby"), Unavailable),
        (asyncpg.InvalidCatalogNameError("no such database"), Unavailable),
    ],
    ids=lambda one: getattr(one, "__name__", type(one).__name__),
)
def test_what_the_driver_raises_is_one_of_ours(raised: Exception, becomes: type[Exception]) -> None:
    with pytest.raises(becomes), translated():
        raise raised


def test_a_bug_stays_what_it_is() -> None:
    with pytest.raises(asyncpg.UndefinedTableError), translated():
        raise asyncpg.UndefinedTableError("no such table")
