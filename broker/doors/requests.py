"""The way of an interactive request from a door to the relay, the same for every door."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from broker.core import reserve
from broker.core.admit import AdmissionContext, admit
from broker.core.principal import Principal, known_or_bare
from broker.core.records import Entry
from broker.core.relay import Erred
from broker.ports import Caller, Clock, Entropy
from broker.roles.relay import Relay
from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.ids import uuid7
from schemas.job import Job
from schemas.subjects import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Admits requests, and hands them to the relay."""

    relay: Relay
    catalog: Callable[[], Catalog]
    clock: Clock
    entropy: Entropy

    def admitted(self, job: Job, caller: Principal | Problem, source: Source, *, traceparent: str | None) -> Entry:
        """Make the entry of a request, with `refused` set if it must not run. Whoever asked reads pieces."""
        now = self.clock()
        context = AdmissionContext(
            principal=known_or_bare(caller, source.tenant, source.key),
            denied=caller if isinstance(caller, Problem) else None,
            lane=source.lane,
            model=source.model,
            catalog=self.catalog(),
            now=now,
            new_id=lambda _: uuid7(now, self.entropy()),
            traceparent=traceparent,
            streams=True,
        )
        return admit(job, context)

    def with_free_id(self, entry: Entry) -> Entry:
        """Give it another id if a request of another tenant has it, which is none of its business."""
        if self.relay.has_anothers(entry.id, entry.tenant):
            return replace(entry, id=uuid7(entry.admitted_ms, self.entropy()))
        return entry

    async def ask(self, entry: Entry, caller: Caller) -> None:
        """Have the relay answer it, unless it was refused."""
        if entry.refused is None:
            await self.relay.ask(entry, caller)
        else:
            await caller.end(Erred(reserve.problem_of(entry.refused, entry.model)))
