"""The waiting jobs that the dispatch leader has read from the ledger, flow by flow, a page at a time.

New ids, earlier deadlines and retries can put a job in front of what was read. Whoever lets a job wait therefore
announces (flow, place), and the reading goes back to that place. An announcement may be lost, so the leader also reads
every flow again from its beginning from time to time.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from broker.core.records import Flow, Head, Pick, Place, WaitingJob
from schemas.units import Ms

FIRST_PAGE = 64
"""Jobs in the first page of a flow. It is small because most of many flows get no turn before they are read again."""
PAGE = 1000
"""The most jobs in a page."""
_GROWTH = 4
FAILED_MOST = 1000
"""How many jobs of one flow are kept that failed somewhere: they may wait long for the one deployment that is left."""


def _rank(job: WaitingJob) -> int:
    return job.place.rank


def _deadline(job: WaitingJob) -> Ms:
    return job.place.deadline_ms


@dataclass(slots=True)
class FlowBacklog:
    """What has been read of one flow."""

    ready: list[WaitingJob] = field(default_factory=list)
    """In the order of the flow."""
    read_to: Place | None = None
    """Where the next page begins. Every job up to here is in `ready`, was passed over, or waits no more."""
    ended: bool = False
    """The last page reached the end of the flow."""
    page_size: int = FIRST_PAGE
    """The size of the last page. It grows while the flow is consumed."""
    is_being_read: bool = False
    """Whether its next page is on its way: it takes long to read past many jobs that may not start."""
    failed: int = 0
    """How many jobs in `ready` failed somewhere. They do not hold up the reading of those behind them."""
    passed_over: Place | None = None
    """The first job that was read and not kept, because too many that failed somewhere are kept already."""

    def wants_page(self) -> bool:
        return not self.ended and not self.is_being_read and len(self.ready) - self.failed < self.page_size // 2

    def next_page_size(self) -> int:
        return FIRST_PAGE if self.read_to is None else min(PAGE, self.page_size * _GROWTH)

    def is_idle(self) -> bool:
        return self.ended and not self.ready and self.passed_over is None

    def add_page(self, page: Sequence[WaitingJob], *, limit: int, kept: Sequence[WaitingJob] | None = None) -> None:
        """Keep the jobs that were read after `read_to`, or only those `kept`. A page shorter than `limit` is the last."""
        self.page_size = self.next_page_size()
        for job in page if kept is None else kept:
            if job.tried and self.failed >= FAILED_MOST:
                self.passed_over = self.passed_over or job.place
            else:
                self.ready.append(job)
                self.failed += bool(job.tried)
        self.ended = len(page) < limit
        if page:
            self.read_to = page[-1].place

    def go_back_to(self, place: Place) -> None:
        """Read again from `place`, where a job waits. If that is still ahead, only note that there is more to read."""
        if self.read_to is not None and place <= self.read_to:
            self.read_to = Place(place.rank, place.deadline_ms, UUID(int=max(0, place.job.int - 1)))
            self.ready = [job for job in self.ready if job.place < place]
            if self.passed_over is not None and self.passed_over >= place:
                self.passed_over = None
            self._recount_failed()
        self.ended = False

    def reread_passed_over(self) -> None:
        """Go back to the jobs that were passed over once there is room for them."""
        if self.passed_over is not None and self.failed <= FAILED_MOST // 2:
            self.go_back_to(self.passed_over)

    def take_expired(self, now: Ms) -> list[UUID]:
        """Remove and return the jobs whose deadline has passed. They come first among those of their priority."""
        ready, at = self.ready, 0
        expired: list[UUID] = []
        while at < len(ready):
            rank, end = ready[at].place.rank, len(ready)
            if ready[-1].place.rank != rank:
                end = bisect_right(ready, rank, at, key=_rank)
            if ready[at].place.deadline_ms <= now:
                passed = bisect_right(ready, now, at, end, key=_deadline)
                expired += [job.place.job for job in ready[at:passed]]
                del ready[at:passed]
                end -= passed - at
            at = end
        if expired:
            self._recount_failed()
        return expired

    def keep(self, jobs: list[WaitingJob]) -> None:
        """Keep only these of the jobs that are ready: the others may not start."""
        self.ready = jobs
        self._recount_failed()

    def remove(self, jobs: set[UUID]) -> None:
        """Remove jobs that were dispatched or wait no more. They are mostly the first of those that are ready."""
        first = 0
        while first < len(self.ready) and self.ready[first].place.job in jobs:
            first += 1
        del self.ready[:first]
        if first < len(jobs):
            self.ready = [job for job in self.ready if job.place.job not in jobs]
        self._recount_failed()

    def _recount_failed(self) -> None:
        if self.failed:
            self.failed = sum(1 for job in self.ready if job.tried)


def lower_heads(heads: Iterable[Head]) -> list[Head]:
    """Choose of all priorities of each flow those that come after its first. `heads` are in the order of flow and rank."""
    return [head for _, of_flow in groupby(heads, key=attrgetter("flow")) for head in list(of_flow)[1:]]


@dataclass(slots=True)
class Backlog:
    """All flows that may have waiting jobs."""

    flows: dict[Flow, FlowBacklog] = field(default_factory=dict)
    to_reread: list[Flow] = field(default_factory=list)
    """Flows that are to be read again from their beginning."""

    def go_back_to(self, flow: Flow, place: Place) -> None:
        self.flows.setdefault(flow, FlowBacklog()).go_back_to(place)

    def restart(self, flows: Sequence[Flow]) -> None:
        """Forget all flows but these. Those that are known already are read again little by little."""
        self.to_reread = [flow for flow in flows if flow in self.flows]
        self.flows = {flow: self.flows.get(flow) or FlowBacklog() for flow in flows}

    def begin_rereads(self, count: int) -> None:
        """Start the next `count` flows that are to be read again from their beginning."""
        for flow in self.to_reread[:count]:
            if flow in self.flows:
                self.flows[flow] = FlowBacklog()
        del self.to_reread[:count]

    def wants_more(self) -> bool:
        """Tell whether something is left to be read."""
        return bool(self.to_reread) or any(flow.wants_page() for flow in self.flows.values())

    def remove(self, picks: Sequence[Pick]) -> None:
        jobs: dict[Flow, set[UUID]] = defaultdict(set)
        for pick in picks:
            jobs[pick.flow].add(pick.place.job)
        for flow, of_flow in jobs.items():
            if flow in self.flows:
                self.flows[flow].remove(of_flow)

    def keep(self, keeps: Callable[[Flow, Sequence[WaitingJob]], list[WaitingJob]]) -> None:
        """Drop the jobs of each flow that may not start."""
        for flow, known in self.flows.items():
            known.keep(keeps(flow, known.ready))

    def remove_idle(self) -> None:
        self.flows = {flow: known for flow, known in self.flows.items() if not known.is_idle()}

    def ready(self) -> dict[Flow, Sequence[WaitingJob]]:
        return {flow: known.ready for flow, known in self.flows.items() if known.ready}
