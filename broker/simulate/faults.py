"""What goes wrong in a simulated world: a schedule, drawn from the seed or read from a scenario."""

import random
from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from broker.simulate.cast.gate import Trap
from broker.simulate.system import Member, System
from broker.simulate.waits import waits
from broker.simulate.world.waiting import Snare
from broker.simulate.world.world import Process
from schemas import subjects
from schemas.job import Lane
from schemas.subjects import Source

FAULTS_S = 40.0
"""How long faults begin."""


class FaultKind(StrEnum):
    KILL = "kill"
    """A process dies at one of its next steps, whatever it waits for there, and is started again."""
    KILL_AT_WAIT = "kill_at_wait"
    """A process dies as soon as a task of it waits at a given line of ours: lines that are passed seldom, too, at which a
    death at any step would hardly ever hit. If none waits there for a while, it may be told to leave, so that it passes what
    ends and begins a life."""
    STOP = "stop"
    """A process makes no step for a while: a machine that swaps, a debugger, a paused container."""
    SLOW = "slow"
    """A process makes fewer steps than others for a while."""
    SKEW = "skew"
    """The clock of a process jumps."""
    CUT = "cut"
    """The connections of a process are lost, to NATS and over HTTP. What is on its way may be lost with them."""
    STALL = "stall"
    """The connections of a process carry nothing for a while, to NATS and over HTTP."""
    NATS_AWAY = "nats_away"
    """NATS ends, and starts again with what is on its disk."""
    FORGETFUL = "forgetful"
    """NATS forgets what a consumer has delivered and acknowledged: it comes again, counted from one."""
    TWICE = "twice"
    """NATS delivers again, at once, what is not acknowledged yet."""
    FULL = "full"
    """A stream has no room for a while, and says so at once or late."""
    STREAM_LOST = "stream_lost"
    """A stream is gone, with all that is in it."""
    STORE_LOST = "store_lost"
    """NATS ends, and starts again with an empty disk."""
    POSTGRES_AWAY = "postgres_away"
    POSTGRES_FAILS = "postgres_fails"
    """Some transactions fail, before their commit or after it."""
    POSTGRES_SLOW = "postgres_slow"
    FILES_AWAY = "files_away"
    """The store of files beside Postgres refuses all, or does not answer, if there is one."""
    FILES_FAIL = "files_fail"
    """Some calls of the store of files fail, before they are carried out or after it."""
    STOP_IN_TRANSACTION = "stop_in_transaction"
    """A broker makes no step for a while from just before or just after a commit of its own on."""
    KILL_IN_TRANSACTION = "kill_in_transaction"
    """A broker dies just before or just after a commit of its own."""
    LEAVE = "leave"
    """A worker or a broker is told to leave, and is started again."""
    RUBBISH = "rubbish"
    """Somebody publishes what nobody can read."""


