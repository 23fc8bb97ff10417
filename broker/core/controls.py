"""Decides what may not start because somebody said so: what is paused, and what is being cancelled.

A flow, a batch or a deployment can be stopped. The dispatch leader knows the controls by their version, and the ledger
starts nothing for a leader whose version is not the newest. So what was paused or cancelled does not start any more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from broker.core.records import Flow, WaitingJob
from schemas.api import Hold, HoldCode, State
from schemas.cancel import CancelChoice
from schemas.control import Pause, PauseKind
from schemas.ids import ms_of
from schemas.job import Lane
from schemas.units import Ms

_OF_FLOW = (PauseKind.MODEL, PauseKind.LANE, PauseKind.TENANT)


@dataclass(frozen=True, slots=True)
class Controls:
    """All that holds back jobs, as the ledger had it at one moment."""

    version: int = 0
    """0: nothing was read yet. The ledger's count begins with 1."""
    pauses: tuple[Pause, ...] = ()
    cancelling: frozenset[UUID] = frozenset()
    """The batches that were cancelled, and have jobs that wait or run."""
    orders: tuple[CancelChoice, ...] = ()
    """Cancels of many jobs that are being carried out."""
    _by_name: Mapping[tuple[PauseKind, str], Pause] = field(init=False, repr=False, compare=False)
    stopped_batches: frozenset[UUID] = field(init=False, repr=False, compare=False)
    """Those that are paused or being cancelled."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {(pause.kind, pause.name): pause for pause in self.pauses})
        object.__setattr__(self, "stopped_batches", self.paused_batches | self.cancelling)

    @property
    def paused_batches(self) -> frozenset[UUID]:
        return frozenset(UUID(pause.name) for pause in self.pauses if pause.kind is PauseKind.BATCH)

    def of_flow(self, flow: Flow) -> Sequence[Pause]:
        """Return what pauses the flow: its model, its lane or its tenant."""
        if not self.pauses:
            return ()
        names = (flow.model, str(flow.lane), flow.tenant)
        keys = [*zip(_OF_FLOW, names, strict=True), *_pinned(flow.model)]
        return [pause for key in keys if (pause := self._by_name.get(key)) is not None]

    def deployment(self, name: str) -> Hold | None:
        """Return why nothing starts on a deployment, if it is paused."""
        pause = self._by_name.get((PauseKind.DEPLOYMENT, name)) if self.pauses else None
        return None if pause is None else hold_of(pause)

    def holds(self, flow: Flow, batch: UUID | None) -> tuple[Hold, ...]:
        """Say why a job of this flow and batch does not start."""
        found = [hold_of(pause) for pause in self.of_flow(flow)]
        if batch is not None and (pause := self._by_name.get((PauseKind.BATCH, str(batch)))) is not None:
            found.append(hold_of(pause))
        if batch in self.cancelling:
            found.append(Hold(HoldCode.CANCELLING, f"the batch {batch} is being cancelled"))
        return tuple(found)

    def of_batch(self, batch: UUID, lane: Lane, tenant: str) -> tuple[Hold, ...]:
        """Say why no job of a batch starts: the batch, its lane or its tenant is paused, or it is being cancelled."""
        if not self.pauses and not self.cancelling:
            return ()
        return self.holds(Flow("", lane, tenant), batch)

    def model(self, name: str) -> tuple[Hold, ...]:
        """Say that the model is paused, if it is."""
        pause = self._by_name.get((PauseKind.MODEL, name))
        return () if pause is None else (hold_of(pause),)

    def may_start(self, ready: Mapping[Flow, Sequence[WaitingJob]]) -> Mapping[Flow, Sequence[WaitingJob]]:
        """Leave out the flows that are paused. Jobs of stopped batches were left out when they were read (`keeps`)."""
        if not self.pauses:
            return ready
        return {flow: jobs for flow, jobs in ready.items() if not self.of_flow(flow)}

    @property
    def stops_jobs(self) -> bool:
        """Whether some jobs of a flow may not start while others may."""
        return bool(self.stopped_batches or self.orders)

    def keeps(self, flow: Flow, jobs: Iterable[WaitingJob], now: Ms) -> list[WaitingJob]:
        """Leave out jobs of stopped batches, and those that are being cancelled, unless their deadline has passed: then they
        must be ended.
        """
        stopped = self.stopped_batches
        orders = [order for order in self.orders if _is_of(order, flow)]
        return [
            job
            for job in jobs
            if job.place.deadline_ms <= now
            or (job.batch not in stopped and not any(_takes(order, job) for order in orders))
        ]

    def let_go(self, before: "Controls") -> bool:
        """Tell whether a job that was stopped `before` may start again."""
        return bool(before.stopped_batches - self.stopped_batches or {*before.orders} - {*self.orders})


def _is_of(order: CancelChoice, flow: Flow) -> bool:
    """Say whether an order to cancel may name waiting jobs of this flow."""
    return (
        order.takes(State.QUEUED)
        and order.tenant == flow.tenant
        and order.model in (None, flow.model)
        and order.lane in (None, flow.lane)
    )


def _takes(order: CancelChoice, job: WaitingJob) -> bool:
    made_ms = ms_of(job.place.job)
    return (
        order.batch in (None, job.batch)
        and (order.since_ms is None or made_ms >= order.since_ms)
        and (order.until_ms is None or made_ms < order.until_ms)
    )


def _pinned(model: str) -> list[tuple[PauseKind, str]]:
    """Return what else pauses the jobs of a model: one that is pinned to a deployment is paused as its model is."""
    places = [place for place, character in enumerate(model) if character == "@"]
    return [(PauseKind.MODEL, model[:place]) for place in places]


def hold_of(pause: Pause) -> Hold:
    why = f": {pause.reason}" if pause.reason else ""
    return Hold(HoldCode.PAUSED, f"the {pause.kind} {pause.name} is paused by {pause.tenant}/{pause.key}{why}")
