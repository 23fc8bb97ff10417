"""Compares the attempts that run by the ledger with what the streams hold, and repairs the difference.

If a worker is killed, its leases end and JetStream delivers its attempts again, to another worker of its deployment
(bus.streams, workers.leases). If its deployment has no worker left, they are put back here, for other deployments. If
it had reported but not acked, late_acks acks for it.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from msgspec.structs import replace

from broker.bus.runs import Rulings, Runs, attempts_in_outcome, attempts_in_run
from broker.core import route
from broker.core.records import OpenJob, Running
from broker.core.ruling import stranded
from broker.metrics import BrokerMetrics
from broker.ports import AttemptLedger, Clock, OpenJobLedger
from broker.retrying import until_available
from schemas.catalog import Catalog
from schemas.jetstream import NatsConnection
from schemas.ruling import Expire, PutBack
from schemas.units import Ms

log = logging.getLogger(__name__)
OVERDUE_MS = Ms(2_000)
"""How long after its deadline, by the leader's clock, a running job is left to its worker, whose report says what it cost. A
report that comes later is recorded as waste."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    nc: NatsConnection
    attempts: AttemptLedger
    jobs: OpenJobLedger
    runs: Runs
    rulings: Rulings
    catalog: Callable[[], Catalog]
    clock: Clock
    metrics: BrokerMetrics
    overdue_ms: Ms = OVERDUE_MS
    ended: set[UUID] = field(default_factory=set)
    """The overdue jobs that were ruled on since the last sweep."""

    async def run(self, *, alive: Collection[str], silent: Collection[str]) -> bool:
        """Publish attempts again that are in no stream, put back those of silent deployments.

        The streams are read in the order in which an attempt passes them, and the ledger last, so that none is missed.
        False: some of the attempts published again may still be missing.
        """
        in_run = await until_available(lambda: attempts_in_run(self.nc))
        in_outcome = await until_available(lambda: attempts_in_outcome(self.nc))
        running = await until_available(self.attempts.running)
        left = [one for one in running if (one.job, one.attempt) not in in_outcome]
        jobs = await until_available(lambda: self.jobs.open_jobs([one.job for one in left]))
        leased = [one for one in left if one.ward is None]  # what runs apart goes through no stream: roles.wards
        given_up = await self._give_up(leased, jobs, alive=alive, silent=silent)
        strays = [one for one in leased if (one.job, one.attempt) not in in_run and one not in given_up]
        is_whole = True
        if strays:
            log.warning("strays attempts=%d", len(strays))
            self.metrics.strays.inc(len(strays))
            attempts = await until_available(lambda: self.attempts.attempts_of(strays, now=self.clock()))
            is_whole = await self.runs.publish(
                [replace(route.with_limit(one, self.catalog()), is_stray=True) for one in attempts]
            )
        self.ended.clear()
        return is_whole

    async def end_overdue(self) -> None:
        """End the running jobs that their workers have not ended at their deadlines."""
        overdue = await until_available(lambda: self.attempts.overdue(Ms(self.clock() - self.overdue_ms)))
        new = [job for job in overdue if job not in self.ended]
        if new:
            log.warning("overdue attempts=%d", len(new))
            await self.rulings.publish([Expire(job) for job in new])
        self.ended.update(new)

    async def _give_up(
        self,
        running: Sequence[Running],
        jobs: Mapping[UUID, OpenJob],
        *,
        alive: Collection[str],
        silent: Collection[str],
    ) -> set[Running]:
        """Put back the attempts of deployments that have lost their workers, so that others can run the jobs."""
        models = {job.job: job.model for job in jobs.values()}
        found = stranded(running, models, catalog=self.catalog(), alive=alive, silent=silent)
        if found:
            log.warning("given up attempts=%d", len(found))
            await self.rulings.publish([PutBack(one.job, one.attempt) for one in found])
        return set(found)