_WEIGHTS = {
    FaultKind.KILL: 8,
    FaultKind.KILL_AT_WAIT: 14,
    FaultKind.STOP: 4,
    FaultKind.SLOW: 3,
    FaultKind.SKEW: 3,
    FaultKind.CUT: 4,
    FaultKind.STALL: 3,
    FaultKind.NATS_AWAY: 2,
    FaultKind.FORGETFUL: 2,
    FaultKind.TWICE: 3,
    FaultKind.FULL: 4,
    FaultKind.STREAM_LOST: 0.7,
    FaultKind.STORE_LOST: 0.4,
    FaultKind.POSTGRES_AWAY: 2,
    FaultKind.POSTGRES_FAILS: 3,
    FaultKind.POSTGRES_SLOW: 2,
    FaultKind.FILES_AWAY: 2,
    FaultKind.FILES_FAIL: 2,
    FaultKind.LEAVE: 4,
    FaultKind.RUBBISH: 2,
    FaultKind.STOP_IN_TRANSACTION: 6,
    FaultKind.KILL_IN_TRANSACTION: 6,
}
_AREAS = (
    "attempts", "attempts", "attempts", "attempts", "intake", "settlement", "settlement", "instructions", "suspects",
    "cancels", "deliveries", "leadership", "files", "file_batches", "blobs",
)  # fmt: skip
"""Of the ledger: where a broker is caught in a transaction."""
_OF_A_PROCESS = {
    FaultKind.KILL, FaultKind.STOP, FaultKind.SLOW, FaultKind.SKEW, FaultKind.CUT, FaultKind.STALL, FaultKind.LEAVE,
}  # fmt: skip
_AMOUNTS: dict[FaultKind, tuple[float, ...]] = {
    FaultKind.KILL: (1, 5, 20, 100),
    FaultKind.KILL_AT_WAIT: (1, 1, 2, 3, 6),
    FaultKind.SKEW: (-60_000, -3000, -300, 300, 3000, 60_000),
    FaultKind.POSTGRES_FAILS: (0.02, 0.1, 0.5),
    FaultKind.FILES_FAIL: (0.05, 0.2, 0.5),
    FaultKind.POSTGRES_SLOW: (10, 50),
    FaultKind.SLOW: (0.2, 0.02),
    FaultKind.FULL: (0, 1, 3.2, 4.5),
    FaultKind.STOP_IN_TRANSACTION: (0, 1),
    FaultKind.KILL_IN_TRANSACTION: (0, 1),
}


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    at_s: float
    kind: FaultKind
    who: str = ""
    """The process, or the stream."""
    where: str = ""
    """The area of the ledger in whose transaction it happens, or the file and line at which a task waits."""
    for_s: float = 0.0
    amount: float = 0.0
    """Steps until it dies, steps that end in a wait there until it does, milliseconds of a skew, how likely a transaction
    fails, how many times slower it is, how many seconds late NATS refuses."""

    def __str__(self) -> str:
        how_long = f" for {self.for_s:.2f} s" if self.for_s else ""
        where = self.where and f" {'after' if self.amount else 'before'} a commit of {self.where}"
        if self.kind is FaultKind.KILL_AT_WAIT:
            where = f" at {self.where}"
        return f"{self.kind}{self.who and ' of ' + self.who}{where}{how_long}"


def draw(chance: random.Random, system: System) -> list[Fault]:
    """Draw a schedule: mostly a few faults, sometimes many, sometimes none."""
    number = chance.choice((0, 1, 2, 3, 3, 5, 8, 13, 20))
    who = [*system.members, *(one.name for one in system.callers)]
    brokers = [name for name in system.members if name.startswith("broker")]
    found = []
    for _ in range(number):
        kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        name = ""
        if kind in _OF_A_PROCESS:
            name = chance.choice(list(system.members) if kind is FaultKind.LEAVE else who)
        elif kind in (FaultKind.STOP_IN_TRANSACTION, FaultKind.KILL_IN_TRANSACTION):
            name = chance.choice(brokers)
        elif kind is FaultKind.KILL_AT_WAIT:
            found.append(_drawn_wait(chance, list(system.members)))
            continue
        elif kind in (FaultKind.STREAM_LOST, FaultKind.FORGETFUL, FaultKind.TWICE):
            name = chance.choice((subjects.SUBMIT, subjects.RUN, subjects.RUN, subjects.OUTCOME, subjects.OUTCOME))
        elif kind is FaultKind.FULL:
            name = chance.choice((subjects.SUBMIT, subjects.RUN, subjects.OUTCOME, subjects.NOW, subjects.NOW))
        found.append(_drawn(chance, kind, name))
    if system.size.spares_workers:
        found = [fault for fault in found if fault.who in brokers or fault.kind in _OF_NOBODYS_WORK]
    return sorted(found, key=lambda fault: fault.at_s)


def _drawn(chance: random.Random, kind: FaultKind, who: str) -> Fault:
    at_s = round(3.0 + chance.random() * FAULTS_S, 3)
    for_s = round(chance.choice((0.3, 1.0, 3.0, 8.0, 20.0)) * (0.5 + chance.random()), 3)
    amount = chance.choice(_AMOUNTS.get(kind, (0.0,)))
    if kind is FaultKind.KILL:
        amount = amount * chance.random() + 1
    if kind is FaultKind.SKEW and who.startswith("worker") and chance.random() < _WRONG_DAY:
        amount = chance.choice(_DAYS_MS)
    where = chance.choice(_AREAS) if kind in _IN_TRANSACTION else ""
    if kind is FaultKind.STOP_IN_TRANSACTION:
        for_s = round(chance.choice(_DEPOSED_S) * (1 + chance.random()), 3)
    return Fault(at_s, kind, who, where, for_s if kind not in _MOMENTARY else 0.0, round(amount, 3))


