"""Keeps suspects apart: blames the deaths of workers, and hands groups of suspects to workers that run nothing else.

`core.suspects` decides; this does it for the dispatch leader. A worker that runs a group apart is called a ward. Attempts
reach it over core NATS and are in no stream, so its beats are all that tells whether it has them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from broker.bus.runs import Rulings, attempts_in_outcome
from broker.core import route
from broker.core.presence import Departed, Heard, Presence, Process, process_of
from broker.core.suspects import Blamed, FreeWorker, Involved, RunningApart, Turn, judge, turns
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import Clock, SuspectLedger
from broker.retrying import level_of, until_available
from schemas import subjects
from schemas.catalog import Catalog
from schemas.codec import packed
from schemas.ids import ms_of
from schemas.jetstream import NatsConnection, NatsError
from schemas.ruling import Convict, PutBack, Suspect
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import NOT_BEGUN, held_in, is_execution

log = logging.getLogger(__name__)
LOOK_S = 1.0
REST_S = 2.0
"""How long a worker takes others before a group of suspects, so that they do not starve."""
_RECENT_MS = 10_000
"""How long after a death attempts that nobody holds are put down to it. By then their leases have ended."""
_LOST_S = 4.0
"""After so long in no beat, an attempt did not reach its worker, or the worker has left."""
Key = tuple[UUID, int]


@dataclass(slots=True, kw_only=True)
class Wards:
    """Does so during one term of the leader."""

    nc: NatsConnection
    presence: Presence
    suspects: SuspectLedger
    rulings: Rulings
    catalog: Callable[[], Catalog]
    metrics: BrokerMetrics
    clock: Clock
    new_group: Callable[[], UUID]
    term: int
    held: Callable[[], Collection[str]] = frozenset
    """The deployments that a daily cap or a pause holds."""
    look_s: float = LOOK_S
    rest_s: float = REST_S
    lost_s: float = _LOST_S
    _free_since: dict[Process, float] = field(default_factory=dict)
    """Since when each worker that is there has run no suspects."""
    _missing_since: dict[Key, float] = field(default_factory=dict)
    """Since when the attempts that should run apart have been in no beat."""
    _ran_apart: dict[Process, bool] = field(default_factory=dict)
    """Of each worker that has died and was judged, whether it ran suspects then."""
    _suspected: dict[Process, set[UUID]] = field(default_factory=dict)
    """The groups that were made of what a worker held that seemed to have died."""

    def __repr__(self) -> str:
        return f"Wards(missing={len(self._missing_since)})"

    async def blame(self, deployment: str, unheld: Sequence[Key]) -> Collection[Key]:
        """Suspect what the workers of a deployment that died lately may have run. Return what goes to others as it is."""
        gone = [
            one
            for one in self.presence.departed
            if one.beat.deployment == deployment and one.has_died and one.since_ms <= _RECENT_MS
        ]
        new = [one for one in gone if process_of(one.beat) not in self._ran_apart]
        again = [one for one in gone if self._ran_apart.get(process_of(one.beat)) is False]
        if not new and not (again and unheld):
            return unheld
        in_outcome = await until_available(lambda: attempts_in_outcome(self.nc))
        apart = await until_available(self.suspects.running)
        left = [one for one in apart if (one.job, one.attempt) not in in_outcome]
        involved = {process_of(one.beat): _involved(one, left) for one in new}
        blamed, released = judge([*involved.values(), *([] for _ in again)], unheld, self.new_group)
        await self._rule(blamed)
        groups = {one.suspicion.group for one in blamed}
        for process, those in involved.items():
            self._ran_apart[process] = any(one.has_begun for one in those)
            self._suspected[process] = groups
        return released

    async def _rule(self, blamed: Sequence[Blamed]) -> None:
        if not blamed:
            return
        convicted = [one for one in blamed if one.is_convicted]
        for one in convicted:
            log.error("convicted job=%s: its worker died each of the last times that it ran alone", one.job)
        log.warning("suspected attempts=%d convicted=%d", len(blamed), len(convicted))
        await self.rulings.publish(
            [
                Convict(one.job, one.attempt, one.suspicion.deaths_alone)
                if one.is_convicted
                else Suspect(one.job, one.attempt, one.suspicion)
                for one in blamed
            ]
        )
        self.metrics.suspected.inc(len(blamed) - len(convicted))
        self.metrics.convicted.inc(len(convicted))

    async def serve(self) -> None:
        """Look once a second until cancelled. What cannot be done while NATS or Postgres is away is done afterwards."""
        while True:
            try:
                if self.presence.knows_all:
                    await self.look()
            except (Unavailable, NatsError) as error:
                log.log(level_of(error), "not looked after suspects yet error=%s", str(error) or type(error).__name__)
            await asyncio.sleep(self.look_s)

    async def look(self) -> None:
        """Put back what did not arrive, and hand out groups: but to no deployment with a death that is not judged yet."""
        now = asyncio.get_running_loop().time()
        await self._clear_of_the_living()
        running = await until_available(self.suspects.running)
        await self._put_back(self._lost(running, now))
        waiting = await until_available(self.suspects.waiting)
        self.metrics.suspects.set(len(waiting) + len(running))
        busy = {one.worker for one in running}
        free = self._free(busy, now)
        if not waiting:
            return
        unjudged = {
            one.beat.deployment
            for one in self.presence.departed
            if one.has_died and one.since_ms <= _RECENT_MS and process_of(one.beat) not in self._ran_apart
        }
        here = [one.beat for one in self.presence.here if not one.beat.draining]
        stopped = {*unjudged, *self.held()}
        chosen = turns(
            waiting,
            [one for one in free if one.deployment not in stopped],
            workers=Counter(beat.deployment for beat in here),
            apart=Counter(beat.deployment for beat in here if beat.id in busy),
            catalog=self.catalog(),
        )
        for turn in chosen:
            await self._hand(turn)
            self._free_since = {
                process: now if process[0] == turn.worker else since for process, since in self._free_since.items()
            }

    async def _clear_of_the_living(self) -> None:
        """Suspect nobody on account of workers that had not died: they were cut off, and are heard again."""
        here = {process_of(one.beat) for one in self.presence.here}
        groups = [group for process in here & self._suspected.keys() for group in self._suspected.pop(process)]
        if groups:
            log.warning("cleared groups=%d: their worker is there again", len(groups))
            await until_available(lambda: self.suspects.clear(groups))
        departed = {process_of(one.beat) for one in self.presence.departed}
        self._suspected = {one: those for one, those in self._suspected.items() if one in departed}
        self._ran_apart = {one: was for one, was in self._ran_apart.items() if one in departed}

    def _free(self, busy: Collection[WorkerId], now: float) -> list[FreeWorker]:
        """List the workers that take jobs and have rested."""
        since = {process_of(one.beat): now for one in self.presence.here}
        self._free_since = {
            process: began if process[0] in busy else self._free_since.get(process, began)
            for process, began in since.items()
        }
        return [
            FreeWorker(beat.id, beat.deployment, beat.slots, beat.running)
            for one in self.presence.here
            if not (beat := one.beat).draining
            and beat.slots > 0
            and now - self._free_since[process_of(beat)] >= self.rest_s
            and beat.id not in busy
        ]

    def _lost(self, running: Iterable[RunningApart], now: float) -> list[Key]:
        """Choose the attempts that have been in no beat for a while; but those of a dead worker are blamed first."""
        held = _held_by_each(self.presence.here)
        missing = [
            (one.job, one.attempt) for one in running if (one.job, one.attempt) not in held.get(one.worker, ())
        ]
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        dying = {one.beat.id for one in self.presence.departed if one.has_died and one.since_ms <= _RECENT_MS}
        names = {(one.job, one.attempt): one.worker for one in running}
        return [
            key
            for key, since in self._missing_since.items()
            if now - since >= (self.lost_s if names[key] not in dying else self.lost_s + _RECENT_MS / 1000)
        ]

    async def _put_back(self, lost: Sequence[Key]) -> None:
        if not lost:
            return
        in_outcome = await until_available(lambda: attempts_in_outcome(self.nc))
        left = [key for key in lost if key not in in_outcome]
        if left:
            log.warning("put back suspects=%d: no worker has them", len(left))
            await self.rulings.publish([PutBack(job, attempt) for job, attempt in left])

    async def _hand(self, turn: Turn) -> None:
        """Start a group and send it to its worker. What does not arrive is found missing."""
        attempts = await until_available(lambda: self.suspects.dispatch(turn, term=self.term, now=self.clock()))
        log.warning("runs apart group=%s worker=%s attempts=%d", turn.group, turn.worker, len(attempts))
        subject = subjects.ward(turn.worker)
        for attempt in attempts:
            try:
                await self.nc.publish(subject, packed(route.with_limit(attempt, self.catalog())))
            except NatsError as error:
                log.warning("not sent job=%s error=%s", attempt.job, str(error) or type(error).__name__)
        self.metrics.dispatched(turn.deployment, len(attempts))


def _held_by_each(workers: Iterable[Heard]) -> Mapping[WorkerId, Collection[Key]]:
    return {one.beat.id: {(held.job, held.attempt) for held in held_in(one.beat.held)} for one in workers}


def _involved(gone: Departed, apart: Iterable[RunningApart]) -> list[Involved]:
    """Say what a worker that died ran apart, or was to run apart, by its last beat."""
    beat = gone.beat
    held = {(one.job, one.attempt): one.execution for one in held_in(beat.held)}
    involved = []
    for one in apart:
        if one.worker == beat.id:
            execution = held.get((one.job, one.attempt), NOT_BEGUN)
            ran_ms = Ms(max(0, beat.at_ms - ms_of(execution))) if is_execution(execution) else Ms(0)
            involved.append(Involved(one.job, one.attempt, one.suspicion, execution != NOT_BEGUN, ran_ms))
    return involved
