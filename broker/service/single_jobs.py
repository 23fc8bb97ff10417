"""Use-cases of single jobs: submit one, and wait for its end."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

from msgspec.structs import replace

from broker.core.admit import AdmissionContext, admit
from broker.core.principal import Principal
from broker.errors import Unavailable
from broker.ports import Clock, Entropy
from broker.service.jobs import JobService
from broker.service.refusal import Refusal
from broker.service.submissions import SubmissionService
from schemas.api import JobRef, JobShow, Problem
from schemas.catalog import Catalog
from schemas.codec import TRACEPARENT, packed
from schemas.ids import uuid7
from schemas.job import Job, Lane

_PATIENCE_S = 60.0
_LOOK_S = 2.0
"""Between two looks at the ledger, in case the notice of an end was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleJobService:
    """Each method raises Refusal or Unavailable."""

    submissions: SubmissionService
    jobs: JobService
    hearing: Callable[[str, UUID], AbstractAsyncContextManager[asyncio.Event]]
    """Sets an event when a tenant's job may have ended. It may end without."""
    catalog: Callable[[], Catalog]
    clock: Clock
    entropy: Entropy

    async def submit(
        self, principal: Principal, model: str, lane: Lane, job: Job, *, traceparent: str | None = None
    ) -> UUID:
        """Accept a job, and return its id. What would be refused at once is not accepted."""
        now = self.clock()
        job = job if job.id is not None else replace(job, id=uuid7(now, self.entropy()))
        context = AdmissionContext(
            principal=principal,
            lane=lane,
            model=model,
            catalog=self.catalog(),
            now=now,
            new_id=lambda _: uuid7(now, self.entropy()),
        )
        if (refused := admit(job, context).refused) is not None:
            raise Refusal(Problem(refused.code, refused.message, refused.field, refused.limit))
        headers: Mapping[str, str] = {} if traceparent is None else {TRACEPARENT: traceparent}
        await self.submissions.bundle(principal, lane, model, packed(job), headers=headers, name=str(job.id))
        assert job.id is not None  # noqa: S101 - it was given one
        return job.id

    async def show_within(self, principal: Principal, job: UUID, *, wait_s: float) -> JobShow:
        """Show a job; while it has not ended, wait for its end so long."""
        if wait_s <= 0:
            return await self.jobs.show(principal, JobRef(job))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        async with self.hearing(principal.tenant, job) as ended:
            while True:
                ended.clear()
                shown = await self.jobs.show(principal, JobRef(job))
                left_s = until_s - loop.time()
                if shown.settled_ms is not None or left_s <= 0:
                    return shown
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, _LOOK_S)):
                        await ended.wait()

    async def end_of(self, principal: Principal, job: UUID) -> JobShow:
        """Show a job once it has ended, which it does at its deadline at the latest. Meanwhile the ledger may be away."""
        while True:
            with contextlib.suppress(Unavailable):
                shown = await self.show_within(principal, job, wait_s=_PATIENCE_S)
                if shown.settled_ms is not None:
                    return shown
                continue
            await asyncio.sleep(_LOOK_S)
