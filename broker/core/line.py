"""Decides which of the interactive requests that wait gets the next free slot, and how many may wait.

Tenants take turns: one's hundred requests do not stand before another's one. Within a tenant, the request that came first
goes first. A model has a depth, in requests and in bytes. Once it is reached, the tenant that waits with most gives way,
with its newest request: the one that comes, or one that waits.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from schemas.units import Ms

_RATE_WINDOW_MS = 10_000
_LEAST_RETRY_MS = Ms(1_000)
_MOST_RETRY_MS = Ms(60_000)


@dataclass(frozen=True, slots=True)
class Depth:
    """How much may wait for one model."""

    requests: int
    size: int
    """The bytes of their bodies."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request that waits for a slot."""

    job: UUID
    model: str
    tenant: str
    size: int
    deployments: tuple[str, ...]
    """Those whose slots it may take."""


class Line:
    """The requests that wait at this broker."""

    def __init__(self, depth: Depth) -> None:
        self._depth = depth
        self._waiters: dict[UUID, Waiter] = {}
        self._turns: OrderedDict[str, OrderedDict[UUID, Waiter]] = OrderedDict()
        """By tenant, the one whose turn is next first; each with its requests in their order."""
        self._counts = Counter[tuple[str, str]]()
        self._sizes = Counter[tuple[str, str]]()
        """How many requests wait, and their bytes, by model and tenant."""
        self.by_model = Counter[str]()
        """How many requests wait for each model."""
        self._size_of = Counter[str]()
        self.wanted = Counter[str]()
        """How many requests may take a slot of each deployment."""

    def __repr__(self) -> str:
        return f"Line({dict(self.by_model)})"

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, job: UUID) -> bool:
        return job in self._waiters

    def enter(self, waiter: Waiter) -> Sequence[UUID]:
        """Let a request wait, behind all others of its tenant. Return those that must not wait so that the depth holds:
        it may be this one.
        """
        self._add(waiter)
        out: list[UUID] = []
        while self._is_too_deep(waiter.model):
            last = self._newest_of_most(waiter.model)
            self.leave(last)
            out.append(last)
        return out

    def come_back(self, waiter: Waiter) -> None:
        """Let a request wait, before all others of its tenant, and give that the next turn: it has had its turn in vain."""
        self._add(waiter)
        self._turns[waiter.tenant].move_to_end(waiter.job, last=False)
        self._turns.move_to_end(waiter.tenant, last=False)

    def leave(self, job: UUID) -> None:
        """Let a request wait no longer. One that does not wait changes nothing."""
        if (waiter := self._waiters.pop(job, None)) is None:
            return
        theirs = self._turns[waiter.tenant]
        del theirs[job]
        if not theirs:
            del self._turns[waiter.tenant]
        self._count(waiter, -1)

    def next(self, deployment: str) -> UUID | None:
        """Return the request whose turn it is to take a slot of a deployment. It waits no longer, and its tenant is last."""
        if not self.wanted[deployment]:
            return None
        for tenant, theirs in self._turns.items():
            for job, waiter in theirs.items():
                if deployment in waiter.deployments:
                    self._turns.move_to_end(tenant)
                    self.leave(job)
                    return job
        return None

    def move(self, job: UUID, deployments: tuple[str, ...]) -> None:
        """Note that a request may now take slots of these deployments."""
        waiter = self._waiters[job]
        if waiter.deployments != deployments:
            self._count(waiter, -1)
            now = Waiter(job, waiter.model, waiter.tenant, waiter.size, deployments)
            self._waiters[job] = self._turns[waiter.tenant][job] = now
            self._count(now, 1)

    @property
    def jobs(self) -> Collection[UUID]:
        return self._waiters.keys()

    def _add(self, waiter: Waiter) -> None:
        self._waiters[waiter.job] = waiter
        self._turns.setdefault(waiter.tenant, OrderedDict())[waiter.job] = waiter
        self._count(waiter, 1)

    def _count(self, waiter: Waiter, one: int) -> None:
        theirs = waiter.model, waiter.tenant
        self._counts[theirs] += one
        self._sizes[theirs] += one * waiter.size
        self.by_model[waiter.model] += one
        self._size_of[waiter.model] += one * waiter.size
        for deployment in waiter.deployments:
            self.wanted[deployment] += one
            if not self.wanted[deployment]:
                del self.wanted[deployment]
        if not self._counts[theirs]:
            del self._counts[theirs], self._sizes[theirs]
        if not self.by_model[waiter.model]:
            del self.by_model[waiter.model], self._size_of[waiter.model]

    def _is_too_deep(self, model: str) -> bool:
        return self.by_model[model] > self._depth.requests or self._size_of[model] > self._depth.size

    def _newest_of_most(self, model: str) -> UUID:
        """Name the newest request of the tenant that has most of what is too much."""
        most = self._counts if self.by_model[model] > self._depth.requests else self._sizes
        tenant = max((theirs for theirs in most if theirs[0] == model), key=lambda theirs: most[theirs])[1]
        return next(job for job, one in reversed(self._turns[tenant].items()) if one.model == model)


class Pace:
    """How fast requests that waited for a model have started lately, by which it is known when to come back."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[Ms, int]] = {}
        """By model, when the present window began, and how many have started in it."""
        self._per_s: dict[str, float] = {}

    def started(self, model: str, now: Ms) -> None:
        since, count = self._started.get(model, (now, 0))
        if now - since >= _RATE_WINDOW_MS:
            self._per_s[model] = count * 1000 / (now - since)
            since, count = now, 0
        self._started[model] = since, count + 1

    def retry_after_ms(self, model: str, waiting: int, now: Ms) -> Ms:
        """Estimate when those that wait now will have started: between a second and a minute."""
        since, count = self._started.get(model, (now, 0))
        recent = count * 1000 / max(1000, now - since)
        if not (per_s := max(recent, self._per_s.get(model, 0.0) if now - since < _RATE_WINDOW_MS else 0.0)):
            return Ms(5_000)
        return Ms(max(_LEAST_RETRY_MS, min(_MOST_RETRY_MS, int(waiting * 1000 / per_s))))
