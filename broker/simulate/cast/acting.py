"""What all have who act for a tenant: a client that they try again with, and what they were told so far."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from broker.client import BacklogFull, Client, RequestTimedOut
from broker.errors import Unavailable
from broker.simulate.cast.told import Told
from broker.simulate.world.world import Process
from schemas.jetstream import NatsError

T = TypeVar("T")
PASSING = (Unavailable, BacklogFull, RequestTimedOut, NatsError, OSError, TimeoutError)
"""What passes, so that it is tried again."""
Act = Callable[[], Awaitable[None]]
Acts = tuple[tuple[float, Act], ...]
"""What somebody does, and how often."""


async def act_at_random(
    chance: random.Random, acts: Acts, times: int, *, do: Callable[[Act], Coroutine[Any, Any, None]], every_s: float
) -> None:
    """Begin so many acts, one after another, about so far apart, and let `do` do each. Returns once all are over."""
    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            act = chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
            group.create_task(do(act))
            await asyncio.sleep(chance.expovariate(1 / every_s))


async def until_done(process: Process, act: Callable[[], Awaitable[T]]) -> T:
    """Try again and again, as somebody does who was not told yes."""
    while True:
        try:
            return await act()
        except PASSING as error:
            process.say(f"tries again: {str(error) or type(error).__name__}")
            await asyncio.sleep(0.3 + process.random.random())


@dataclass(frozen=True, slots=True)
class Actor:
    process: Process
    client: Client
    tenant: str
    told: Told

    def own(self, things: Iterable[UUID]) -> list[UUID]:
        """Those of these jobs or batches that are of this tenant."""
        return [one for one in things if self.told.tenant.get(one) == self.tenant]

    async def until_done(self, act: Callable[[], Awaitable[T]]) -> T:
        return await until_done(self.process, act)
