"""The fronts of the flows, as the dispatch leader has read them: keys only, a page at a time.

Ids arrive out of commit order, and deadlines and retries land before what was read: whoever lets a job wait announces
(flow, place), and the cursor goes back there. Reading everything anew from time to time is the net.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from broker.core.records import Flow, Head, Pick, Place
from schemas.units import Ms

FIRST_PAGE = 64
PAGE = 1000
"""Heads to read at once: first few, since most of many flows have no turn before they are read anew."""
_GROWTH = 4
FAILED_MOST = 1000
"""Heads that failed somewhere, of one flow, to be held ready: they may wait for long for the deployment that is left."""


def _failed(heads: Iterable[Head]) -> int:
    return sum(1 for head in heads if head.tried)


def _deadline(head: Head) -> Ms:
    return head.place.deadline_ms


def _just_before(place: Place) -> Place:
    return Place(place.deadline_ms, UUID(int=max(0, place.job.int - 1)))


@dataclass(slots=True)
class Front:
    """What is known of one flow."""

    ready: list[Head] = field(default_factory=list)
    """In order."""
    read_to: Place | None = None
    """Where the next page begins; everything up to it is in `ready`, or gone."""
    ended: bool = False
    """The last page reached the end of the flow."""
    page: int = FIRST_PAGE
    """Heads of the last page; they grow as the flow is consumed."""
    failed: int = 0
    """Of `ready`, those that failed somewhere: what is behind them does not wait for them."""
    passed_over: Place | None = None
    """The first that failed somewhere and was one too many to be held."""

    def wants_page(self) -> bool:
        return not self.ended and len(self.ready) - self.failed < self.page // 2

    def next_page(self) -> int:
        return FIRST_PAGE if self.read_to is None else min(PAGE, self.page * _GROWTH)

    def is_idle(self) -> bool:
        return self.ended and not self.ready and self.passed_over is None

    def took_page(self, page: Sequence[Head], *, limit: int) -> None:
        self.page = self.next_page()
        for head in page:
            if head.tried and self.failed >= FAILED_MOST:
                self.passed_over = self.passed_over or head.place
            else:
                self.ready.append(head)
                self.failed += bool(head.tried)
        self.ended = len(page) < limit
        if page:
            self.read_to = page[-1].place

    def announced(self, place: Place) -> None:
        """A job waits at `place`: read from there again, unless that is still to be read."""
        if self.read_to is not None and place <= self.read_to:
            self.read_to = _just_before(place)
            self.ready = [head for head in self.ready if head.place < place]
            if self.passed_over is not None and self.passed_over >= place:
                self.passed_over = None
            self._recount()
        self.ended = False

    def go_back(self) -> None:
        """Read those again that were passed over, when there is room for them."""
        if self.passed_over is not None and self.failed <= FAILED_MOST // 2:
            self.announced(self.passed_over)

    def take_expired(self, now: Ms) -> list[UUID]:
        """Jobs whose deadline has passed; they are at the front, since the order is by deadline."""
        at = bisect_right(self.ready, now, key=_deadline)
        expired, self.ready = self.ready[:at], self.ready[at:]
        self._recount()
        return [head.place.job for head in expired]

    def drop(self, chosen: set[UUID]) -> None:
        """They were dispatched, or were not waiting any more. A choice is mostly the beginning of what is ready."""
        taken = 0
        while taken < len(self.ready) and self.ready[taken].place.job in chosen:
            taken += 1
        del self.ready[:taken]
        if taken < len(chosen):
            self.ready = [head for head in self.ready if head.place.job not in chosen]
        self._recount()

    def _recount(self) -> None:
        """After some have left."""
        if self.failed:
            self.failed = _failed(self.ready)


@dataclass(slots=True)
class Fronts:
    """All flows that may have work."""

    flows: dict[Flow, Front] = field(default_factory=dict)
    stale: list[Flow] = field(default_factory=list)
    """To be read anew."""

    def announced(self, flow: Flow, place: Place) -> None:
        self.flows.setdefault(flow, Front()).announced(place)

    def restart(self, flows: Sequence[Flow]) -> None:
        """Read these from their beginnings, forget all others. Those that are known are read anew little by little."""
        self.stale = [flow for flow in flows if flow in self.flows]
        self.flows = {flow: self.flows.get(flow) or Front() for flow in flows}

    def freshen(self, count: int) -> None:
        """Begin so many of those that are to be read anew."""
        for flow in self.stale[:count]:
            if flow in self.flows:
                self.flows[flow] = Front()
        del self.stale[:count]

    def wants_more(self) -> bool:
        """Whether something is left to be read."""
        return bool(self.stale) or any(front.wants_page() for front in self.flows.values())

    def drop(self, picks: Sequence[Pick]) -> None:
        chosen: dict[Flow, set[UUID]] = defaultdict(set)
        for pick in picks:
            chosen[pick.flow].add(pick.place.job)
        for flow, jobs in chosen.items():
            if flow in self.flows:
                self.flows[flow].drop(jobs)

    def prune(self) -> None:
        self.flows = {flow: front for flow, front in self.flows.items() if not front.is_idle()}

    def ready(self) -> dict[Flow, Sequence[Head]]:
        return {flow: front.ready for flow, front in self.flows.items() if front.ready}
