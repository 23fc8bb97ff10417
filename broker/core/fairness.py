"""Decides which waiting job runs next, and where.

Capacity is shared at three levels, by the same rule at each: between models that use the same deployments equally,
between a model's lanes by weight, between a lane's tenants equally. Within a flow the order is the ledger's: earliest
deadline first, then submission. A share that is not used goes to the others, so no slot is idle while a job can run.

The rule is stride scheduling (Waldspurger and Weihl, 1995). Each participant has a counter. The lowest is served, and its
counter grows by cost over weight. One that returns from idleness starts at the lowest counter of the active ones, so that
nobody saves up credit. The cost of a job is its estimated tokens, which makes the tenants' counters those of VTC (OSDI
'24); while nothing estimates tokens it is 1. A model's deployments share its jobs by number.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from broker.core import route
from broker.core.records import Flow, Pick, WaitingJob
from schemas.catalog import Catalog, Route
from schemas.job import Lane

WEIGHTS: Mapping[Lane, float] = {Lane.INTERACTIVE: 16.0, Lane.STANDARD: 4.0, Lane.BULK: 1.0}
"""How lanes share capacity while all have work. A guess: bulk keeps a twentieth, so that it never starves."""

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Shares(Generic[K]):
    """The counters of one level."""

    counters: dict[K, float] = field(default_factory=dict)

    def wake(self, active: Iterable[K]) -> None:
        """Forget those that are idle, and start those that return at the lowest counter of those that stayed."""
        names = set(active)
        stayed = [count for name, count in self.counters.items() if name in names]
        floor = min(stayed, default=0.0)
        self.counters = {name: self.counters.get(name, floor) for name in names}

    def charge(self, name: K, cost: float) -> float:
        self.counters[name] += cost
        return self.counters[name]


@dataclass(slots=True)
class Turns(Generic[K]):
    """The order of one level during one round: a heap of its counters, whose first is served next."""

    shares: Shares[K]
    heap: list[tuple[float, float, K]]
    """Counter, negated weight, name. Of equal counters the heaviest is first, so that a rare urgent job does not wait for
    one more of those that always come.
    """

    @classmethod
    def of(cls, shares: Shares[K], active: Iterable[K], weights: Mapping[K, float] | None = None) -> "Turns[K]":
        names = list(active)
        shares.wake(names)
        heap = [(shares.counters[name], -weights[name] if weights else 0.0, name) for name in names]
        heapq.heapify(heap)
        return cls(shares, heap)

    def first(self) -> K | None:
        return self.heap[0][2] if self.heap else None

    def charge_first(self, name: K, cost: float) -> None:
        """Charge `name`, which is the first, and let the next lowest become the first."""
        heapq.heapreplace(self.heap, (self.shares.charge(name, cost), self.heap[0][1], name))

    def drop_first(self) -> None:
        """Remove the first from this round: it has nothing left to serve."""
        heapq.heappop(self.heap)


class Order:
    """The counters of all levels, kept from round to round by the dispatch leader."""

    def __init__(self) -> None:
        self.models: Shares[str] = Shares()
        self.lanes: dict[str, Shares[Lane]] = defaultdict(Shares)
        self.tenants: dict[tuple[str, Lane], Shares[str]] = defaultdict(Shares)
        self.routes: dict[str, Shares[str]] = defaultdict(Shares)

    def choose(
        self,
        waiting: Mapping[Flow, Sequence[WaitingJob]],
        *,
        room: Mapping[str, int],
        alive: Collection[str] = (),
        catalog: Catalog,
        limit: int,
        barred: Mapping[UUID, str] | None = None,
    ) -> list[Pick]:
        """Choose up to `limit` jobs, each for a deployment with room. `waiting` has the jobs that may start now, in order;
        `alive` are the deployments that take jobs, though they may be full (`pools.alive`); those with room are among them.
        A job that is `barred` from a deployment goes to another, or keeps its place while those behind it go.
        """
        return _Round(self, waiting, room, {*alive, *room}, catalog=catalog, barred=barred or {}).picks(limit)


class _Round:
    """The state of one choice: counters, jobs, and the room that is left."""

    def __init__(
        self,
        order: Order,
        waiting: Mapping[Flow, Sequence[WaitingJob]],
        room: Mapping[str, int],
        alive: Collection[str],
        *,
        catalog: Catalog,
        barred: Mapping[UUID, str],
    ) -> None:
        self.order = order
        self.barred = barred
        self.room = dict(room)
        self.alive = alive
        self._routes: dict[tuple[str, tuple[str, ...]], Sequence[Route]] = {}
        """The candidates, by the model and what a job has tried."""
        self._closed: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        """By model, each `tried` for which no candidate has room any more."""
        self.catalog = catalog
        self.jobs = {
            (flow.model, flow.lane, flow.tenant): (flow, iter(jobs))
            for flow, jobs in waiting.items()
            if jobs and self._has_room(flow.model)
        }
        by_lane: dict[str, dict[Lane, list[str]]] = defaultdict(lambda: defaultdict(list))
        for model, lane, tenant in self.jobs:
            by_lane[model][lane].append(tenant)
        self.models = Turns.of(order.models, by_lane)
        self.lanes = {model: Turns.of(order.lanes[model], lanes, WEIGHTS) for model, lanes in by_lane.items()}
        self.tenants = {
            (model, lane): Turns.of(order.tenants[model, lane], tenants)
            for model, lanes in by_lane.items()
            for lane, tenants in lanes.items()
        }

    def picks(self, limit: int) -> list[Pick]:
        picks: list[Pick] = []
        while len(picks) < limit and (model := self.models.first()) is not None:
            pick = self._next(model) if self._has_room(model) else None
            if pick is None:
                self.models.drop_first()
                continue
            self.room[pick.deployment] -= 1
            self.models.charge_first(model, pick.tokens)
            picks.append(pick)
        return picks

    def _next(self, model: str) -> Pick | None:
        """Pick the model's next job, by lane, then by tenant. None: none is left that could run."""
        lanes = self.lanes[model]
        while (lane := lanes.first()) is not None:
            if (chosen := self._next_of_lane(model, lane)) is not None:
                lanes.charge_first(lane, chosen.tokens / WEIGHTS[lane])
                return chosen
            lanes.drop_first()
        return None

    def _next_of_lane(self, model: str, lane: Lane) -> Pick | None:
        tenants, closed = self.tenants[model, lane], self._closed[model]
        while (tenant := tenants.first()) is not None:
            flow, jobs = self.jobs[model, lane, tenant]
            for job in jobs:
                if job.tried in closed:
                    continue
                if self.barred and (bar := self.barred.get(job.place.job)) is not None:
                    if (deployment := self._unbarred(model, job.tried, bar)) is not None:
                        tenants.charge_first(tenant, job.tokens)
                        return Pick(flow, job.place, deployment, job.tokens)
                    continue
                if (deployment := self._furthest_behind(model, self._candidates(model, job.tried))) is not None:
                    tenants.charge_first(tenant, job.tokens)
                    return Pick(flow, job.place, deployment, job.tokens)
                closed.add(job.tried)
            tenants.drop_first()
        return None

    def _unbarred(self, model: str, tried: tuple[str, ...], bar: str) -> str | None:
        """Choose a deployment for a job that is barred from one."""
        alive = [name for name in self.alive if name != bar]
        return self._furthest_behind(model, route.candidates(model, catalog=self.catalog, alive=alive, tried=tried))

    def _furthest_behind(self, model: str, candidates: Sequence[Route]) -> str | None:
        """Choose among the candidates with room the one furthest behind its weight; among spares, the first."""
        free = [entry for entry in candidates if self.room.get(entry.deployment, 0) > 0]
        if len(free) < 2 or not free[0].weight:
            return free[0].deployment if free else None
        shares = self.order.routes[model]
        shares.wake(entry.deployment for entry in free)
        chosen = min(free, key=lambda entry: shares.counters[entry.deployment])
        shares.charge(chosen.deployment, 1.0 / chosen.weight)
        return chosen.deployment

    def _candidates(self, model: str, tried: tuple[str, ...]) -> Sequence[Route]:
        """List the deployments that may take a job. If all that are alive have failed it, it may try each again."""
        if (model, tried) not in self._routes:
            ask = partial(route.candidates, model, catalog=self.catalog, alive=self.alive)
            self._routes[model, tried] = ask(tried=tried) or ask()
        return self._routes[model, tried]

    def _has_room(self, model: str) -> bool:
        return bool([entry for entry in route.entries(model, self.catalog) if self.room.get(entry.deployment, 0) > 0])
