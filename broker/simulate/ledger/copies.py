"""Writes rows of jobs, bodies, executions and results, for admission and settlement."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from broker.core.records import Entry, Executed, Verdict
from broker.errors import BadData
from broker.ledger.copies import numbered
from broker.ledger.rows import EXECUTION_COLUMNS, JOB_COLUMNS, execution_row
from broker.simulate.ledger.days import check_day
from broker.simulate.ledger.stored import BodyRow, ExecutionRow, JobRow, ResultRow
from broker.simulate.ledger.tables import Tables

_INT, _BIGINT = 2**31, 2**63
_JSON = ("failure", "metadata")
_INTS = ("line", "max_attempts", "attempts")


def insert_job(tables: Tables, values: tuple[object, ...]) -> None:
    """Insert a job, by the values of JOB_COLUMNS. Raises: Conflict, BadData, DayNotKept."""
    tables.jobs.insert(_job_of(tables, values))


def add_job(tables: Tables, values: tuple[object, ...]) -> bool:
    """Insert a job unless it is known. Return whether it was. Raises: BadData, DayNotKept."""
    return tables.jobs.add(_job_of(tables, values))


def _job_of(tables: Tables, values: tuple[object, ...]) -> JobRow:
    row = JobRow(**dict(zip(JOB_COLUMNS, values, strict=True)))  # type: ignore[arg-type] # each is what its column takes
    check_day(tables, row.id)
    check_row(JOB_COLUMNS, values)
    return row


def check_row(columns: Sequence[str], values: Sequence[object]) -> None:
    """Refuse what Postgres cannot store: a NUL or half a surrogate in a text, a number out of range. Raises: BadData."""
    for name, value in zip(columns, values, strict=True):
        if isinstance(value, str):
            check_text(value, is_json=name in _JSON)
        elif isinstance(value, int) and not -_most(name) <= value < _most(name):
            raise BadData(f"{name} is out of range")


def check_text(text: str, *, is_json: bool = False) -> None:
    """Raises: BadData."""
    if "\0" in text or (is_json and "\\u0000" in text):
        raise BadData("a text has a NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadData(str(error)) from error


def _most(column: str) -> int:
    return _INT if column in _INTS else _BIGINT


def copy_bodies(tables: Tables, entries: Sequence[Entry]) -> None:
    for entry in entries:
        tables.bodies.insert(BodyRow(job=entry.id, body=entry.body))


def add_execution(tables: Tables, verdict: Verdict, executed: Executed, *, waste: bool) -> bool:
    """Insert an execution unless it is known. Return whether it was. Raises: BadData, DayNotKept."""
    values = execution_row(verdict, executed, waste=waste)
    check_day(tables, verdict.job)
    check_row(EXECUTION_COLUMNS, values)
    row = ExecutionRow(**dict(zip(EXECUTION_COLUMNS, values, strict=True)))  # type: ignore[arg-type] # as in _job_of
    return tables.executions.add(row)


def copy_results(
    tables: Tables, ended: Sequence[tuple[UUID, UUID | None, bytes | None]], ended_before: Mapping[UUID, int]
) -> None:
    """Insert the results of `ended` (job, batch, body), in this order. Those of a batch get its next ordinals."""
    for job, batch, ordinal, body in numbered(ended, ended_before):
        check_day(tables, job)
        tables.results.insert(ResultRow(job=job, batch=batch, ordinal=ordinal, body=body))