def _drawn_wait(chance: random.Random, members: list[str]) -> Fault:
    """Draw a place, then somebody who may come by, from the beginning on."""
    place = chance.choice(waits())
    who = chance.choice([name for name in members if place.startswith(_CODE_OF[name.partition("-")[0]])])
    leaves_after_s = round(chance.choice((0.0, 2.0, 8.0)) * (0.5 + chance.random()), 3)
    at_s = round(chance.choice((0.0, chance.random() * FAULTS_S, chance.random() * FAULTS_S)), 3)
    times = chance.choice(_AMOUNTS[FaultKind.KILL_AT_WAIT])
    return Fault(at_s, FaultKind.KILL_AT_WAIT, who, place, leaves_after_s, times)


_CODE_OF = {"broker": ("broker/", "schemas/"), "worker": ("workers/", "schemas/")}
_OF_NOBODYS_WORK = {
    FaultKind.POSTGRES_AWAY, FaultKind.POSTGRES_FAILS, FaultKind.POSTGRES_SLOW, FaultKind.FILES_AWAY,
    FaultKind.FILES_FAIL, FaultKind.RUBBISH,
}  # fmt: skip
"""What leaves workers alone, and their way to brokers."""
_DEPOSED_S = (2.0, 5.0, 5.0, 10.0)
"""Mostly longer than the lease of a leader."""
_DAYS_MS = tuple(days * 86_400_000.0 for days in (-400, -2, 2, 400))
_WRONG_DAY = 0.5
"""How many of the workers whose clocks are wrong do not even know the day. A broker's clock decides on deadlines."""
_IN_TRANSACTION = {FaultKind.STOP_IN_TRANSACTION, FaultKind.KILL_IN_TRANSACTION}
_MOMENTARY = {
    FaultKind.KILL, FaultKind.SKEW, FaultKind.CUT, FaultKind.TWICE, FaultKind.FORGETFUL, FaultKind.KILL_IN_TRANSACTION,
    FaultKind.LEAVE, FaultKind.RUBBISH,
}  # fmt: skip


