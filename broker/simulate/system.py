"""A whole simulated system: servers in memory, brokers and workers that are started again when they end, and callers."""

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from broker.core.records import Audited
from broker.ports import Ledger
from broker.simulate.cast.brokers import SimulatedBroker
from broker.simulate.cast.callers import Caller
from broker.simulate.cast.catalogs import DEPLOYMENTS, catalog_of
from broker.simulate.cast.file_callers import FileCaller, ToldOfFiles
from broker.simulate.cast.gate import Database, DatabaseGate, FileGate, FileStore
from broker.simulate.cast.hooks import Endpoint
from broker.simulate.cast.keys import Keyring
from broker.simulate.cast.told import TENANTS, Told
from broker.simulate.cast.web import Web
from broker.simulate.cast.web_callers import WebCaller
from broker.simulate.cast.workers import Ran, SimulatedWorker, WorkerPlan
from broker.simulate.checks.ends import Ends
from broker.simulate.checks.noted import Published, Troubles
from broker.simulate.checks.starts import Starts
from broker.simulate.faults.kinds import Fault
from broker.simulate.ledger.areas import ledger_of
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import OpenGate
from broker.simulate.network import Network
from broker.simulate.world.waiting import Snare
from broker.simulate.world.world import BEGAN_MS, Process, World
from schemas import subjects
from schemas.control import PauseKind
from schemas.ids import uuid7

LEASE_S = 6.0
_SPARED = 0.15
_AGAIN_S = 1.0
"""How long until a process that has ended is started again, at least."""
_RESUME_S = 5.0
"""How often to let all go on that is paused, once everything is healed."""


