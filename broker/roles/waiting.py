"""Keeps the interactive requests that wait for a slot, and tells workers of them.

relay ── so many requests wait ──► workers of the deployment ── slots for so many of them ──► relay

A worker that knows of waiting requests starts no dispatched attempts in the slots that come free, and offers these to the
relays that want them, in turns. An offer is for this relay alone and for a moment. Notices and offers may be lost: both
are said again.
"""

import asyncio
from collections.abc import Callable, Mapping
from uuid import UUID

from broker.bus.notices import announce_wanted
from broker.core.line import Depth, Line, Pace, Waiter
from broker.core.relay import RequestState
from broker.ports import Clock
from broker.roles.tasks import Tasks
from schemas.jetstream import NatsConnection
from schemas.units import Ms

_GATHER_S = 0.005
"""How long to gather changes of how many requests wait, after workers were told of one."""


class Waiting:
    """The requests that wait at one relay."""

    def __init__(
        self,
        nc: NatsConnection,
        *,
        relay: str,
        depth: Depth,
        clock: Clock,
        tasks: Tasks,
        waited: Callable[[str, float], object],
    ) -> None:
        """`waited` is called with the model and the seconds of each wait that ended with a slot."""
        self._nc = nc
        self._relay = relay
        self._clock = clock
        self._tasks = tasks
        self._waited = waited
        self.line = Line(depth)
        self._pace = Pace()
        self._since: dict[UUID, Ms] = {}
        self._told: dict[str, int] = {}
        """How many requests wait for each deployment, as its workers were told last, less the offers used since."""
        self._is_gathering = False
        self._is_known = False
        """Whether some waited when workers were told last of all that wait."""

    def __repr__(self) -> str:
        return f"Waiting({self.line})"

    @property
    def is_known(self) -> bool:
        """Whether requests wait, or workers and metrics may still be told that they do not any more."""
        return bool(self._is_known or self.line.by_model)

    def enter(self, state: RequestState, deployments: tuple[str, ...]) -> list[tuple[UUID, int]]:
        """Let a request wait for a slot of one of these deployments. Return who must not wait, since the depth is reached:
        it may be this one; each with how many wait for its model.
        """
        waiter = _waiter(state, deployments)
        self._since[waiter.job] = self._clock()
        out = self.line.enter(waiter)
        for job in out:
            del self._since[job]
        self.changed()
        return [(job, self.line.by_model[waiter.model]) for job in out]

    def come_back(self, state: RequestState, deployments: tuple[str, ...]) -> None:
        """Let a request wait again whose turn came in vain, or whose attempt failed."""
        waiter = _waiter(state, deployments)
        self._since.setdefault(waiter.job, self._clock())
        self.line.come_back(waiter)
        self.changed()

    def leave(self, job: UUID) -> None:
        """Let a request wait no longer: it has ended."""
        self._since.pop(job, None)
        self.line.leave(job)
        self.changed()

    def take(self, deployment: str) -> UUID | None:
        """Return the request whose turn it is to take a slot of a deployment that was offered. It waits no longer."""
        job = self.line.next(deployment)
        if job is not None and self._told.get(deployment):
            self._told[deployment] -= 1  # as its worker counts
        self.changed()  # for the workers of others, whose slots it waited for too
        return job

    def started(self, job: UUID, model: str) -> None:
        """Note that a request has a slot."""
        now = self._clock()
        self._pace.started(model, now)
        if (since := self._since.pop(job, None)) is not None:
            self._waited(model, (now - since) / 1000)

    def retry_after_ms(self, model: str, waiting: int) -> Ms:
        return self._pace.retry_after_ms(model, waiting, self._clock())

    def changed(self) -> None:
        """Tell workers soon how many requests wait, if that is not what they know."""
        if not self._is_gathering and self._news():
            self._is_gathering = True
            self._tasks.spawn(self._announce())

    async def say_again(self) -> None:
        """Tell the workers of all wanted deployments how many requests wait: they forget it after a second."""
        self._is_known = bool(self.line.by_model)
        await self._tell({**self._news(), **self.line.wanted})

    def _news(self) -> dict[str, int]:
        wanted = self.line.wanted
        return {name: wanted[name] for name in {*wanted, *self._told} if wanted[name] != self._told.get(name, 0)}

    async def _announce(self) -> None:
        await self._tell(self._news())
        await asyncio.sleep(_GATHER_S)
        self._is_gathering = False
        self.changed()

    async def _tell(self, counts: Mapping[str, int]) -> None:
        for deployment, count in counts.items():
            self._told[deployment] = count
            await announce_wanted(self._nc, deployment, self._relay, count)
        self._told = {name: count for name, count in self._told.items() if count}


def _waiter(state: RequestState, deployments: tuple[str, ...]) -> Waiter:
    entry = state.entry
    return Waiter(entry.id, entry.model, entry.tenant, len(entry.body), deployments)
