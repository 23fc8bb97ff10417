"""The part of the client for batches, their results, and single jobs."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from msgspec.structs import replace

from broker.client.session import Session
from broker.errors import Unavailable
from schemas.api import (
    Batch,
    BatchCreate,
    Batches,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    JobCancel,
    JobCancelled,
    JobRef,
    JobsCancelled,
    JobShow,
    Result,
    ResultPage,
)
from schemas.cancel import CancelChoice, CancelCount, CancelMany
from schemas.changes import BatchChange, Change, JobChange, JobChanged
from schemas.instructions import Instruction
from schemas.job import Lane
from schemas.listing import JobFilter, JobList, JobPage
from schemas.subjects import Verb

_SOON_S = 0.1
"""Pause before results that were recorded while a page was read are requested: no other notice may come for them."""


class BatchClient(Session):
    """Creates batches, and reads what became of them and of their jobs. Raises: RequestRefused, NoBroker, Unavailable."""

    async def create_batch(
        self,
        *,
        lane: Lane = Lane.BULK,
        deadline_ms: int | None = None,
        priority: int = 0,
        metadata: dict[str, str] | None = None,
        webhook: UUID | None = None,
    ) -> Batch:
        """Create an open batch, with a new id. Its jobs have this deadline and priority unless they have their own.

        `webhook`: the endpoint that is told of its end.
        """
        ask = BatchCreate(
            id=self._new_id(),
            lane=lane,
            deadline_ms=deadline_ms,
            priority=priority,
            metadata=metadata or {},
            webhook=webhook,
        )
        return await self._call(Verb.BATCH_CREATE, ask, Batch)

    async def seal(self, batch: UUID, *, jobs: int) -> Batch:
        """Say that no more jobs will come: the batch is complete once this many have ended."""
        return await self._call(Verb.BATCH_SEAL, BatchSeal(batch, jobs), Batch)

    async def batch(self, batch: UUID) -> Batch:
        """Return the state, the counts and the cost of a batch."""
        return await self._call(Verb.BATCH_SHOW, BatchRef(batch), Batch)

    async def batches(
        self, *, limit: int = 20, before: UUID | None = None, matching: BatchList | None = None
    ) -> tuple[Batch, ...]:
        """List the tenant's batches, newest first; only those that match, if that is given."""
        ask = replace(matching or BatchList(), limit=limit, before=before)
        return (await self._call(Verb.BATCH_LIST, ask, Batches)).batches

    async def results(
        self, batch: UUID, *, cursor: str | None = None, wait: bool = True, own: bool = False
    ) -> AsyncIterator[Result]:
        """Yield each result once, in the order recorded, from the first or after `cursor`, until the batch is complete.

        If the batch was retried, what failed is replaced by what its retries came to (unless `own`), which are waited for
        too. With `wait=False` it stops after those that are there.
        """
        async for page in self.result_pages(batch, cursor=cursor, wait=wait, own=own):
            for result in page.results:
                yield result

    async def result_pages(
        self, batch: UUID, *, cursor: str | None = None, wait: bool = True, own: bool = False
    ) -> AsyncIterator[ResultPage]:
        """Yield results by the page, each with the cursor from which another reader can go on."""
        async with self._door.news(batch) as news:
            while True:
                news.clear()
                page = await self._page(
                    BatchResults(batch, cursor, own=own, final=wait), held_s=news.held_s if wait else 0
                )
                if page.results:
                    yield page
                    cursor = page.cursor
                if page.results and page.more:
                    continue
                if page.completed or not wait:
                    return
                await news.wait(_SOON_S if page.more else self._poll_s)

    async def _page(self, ask: BatchResults, *, held_s: float) -> ResultPage:
        """Request a page, again and again while NATS or the broker is away."""
        for attempt in range(100):
            try:
                return await self._call(Verb.BATCH_RESULTS, ask, ResultPage, held_s=held_s)
            except Unavailable:
                if attempt == 99:
                    raise
            await asyncio.sleep(min(2.0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")

    async def job(self, job: UUID) -> JobShow:
        """Return all that is recorded of a job, except its prompt. Until it is recorded, its state is `accepted`."""
        return await self._call(Verb.JOB_SHOW, JobRef(job), JobShow)

    async def jobs(
        self,
        wanted: JobFilter | None = None,
        *,
        limit: int = 20,
        before: UUID | None = None,
        tenant: str | None = None,
    ) -> JobPage:
        """List jobs that match, newest first. `next` of the page is `before` of the next one, also if it holds few jobs:
        one call looks at a bounded number of jobs.
        """
        ask = JobList(filter=wanted or JobFilter(), limit=limit, before=before, tenant=tenant)
        return await self._call(Verb.JOB_LIST, ask, JobPage)

    async def change_job(self, job: UUID, change: Change) -> JobChanged:
        """Change a job that waits, and return how it was and is."""
        return await self._call(Verb.JOB_CHANGE, JobChange(job, change), JobChanged)

    async def change_batch(self, batch: UUID, change: Change) -> Instruction:
        """Change all jobs of a batch that wait, and those that come later. What is returned goes on by itself."""
        return await self._call(Verb.BATCH_CHANGE, BatchChange(self._new_id(), batch, change), Instruction)

    async def cancel_batch(self, batch: UUID) -> Batch:
        """Cancel a batch: nothing of it starts any more, and what waits and runs is ended soon. Return it as it is then."""
        return await self._call(Verb.BATCH_CANCEL, BatchRef(batch), Batch)

    async def cancel_many(self, choice: CancelChoice) -> Instruction:
        """Cancel all jobs that match. None of them starts any more; the instruction ends them."""
        fields = {name: getattr(choice, name) for name in CancelChoice.__struct_fields__}
        return await self._call(Verb.CANCEL, CancelMany(id=self._new_id(), **fields), Instruction)

    async def count_cancelled(self, choice: CancelChoice) -> CancelCount:
        """Count the jobs that such a cancel would take now."""
        return await self._call(Verb.CANCEL_COUNT, choice, CancelCount)

    async def cancel_jobs(self, *jobs: UUID) -> tuple[JobCancelled, ...]:
        """Cancel jobs: those that wait end at once, those that run soon. Return what it came to, in the order asked."""
        return (await self._call(Verb.JOB_CANCEL, JobCancel(jobs), JobsCancelled)).jobs
