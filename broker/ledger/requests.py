"""Inserts the jobs of interactive requests, of which the ledger first hears at their end.

A request is known by its id, tenant, body and the instant of its admission. One whose id is already that of another
request or job is recorded as a job of its own, under an id made of these, so that neither touches the other.
"""

from collections.abc import Iterable, Mapping
from uuid import UUID

from msgspec.structs import replace

from broker.core.records import Entry, Executed, Verdict
from broker.ledger.connection import Connection
from broker.ledger.copies import copy_bodies, insert_jobs
from broker.ledger.rows import end_of, job_row
from broker.ledger.sql import query
from schemas.ids import derived_id, ms_of
from schemas.units import Ms

_PLACES = 64
"""How many advisory locks requests share. Few, since Postgres has room for some thousand locks."""


async def hold(connection: Connection, verdicts: Iterable[Verdict]) -> None:
    """Lock requests that may have several executions, so that two brokers miss nothing of what each other records."""
    if places := sorted({verdict.job.int % _PLACES for verdict in verdicts}):
        await connection.fetch(query("hold_requests"), places)


async def insert(
    connection: Connection, ends: Mapping[UUID, tuple[Verdict, Entry, Executed | None]], *, now: Ms
) -> set[UUID]:
    """Insert the requests that are not known yet, with what their executions cost, if that is given. Return their ids."""
    rows = [
        job_row(
            entry,
            state=end_of(verdict).state,
            attempts=verdict.attempt or 0,
            settled_ms=now,
            failure=end_of(verdict).failure,
            executed=executed,
        )
        for _, (verdict, entry, executed) in sorted(ends.items(), key=_job_number)
    ]
    new = await insert_jobs(connection, rows)
    await copy_bodies(connection, [ends[job][1] for job in new])
    return new


async def apart(connection: Connection, requests: Mapping[int, tuple[Verdict, Entry]]) -> dict[int, Verdict]:
    """Give those whose id is another's an id of their own. The others are not in the answer."""
    rows = await connection.fetch(query("identities"), [verdict.job for verdict, _ in requests.values()])
    known = {row["id"]: (row["tenant"], row["body_hash"], row["admitted_ms"]) for row in rows}
    found = {}
    for n, (verdict, entry) in requests.items():
        if known.get(entry.id, identity(entry)) != identity(entry):
            own = replace(entry, id=own_id(entry))
            found[n] = replace(verdict, job=own.id, entry=own)
    return found


def identity(entry: Entry) -> tuple[str, bytes, Ms]:
    return entry.tenant, entry.body_hash, entry.admitted_ms


def own_id(entry: Entry) -> UUID:
    """Derive an id of the same day, which is the same for every report on the request."""
    name = f"{entry.id}:{entry.tenant}:{entry.body_hash.hex()}"
    return derived_id(name, entry.admitted_ms, ms_of(entry.id))


def _job_number(item: tuple[UUID, object]) -> int:
    return item[0].int
