"""Use-cases of single jobs: submit one, and wait for its end."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

from msgspec.structs import replace

from broker.core.admit import AdmissionContext, admit, key_conflict
from broker.core.principal import Principal
from broker.core.records import Entry
from broker.core.reserve import problem_of
from broker.errors import Unavailable
from broker.ports import Clock, Entropy, JobLedger
from broker.service.jobs import JobService
from broker.service.refusal import Refusal
from broker.service.submissions import SubmissionService
from schemas.api import JobRef, JobShow, State
from schemas.catalog import Catalog
from schemas.codec import TRACEPARENT, packed
from schemas.ids import uuid7
from schemas.job import Job, Lane

log = logging.getLogger(__name__)
LOOK_S = 10.0
"""Between two looks at the ledger, in case the notice of an end was lost."""
_SOON_S = 1.0
"""The same while intake has not taken the job: it may find that it stands for another, which ended long ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleJobService:
    """Each method raises Refusal or Unavailable."""

    submissions: SubmissionService
    jobs: JobService
    ledger: JobLedger
    hearing: Callable[[str, UUID | None, UUID], AbstractAsyncContextManager[asyncio.Event]]
    """Sets an event when a tenant's job, of a batch or of none, may have ended. It may end without."""
    catalog: Callable[[], Catalog]
    clock: Clock
    entropy: Entropy

    async def submit(
        self, principal: Principal, model: str, lane: Lane, job: Job, *, traceparent: str | None = None
    ) -> UUID:
        """Accept a job, and return its id. What would be refused at once is not accepted.

        If the same job was recorded before under its idempotency key, it is that one.
        """
        entry = self._admitted(principal, model, lane, job)
        if (first := await self._first(entry)) is not None:
            return first
        headers: Mapping[str, str] = {} if traceparent is None else {TRACEPARENT: traceparent}
        message = packed(replace(job, id=entry.id))
        name = f"{entry.id}-{entry.body_hash.hex()}"  # another job under the same id is stored, so that intake refuses it
        await self.submissions.bundle(principal, lane, model, message, headers=headers, name=name)
        return entry.id

    def _admitted(self, principal: Principal, model: str, lane: Lane, job: Job) -> Entry:
        """Decide as intake will. Raises: Refusal, for what it would record as failed."""
        now = self.clock()
        context = AdmissionContext(
            principal=principal,
            lane=lane,
            model=model,
            catalog=self.catalog(),
            now=now,
            new_id=lambda _: uuid7(now, self.entropy()),
        )
        entry = admit(job, context)
        if entry.refused is not None:
            raise Refusal(problem_of(entry.refused, model))
        return entry

    async def _first(self, entry: Entry) -> UUID | None:
        """Return the job for which an idempotency key stands already. Raises: Refusal, if that is another one.

        While the ledger is away it is for intake to say.
        """
        if entry.idempotency_key is None:
            return None
        try:
            known = await self.ledger.of_key(entry.tenant, entry.idempotency_key)
        except Unavailable as error:
            log.warning("idempotency key not looked up error=%s", error)
            return None
        if known is None:
            return None
        first, *identity = known
        if identity != [entry.model, entry.body_hash]:
            raise Refusal(problem_of(key_conflict(entry, first), entry.model))
        return first

    async def show_within(self, principal: Principal, job: UUID, *, wait_s: float) -> JobShow:
        """Show a job; while it has not ended, wait for its end so long."""
        shown = await self.jobs.show(principal, JobRef(job))
        if wait_s <= 0 or shown.settled_ms is not None:
            return shown
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        async with self.hearing(principal.tenant, shown.batch, shown.id) as ended:
            while True:
                ended.clear()
                shown = await self.jobs.show(principal, JobRef(job))
                left_s = until_s - loop.time()
                if shown.settled_ms is not None or left_s <= 0:
                    return shown
                await _wait(ended, min(left_s, _SOON_S if shown.state is State.ACCEPTED else LOOK_S))

    async def end_of(self, principal: Principal, job: UUID) -> JobShow:
        """Show a job that was submitted a moment ago, once it has ended.

        Until then NATS or the ledger may be away, or intake far behind, so that nobody finds the job yet.
        """
        while True:
            try:
                async with self.hearing(principal.tenant, None, job) as ended:
                    while True:
                        ended.clear()
                        with contextlib.suppress(Refusal):
                            shown = await self.jobs.show(principal, JobRef(job))
                            if shown.settled_ms is not None:
                                return shown
                        await _wait(ended, LOOK_S)
            except Unavailable as error:
                log.warning("job not read job=%s error=%s", job, error)
                await asyncio.sleep(_SOON_S)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
