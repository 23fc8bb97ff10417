"""What can go wrong, drawn from a seed."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from tests.chaos.machine import LEASE_S, Machine, Program, Server

_FINDS_S = 20.0


class Kind(StrEnum):
    KILL_WORKER = "kill-worker"
    KILL_WORKERS = "kill-workers"
    """All of one deployment."""
    KILL_BROKER = "kill-broker"
    KILL_LEADER = "kill-leader"
    KILL_NATS = "kill-nats"
    KILL_POSTGRES = "kill-postgres"
    KILL_ALL = "kill-all"
    STOP_WORKER = "stop-worker"
    STOP_BROKER = "stop-broker"
    STOP_LEADER = "stop-leader"
    STOP_NATS = "stop-nats"
    STOP_POSTGRES = "stop-postgres"
    RESTART_WORKER = "restart-worker"
    RESTART_BROKER = "restart-broker"
    LOSE_ACKS = "lose-acks"
    LOSE_CONFIRMATIONS = "lose-confirmations"
    CUT = "cut"
    USURP = "usurp"
    """Another holder has the leader's lease from now on."""
    DELETE_STORE = "delete-store"


WEIGHTS = {
    Kind.KILL_WORKER: 5,
    Kind.KILL_WORKERS: 2,
    Kind.KILL_BROKER: 3,
    Kind.KILL_LEADER: 4,
    Kind.KILL_NATS: 5,
    Kind.KILL_POSTGRES: 3,
    Kind.KILL_ALL: 1,
    Kind.STOP_WORKER: 3,
    Kind.STOP_BROKER: 2,
    Kind.STOP_LEADER: 3,
    Kind.STOP_NATS: 2,
    Kind.STOP_POSTGRES: 2,
    Kind.RESTART_WORKER: 2,
    Kind.RESTART_BROKER: 2,
    Kind.LOSE_ACKS: 3,
    Kind.LOSE_CONFIRMATIONS: 3,
    Kind.CUT: 2,
    Kind.USURP: 2,
    Kind.DELETE_STORE: 1,
}
_SHORT_S, _LONG_S = (0.5, 2.0), (LEASE_S + 1, 8.0)
"""Shorter than any lease, and longer than a job's and (5 s) mostly than the leader's."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    place: float
    """In [0, 1): which of those that it can befall."""
    seconds: float
    """How long it lasts, if it lasts."""
    then_s: float
    """When the next may come."""


def draw(chance: random.Random, number: int, kinds: Sequence[Kind]) -> list[Fault]:
    """Faults of these kinds, by their weights."""
    weights = [WEIGHTS[kind] for kind in kinds]
    return [
        Fault(
            kind,
            place=chance.random(),
            seconds=7.0 if kind is Kind.STOP_LEADER and chance.random() < 0.6 else chance.uniform(*_span(chance)),
            then_s=chance.uniform(0.5, 3.0),
        )
        for kind in chance.choices(kinds, weights, k=number)
    ]


def _span(chance: random.Random) -> tuple[float, float]:
    return _SHORT_S if chance.random() < 0.5 else _LONG_S


class Faults:
    """Makes things go wrong. One of a server waits for the one before it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._servers = {machine.nats: asyncio.Lock(), machine.postgres: asyncio.Lock()}
        self._way = asyncio.Lock()

    async def act(self, fault: Fault) -> str:
        """Let it happen, and return on whom, once it is over."""
        acts: dict[Kind, Callable[[Fault], Awaitable[str]]] = {
            Kind.KILL_WORKER: self._kill_worker,
            Kind.KILL_WORKERS: self._kill_workers,
            Kind.KILL_BROKER: self._kill_broker,
            Kind.KILL_LEADER: self._kill_leader,
            Kind.KILL_NATS: lambda fault: self._kill_server(self._machine.nats, fault),
            Kind.KILL_POSTGRES: lambda fault: self._kill_server(self._machine.postgres, fault),
            Kind.KILL_ALL: self._kill_all,
            Kind.STOP_WORKER: lambda fault: self._stop(self._machine.workers, fault),
            Kind.STOP_BROKER: lambda fault: self._stop(self._machine.brokers, fault),
            Kind.STOP_LEADER: self._stop_leader,
            Kind.STOP_NATS: lambda fault: self._stop_server(self._machine.nats, fault),
            Kind.STOP_POSTGRES: lambda fault: self._stop_server(self._machine.postgres, fault),
            Kind.RESTART_WORKER: lambda fault: self._restart(self._machine.workers, fault),
            Kind.RESTART_BROKER: lambda fault: self._restart(self._machine.brokers, fault),
            Kind.LOSE_ACKS: self._lose_acks,
            Kind.LOSE_CONFIRMATIONS: self._lose_confirmations,
            Kind.CUT: self._cut,
            Kind.USURP: self._usurp,
            Kind.DELETE_STORE: self._delete_store,
        }
        return await acts[fault.kind](fault)

    # programs

    async def _one_of(self, programs: Sequence[Program], fault: Fault) -> Program:
        """One that runs. If none does, wait for one."""
        async with asyncio.timeout(_FINDS_S):
            while not (running := [one for one in programs if one.is_running() and one.is_ready()]):
                await asyncio.sleep(0.05)
        return running[int(fault.place * len(running))]

    async def _leader(self, fault: Fault) -> Program:
        """The leader; while there is none, any broker."""
        brokers = self._machine.brokers
        try:
            async with asyncio.timeout(2):
                connection = await asyncpg.connect(self._machine.postgres.url)
                holder = await connection.fetchval(
                    "select holder from infermq.leader where until > clock_timestamp()"
                )
                await connection.close()
        except (OSError, asyncpg.PostgresError, TimeoutError):
            holder = None
        return await self._one_of([one for one in brokers if one.name == holder] or brokers, fault)

    async def _kill_worker(self, fault: Fault) -> str:
        return _killed(await self._one_of(self._machine.workers, fault))

    async def _kill_workers(self, fault: Fault) -> str:
        one = await self._one_of(self._machine.workers, fault)
        deployment = one.name.rpartition("-")[0]
        return ", ".join(
            _killed(worker)
            for worker in self._machine.workers
            if worker.is_running() and worker.name.startswith(f"{deployment}-")
        )

    async def _kill_broker(self, fault: Fault) -> str:
        return _killed(await self._one_of(self._machine.brokers, fault))

    async def _kill_leader(self, fault: Fault) -> str:
        return _killed(await self._leader(fault))

    async def _stop_leader(self, fault: Fault) -> str:
        return await _stopped(await self._leader(fault), fault.seconds)

    async def _stop(self, programs: Sequence[Program], fault: Fault) -> str:
        return await _stopped(await self._one_of(programs, fault), fault.seconds)

    async def _restart(self, programs: Sequence[Program], fault: Fault) -> str:
        one = await self._one_of(programs, fault)
        one.ask_to_end()
        return one.name

    # servers

    async def _kill_server(self, server: Server, fault: Fault) -> str:
        async with self._servers[server]:
            await server.kill()
            await asyncio.sleep(fault.seconds / 4)
            await server.start()
        return f"away {fault.seconds / 4:.1f} s"

    async def _stop_server(self, server: Server, fault: Fault) -> str:
        async with self._servers[server]:
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            server.signal(signal.SIGCONT)
        return f"{fault.seconds:.1f} s"

    async def _delete_store(self, fault: Fault) -> str:
        """Half of the times while Postgres stands still and brokers die, so that accepted jobs are nowhere else."""
        stands_still = fault.place < 0.5
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._servers[self._machine.nats])
            if stands_still:
                await stack.enter_async_context(self._servers[self._machine.postgres])
                self._machine.postgres.signal(signal.SIGSTOP)
                await asyncio.sleep(1.0)
                for broker in self._machine.brokers:
                    if broker.is_running():
                        broker.kill()
            await self._machine.nats.kill()
            self._machine.forget_store()
            await asyncio.sleep(fault.seconds / 4)
            await self._machine.nats.start()
            if stands_still:
                self._machine.postgres.signal(signal.SIGCONT)
        return "with accepted jobs in it" if stands_still else ""

    async def _kill_all(self, fault: Fault) -> str:
        async with self._servers[self._machine.nats], self._servers[self._machine.postgres]:
            for program in self._machine.programs:
                if program.is_running():
                    program.kill()
            await asyncio.gather(self._machine.nats.kill(), self._machine.postgres.kill())
            await asyncio.sleep(fault.seconds / 4)
            await asyncio.gather(self._machine.nats.start(), self._machine.postgres.start())
        return ""

    # the way to NATS, and the lease

    async def _lose_acks(self, fault: Fault) -> str:
        async with self._way:
            before, self._machine.way.loses_acks = self._machine.way.lost, True
            await asyncio.sleep(min(4.0, fault.seconds))
            self._machine.way.loses_acks = False
        return f"{self._machine.way.lost - before} lost"

    async def _lose_confirmations(self, fault: Fault) -> str:
        async with self._way:
            before, self._machine.way.loses_confirmations = self._machine.way.lost, True
            await asyncio.sleep(min(4.0, fault.seconds))
            self._machine.way.loses_confirmations = False
        return f"{self._machine.way.lost - before} lost"

    async def _cut(self, _: Fault) -> str:
        self._machine.way.cut()
        return "all connections of the lossy way"

    async def _usurp(self, _: Fault) -> str:
        async with self._servers[self._machine.postgres]:
            connection = await asyncpg.connect(self._machine.postgres.url)
            await connection.execute(
                """update infermq.leader set holder = 'nobody', term = term + 1,
                          until = clock_timestamp() + interval '5 seconds'"""
            )
            await connection.close()
        return "5 s"


def _killed(program: Program) -> str:
    program.kill()
    return program.name


async def _stopped(program: Program, seconds: float) -> str:
    child = program.child
    program.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    if program.child is child:
        program.signal(signal.SIGCONT)
    return f"{program.name} {seconds:.1f} s"
