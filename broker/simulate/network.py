"""The network of a simulated world: the server, and the way to it of each process, with its delays and losses."""

import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from broker.bus.connect import connected
from broker.simulate.nats import faults
from broker.simulate.nats.connection import MemoryConnection
from broker.simulate.nats.server import Server
from broker.simulate.world.world import Process, World
from schemas import subjects
from schemas.jetstream.client import NatsClient

_QUICK_S, _SLOW_S = 0.0002, 0.01
_SLOW = 0.02
"""How many messages take longer, as when a packet is lost and sent again."""
_WITH_MACHINE = 0.5
_URL = "memory://nats"
STREAMS = (subjects.SUBMIT, subjects.RUN, subjects.OUTCOME)
"""Those that keep jobs on their way."""


class Wire:
    """Implements `broker.simulate.nats.link.Link` for one connection of a process: late, and in order."""

    def __init__(self, process: Process, chance: random.Random, counted: Callable[[], None]) -> None:
        self.process = process
        self._world = process.world
        self._chance = chance
        self._counted = counted
        self._up_s = self._down_s = 0.0
        """When what was sent last arrives."""
        self._stalled: deque[tuple[bool, Callable[..., None], tuple[Any, ...]]] = deque()
        self.is_stalled = False
        self.is_gone = False
        """The process has died, and what it had not sent yet stays unsent."""

    def to_server(self, call: Callable[..., None], *args: object) -> None:
        if not self.is_gone:
            self._up(call, *args)

    def _up(self, call: Callable[..., None], *args: object) -> None:
        if self.is_stalled:
            self._stalled.append((True, call, args))
            return
        self._counted()
        self._up_s = max(self._up_s, self._world.now_s() + self._delay_s())
        self._world.call_at(self._up_s, call, *args)

    def to_client(self, call: Callable[..., None], *args: object) -> None:
        if self.is_stalled:
            self._stalled.append((False, call, args))
            return
        self._counted()
        self._down_s = max(self._down_s, self._world.now_s() + self._delay_s())
        self._world.call_at(self._down_s, self.process.call_soon, call, *args)

    def _delay_s(self) -> float:
        longest = _SLOW_S if self._chance.random() < _SLOW else _QUICK_S
        return self._chance.random() * longest

    def stall(self) -> None:
        self.is_stalled = True

    def go_on(self) -> None:
        self.is_stalled = False
        held, self._stalled = self._stalled, deque()
        for is_up, call, args in held:
            (self._up if is_up else self.to_client)(call, *args)


class _Connection(MemoryConnection):
    """A connection whose inboxes are its tenant's own."""

    inboxes = "_INBOX"

    def new_inbox(self) -> str:
        return self.inboxes + super().new_inbox().removeprefix("_INBOX")


class Network:
    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance("network")
        self.server = Server(world, unit=world.chance("queue groups").random)
        self.count = 0
        self.was_cut = False
        """Somebody was cut off for a while, or the server was away."""
        self._ends: dict[Process, list[tuple[Wire, MemoryConnection]]] = {}
        self._names = 0

    def _counted(self) -> None:
        self.count += 1

    @asynccontextmanager
    async def connected(
        self, process: Process, *, came_back: Callable[[], None] = lambda: None, inboxes: str = "_INBOX"
    ) -> AsyncIterator[MemoryConnection]:
        """Connect a process while the block runs."""
        wire = Wire(process, self._chance, self._counted)
        nc = _Connection(self.server, wire, ids=self._name)
        if process not in self._ends:
            process.on_death.append(lambda: self._died(process))
        self._ends.setdefault(process, []).append((wire, nc))
        nc.inboxes = inboxes
        async with connected(_URL, name=process.name, came_back=came_back, client=cast(NatsClient, nc)):
            yield nc

    def _name(self) -> str:
        self._names += 1
        return f"{self._names:022d}"

    def _died(self, process: Process) -> None:
        """End the connections of a process that has died: what it had sent arrives, unless its machine died with it."""
        with_machine = self._chance.random() < _WITH_MACHINE
        for wire, nc in self._ends.get(process, ()):
            nc.abandon()
            wire.is_gone = True
        if with_machine:
            self._cut(process, "the machine is gone")

    def _cut(self, process: Process, why: str) -> None:
        for session in [one for one in self.server.sessions if one.name == process.name]:
            faults.cut(session, why)

    # what may happen to it

    def cut(self, process: Process) -> None:
        self.was_cut = True
        self._cut(process, "the connection is lost")

    def stall(self, process: Process) -> None:
        self.was_cut = True
        for wire, _ in self._ends.get(process, ()):
            wire.stall()

    def go_on(self, process: Process) -> None:
        for wire, _ in self._ends.get(process, ()):
            wire.go_on()

    def server_ends(self) -> None:
        self.was_cut = True
        faults.go_away(self.server)

    def server_starts(self) -> None:
        faults.come_back(self.server)

    def lose(self, stream: str | None) -> None:
        """Lose a stream, or all of them."""
        if stream is None:
            faults.lose_store(self.server)
        else:
            faults.lose_stream(self.server, stream)

    def fill(self, stream: str, *, late_s: float) -> None:
        faults.fill(self.server, stream, late_s=late_s)

    def make_room(self, stream: str) -> None:
        faults.make_room(self.server, stream)

    def forget(self, stream: str) -> None:
        """Forget what the consumers of a stream have delivered."""
        for name in self._consumers(stream):
            faults.lose_progress(self.server, stream, name)

    def deliver_again(self, stream: str) -> None:
        """Deliver again what is not acknowledged."""
        for name in self._consumers(stream):
            for sequence in sorted(self.server.consumer(stream, name).progress.leases):
                if self._chance.random() < _AGAIN:
                    faults.deliver_twice(self.server, stream, name, sequence)

    def _consumers(self, stream: str) -> list[str]:
        found = self.server.streams.get(stream)
        return [] if found is None or self.server.is_away else list(found.consumers)

    def messages(self, stream: str) -> int:
        found = self.server.streams.get(stream)
        return 0 if found is None else len(found.store)


_AGAIN = 0.5
