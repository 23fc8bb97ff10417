"""The fronts of the flows, as the dispatch leader has read them: keys only, a page at a time.

Ids arrive out of commit order, and deadlines and retries land before what was read: whoever lets a job wait announces
(flow, place), and the cursor goes back there. Reading everything anew from time to time is the net.
"""

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from broker.core.records import Flow, Head, Pick, Place
from schemas.units import Ms

PAGE = 1000


def _by_place(head: Head) -> Place:
    return head.place


def _deadline(head: Head) -> Ms:
    return head.place.deadline_ms


def _just_before(place: Place) -> Place:
    return Place(place.deadline_ms, UUID(int=max(0, place.job.int - 1)))


@dataclass(slots=True)
class Front:
    """What is known of one flow."""

    ready: list[Head] = field(default_factory=list)
    """In order; all may start now."""
    later: list[Head] = field(default_factory=list)
    """Those whose not-before time is ahead."""
    read_to: Place | None = None
    """Where the next page begins; everything up to it is in `ready` or `later`, or gone."""
    ended: bool = False
    """The last page reached the end of the flow."""

    def wants_page(self, low: int = PAGE // 2) -> bool:
        return not self.ended and len(self.ready) < low

    def is_idle(self) -> bool:
        return self.ended and not self.ready and not self.later

    def took_page(self, page: Sequence[Head], *, limit: int, now: Ms) -> None:
        for head in page:
            (self.ready if head.not_before_ms <= now else self.later).append(head)
        self.ended = len(page) < limit
        if page:
            self.read_to = page[-1].place

    def announced(self, place: Place) -> None:
        """A job waits at `place`: read from there again, unless that is still to be read."""
        if self.read_to is not None and place <= self.read_to:
            self.read_to = _just_before(place)
            self.ready = [head for head in self.ready if head.place < place]
            self.later = [head for head in self.later if head.place < place]
        self.ended = False

    def ripen(self, now: Ms) -> None:
        """Let those in whose time has come."""
        if not self.later:
            return
        for head in self.later:
            if head.not_before_ms <= now:
                insort(self.ready, head, key=_by_place)
        self.later = [head for head in self.later if head.not_before_ms > now]

    def take_expired(self, now: Ms) -> list[UUID]:
        """Jobs whose deadline has passed; they are at the front, since the order is by deadline."""
        at = bisect_right(self.ready, now, key=_deadline)
        expired, self.ready = self.ready[:at], self.ready[at:]
        if self.later:
            expired += [head for head in self.later if head.place.deadline_ms <= now]
            self.later = [head for head in self.later if head.place.deadline_ms > now]
        return [head.place.job for head in expired]

    def drop(self, chosen: set[UUID]) -> None:
        """They were dispatched, or were not waiting any more. A choice is mostly the beginning of what is ready."""
        taken = 0
        while taken < len(self.ready) and self.ready[taken].place.job in chosen:
            taken += 1
        del self.ready[:taken]
        if taken < len(chosen):
            self.ready = [head for head in self.ready if head.place.job not in chosen]


@dataclass(slots=True)
class Fronts:
    """All flows that may have work."""

    flows: dict[Flow, Front] = field(default_factory=dict)

    def announced(self, flow: Flow, place: Place) -> None:
        self.flows.setdefault(flow, Front()).announced(place)

    def restart(self, flows: Sequence[Flow]) -> None:
        """Read these from their beginnings, forget all others."""
        self.flows = {flow: Front() for flow in flows}

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

    def next_due_ms(self) -> Ms | None:
        """When the first of those that wait for their time may start, or the first deadline passes."""
        dues = [head.not_before_ms for front in self.flows.values() for head in front.later]
        return min(dues, default=None)