class Faults:
    """Lets a schedule happen."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._world = system.world
        self.last_s = 0.0
        """When the last one is over."""

    def begin(self, schedule: Sequence[Fault]) -> None:
        for fault in schedule:
            self._world.call_at(fault.at_s, self._happen, fault)
            self.last_s = max(self.last_s, fault.at_s + fault.for_s)

    def _happen(self, fault: Fault) -> None:
        self._world.story.tell(f"* {fault}")
        for_s = float("inf") if fault.kind is FaultKind.SKEW else fault.for_s  # a clock stays wrong
        self._system.trouble(fault.who, for_s)
        self._system.touched.add(fault.who or fault.kind)
        getattr(self, f"_{fault.kind}")(fault)

    def _later(self, fault: Fault, call: Callable[[], object]) -> None:
        def end() -> None:
            self._world.story.tell(f"* {fault.kind} is over{fault.who and ' of ' + fault.who}")
            call()

        self._world.call_at(self._world.now_s() + fault.for_s, end)

    def _process(self, fault: Fault) -> Process | None:
        member = self._system.members.get(fault.who)
        process = (
            member.process if member else next((one for one in self._system.callers if one.name == fault.who), None)
        )
        return None if process is None or process.is_dead or process.is_over else process

    def _kill(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.fuse = int(fault.amount)

    def _kill_at_wait(self, fault: Fault) -> None:
        member = self._system.members.get(fault.who)
        if member is None:
            return

        def kill() -> None:
            if member.process is not None:
                member.process.die(f"it is killed at {fault.where}")
            if member.snare is snare:
                member.snare = None

        def leave() -> None:
            if member.snare is snare:
                self._leave(fault)

        snare = member.snare = Snare(fault.where, int(fault.amount), kill)
        if member.process is not None:
            member.process.snare = snare
        if fault.for_s:
            self._world.call_at(self._world.now_s() + fault.for_s, leave)

    def _stop(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.is_stopped = True
            self._later(fault, lambda: setattr(process, "is_stopped", False))

    def _stop_in_transaction(self, fault: Fault) -> None:
        self._trap(fault, self._stop)

    def _kill_in_transaction(self, fault: Fault) -> None:
        def kill(_: Fault) -> None:
            if (process := self._process(fault)) is not None:
                process.die("it is killed in a transaction")

        self._trap(fault, kill)

    def _trap(self, fault: Fault, spring: Callable[[Fault], object]) -> None:
        def sprung() -> None:
            self._world.story.tell(f"* {fault} happens")
            self._system.trouble(fault.who, fault.for_s)
            spring(fault)

        trap = Trap(fault.where, bool(fault.amount), sprung)
        self._system.database.traps[fault.who] = trap

    def _slow(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.pace = fault.amount
            self._later(fault, lambda: setattr(process, "pace", 1.0))

    def _skew(self, fault: Fault) -> None:
        self._system.is_skewed = True
        member: Member | None = self._system.members.get(fault.who)
        if member is not None:
            member.skew_ms = int(fault.amount)
        if (process := self._process(fault)) is not None:
            process.skew_ms = int(fault.amount)

    def _cut(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            self._system.network.cut(process)
            self._system.web.cut(process)

    def _stall(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            self._system.network.stall(process)
            self._system.web.stall(process)

            def go_on() -> None:
                self._system.network.go_on(process)
                self._system.web.go_on(process)

            self._later(fault, go_on)

    def _nats_away(self, fault: Fault) -> None:
        self._system.network.server_ends()
        self._later(fault, self._system.network.server_starts)

    def _store_lost(self, fault: Fault) -> None:
        self._system.lose(None)
        self._system.network.server_ends()
        self._later(fault, self._system.network.server_starts)

    def _stream_lost(self, fault: Fault) -> None:
        self._system.lose(fault.who)

    def _forgetful(self, fault: Fault) -> None:
        self._system.network.forget(fault.who)

    def _twice(self, fault: Fault) -> None:
        self._system.network.deliver_again(fault.who)

    def _full(self, fault: Fault) -> None:
        self._system.network.fill(fault.who, late_s=fault.amount)
        self._later(fault, lambda: self._system.network.make_room(fault.who))

    def _postgres_away(self, fault: Fault) -> None:
        self._system.database.is_away = True
        self._later(fault, lambda: setattr(self._system.database, "is_away", False))

    def _postgres_fails(self, fault: Fault) -> None:
        self._system.database.failing = fault.amount
        self._later(fault, lambda: setattr(self._system.database, "failing", 0.0))

    def _postgres_slow(self, fault: Fault) -> None:
        self._system.database.slow = fault.amount
        self._later(fault, lambda: setattr(self._system.database, "slow", 1.0))

    def _files_away(self, fault: Fault) -> None:
        if (store := self._system.file_store) is not None:
            store.is_away = True
            self._later(fault, lambda: setattr(store, "is_away", False))

    def _files_fail(self, fault: Fault) -> None:
        if (store := self._system.file_store) is not None:
            store.failing = fault.amount
            self._later(fault, lambda: setattr(store, "failing", 0.0))

    def _leave(self, fault: Fault) -> None:
        member = self._system.members.get(fault.who)
        if (process := self._process(fault)) is None or member is None:
            return
        worker = getattr(member.life, "worker", None)
        if worker is not None:
            process.call_soon(worker.stop)
        elif fault.who.startswith("broker"):
            process.leave()

    def _rubbish(self, _: Fault) -> None:
        for subject in (
            subjects.submit(Source(Lane.BULK, "quick", subjects.DEFAULT, subjects.DEFAULT)),
            subjects.run("swift"),
            subjects.now("swift"),
            subjects.outcome("swift"),
            subjects.RULING,
            subjects.cancel_order("swift"),
            subjects.infer("quick", subjects.DEFAULT, subjects.DEFAULT),
        ):
            self._system.network.server.publish(subject, "", b"", b"\xc1 nobody can read this")
