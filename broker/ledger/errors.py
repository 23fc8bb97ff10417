"""The driver's exceptions, in our words."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from broker.errors import BadData, Conflict, DayNotKept, Unavailable

_AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
)
_BAD = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    UnicodeEncodeError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Raises: Unavailable, Conflict, BadData, DayNotKept."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Conflict(error.constraint_name or str(error)) from error
    except asyncpg.CheckViolationError as error:
        raise (DayNotKept if _finds_no_partition(error) else BadData)(str(error)) from error
    except _BAD as error:
        raise BadData(str(error)) from error
    except _AWAY as error:
        raise Unavailable("Postgres", str(error) or type(error).__name__) from error


def _finds_no_partition(error: asyncpg.CheckViolationError) -> bool:
    """Postgres says of a row that no partition takes that it violates a check, and names a table, but no constraint."""
    return error.table_name is not None and error.constraint_name is None
