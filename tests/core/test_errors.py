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
        (asyncpg.DiskFullError("no space left on device"), Unavailable),
        (asyncpg.OutOfMemoryError("out of memory"), Unavailable),
        (asyncpg.ConfigurationLimitExceededError("temp_file_limit"), Unavailable),
        (asyncpg.QueryCanceledError("statement_timeout"), Unavailable),
        (asyncpg.PostgresIOError("could not read block 7"), Unavailable),
        (asyncpg.InternalServerError("could not extend file: Disk quota exceeded"), Unavailable),
        (asyncpg.IndexCorruptedError("index"), Unavailable),
        (asyncpg.LockNotAvailableError("lock_timeout"), Unavailable),
        (asyncpg.SerializationError("could not serialize"), Unavailable),
        (asyncpg.InsufficientPrivilegeError("the file system is read-only"), Unavailable),
        (asyncpg.InvalidSchemaNameError("no schema"), Unavailable),
        (asyncpg.UndefinedTableError("no table"), Unavailable),
        (asyncpg.ProgramLimitExceededError("row too large"), BadData),
        (asyncpg.ForeignKeyViolationError("no batch"), BadData),
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
    with pytest.raises(asyncpg.PostgresSyntaxError), translated():
        raise asyncpg.PostgresSyntaxError("near select")


def test_what_an_operator_can_mend_says_how() -> None:
    with pytest.raises(Unavailable, match="infermq migrate"), translated():
        raise asyncpg.UndefinedTableError("there is no table jobs")
    with pytest.raises(Unavailable, match="make room"), translated():
        raise asyncpg.DiskFullError("no space left on device")
