"""The memory NATS in a world of virtual time, where what is sent takes a while."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from broker.bus.groups import Groups, ack_all
from broker.bus.runs import Runs
from broker.simulate.nats import faults
from broker.simulate.nats.connection import MemoryConnection
from broker.simulate.nats.server import Server
from broker.simulate.world.story import Story
from broker.simulate.world.world import Process, World
from schemas import subjects
from schemas.jetstream import Message, answer_all
from tests.builders import an_attempt
from tests.contract.nats.asking import S, a_consumer, a_queue, facts, pulling, stored
from tests.declared import declare_pool, declare_streams
from workers.puller import Puller

Main = Callable[[MemoryConnection], Awaitable[None]]


class SlowLink:
    """Each direction keeps its order; each thing that is sent takes a while."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._chance: random.Random = world.chance(f"link of {process}")
        self._last_s = [0.0, 0.0]

    def to_server(self, call: Callable[..., None], *args: object) -> None:
        self._world.call_at(self._at(0), call, *args)

    def to_client(self, call: Callable[..., None], *args: object) -> None:
        self._world.call_at(self._at(1), self._process.call_soon, call, *args)

    def _at(self, direction: int) -> float:
        last = self._last_s[direction]
        self._last_s[direction] = max(last, self._world.now_s() + self._chance.uniform(0.0001, 0.01))
        return self._last_s[direction]


class Lives:
    """A world with a server, and processes that are connected to it."""

    def __init__(self, seed: int) -> None:
        self.story = Story()
        self.world = World(seed, self.story)
        self.server = Server(self.world, unit=self.world.chance("nats").random)
        self.heard: list[object] = []

    def connection(self, process: Process) -> MemoryConnection:
        return MemoryConnection(
            self.server,
            SlowLink(self.world, process),
            ids=lambda: f"{process.random.getrandbits(64):022d}",
        )

    def run(self, *mains: Main, within_s: float) -> None:
        processes = []
        for n, main in enumerate(mains):
            process = self.world.process(f"p{n}")
            process.start(self._main(process, main))
            processes.append(process)
        assert self.world.run(lambda: all(one.is_over for one in processes), within_s=within_s)
        assert self.world.failures == []

    async def _main(self, process: Process, main: Main) -> None:
        nc = self.connection(process)
        await nc.connect(name=str(process), max_reconnect_attempts=-1)
        await main(nc)
        await nc.close()


def test_a_lease_of_half_a_minute_ends_at_once() -> None:
    lives = Lives(1)

    async def work(nc: MemoryConnection) -> None:
        await a_queue(nc)
        await a_consumer(nc)
        await stored(nc, "s.a")
        pulls = await pulling(nc)
        await pulls.ask(batch=2, expires=120 * S)
        for _ in range(2):
            message = await pulls.next(60)
            lives.heard.append((facts(message), round(lives.world.now_s())))

    lives.run(work, within_s=100)

    assert lives.heard == [((1, 1, 1), 0), ((2, 1, 2), 30)]


def test_what_is_on_its_way_when_a_connection_is_cut_is_lost() -> None:
    lives = Lives(1)

    async def work(nc: MemoryConnection) -> None:
        heard = await nc.subscribe("one")
        await nc.flush()
        lives.server.publish("one", "", b"", b"lost")
        faults.cut(next(iter(lives.server.sessions)))
        while not nc.reconnects:
            await asyncio.sleep(0.01)
        await nc.publish("one", b"late")
        lives.heard.append((await heard.next_msg(5)).data)

    lives.run(work, within_s=20)

    assert lives.heard == [b"late"]


def test_what_a_process_had_sent_arrives_although_it_dies() -> None:
    lives, opened = Lives(1), list[MemoryConnection]()

    async def speak(process: Process) -> None:
        nc = lives.connection(process)
        opened.append(nc)
        await nc.connect()
        await nc.publish("one", b"last")
        await nc.flush()

    async def hear(nc: MemoryConnection) -> None:
        heard = await nc.subscribe("one")
        await nc.flush()
        process = lives.world.process("speaker")
        process.start(speak(process))
        while not opened or not opened[0].stats["out_msgs"]:
            await asyncio.sleep(0.0001)
        await asyncio.sleep(0.0001)
        process.on_death.append(opened[0].abandon)
        process.die("killed")
        lives.heard.append((await heard.next_msg(5)).data)
        while len(lives.server.sessions) > 1:
            await asyncio.sleep(0.01)

    lives.run(hear, within_s=20)

    assert lives.heard == [b"last"]


JOBS = 40


async def _lead(lives: Lives, nc: MemoryConnection, done: set[bytes]) -> None:
    """Publish attempts, and take in outcomes until there is one of each."""
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=4, lease_s=2)
    attempts = [an_attempt(job=UUID(int=n)) for n in range(JOBS)]
    runs = Runs(nc)
    groups = Groups(nc, stream=subjects.OUTCOME, consumer=subjects.SETTLE_CONSUMER, room=8, group_bytes=1000)
    for n in range(0, JOBS, 5):
        while not await runs.publish(attempts[n : n + 5]):
            await asyncio.sleep(0.1)
    async with groups.open():
        while len(done) < JOBS:
            group = await groups.next()
            lives.heard.append([message.data for message in group])
            done.update(message.data for message in group)
            await ack_all(nc, group)


async def _toil(lives: Lives, nc: MemoryConnection, done: set[bytes]) -> None:
    """Pull attempts, and say of each that it is over."""
    came: list[Message] = []
    puller = Puller(
        nc,
        stream=subjects.RUN,
        consumer=subjects.pool_consumer("d"),
        free=lambda: 4 - len(came),
        start=came.append,
        silence_s=3.0,
    )
    await puller.open()
    reconnects = 0
    while len(done) < JOBS:
        await asyncio.sleep(0.1)
        await puller.check()
        if nc.reconnects != reconnects:
            reconnects = nc.reconnects
            await puller.renew()
        for message in came:
            lives.heard.append(facts(message))
            await nc.publish(subjects.outcome("d"), message.data[:40])
        await answer_all(nc, [message.reply for message in came], b"+ACK")
        came.clear()
    await puller.close()


def _worked(seed: int) -> list[object]:
    """Let a leader and a worker do their work, with connections that are cut again and again."""
    lives, done = Lives(seed), set[bytes]()
    _cut_now_and_then(lives)
    lives.run(lambda nc: _lead(lives, nc, done), lambda nc: _toil(lives, nc, done), within_s=600)
    return [*lives.heard, lives.world.now_s(), lives.world.counts.steps]


def _cut_now_and_then(lives: Lives) -> None:
    chance = lives.world.chance("cuts")

    def cut() -> None:
        if sessions := list(lives.server.sessions):
            faults.cut(chance.choice(sessions))
        if lives.world.now_s() < 10:
            lives.world.call_at(lives.world.now_s() + chance.uniform(0.1, 0.8), cut)

    lives.world.call_at(0.2, cut)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_seed_comes_to_the_same(seed: int) -> None:
    assert _worked(seed) == _worked(seed)


def test_each_seed_comes_to_something_else_and_all_to_an_end() -> None:
    assert len({str(_worked(seed)) for seed in range(20)}) == 20


def test_what_a_cut_takes_along_comes_again() -> None:
    assert any(isinstance(one, tuple) and one[0] > 1 for seed in range(20) for one in _worked(seed))