@dataclass(slots=True)
class Member:
    """A broker or a worker, through all its lives."""

    name: str
    start: Callable[[], None]
    process: Process | None = None
    life: Any = None
    skew_ms: int = 0
    snare: Snare | None = None
    """Where it is to die, in whichever of its lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    brokers: int
    workers: tuple[WorkerPlan, ...]
    callers: int = 0
    web_callers: int = 0
    acts: int = 0
    file_acts: int = 0
    keeps_files_beside: bool = False
    """Whether files are kept in a store beside Postgres."""
    spares_workers: bool = False
    """Nothing goes wrong with workers, nor with NATS. Then each attempt runs once, whatever becomes of brokers."""


def size_of(chance: random.Random) -> Size:
    """Draw how many there are of each."""
    deployments = ["swift", "steady", *chance.choices(("swift", "steady", "spare"), k=chance.randint(1, 2))]
    plans = [WorkerPlan(f"{one}-{number}", one, chance.randint(1, 4)) for number, one in enumerate(deployments)]
    return Size(
        brokers=chance.randint(1, 3),
        workers=tuple(plans),
        callers=chance.randint(2, 3),
        web_callers=chance.randint(0, 2),
        acts=chance.randint(8, 30),
        file_acts=chance.choice((0, 3, 8)),
        keeps_files_beside=chance.random() < 0.5,
        spares_workers=chance.random() < _SPARED,
    )


class System:
    def __init__(self, world: World, size: Size) -> None:
        self.world = world
        self.size = size
        self.told = Told()
        self.ran = Ran()
        self.database = Database()
        self.endpoint = Endpoint(world.chance("endpoint"))
        self.network = Network(world)
        self.web = Web(world)
        self.published = Published()
        self.network.server.watch = self.published.took
        self.troubles = Troubles()
        self.troubles.add(0.0)
        self.broker_troubles = Troubles()
        """Those that brokers may notice."""
        self.keys = Keyring(world.chance("keys"), self.broker_troubles)
        self.files = ToldOfFiles()
        self.file_store = FileStore() if size.keeps_files_beside else None
        """None: files are kept in Postgres."""
        entropy = world.chance("tables")
        self.tables = Tables(world, lambda: entropy.getrandbits(80))
        self.members: dict[str, Member] = {}
        self.callers: list[Process] = []
        self.lost: set[UUID] = set()
        """Accepted jobs that only a lost stream held."""
        self.submissions_lost = False
        self.outcomes_lost = False
        """Outcomes were lost that may be all there was of a request."""
        self.happened: list[Fault] = []
        """What has gone wrong so far."""
        self._again = world.chance("again")
        self.starts = Starts(world, self.tables, world.failed)
        self.ends = Ends(self.tables, world.failed)

    def begin(self) -> None:
        """Apply a catalog, and start all."""
        setup = self.world.process("setup")
        setup.start(self._set_up())
        self.world.run(lambda: setup.is_over, within_s=1.0)
        for number in range(1, self.size.brokers + 1):
            self._add(f"broker-{number}", self._broker)
        for plan in self.size.workers:
            self._add(f"worker-{plan.name}", partial(self._worker, plan))
        for number in range(1, self.size.callers + 1):
            self._call(number)
        for number in range(1, self.size.web_callers + 1):
            self._call_over_http(number)
        if self.size.file_acts:
            self._start_caller("files-1", self._file_caller)

    def ledger(self, process: Process | None = None) -> Ledger:
        """Return the ledger as a process reaches it; None: as the world sees it."""
        if process is None:
            beside = None if self.file_store is None else OpenGate()
            return ledger_of(self.tables, self.world, OpenGate(), beside=beside)
        gate = DatabaseGate(self.database, process)
        process.on_death.append(lambda: self.tables.locks.cut(gate))
        to_files = None if self.file_store is None else FileGate(self.file_store, process)
        return ledger_of(self.tables, self.world, gate, process.wall_ms, beside=to_files)

    async def _set_up(self) -> None:
        ledger = self.ledger()
        await ledger.days.keep()
        by = Audited(uuid7(BEGAN_MS, 0), BEGAN_MS, "default", "setup")
        await ledger.tenants.create(TENANTS[1], None, by)
        for number, key in enumerate(self.keys.records, start=1):
            await ledger.api_keys.create(key, Audited(uuid7(BEGAN_MS, number), BEGAN_MS, "default", "setup"))
        await ledger.catalogs.apply(catalog_of(), "setup", BEGAN_MS)

    def heal(self) -> None:
        """End what is still wrong: what is paused goes on, clocks are right, and nobody dies any more."""
        for member in self.members.values():
            member.skew_ms, member.snare = 0, None
            if member.process is not None:
                member.process.skew_ms, member.process.snare = 0, None
        self._resume()

    def _resume(self) -> None:
        """Let all go on that is paused, and serve that was dropped, again and again: a call may be carried out long after
        its caller gave it up.
        """
        self.world.process("operator").start(self._resume_all())
        self.world.call_at(self.world.now_s() + _RESUME_S, self._resume)

    async def _resume_all(self) -> None:
        controls, catalogs = self.ledger().controls, self.ledger().catalogs
        for kind, name in [(PauseKind(row.kind), row.name) for row in self.tables.pauses]:
            by = Audited(uuid7(BEGAN_MS, self._again.getrandbits(74)), BEGAN_MS, "default", "default")
            await controls.resume(kind, name, by)
        active = await catalogs.active()
        if active is None or not active[0].catalog.deployments.keys() >= set(DEPLOYMENTS):
            await catalogs.apply(catalog_of(), "operator", BEGAN_MS)

    def lose(self, stream: str | None) -> None:
        """Lose a stream with what is in it, or all streams. What only SUBMIT held is lost, and is said to be."""
        for name in (subjects.SUBMIT, subjects.OUTCOME) if stream is None else (stream,):
            if name == subjects.SUBMIT:
                self.lost |= {job for job in self.told.accepted if job not in self.tables.jobs}
                self.submissions_lost = True
            self.outcomes_lost |= name == subjects.OUTCOME
        self.network.lose(stream)

    def sums(self) -> list[str]:
        """Let the ledger compare itself with itself."""
        found: list[str] = []

        async def check() -> None:
            checked = await self.ledger().sums.check(within_s=60)
            found.extend(checked.disagreements)

        process = self.world.process("auditor")
        process.start(check())
        self.world.run(lambda: process.is_over, within_s=60)
        return found

    def _broker(self, process: Process) -> SimulatedBroker:
        return SimulatedBroker(
            process,
            self.network.connected,
            self.ledger(process),
            endpoint=self.endpoint,
            web=self.web,
            lease_s=LEASE_S,
        )

    def _worker(self, plan: WorkerPlan, process: Process) -> SimulatedWorker:
        return SimulatedWorker(process, plan, self.network.connected, self.ran, survives_all=self.size.spares_workers)

    def _call(self, number: int) -> None:
        def main(process: Process) -> Coroutine[None, None, None]:
            tenant = TENANTS[number % 2]
            return Caller(process, tenant, self.network.connected, self.told, self.keys, acts=self.size.acts).main()

        self._start_caller(f"caller-{number}", main)

    def _call_over_http(self, number: int) -> None:
        def main(process: Process) -> Coroutine[None, None, None]:
            return WebCaller(
                process, TENANTS[1 - number % 2], self.web, self.told, self.keys, acts=self.size.acts
            ).main()

        self._start_caller(f"web-{number}", main)

    def _file_caller(self, process: Process) -> Coroutine[None, None, None]:
        return FileCaller(process, self.web, self.told, self.files, acts=self.size.file_acts).main()

    def _start_caller(self, name: str, main: Callable[[Process], Coroutine[None, None, None]]) -> None:
        process = self.world.process(name)
        self.callers.append(process)
        self.web.keys[process] = self.keys.text(TENANTS[1] if name == "web-2" else TENANTS[0])
        process.on_death.append(lambda: self.troubles.add(self.world.now_s()))
        process.start(main(process))

    def _add(self, name: str, make: Callable[[Process], Any]) -> None:
        def start() -> None:
            process = self.world.process(name)
            member.process, member.life = process, make(process)
            process.skew_ms, process.snare = member.skew_ms, member.snare
            process.on_death.append(lambda: self._ended(member))
            process.start(member.life.main())

        member = Member(name, start)
        self.members[name] = member
        start()

    def _ended(self, member: Member) -> None:
        """Start it again soon, as whoever supervises processes does."""
        self.trouble(member.name)
        self.world.call_at(self.world.now_s() + _AGAIN_S * (1 + self._again.random()), self._restart, member)

    def trouble(self, who: str, for_s: float = 0.0) -> None:
        """Note that something is wrong from now on, for a while."""
        self.troubles.add(self.world.now_s(), for_s)
        if not who.startswith("worker"):
            self.broker_troubles.add(self.world.now_s(), for_s)

    def _restart(self, member: Member) -> None:
        self.world.story.tell(f"{member.name} is started again")
        member.start()
