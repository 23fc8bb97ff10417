"""The driver's exceptions, in our words."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from broker.errors import BadData, Conflict, Unavailable

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
    """Raises: Unavailable, Conflict, BadData."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Conflict(error.constraint_name or str(error)) from error
    except _BAD as error:
        raise BadData(str(error)) from error
    except _AWAY as error:
        raise Unavailable("Postgres", str(error) or type(error).__name__) from error
