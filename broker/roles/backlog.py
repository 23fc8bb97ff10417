"""Reads the backlog of the dispatch leader from the ledger."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
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
_PATIENCE_S = 0.02
"""How long a round waits for a page that is read past what may not start."""
_RESTS = 30
"""How long a flow is left as it was read past what may not start, in times of what that took."""
_DUE_PAGE = 1000
"""The most delayed jobs that a round moves into the backlog."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A page that is being read."""

    page: "asyncio.Task[list[WaitingJob]]"
    after: Place | None
    past: Collection[UUID]
    """The batches whose jobs are left out."""
    limit: int


class BacklogReader:
    """Reads ahead, goes back to the places announced, and moves delayed jobs into the backlog when they are due."""

    def __init__(self, ledger: BacklogLedger) -> None:
        self._ledger = ledger
        self._backlog = Backlog()
        self._announced: list[tuple[Flow, Place]] = []
        self._due_ms: Ms | None = None
        self._readings: dict[Flow, _Reading] = {}
        self._rests: dict[Flow, float] = {}
        """Until when each flow is not read anew, by the loop's clock."""
        self.changed: Callable[[], object] = lambda: None
        """Is called when a page has come that was waited for."""
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

    async def restart(self, *, is_urgent: bool = False) -> None:
        """Read the flows from their beginnings, whatever was announced or missed.

        Unless it `is_urgent`, flows that took long to be read past what may not start are left as they are for a while.
        """
        self._heads = await until_available(self._ledger.heads)
        now_s = asyncio.get_running_loop().time()
        self._rests = {} if is_urgent else {flow: end for flow, end in self._rests.items() if end > now_s}
        flows = dict.fromkeys(head.flow for head in self._heads)
        known = self._backlog.flows
        self._backlog.restart([flow for flow in flows if flow in known or flow not in self._rests])
        self._backlog.to_reread = [flow for flow in self._backlog.to_reread if flow not in self._rests]

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
            if known.wants_page() or (flow in self._readings and self._readings[flow].page.done()):
                await self._read_page(flow, known, now, controls)
        self._backlog.remove_idle()
        for flow in [one for one in self._readings if one not in self._backlog.flows]:
            self._readings.pop(
                flow
            ).page.cancel()  # what it would find is old by the time that the flow is read again

    async def _read_page(self, flow: Flow, known: FlowBacklog, now: Ms, controls: Controls) -> None:
        limit = known.next_page_size()
        if not controls.stops_jobs:
            known.add_page(await self._page(flow, known.read_to, limit), limit=limit)
            return
        reading = self._readings.pop(flow, None) or self._begin(flow, known.read_to, limit, now, controls)
        await asyncio.wait({reading.page}, timeout=_PATIENCE_S)
        known.is_being_read = not reading.page.done()
        if known.is_being_read:
            self._readings[flow] = reading
        elif (reading.after, reading.past) == (known.read_to, controls.stopped_batches):  # else it is read anew
            page = reading.page.result()
            known.add_page(page, limit=reading.limit, kept=controls.keeps(flow, page, now))

    def _begin(self, flow: Flow, after: Place | None, limit: int, now: Ms, controls: Controls) -> "_Reading":
        """Begin to read a page past what may not start. Rounds go on meanwhile, since that may take seconds."""
        batches, began_s = controls.stopped_batches, asyncio.get_running_loop().time()
        page = asyncio.create_task(
            until_available(lambda: self._ledger.page_past(flow, batches, after=after, now=now, limit=limit))
        )
        page.add_done_callback(lambda page: None if page.cancelled() else self._read(flow, after, began_s))
        return _Reading(page, after, batches, limit)

    def _read(self, flow: Flow, after: Place | None, began_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        if after is None:
            self._rests[flow] = now_s + _RESTS * (now_s - began_s)
        self.changed()

    def close(self) -> None:
        """Read no more."""
        for reading in self._readings.values():
            reading.page.cancel()

    async def _page(self, flow: Flow, after: Place | None, limit: int) -> Sequence[WaitingJob]:
        return await until_available(lambda: self._ledger.page(flow, after=after, limit=limit))
