"""The order of dispatch: which waiting job runs next, and where.

Capacity is shared at three levels, each by the same rule: between models that draw on the same deployments, between
a model's lanes by weight, between a lane's tenants alike. Within a flow the order is the ledger's: earliest deadline,
then submission. Nothing waits while anything can run: a share that is not used goes to the others.

The rule is stride scheduling (Waldspurger and Weihl, 1995): everyone has a counter, the lowest is served and moves by
cost over weight; one that comes back from idleness is lifted to the lowest of those that stayed, so that nobody saves
up credit. The cost of a job is 1 here; a cost in tokens turns the tenants' counters into VTC's (OSDI'24).
"""

import heapq
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from broker.core.records import Flow, Head, Pick, Place
from schemas.catalog import Catalog, Route
from schemas.job import Lane
from schemas.units import Ms

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
    heap: list[tuple[float, K]]

    @classmethod
    def of(cls, shares: Shares[K], active: Iterable[K]) -> "Turns[K]":
        names = list(active)
        shares.wake(names)
        heap = [(shares.counters[name], name) for name in names]
        heapq.heapify(heap)
        return cls(shares, heap)

    def first(self) -> K | None:
        return self.heap[0][1] if self.heap else None

    def served(self, name: K, cost: float) -> None:
        """`name` is the first."""
        heapq.heapreplace(self.heap, (self.shares.charge(name, cost), name))

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
        self, waiting: Mapping[Flow, Sequence[Head]], *, room: Mapping[str, int], catalog: Catalog, limit: int
    ) -> list[Pick]:
        """Up to `limit` jobs, each for a deployment that has room. `waiting` holds what may start now, in order."""
        return _Round(self, waiting, room, catalog).picks(limit)


class _Round:
    """One choice: the counters, the heads and the room that is left."""

    def __init__(
        self, order: Order, waiting: Mapping[Flow, Sequence[Head]], room: Mapping[str, int], catalog: Catalog
    ) -> None:
        self.order = order
        self.room = dict(room)
        self.catalog = catalog
        self.heads = {
            (flow.model, flow.lane, flow.tenant): (flow, iter(heads))
            for flow, heads in waiting.items()
            if heads and self._has_room(flow.model)
        }
        by_lane: dict[str, dict[Lane, list[str]]] = defaultdict(lambda: defaultdict(list))
        for model, lane, tenant in self.heads:
            by_lane[model][lane].append(tenant)
        self.models = Turns.of(order.models, by_lane)
        self.lanes = {model: Turns.of(order.lanes[model], lanes) for model, lanes in by_lane.items()}
        self.tenants = {
            (model, lane): Turns.of(order.tenants[model, lane], tenants)
            for model, lanes in by_lane.items()
            for lane, tenants in lanes.items()
        }

    def picks(self, limit: int) -> list[Pick]:
        picks: list[Pick] = []
        while len(picks) < limit and (model := self.models.first()) is not None:
            deployment = self._deployment(model)
            chosen = self._next(model) if deployment is not None else None
            if deployment is None or chosen is None:
                self.models.out()
                continue
            self.room[deployment] -= 1
            self.models.served(model, 1.0)
            picks.append(Pick(*chosen, deployment))
        return picks

    def _next(self, model: str) -> tuple[Flow, Place] | None:
        """The model's next job, by lane, then tenant; None when it has none left."""
        lanes = self.lanes[model]
        while (lane := lanes.first()) is not None:
            if (chosen := self._next_of_lane(model, lane)) is not None:
                lanes.served(lane, 1.0 / WEIGHTS[lane])
                return chosen
            lanes.out()
        return None

    def _next_of_lane(self, model: str, lane: Lane) -> tuple[Flow, Place] | None:
        tenants = self.tenants[model, lane]
        while (tenant := tenants.first()) is not None:
            flow, heads = self.heads[model, lane, tenant]
            if (head := next(heads, None)) is not None:
                tenants.served(tenant, 1.0)
                return flow, head.place
            tenants.out()
        return None

    def _deployment(self, model: str) -> str | None:
        """Of the model's deployments with room, the one furthest behind its weight."""
        open_routes = self._open_routes(model)
        if len(open_routes) == 1:
            return open_routes[0].deployment
        if not open_routes:
            return None
        shares = self.order.routes[model]
        shares.wake(route.deployment for route in open_routes)
        chosen = min(open_routes, key=lambda route: shares.counters[route.deployment])
        shares.charge(chosen.deployment, 1.0 / chosen.weight)
        return chosen.deployment

    def _open_routes(self, model: str) -> list[Route]:
        return [r for r in self.catalog.models[model].route if r.weight and self.room.get(r.deployment, 0) > 0]

    def _has_room(self, model: str) -> bool:
        return model in self.catalog.models and bool(self._open_routes(model))


def lookahead(slots: int, *, per_s: float) -> int:
    """Attempts to have in a work stream beyond what runs, so that no slot waits for the broker.

    Half the slots, or what the pool settles in a quarter of a second: several times the way from an outcome through
    settle back to the next dispatch. More would only take jobs out of the order early.
    """
    return max(1, slots // 2, min(int(per_s * _LOOKAHEAD_S), _LOOKAHEAD_MOST)) if slots else 0


_LOOKAHEAD_S = 0.25
_LOOKAHEAD_MOST = 4096


@dataclass(slots=True)
class Rate:
    """How many a second, over about the last second."""

    per_s: float = 0.0
    since_ms: Ms | None = None
    count: int = 0

    def add(self, count: int, now: Ms) -> None:
        if self.since_ms is None:
            self.since_ms = now
        self.count += count
        if (elapsed := now - self.since_ms) >= _RATE_WINDOW_MS:
            self.per_s = (self.per_s + self.count * 1000 / elapsed) / 2
            self.count, self.since_ms = 0, now


_RATE_WINDOW_MS = 250
