"""Reads the backlog of the dispatch leader from the ledger."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from broker.core.backlog import PAGE, Backlog, FlowBacklog, lower_heads
from broker.core.controls import Controls
from broker.core.records import Flow, Head, Place, WaitingJob
from broker.ports import BacklogLedger
from broker.retrying import until_available
from schemas.units import Ms

REREADS = 20
"""The most flows that a round reads again from their beginning, so that thousands of them hold up no dispatch."""
OVERDUE_MOST = 10_000
"""The most jobs that are ended at once because their deadline passed behind others of a higher priority."""
_DUE_PAGE = 1000
"""The most delayed jobs that a round moves into the backlog."""


class BacklogReader:
    """Reads ahead, goes back to the places announced, and moves delayed jobs into the backlog when they are due."""

    def __init__(self, ledger: BacklogLedger) -> None:
        self._ledger = ledger
        self._backlog = Backlog()
        self._announced: list[tuple[Flow, Place]] = []
        self._due_ms: Ms | None = None
        self._heads: Sequence[Head] = ()

    @property
    def backlog(self) -> Backlog:
        return self._backlog

    @property
    def due_ms(self) -> Ms | None:
        """When the first delayed job that is known of is due."""
        return self._due_ms

    def announced(self, places: Iterable[tuple[Flow, Place]]) -> None:
        """Jobs wait at these places: let the next read go back there."""
        self._announced += places

    def knows_due(self, due: Ms) -> None:
        """A delayed job is due at this time."""
        self._due_ms = due if self._due_ms is None else min(due, self._due_ms)

    async def restart(self) -> None:
        """Read the flows from their beginnings, whatever was announced or missed."""
        self._heads = await until_available(self._ledger.heads)
        self._backlog.restart(list(dict.fromkeys(head.flow for head in self._heads)))

    async def behind(self, now: Ms) -> list[UUID]:
        """List jobs whose deadline has passed behind others of a higher priority, where they may not be read for long.

        Up to OVERDUE_MOST are listed, as of the last `restart`.
        """
        late: list[UUID] = []
        for head in lower_heads(self._heads):
            after = Place(head.rank, Ms(-1), UUID(int=0))
            is_whole = head.deadline_ms > now
            while not is_whole and len(late) < OVERDUE_MOST:
                page = await self._page(head.flow, after, PAGE)
                passed = [
                    one.place.job for one in page if one.place.rank == head.rank and one.place.deadline_ms <= now
                ]
                late += passed
                is_whole = len(passed) < PAGE
                after = page[-1].place if page else after
        return late

    async def ask_next_due(self) -> None:
        """Ask the ledger when the next delayed job is due. An earlier time that is announced meanwhile is kept."""
        self._due_ms = None
        if (due := await until_available(self._ledger.next_due)) is not None:
            self.knows_due(due)

    async def read(self, now: Ms, controls: Controls) -> None:
        """Move a page of jobs that are due, go back to what was announced, and read flows of which little is left.

        Jobs of batches that are stopped are read past.
        """
        if self._due_ms is not None and self._due_ms <= now:
            self._announced += await until_available(lambda: self._ledger.move_due(now, limit=_DUE_PAGE))
            await self.ask_next_due()
        announced, self._announced = self._announced, []
        for flow, place in announced:
            self._backlog.go_back_to(flow, place)
        self._backlog.begin_rereads(REREADS)
        for flow, known in list(self._backlog.flows.items()):
            known.reread_passed_over()
            if known.wants_page():
                await self._read_page(flow, known, now, controls)
        self._backlog.remove_idle()

    async def _read_page(self, flow: Flow, known: FlowBacklog, now: Ms, controls: Controls) -> None:
        if controls.stops_jobs:
            page = await until_available(
                lambda: self._ledger.page_past(
                    flow, controls.stopped_batches, after=known.read_to, now=now, most=known.past_most
                )
            )
            known.add_page_past(page, kept=controls.keeps(flow, page.jobs, now))
        else:
            limit = known.next_page_size()
            known.add_page(await self._page(flow, known.read_to, limit), limit=limit)

    async def _page(self, flow: Flow, after: Place | None, limit: int) -> Sequence[WaitingJob]:
        return await until_available(lambda: self._ledger.page(flow, after=after, limit=limit))
