"""The driver's exceptions, in our words.

What an error of Postgres means is decided by its code (SQLSTATE), of which the first two characters are the class:
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from broker.errors import BadData, Conflict, DayNotKept, NoConnection, Unavailable

_AWAY = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The driver's own errors: there is no connection, or it is of no use any more."""
_MEANINGS: dict[str, type[Unavailable | Conflict | BadData]] = {
    "08": NoConnection,  # connection exception
    "0A000": Unavailable,  # a cached plan is no longer valid: the tables have changed; the driver makes it anew
    "22": BadData,  # data exception: a NUL, a number out of range
    "23": BadData,  # integrity constraint violation
    "23505": Conflict,  # unique violation
    "25006": Unavailable,  # read-only transaction: a standby
    "25P03": Unavailable,  # idle-in-transaction time-out
    "28": Unavailable,  # invalid authorization: a password that is being changed
    "3D000": Unavailable,  # the database does not exist
    "3F000": Unavailable,  # the schema does not exist
    "40": Unavailable,  # rolled back: a deadlock, or transactions that cannot be serialized
    "42501": Unavailable,  # insufficient privilege; also a file system that has become read-only
    "42P01": Unavailable,  # the table does not exist
    "53": Unavailable,  # insufficient resources: the disk is full, no memory, too many connections
    "54": BadData,  # program limit exceeded: a row that is too large
    "55": Unavailable,  # object not in prerequisite state: a lock that could not be had
    "57": Unavailable,  # operator intervention: cancelled, a database that is dropped
    "57P01": NoConnection,  # it shuts down
    "57P02": NoConnection,  # it has crashed
    "57P03": NoConnection,  # it is not up yet
    "58": Unavailable,  # system error: a file could not be read or written
    "72": Unavailable,  # snapshot too old
    "F0": Unavailable,  # configuration file error
    "XX": Unavailable,  # internal error; also a disk quota that is used up, and a damaged table
}
"""By code, else by class. What is not here is a bug of ours."""
_ADVICE = {
    "3F000": "run `infermq migrate`",
    "42P01": "run `infermq migrate`",
    "53100": "make room on its disk",
    "XX": "its log says more",
}


@contextmanager
def translated() -> Iterator[None]:
    """Raises: Unavailable, Conflict, BadData, DayNotKept."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if (ours := _ours(error)) is None:
            raise
        raise ours from error
    except UnicodeEncodeError as error:
        raise BadData(str(error)) from error
    except _AWAY as error:
        raise NoConnection("Postgres", str(error) or type(error).__name__) from error


def _ours(error: asyncpg.PostgresError) -> Exception | None:
    """Return our exception for an error of Postgres; None if it is a bug."""
    code = error.sqlstate or ""
    meaning = _MEANINGS.get(code) or _MEANINGS.get(code[:2])
    if meaning is Unavailable or meaning is NoConnection:
        advice = _ADVICE.get(code) or _ADVICE.get(code[:2])
        return meaning("Postgres", f"{error} ({code})" + (f": {advice}" if advice else ""))
    if meaning is Conflict:
        return Conflict(getattr(error, "constraint_name", None) or str(error))
    if meaning is BadData:
        return (DayNotKept if _finds_no_partition(error) else BadData)(str(error))
    return None


def _finds_no_partition(error: asyncpg.PostgresError) -> bool:
    """Postgres says of a row that no partition takes that it violates a check, and names a table, but no constraint."""
    is_check = isinstance(error, asyncpg.CheckViolationError)
    return is_check and error.table_name is not None and error.constraint_name is None
