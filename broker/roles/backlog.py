"""The backlog as the dispatch leader reads it from the ledger: the fronts of the flows, a page at a time."""

from collections.abc import Iterable, Sequence

from broker.core.backlog import Fronts
from broker.core.records import Flow, Head, Place
from broker.ledger import PgLedger
from broker.retrying import until_available
from schemas.units import Ms

FRESH = 20
"""Flows that a round reads anew at most, so that thousands of them hold up no dispatch."""
_PAGE = 1000
"""Delayed jobs that a round moves into the backlog at most."""


class Backlog:
    """Reads ahead, goes back to what is announced, and lets delayed jobs in when their time has come."""

    def __init__(self, ledger: PgLedger) -> None:
        self._ledger = ledger
        self._fronts = Fronts()
        self._announced: list[tuple[Flow, Place]] = []
        self._due_ms: Ms | None = None

    @property
    def fronts(self) -> Fronts:
        return self._fronts

    @property
    def due_ms(self) -> Ms | None:
        """When the first of the delayed jobs is due that are known of."""
        return self._due_ms

    def announced(self, places: Iterable[tuple[Flow, Place]]) -> None:
        """Jobs wait at these places: the next read goes back there."""
        self._announced += places

    def knows_due(self, due: Ms) -> None:
        """A delayed job is due then."""
        self._due_ms = due if self._due_ms is None else min(due, self._due_ms)

    async def restart(self) -> None:
        """Read the flows from their beginnings, whatever was announced or missed."""
        self._fronts.restart(await until_available(self._ledger.flows))

    async def ask_next_due(self) -> None:
        """Ask the ledger, which may not know yet what is heard of meanwhile."""
        self._due_ms = None
        if (due := await until_available(self._ledger.next_due)) is not None:
            self.knows_due(due)

    async def read(self, now: Ms) -> None:
        """Move a page of jobs whose time has come, go back to what was announced, then read ahead where a front runs
        low.
        """
        if self._due_ms is not None and self._due_ms <= now:
            self._announced += await until_available(lambda: self._ledger.move_due(now, limit=_PAGE))
            await self.ask_next_due()
        announced, self._announced = self._announced, []
        for flow, place in announced:
            self._fronts.announced(flow, place)
        self._fronts.freshen(FRESH)
        for flow, front in list(self._fronts.flows.items()):
            front.go_back()
            if front.wants_page():
                limit = front.next_page()
                front.took_page(await self._page(flow, front.read_to, limit), limit=limit)
        self._fronts.prune()

    async def _page(self, flow: Flow, after: Place | None, limit: int) -> Sequence[Head]:
        return await until_available(lambda: self._ledger.heads(flow, after=after, limit=limit))
