"""The order of dispatch: which waiting job runs next, and where.

Capacity is shared at three levels, each by the same rule: between models that draw on the same deployments, between
a model's lanes by weight, between a lane's tenants alike. Within a flow the order is the ledger's: earliest deadline,
then submission. Nothing waits while anything can run: a share that is not used goes to the others.

The rule is stride scheduling (Waldspurger and Weihl, 1995): everyone has a counter, the lowest is served and moves by
cost over weight; one that comes back from idleness is lifted to the lowest of those that stayed, so that nobody saves
up credit. The cost of a job is the estimate of its tokens, which makes the tenants' counters those of VTC (OSDI'24); as
long as nothing estimates them it is 1. A model's deployments share its jobs by number.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from broker.core import route
from broker.core.records import Flow, Pick, WaitingJob
from schemas.catalog import Catalog, Route
from schemas.job import Lane

WEIGHTS: Mapping[Lane, float] = {Lane.INTERACTIVE: 16.0, Lane.STANDARD: 4.0, Lane.BULK: 1.0}
"""Shares of capacity while all lanes have work. A guess: bulk keeps a twentieth, so that it never starves."""

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Shares(Generic[K]):
    """The counters of one level."""

    counters: dict[K, float] = field(default_factory=dict)

    def wake(self, active: Iterable[K]) -> None:
        """Forget who is idle, and lift who comes back to the lowest that stayed."""
        names = set(active)
        stayed = [count for name, count in self.counters.items() if name in names]
        floor = min(stayed, default=0.0)
        self.counters = {name: self.counters.get(name, floor) for name in names}

    def charge(self, name: K, cost: float) -> float:
        self.counters[name] += cost
        return self.counters[name]


@dataclass(slots=True)
class Turns(Generic[K]):
    """Who of one level is served next, during one round: a heap over the level's counters."""

    shares: Shares[K]
    heap: list[tuple[float, float, K]]
    """Counter, weight negated, name: of those that are level the heaviest is first, so that what is rare and urgent
    does not wait for one more of what is always there.
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

    def served(self, name: K, cost: float) -> None:
        """`name` is the first."""
        heapq.heapreplace(self.heap, (self.shares.charge(name, cost), self.heap[0][1], name))

    def out(self) -> None:
        """The first has nothing left."""
        heapq.heappop(self.heap)


class Order:
    """The counters of all levels, from one round to the next. Owned by the one dispatch leader."""

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
    ) -> list[Pick]:
        """Up to `limit` jobs, each for a deployment that has room. `waiting` holds what may start now, in order;
        `alive` are the deployments with workers, beyond those with room.
        """
        return _Round(self, waiting, room, {*alive, *room}, catalog).picks(limit)


class _Round:
    """One choice: the counters, the jobs and the room that is left."""

    def __init__(
        self,
        order: Order,
        waiting: Mapping[Flow, Sequence[WaitingJob]],
        room: Mapping[str, int],
        alive: Collection[str],
        catalog: Catalog,
    ) -> None:
        self.order = order
        self.room = dict(room)
        self.alive = alive
        self._routes: dict[tuple[str, tuple[str, ...]], Sequence[Route]] = {}
        """By model and what a job has tried, the candidates for it."""
        self._closed: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        """By model, what jobs have tried that nobody left has room for."""
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
                self.models.out()
                continue
            self.room[pick.deployment] -= 1
            self.models.served(model, pick.tokens)
            picks.append(pick)
        return picks

    def _next(self, model: str) -> Pick | None:
        """The model's next job, by lane, then tenant; None when none is left that could run."""
        lanes = self.lanes[model]
        while (lane := lanes.first()) is not None:
            if (chosen := self._next_of_lane(model, lane)) is not None:
                lanes.served(lane, chosen.tokens / WEIGHTS[lane])
                return chosen
            lanes.out()
        return None

    def _next_of_lane(self, model: str, lane: Lane) -> Pick | None:
        tenants, closed = self.tenants[model, lane], self._closed[model]
        while (tenant := tenants.first()) is not None:
            flow, jobs = self.jobs[model, lane, tenant]
            for job in jobs:
                if job.tried in closed:
                    continue
                if (deployment := self._deployment(model, job.tried)) is not None:
                    tenants.served(tenant, job.tokens)
                    return Pick(flow, job.place, deployment, job.tokens)
                closed.add(job.tried)
            tenants.out()
        return None

    def _deployment(self, model: str, tried: tuple[str, ...]) -> str | None:
        """Of the candidates that have room, the one furthest behind its weight; of spares, the first."""
        free = [entry for entry in self._candidates(model, tried) if self.room.get(entry.deployment, 0) > 0]
        if len(free) < 2 or not free[0].weight:
            return free[0].deployment if free else None
        shares = self.order.routes[model]
        shares.wake(entry.deployment for entry in free)
        chosen = min(free, key=lambda entry: shares.counters[entry.deployment])
        shares.charge(chosen.deployment, 1.0 / chosen.weight)
        return chosen.deployment

    def _candidates(self, model: str, tried: tuple[str, ...]) -> Sequence[Route]:
        """Who may take a job. One that every deployment alive has failed begins its route again."""
        if (model, tried) not in self._routes:
            ask = partial(route.candidates, model, catalog=self.catalog, alive=self.alive)
            self._routes[model, tried] = ask(tried=tried) or ask()
        return self._routes[model, tried]

    def _has_room(self, model: str) -> bool:
        return any(self.room.get(entry.deployment, 0) > 0 for entry in route.entries(model, self.catalog))
