"""Use-cases of batches and their results. A principal reaches those of its tenant only."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

from msgspec.structs import replace

from broker.core.authorise import Action
from broker.core.controls import Controls
from broker.core.principal import Principal
from broker.core.records import ReadPage
from broker.ports import BatchLedger, Clock, WebhookLedger
from broker.service.refusal import Refusal, authorise, found, tenant_of
from broker.service.webhooks import check_webhook
from schemas.api import (
    Batch,
    BatchCreate,
    Batches,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    Problem,
    ResultPage,
)
from schemas.ids import id_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchService:
    """Each method raises Refusal, Unavailable, Conflict or BadData."""

    ledger: BatchLedger
    webhooks: WebhookLedger
    clock: Clock
    hearing: Callable[[str, UUID], AbstractAsyncContextManager[asyncio.Event]]
    """Sets an event when results of a tenant's batch may have come. Some may come without."""
    controls: Callable[[], Controls] = Controls

    async def create(self, principal: Principal, ask: BatchCreate) -> Batch:
        """Create an open batch. If one has the id already, return it as it is."""
        authorise(principal, Action.SUBMIT, lane=ask.lane)
        if wrong := id_problem(ask.id, self.clock()):
            raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
        await check_webhook(self.webhooks, ask.webhook, principal.tenant)
        return await self.ledger.create(ask, principal.tenant, self.clock())

    async def seal(self, principal: Principal, ask: BatchSeal) -> Batch:
        """Say that no more jobs will come. A batch that is sealed already stays as it is, and can be sealed with no other
        number. Nor does one that was cancelled, whatever the number.
        """
        authorise(principal, Action.SUBMIT)
        batch = await self.ledger.seal(ask.id, principal.tenant, ask.jobs, self.clock())
        sealed = found(batch, f"batch {ask.id}")
        if sealed.jobs != ask.jobs and sealed.cancel_ms is None:
            message = f"the batch {ask.id} was sealed with {sealed.jobs} jobs, not {ask.jobs}: make another for more"
            raise Refusal(Problem("batch_sealed", message, "jobs", sealed.jobs))
        return sealed

    async def show(self, principal: Principal, ask: BatchRef) -> Batch:
        authorise(principal, Action.READ_JOBS)
        batch = found(await self.ledger.find(ask.id, principal.tenant), f"batch {ask.id}")
        return self._with_holds(batch, principal.tenant)

    async def list(self, principal: Principal, ask: BatchList) -> Batches:
        """Return a page of a tenant's batches that match, the newest first."""
        authorise(principal, Action.READ_JOBS)
        tenant = tenant_of(principal, ask.tenant)
        batches = await self.ledger.page(tenant, ask)
        return Batches(tuple([self._with_holds(batch, tenant) for batch in batches]))

    def _with_holds(self, batch: Batch, tenant: str) -> Batch:
        """Add why none of its jobs starts, if somebody said so."""
        if batch.completed_ms is not None:
            return batch
        holds = self.controls().of_batch(batch.id, batch.lane, tenant)
        return replace(batch, holds=holds) if holds else batch

    async def results(self, principal: Principal, ask: BatchResults) -> ResultPage:
        """Return a page of results in the order in which they were recorded."""
        authorise(principal, Action.READ_JOBS)
        return (await self._read(principal, ask)).page

    async def results_within(self, principal: Principal, ask: BatchResults, *, wait_s: float) -> ResultPage:
        """As `results`, but while there is none and more may come, wait for one so long."""
        authorise(principal, Action.READ_JOBS)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        async with self.hearing(principal.tenant, ask.id) as news:
            while True:
                news.clear()
                page = await self.results(principal, ask)
                left_s = end_s - loop.time()
                if page.results or page.completed or left_s <= 0:
                    return page
                await _heard(news, within_s=min(left_s, _SOON_S if page.more else _LOOK_S))

    async def follow(self, principal: Principal, ask: BatchResults) -> AsyncGenerator[ReadPage]:
        """Yield results by the page as they are recorded, each once, up to the page that completes the batch.

        A page without results says that none came for a while.
        """
        authorise(principal, Action.READ_JOBS)
        async with self.hearing(principal.tenant, ask.id) as news:
            while True:
                news.clear()
                read = await self._read(principal, ask)
                yield read
                page = read.page
                if page.completed:
                    return
                ask = replace(ask, cursor=page.cursor)
                if not (page.results and page.more):
                    await _heard(news, within_s=_SOON_S if page.more else _LOOK_S)

    async def _read(self, principal: Principal, ask: BatchResults) -> ReadPage:
        try:
            read = await self.ledger.read(
                ask.id, principal.tenant, ask.cursor, ask.limit, own=ask.own, final=ask.final
            )
        except ValueError as error:
            raise Refusal(Problem("bad_cursor", str(error), "cursor")) from error
        return found(read, f"batch {ask.id}")


async def _heard(news: asyncio.Event, *, within_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await news.wait()


_LOOK_S = 2.0
"""Between two looks at the ledger, in case notices were lost."""
_SOON_S = 0.1
"""Before a look for results that were recorded during the look before: no other notice may come for them."""
