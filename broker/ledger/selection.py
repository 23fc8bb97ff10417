"""Selects jobs by a filter, a page at a time, by id and never by an offset, and looks at a bounded number of them in a call.

Failures are found by their own index, what runs in its small table, the jobs of a small batch by its results and places. All
else is a scan of the jobs by id, newest or oldest first, which ends after `most` of them wherever it stands.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from broker.ledger.connection import Connection
from broker.ledger.rows import job_line_of, json_text
from broker.ledger.sql import query
from schemas.api import State
from schemas.ids import NEWEST_MS, OLDEST_MS, least_id
from schemas.listing import JobFilter, JobLine, JobPage

LOOKED_AT = 250_000
"""How many jobs one call looks at. That takes 0.1 s, if they are in memory (docs/performance.md)."""
SMALL_BATCH = 50_000
"""The jobs of a batch of up to so many are read in one look. A guess: it takes 0.1 s."""
_GREATEST = (1 << 128) - 1
FAILED = frozenset({State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD})


class Range(msgspec.Struct, frozen=True):
    """Ids from `low` to below `high`, and the end to begin at."""

    low: UUID
    high: UUID
    newest_first: bool

    def beyond(self, job: UUID) -> "Range":
        """Return what is left after this id."""
        if self.newest_first:
            return Range(self.low, min(self.high, job), self.newest_first)
        return Range(max(self.low, UUID(int=min(_GREATEST, job.int + 1))), self.high, self.newest_first)

    def up_to(self, job: UUID) -> "Range":
        """Return what comes before this id, and the id itself."""
        if self.newest_first:
            return Range(max(self.low, job), self.high, self.newest_first)
        return Range(self.low, min(self.high, UUID(int=min(_GREATEST, job.int + 1))), self.newest_first)

    def within(self, low: UUID, high: UUID) -> "Range":
        return Range(max(self.low, low), min(self.high, high), self.newest_first)


async def select_jobs(
    connection: Connection,
    tenant: str | None,
    wanted: JobFilter,
    *,
    limit: int,
    after: UUID | None = None,
    newest_first: bool = True,
    most: int = LOOKED_AT,
    small_batch: int = SMALL_BATCH,
) -> JobPage:
    """Select up to `limit` jobs of a tenant (None: of all) that match, beyond the id `after` in the order asked for.

    `next` of the answer is `after` of the next page, also after a page that was ended by the bound `most`.
    """
    ids = range_of(wanted, newest_first=newest_first)
    if after is not None:
        ids = ids.beyond(after)
    if wanted.kinds or (wanted.states and FAILED.issuperset(wanted.states)):
        return await _among_failures(connection, tenant, wanted, ids, limit=limit, most=most)
    if set(wanted.states) == {State.RUNNING}:
        return await _among_running(connection, tenant, wanted, ids, limit=limit, most=most)
    if wanted.batch is None:
        return await _by_scan(connection, tenant, wanted, ids, limit=limit, most=most)
    batch = await connection.fetchrow(query("batch_bounds"), wanted.batch, tenant)
    if batch is None:
        return JobPage()
    if batch["jobs"] <= small_batch:
        rows = await connection.fetch(query("jobs_of_batch"), wanted.batch)
        jobs = await _matching(connection, tenant, wanted, ids, limit=limit + 1, among=[row["job"] for row in rows])
        return JobPage(jobs=tuple(jobs[:limit]), next=jobs[limit - 1].id if len(jobs) > limit else None)
    ids = ids.within(least_id(batch["from_ms"] - OLDEST_MS), least_id(batch["to_ms"] + NEWEST_MS))
    return await _by_scan(connection, tenant, wanted, ids, limit=limit, most=most)


async def _by_scan(
    connection: Connection, tenant: str | None, wanted: JobFilter, ids: Range, *, limit: int, most: int
) -> JobPage:
    last = await connection.fetchval(query("nth_job"), ids.low, ids.high, ids.newest_first, most - 1)
    looked_at = ids if last is None else ids.up_to(last)
    jobs = await _matching(connection, tenant, wanted, looked_at, limit=limit)
    return JobPage(jobs=tuple(jobs), next=jobs[-1].id if len(jobs) == limit else last)


async def _among_failures(
    connection: Connection, tenant: str | None, wanted: JobFilter, ids: Range, *, limit: int, most: int
) -> JobPage:
    """Look through failures, a page at a time."""
    states = [state for state in wanted.states if state in FAILED] if wanted.states else None
    kept: list[JobLine] = []
    for _ in range(max(1, most // _PAGE)):
        rows = await connection.fetch(
            query("failures_page"), ids.low, ids.high, ids.newest_first, _PAGE, tenant, wanted.batch, states,
            list(wanted.kinds), wanted.model,
        )  # fmt: skip
        fitting = [row["job"] for row in rows if row["fits"]]
        left = limit - len(kept)
        jobs = await _matching(connection, tenant, wanted, ids, limit=left, among=fitting) if fitting else []
        kept += jobs
        if len(kept) == limit:
            return JobPage(jobs=tuple(kept), next=kept[-1].id)
        if len(rows) < _PAGE:
            return JobPage(jobs=tuple(kept))
        ids = ids.beyond(rows[-1]["job"])
    return JobPage(jobs=tuple(kept), next=rows[-1]["job"])


_PAGE = 5000
"""How many failures or running jobs are looked at together."""


async def _among_running(
    connection: Connection, tenant: str | None, wanted: JobFilter, ids: Range, *, limit: int, most: int
) -> JobPage:
    rows = await connection.fetch(query("running_page"), ids.low, ids.high, ids.newest_first, most)
    among = [row["job"] for row in rows]
    jobs = await _matching(connection, tenant, wanted, ids, limit=limit, among=among) if among else []
    last = among[-1] if len(among) == most else None
    return JobPage(jobs=tuple(jobs), next=jobs[-1].id if len(jobs) == limit else last)


async def _matching(
    connection: Connection,
    tenant: str | None,
    wanted: JobFilter,
    ids: Range,
    *,
    limit: int,
    among: Sequence[UUID] | None = None,
) -> list[JobLine]:
    if among is not None and not among:
        return []
    if among:
        ids = ids.within(min(among), UUID(int=max(among).int + 1))
    rows = await connection.fetch(
        query("matching_jobs"),
        ids.low,
        ids.high,
        ids.newest_first,
        limit,
        among,
        tenant,
        list(wanted.states),
        list(wanted.kinds),
        wanted.model,
        wanted.lane,
        wanted.batch,
        wanted.custom_id,
        json_text(wanted.metadata or None),
    )
    return [job_line_of(row) for row in rows]


def range_of(wanted: JobFilter, *, newest_first: bool) -> Range:
    low = UUID(int=0) if wanted.since_ms is None else least_id(wanted.since_ms)
    high = UUID(int=_GREATEST) if wanted.until_ms is None else least_id(wanted.until_ms)
    return Range(low, high, newest_first)
